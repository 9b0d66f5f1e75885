"""The words of a call, and those of --set, become the recipe that they mean."""

from __future__ import annotations

from typing import Any

import pytest

import resight
from resight.errors import ResightError
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import changed, parse_setting
from resight.recipe.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.weight_decay=0", ("optimizer.weight_decay", 0)),
        ("optimizer.weight_decay = 5e-4", ("optimizer.weight_decay", 5e-4)),
        ("model.conv_bias=true", ("model.conv_bias", True)),
        ("schedule.shape=one-cycle", ("schedule.shape", "one-cycle")),
        ('name="a=b"', ("name", "a=b")),
        ("name=a=b", ("name", "a=b")),
        ("name=", ("name", "")),
        (" data.source = my images ", ("data.source", "my images")),
    ],
)
def test_a_setting_is_read_as_toml_or_as_a_word(text: str, expected: tuple[str, Any]) -> None:
    key, value = parse_setting(text)

    assert (key, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["", "model.width", "=3", " = 3"])
def test_a_setting_without_key_or_equals_sign_is_refused(text: str) -> None:
    with pytest.raises(ResightError, match=r"write it as section\.field=value"):
        parse_setting(text)


@pytest.mark.parametrize("name", ["fast", "best"])
def test_a_validation_split_that_is_asked_for_is_looked_at_each_epoch(name: str) -> None:
    recipe = find_recipe(name)
    asked = changed(recipe, {"val": 0.1})
    assert asked.evaluate == recipe.evaluate.model_copy(update={"when": "each-epoch"})
    assert changed(recipe, {}) == recipe
    assert changed(recipe, {"val": 0.0, "epochs": 5}).evaluate.when == "end"
    assert changed(recipe, {"val": 0.1, "evaluate.when": "end"}).evaluate.when == "end"
    held = recipe.with_changes({"data.val_fraction": 0.1})  # as an older run has it
    assert changed(held, {"val": 0.1}) == held


def test_changes_in_the_words_of_the_command_line() -> None:
    recipe = changed(
        Recipe(),
        {
            "epochs": 3,
            "batch_size": 64,
            "lr": 0.01,
            "seed": 7,
            "val": 0.1,
            "optimizer": {"weight_decay": 0},
            "loss.label_smoothing": 0.1,
        },
    )
    assert recipe.schedule.epochs == 3
    assert recipe.train.batch_size == 64
    assert (recipe.schedule.lr_max, recipe.schedule.lr_min) == (0.01, 0.001)
    assert recipe.train.seed == 7
    assert recipe.data.val_fraction == 0.1
    assert recipe.optimizer.weight_decay == 0
    assert recipe.loss.label_smoothing == 0.1
    assert changed(Recipe(), {"lr": "find"}) == Recipe()
    with pytest.raises(ResightError, match="lr = 'fast' must be a number > 0 or 'find'"):
        changed(Recipe(), {"lr": "fast"})


def test_a_given_duration_is_not_scaled_by_epochs() -> None:
    schedule = changed(Recipe(), {"epochs": 3, "schedule.peak_epoch": 1.0}).schedule
    assert (schedule.epochs, schedule.peak_epoch) == (3, 1.0)
    later = changed(Recipe(), {"epochs": 40, "schedule": {"peak_epoch": 30.0}}).schedule
    assert (later.epochs, later.peak_epoch) == (40, 30.0)


@pytest.mark.parametrize("shape", ["cosine", "step", "constant", "plateau", "triangular"])
def test_lr_goes_with_every_shape(shape: str) -> None:
    schedule = changed(Recipe(), {"lr": 0.01, "schedule.shape": shape}).schedule
    assert (schedule.shape, schedule.lr_max) == (shape, 0.01)


def test_a_fixed_lr_min_goes_along_with_lr() -> None:
    recipe = resight.find_recipe("custom-resnet-d")  # 0.0204 up to 0.1
    assert changed(recipe, {"lr": 0.01}).schedule.lr_min == pytest.approx(0.00204)
    assert changed(recipe, {"lr": "find"}).schedule.lr_min == "find"
    assert changed(recipe, {"lr": 0.01, "schedule.lr_min": 0.005}).schedule.lr_min == 0.005


def test_a_word_that_is_no_setting_gets_the_nearest() -> None:
    with pytest.raises(ResightError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        changed(Recipe(), {"epoch": 3})


@pytest.mark.parametrize(("size", "small"), [(64, 48), (48, 36), (24, 18)])
def test_the_smaller_images_scale_with_the_image_size(size: int, small: int) -> None:
    changes = {"data.image_size": size, "augment.crop_pad_px": 1}
    assert changed(find_recipe("fast"), changes).schedule.small_px == small
    kept = changed(find_recipe("fast"), {**changes, "schedule.small_px": 20})
    assert kept.schedule.small_px == 20
    assert changed(find_recipe("custom-resnet"), changes).schedule.small_px == 0


@pytest.mark.parametrize(
    ("batch", "pieces"), [(1000, 250), (500, 250), (512, 256), (128, 0), (64, 0), (509, 0), (2, 0)]
)
def test_another_batch_size_gets_the_nearest_pieces(batch: int, pieces: int) -> None:
    assert changed(find_recipe("fast"), {"batch_size": batch}).train.norm_batch == pieces
    if batch % 2 == 0:
        kept = changed(find_recipe("fast"), {"batch_size": batch, "train.norm_batch": 2})
        assert kept.train.norm_batch == 2


def test_an_lr_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ResightError, match=r"lr and schedule\.lr_max are both given"):
        changed(find_recipe("fast"), {"lr": 0.1, "schedule.lr_max": 5.0})
