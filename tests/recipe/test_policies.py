"""A policy is a word for settings that fit any image size; what is given beside it wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.data.batches import DeviceSplit
from resight.data.plan import EpochPlan
from resight.data.types import Split
from resight.errors import ResightError
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import changed, requested
from resight.recipe.policies import OFF, POLICIES
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Augment, Data

NAMES = pytest.mark.parametrize("name", POLICIES)


def of(name: str, side: int = 32) -> Augment:
    return POLICIES[name](side)


@NAMES
@settings(max_examples=30)
@given(side=st.integers(1, 300))
def test_at_any_size_a_policy_is_a_recipe_that_repeats(name: str, side: int) -> None:
    recipe = Recipe.parse({"data": {"image_size": side}, "augment": {"policy": name}})
    assert recipe.augment == of(name, side)
    assert Augment.model_validate(recipe.augment.model_dump()) == recipe.augment
    assert Recipe.parse(recipe.to_dict()) == recipe
    assert "policy" not in recipe.to_dict()["augment"]


@NAMES
@settings(max_examples=12)
@given(side=st.integers(1, 20), channels=st.sampled_from([1, 3]))
def test_images_of_any_size_can_be_augmented(name: str, side: int, channels: int) -> None:
    pixels = np.random.default_rng(side).integers(0, 256, (5, side, side, channels), np.uint8)
    split = Split(pixels, np.arange(5), np.array(list("abcde")))
    half = torch.full((channels,), 0.5)
    cpu = torch.device("cpu")
    placed = DeviceSplit.place(split, half, half, cpu, resident=True)
    augment = of(name, side)
    plan = EpochPlan.draw(5, side, augment, seed=0, epoch=0)
    images, _ = placed.augmented(plan.order, plan, augment)
    assert images.shape == (5, channels, side, side)
    assert bool(torch.isfinite(images).all())


def test_policies_grow_with_the_image_and_in_strength() -> None:
    assert of("none") == OFF
    assert [of("light", side).crop_pad_px for side in (1, 8, 32, 64, 224)] == [0, 1, 2, 4, 14]
    assert [of("standard", side).crop_pad_px for side in (1, 8, 32, 64, 224)] == [0, 1, 4, 8, 28]
    used = [
        {key for key, value in of(name).model_dump().items() if value not in (0, "none", "zero")}
        for name in ("none", "light", "standard", "strong")
    ]
    assert used[0] < used[1] < used[2]
    assert used[1] | {"trivialaugment", "erase", "erase_area", "mixup", "cutmix"} == used[3]


def test_from_everywhere_it_is_the_same(tmp_path: Path) -> None:
    wanted = find_recipe("fast").model_copy(update={"augment": of("strong")})
    assert find_recipe("fast").with_changes({"augment.policy": "strong"}) == wanted
    assert requested("fast", {"augment.policy": "strong"}) == wanted
    assert requested("fast", {"augment": {"policy": "strong"}}) == wanted
    (tmp_path / "a.toml").write_text('[augment]\npolicy = "strong"\n')
    (tmp_path / "a.json").write_text(json.dumps({"augment": {"policy": "strong"}}))
    for name in ("a.toml", "a.json"):
        assert requested(tmp_path / name, {}) == Recipe(augment=of("strong"))
        assert Recipe.load(tmp_path / name) == Recipe(augment=of("strong"))


def test_what_is_given_beside_it_wins(tmp_path: Path) -> None:
    expected = of("standard").model_copy(update={"flip": "none", "mixup": 0.5})
    mine = {"augment": {"policy": "standard", "flip": "none", "mixup": 0.5}}
    assert Recipe.parse(mine).augment == expected
    assert changed(Recipe(), mine).augment == expected
    dotted = {"augment.mixup": 0.5, "augment.policy": "standard", "augment.flip": "none"}
    assert changed(Recipe(), dotted).augment == expected
    (tmp_path / "a.json").write_text(json.dumps(mine))
    assert requested(tmp_path / "a.json", {}).augment == expected
    over = requested(tmp_path / "a.json", {"augment.mixup": 0.1}).augment
    assert over == expected.model_copy(update={"mixup": 0.1})
    # another policy than the file's is that policy
    assert requested(tmp_path / "a.json", {"augment.policy": "light"}).augment == of("light")


def test_it_is_for_the_size_that_is_asked_for(tmp_path: Path) -> None:
    both = {"image_size": 64, "augment": {"policy": "standard"}}
    assert changed(find_recipe("fast"), both).augment == of("standard", 64)
    file = tmp_path / "a.toml"
    file.write_text('[data]\nimage_size = 6\n[augment]\npolicy = "standard"\n')
    assert requested(file, {}).augment == of("standard", 6)
    assert requested(file, {"image_size": 64}).augment == of("standard", 64)
    made = Recipe(data=Data(image_size=48), augment={"policy": "light"})  # type: ignore[arg-type]
    assert made.augment == of("light", 48)


def test_the_recipes_own_settings_go() -> None:
    assert Recipe().augment.cutout_px == 8
    assert changed(Recipe(), {"augment.policy": "light"}).augment.cutout_px == 0


@pytest.mark.parametrize(
    ("settings_", "parts"),
    [
        ({"policy": "storng"}, ["augment.policy = 'storng'", "did you mean 'strong'"]),
        ({"policy": 3}, ["augment.policy = 3"]),
        ({"policy": "auto"}, ["chosen for the images of a training", "--set augment.policy=auto"]),
        (Augment().model_dump() | {"policy": "light"}, ["'light' has no effect", "leave out"]),
        ({"policy": "light", "flop": "none"}, ["augment.flop", "flip"]),
        ({"polcy": "light"}, ["augment.polcy", "'augment.policy'"]),
        ({"policy": "strong", "erase": 0.0}, ["augment.erase = 0", "go together"]),
    ],
)
def test_a_policy_that_can_not_be_is_refused_in_a_line(
    settings_: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ResightError) as refused:
        Recipe.parse({"augment": settings_})
    assert "\n" not in str(refused.value)
    for part in parts:
        assert part in str(refused.value)


@pytest.mark.parametrize("size", [0, -3, "64", 2.5])
def test_a_size_that_is_none_is_what_is_refused(size: object) -> None:
    with pytest.raises(ResightError, match=r"data\.image_size"):
        Recipe.parse({"data": {"image_size": size}, "augment": {"policy": "light"}})
