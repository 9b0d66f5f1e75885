"""What is known of images before they are decoded, and the recipe that a call gets for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import make_data
from resight.data.auto import recipe_for, settled, survey
from resight.data.sources import load_data
from resight.data.splits import with_validation
from resight.errors import ResightError
from resight.recipe.auto import AUTO
from resight.recipe.catalog import find_recipe
from resight.recipe.policies import POLICIES


def photos(root: Path, counts: dict[str, int], side: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            size = (side + 10 * (number % 3), side)  # width, height
            pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_a_survey_is_what_loading_finds(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", {"cat": 11, "dog": 25, "owl": 1})
    found = survey(str(root))
    loaded = load_data(str(root), image_size=8)
    assert found.classes == loaded.classes == ("cat", "dog", "owl")
    assert found.train == len(loaded.train)
    assert found.side_px == 40
    assert survey(str(root), val=0.2).train == pytest.approx(0.8 * len(loaded.train), abs=1)


def test_a_survey_of_a_folder_with_splits_counts_train(tmp_path: Path) -> None:
    photos(tmp_path / "photos" / "train", {"cat": 6, "dog": 8}, side=24)
    photos(tmp_path / "photos" / "test", {"cat": 3, "dog": 4}, side=24)
    assert survey(tmp_path / "photos").train == 14


def test_a_survey_of_what_is_known_needs_no_files() -> None:
    digits = survey("digits")
    loaded = load_data("digits", image_size=8)
    assert (digits.train, digits.classes, digits.side_px) == (
        len(loaded.train),
        loaded.classes,
        loaded.image_size,
    )
    data = make_data(30, size=16)
    assert (survey(data).train, survey(data).side_px) == (len(data.train), 16)
    assert survey("cifar100").train == 50_000


def test_unreadable_files_do_not_count_for_the_size(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", {"cat": 5, "dog": 5})
    for name in ("cat", "dog"):
        (root / name / "broken.jpg").write_bytes(b"no image")
    assert survey(root).side_px == 40


def test_unreadable_files_do_not_count_once_that_is_known(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", {"cat": 200, "dog": 200}, side=8)
    fine = recipe_for(None, root, {"val": 0.1})
    for number in range(600):
        (root / "cat" / f"cut {number}.png").write_bytes(b"no image")
    before = recipe_for(None, root, {"val": 0.1})
    size = before.recipe.data.image_size
    decoded = with_validation(load_data(root, image_size=size, skip_bad=True), 0.1, 0)
    choice = settled(before, None, root, {"val": 0.1}, decoded)

    assert (fine.recipe.train.batch_size, before.recipe.train.batch_size) == (32, 64)
    assert choice.recipe == fine.recipe
    assert f"for {len(decoded.train)} training images" in choice.why[1]
    assert settled(fine, None, root, {}, replace(decoded, bad=())) is fine


def test_auto_is_the_default_for_a_folder_and_for_nothing_else(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", {"cat": 30, "dog": 30})
    assert recipe_for(None, str(root), {}).recipe.name == AUTO
    assert recipe_for(None, root, {}).most_minutes == 15
    given = recipe_for(None, root, {"epochs": 3})
    assert given.most_minutes is None
    assert given.recipe.schedule.epochs == 3
    assert ", 3 epochs; " in given.why[0]
    assert recipe_for("fast", root, {}).recipe == find_recipe("fast")
    for data in (None, "cifar10", "digits", make_data(30)):
        chosen = recipe_for(None, data, {})
        assert (chosen.recipe.name, chosen.why) == ("custom-resnet", ())
    assert recipe_for("auto", "digits", {}).recipe.augment.flip == "none"


def test_changes_are_made_to_what_is_chosen(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", {"cat": 30, "dog": 30})
    changed = recipe_for("auto", root, {"image_size": 32, "seed": 3, "epochs": 5}).recipe
    assert (changed.data.image_size, changed.schedule.small_px) == (32, 24)
    assert (changed.train.seed, changed.schedule.epochs) == (3, 5)


@pytest.mark.parametrize("size", [0, -3, "64", 2.5])
def test_a_size_that_is_none_is_refused_in_a_line(tmp_path: Path, size: object) -> None:
    root = photos(tmp_path / "photos", {"cat": 30, "dog": 30})
    with pytest.raises(ResightError, match=r"data\.image_size"):
        recipe_for("auto", root, {"image_size": size})


def test_auto_as_a_policy_is_what_auto_would_do(tmp_path: Path) -> None:
    photo = photos(tmp_path / "photos", {"cat": 30, "dog": 30}, side=60)
    symbols = photos(tmp_path / "symbols", {"a": 30, "b": 30}, side=60)
    chosen = recipe_for("auto", photo, {"image_size": 32}).recipe.augment
    assert (chosen.flip, chosen.rotate_deg) == ("alternating", 15)
    policy = {"augment.policy": "auto"}
    assert recipe_for("custom-resnet", photo, policy).recipe.augment == chosen
    assert recipe_for("auto", photo, {"image_size": 32, **policy}).recipe.augment == chosen
    (tmp_path / "a.toml").write_text('[augment]\npolicy = "auto"\nmixup = 0.3\n')
    mixed = recipe_for(tmp_path / "a.toml", photo, {}).recipe.augment
    assert mixed == chosen.model_copy(update={"mixup": 0.3})
    wide = recipe_for(tmp_path / "a.toml", photo, {"image_size": 48}).recipe.augment
    assert wide.crop_pad_px == 6
    never = recipe_for("fast", symbols, {"augment": {"policy": "auto"}}).recipe.augment
    assert (never.flip, never.rotate_deg) == ("none", 15)
    digits = recipe_for("digits", None, policy).recipe
    assert digits.augment == recipe_for("auto", "digits", {}).recipe.augment


def test_auto_with_another_policy_says_so(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", {"cat": 30, "dog": 30}, side=60)
    choice = recipe_for(None, root, {"augment.policy": "strong", "augment.mixup": 0.0})
    expected = POLICIES["strong"](choice.recipe.data.image_size)
    assert choice.recipe.augment == expected.model_copy(update={"mixup": 0.0})
    assert (
        "images cropped, mirrored, changed by TrivialAugment, covered in part and mixed"
        in choice.why[0]
    )


def test_auto_needs_images() -> None:
    with pytest.raises(ResightError, match="'auto' is chosen for images: give them with --data"):
        recipe_for("auto", None, {})


def test_what_would_be_chosen_for_other_sizes(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", {"cat": 30, "dog": 30}, side=200)
    choice = recipe_for(None, root, {"seed": 5, "augment.rotate_deg": 3.0})
    half, double = choice.others
    assert [r.data.image_size for r in (choice.recipe, half, double)] == [96, 48, 192]
    assert (
        half
        == recipe_for(None, root, {"seed": 5, "augment.rotate_deg": 3.0, "image_size": 48}).recipe
    )
    assert (half.model.width, double.model.width, double.schedule.small_px) == (64, 32, 96)
    assert (half.train.seed, double.augment.rotate_deg) == (5, 3.0)
    crop = recipe_for(None, root, {"augment.crop_pad_px": 60})  # too much for 48 px
    assert [other.data.image_size for other in crop.others] == [192]
    assert recipe_for("fast", root, {}).others == ()
