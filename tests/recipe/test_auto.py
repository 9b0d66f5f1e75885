"""The recipe that is chosen for images: what it must have, whatever the images."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.data.batches import steps_per_epoch
from resight.errors import ResightError
from resight.recipe.auto import (
    AUTO,
    Images,
    augmentation,
    augmented_words,
    choose,
    left_and_right,
    of_symbols,
    other_sizes,
    reasons,
)
from resight.recipe.catalog import find_recipe, own_lr
from resight.recipe.policies import OFF
from resight.recipe.recipe import Recipe

PHOTOS = Images(train=1119, classes=("cats", "dogs"), side_px=375)


@given(
    train=st.integers(2, 2_000_000),
    classes=st.integers(2, 1000),
    side_px=st.integers(8, 5000),
)
def test_whatever_the_images_the_recipe_is_whole_and_has_hundreds_of_steps(
    train: int, classes: int, side_px: int
) -> None:
    names = tuple(f"class {number}" for number in range(classes))
    images = Images(train, names, side_px)
    recipe = choose(images)
    assert recipe.name == AUTO
    assert Recipe.parse(recipe.to_dict()) == recipe
    assert recipe.data.image_size <= max(side_px, 8)
    steps = steps_per_epoch(train, recipe.train.batch_size, recipe.train.last_batch)
    assert recipe.schedule.epochs * steps >= (100 if train >= 40 else 60)
    why = reasons(recipe, images)
    assert len(why) == 2
    assert all(len(line) <= 120 for line in why)


@given(st.integers(40, 1_000_000), st.integers(1, 1000))
def test_more_images_are_seen_fewer_times_and_more_in_all(train: int, more: int) -> None:
    few, many = (
        choose(Images(n, ("a thing", "another"), 64)).schedule.epochs for n in (train, train + more)
    )
    assert few >= many
    # a rounded number of epochs may be half an epoch less
    assert many * (train + more) >= few * train - (train + more)


def test_what_is_given_is_taken_and_the_rest_fits_it() -> None:
    recipe = choose(PHOTOS, image_size=32, batch_size=64)
    assert (recipe.data.image_size, recipe.schedule.small_px) == (32, 24)
    assert recipe.train.batch_size == 64


@given(st.integers(1, 3000))
def test_any_batch_may_be_given(batch: int) -> None:
    recipe = choose(PHOTOS, batch_size=batch)
    assert recipe.train.batch_size == batch
    assert recipe.train.norm_batch in (0, 250)


@given(st.integers(1, 300), st.sampled_from([8, 300]))
def test_its_augmentation_fits_any_side(side: int, photo_px: int) -> None:
    images = Images(train=1000, classes=("a thing", "another"), side_px=photo_px)
    augment = augmentation(images, side)
    data = {"data": {"image_size": side}, "augment": augment.model_dump()}
    assert Recipe.parse(data).augment == augment


def test_large_images_leave_the_pieces_to_the_machine() -> None:
    many = Images(60_000, ("a thing", "another"), 300)
    sizes = {px: choose(many, image_size=px).train for px in (32, 64, 65, 224)}
    assert {px: train.norm_batch for px, train in sizes.items()} == {
        32: 250,
        64: 250,
        65: 0,
        224: 0,
    }
    assert {train.batch_size for train in sizes.values()} == {1000}


def test_its_own_lr_is_kept() -> None:
    recipe = choose(PHOTOS)
    assert own_lr(recipe) == recipe.schedule.lr_max == 0.25


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (tuple("0123456789"), True),
        (("a", "B", "é"), True),
        (("one", "Two", "7"), True),
        (("cat", "dog"), False),
        (("b", "cat"), False),
        (("A", "lower_b", "digit 7", "upper-c"), True),
        (("class a", "class b"), False),
        (("+", "-"), True),
        ((), False),
    ],
)
def test_letters_and_digits_are_not_mirrored(classes: tuple[str, ...], expected: bool) -> None:
    assert of_symbols(classes) is expected
    if classes:
        images = Images(1000, classes, 28)
        recipe = choose(images)
        assert (recipe.augment.flip == "none") is expected
        why = reasons(recipe, images)
        assert ("never mirrored" in why[1]) is expected
        assert ("mirrored" not in why[0]) is expected
        strong = choose(Images(1000, classes, 28), policy="strong").augment
        assert (strong.flip == "none") is expected
        assert strong.trivialaugment


@pytest.mark.parametrize(
    ("classes", "sides"),
    [
        (("up", "right", "down", "left"), ("left", "right")),
        (("Left hand", "cat", "right_hand"), ("Left hand", "right_hand")),
        (("a clockwise", "a_Anticlockwise"), ("a clockwise", "a_Anticlockwise")),
        (("left hand", "right foot"), None),
        (("leftovers", "rightovers"), None),
        (("left", "middle"), None),
    ],
)
def test_left_and_right_are_not_mirrored(
    classes: tuple[str, ...], sides: tuple[str, str] | None
) -> None:
    images = Images(1000, classes, 100)
    assert left_and_right(classes) == sides
    recipe = choose(images)
    assert (recipe.augment.flip == "none") is bool(sides)
    end = ", about 100 px large"
    if sides:
        end = f" classes, among them '{sides[0]}' and '{sides[1]}', so never mirrored"
    assert reasons(recipe, images)[1].endswith(end)


@pytest.mark.parametrize(
    ("side", "net", "small_px"),
    [
        (8, "custom-resnet", None),
        (9, "fastnet", 0),
        (11, "fastnet", 0),  # three quarters are 8 px, too few for it
        (12, "fastnet", 9),
        (16, "fastnet", 12),
    ],
)
def test_the_net_is_the_same_at_any_side_that_it_accepts(
    side: int, net: str, small_px: int | None
) -> None:
    recipe = choose(Images(320, ("circle", "square"), 32), image_size=side)
    assert recipe.model.net == net
    if small_px is not None:
        schedule = recipe.schedule
        assert schedule.small_px == small_px
        assert bool(schedule.small_epochs) is bool(small_px)
        assert recipe.augment.flip == "alternating"


def test_by_name_alone_it_can_not_be_known() -> None:
    with pytest.raises(ResightError, match="'auto' is chosen for the images of a training"):
        find_recipe("auto")


def test_few_classes_of_large_photos_get_a_narrower_net_on_larger_images() -> None:
    def shape(images: Images, **given: int) -> tuple[int, int, int]:
        recipe = choose(images, **given)
        return recipe.data.image_size, recipe.model.width, recipe.schedule.small_px

    assert shape(PHOTOS) == (96, 32, 48)
    what, why = reasons(choose(PHOTOS), PHOTOS)
    assert what == (
        "auto: fastnet of width 32 at 96 px, batches of 64, 66 epochs; images cropped, mirrored, "
        "turned by up to 15° and scaled"
    )
    assert why == "chosen for 1,119 training images of 2 classes, about 375 px large"
    assert other_sizes(PHOTOS, 96) == (48, 192)
    lengths = choose(PHOTOS).schedule
    assert (lengths.epochs, lengths.small_epochs) == (66, 49.5)
    assert choose(PHOTOS, epochs=10).schedule.small_epochs == 7.5
    wide = choose(PHOTOS, image_size=64).schedule
    assert (wide.epochs, wide.small_epochs) == (41, pytest.approx(41 * 5 / 9))
    assert shape(PHOTOS, image_size=64) == (64, 64, 48)
    assert shape(PHOTOS, image_size=128) == (128, 32, 64)
    names = tuple(f"class {number}" for number in range(5))
    assert shape(Images(1119, names, side_px=375)) == (64, 64, 48)
    assert shape(Images(1119, names[:4], side_px=95)) == (64, 64, 48)
    assert shape(Images(30_000, names[:2], side_px=375)) == (32, 64, 24)


def test_the_words_are_those_of_the_recipe_that_is_used() -> None:
    recipe = choose(PHOTOS, epochs=1).with_changes(
        {
            "augment.rotate_deg": 40.0,
            "augment.scale": 0.0,
            "augment.flip": "none",
            "model.width": 16,
            "train.batch_size": 8,
        }
    )
    assert reasons(recipe, PHOTOS)[0] == (
        "auto: fastnet of width 16 at 96 px, batches of 8, 1 epoch; images cropped and turned by "
        "up to 40°"
    )
    digits = Images(1000, tuple("0123456789"), 28)
    mirrored = choose(digits).with_changes({"augment.flip": "random"})
    assert "never mirrored" not in reasons(mirrored, digits)[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "not augmented"),
        ({"crop_pad_px": 2}, "cropped"),
        ({"flip": "alternating"}, "mirrored"),
        ({"rotate_deg": 7.5}, "turned by up to 7.5°"),
        ({"scale": 0.1}, "scaled"),
        ({"brightness": 0.2}, "recoloured"),
        ({"hue_deg": 9.0}, "recoloured"),
        ({"grey": 0.1}, "recoloured"),
        ({"blur": 0.1, "blur_px": 1.0}, "blurred"),
        ({"cutout_px": 4}, "covered in part"),
        ({"erase": 0.1, "erase_area": 0.1}, "covered in part"),
        ({"mixup": 0.2}, "mixed"),
        ({"cutmix": 1.0, "trivialaugment": True}, "changed by TrivialAugment and mixed"),
        (
            {"crop_pad_px": 1, "scale": 0.1, "randaugment": 2, "randaugment_magnitude": 9},
            "cropped, scaled and changed by 2 operations of RandAugment",
        ),
    ],
)
def test_what_is_done_to_images_in_words(settings: dict[str, Any], words: str) -> None:
    assert augmented_words(OFF.model_copy(update=settings)) == words
