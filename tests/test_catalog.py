"""The named recipes are those of the published write-ups, and say how they are run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from resight.catalog import RECIPES, find_recipe, promise
from resight.errors import ResightError
from resight.recipe import Recipe
from resight.schedule import lr_at
from resight.settings import Adam, Augment, Model, OneCycle, Plateau, Sgd

NAMES = [
    "custom-resnet",
    "custom-resnet-ln",
    "custom-resnet-a",
    "custom-resnet-d",
    "resnet18",
    "resnet18-gn",
    "plateau",
    "digits",
]
ON_CIFAR10 = [name for name in NAMES if name != "digits"]


def test_the_eight_recipes_are_there_under_their_own_names() -> None:
    assert list(RECIPES) == NAMES
    assert [RECIPES[name]().name for name in NAMES] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_passes_the_validation_of_a_written_recipe(name: str) -> None:
    recipe = RECIPES[name]()

    assert Recipe.parse(recipe.to_dict()) == recipe


@pytest.mark.parametrize("name", ON_CIFAR10)
def test_those_for_cifar10_augment_as_the_write_ups_do(name: str) -> None:
    recipe = RECIPES[name]()

    expected = Augment(crop_pad_px=4, crop_fill="zero", flip="random", cutout_px=8)
    assert recipe.augment == expected
    assert (recipe.data.source, recipe.data.image_size) == ("cifar10", 32)
    assert recipe.data.val_fraction == 0
    assert (recipe.train.last_batch, recipe.train.ema) == ("keep", 0)
    assert recipe.loss.label_smoothing == 0
    assert recipe.evaluate.tta == "none"


@pytest.mark.parametrize(
    ("name", "model", "batch_size"),
    [
        ("custom-resnet", Model(width=64), 512),
        ("custom-resnet-ln", Model(norm="layer", conv_bias=True), 128),
        ("custom-resnet-a", Model(norm="batch", conv_bias=True), 128),
        ("custom-resnet-d", Model(), 512),
        ("resnet18", Model(net="resnet18"), 512),
        ("resnet18-gn", Model(net="resnet18-gn"), 512),
        ("plateau", Model(), 512),
        ("digits", Model(width=16), 64),
    ],
)
def test_nets_and_batch_sizes(name: str, model: Model, batch_size: int) -> None:
    recipe = RECIPES[name]()

    assert recipe.model == model
    assert recipe.train.batch_size == batch_size


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("custom-resnet", Adam(weight_decay=1e-4)),
        ("custom-resnet-ln", Adam()),
        ("custom-resnet-a", Adam()),
        ("custom-resnet-d", Sgd(momentum=0.9)),
        ("resnet18", Sgd(momentum=0.9)),
        ("resnet18-gn", Sgd(momentum=0.9)),
        ("plateau", Sgd(momentum=0.9)),
    ],
)
def test_optimizers(name: str, optimizer: Adam | Sgd) -> None:
    assert RECIPES[name]().optimizer == optimizer


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("custom-resnet", OneCycle(epochs=24, peak_epoch=5, anneal="linear", lr_end="lr_min")),
        ("custom-resnet-ln", OneCycle(epochs=24, peak_epoch=5, anneal="cosine", lr_end=0)),
        (
            "custom-resnet-a",
            OneCycle(
                epochs=24,
                peak_epoch=5,
                anneal="cosine",
                lr_max=0.0492,
                lr_min=0.0492 / 8,
                lr_end=0,
            ),
        ),
        (
            "custom-resnet-d",
            OneCycle(epochs=24, peak_epoch=5, lr_max=0.1, lr_min=0.0204, lr_end=0),
        ),
        ("resnet18", OneCycle(epochs=24, peak_epoch=5, lr_max=0.1, lr_min=0.0204, lr_end=0)),
        ("resnet18-gn", OneCycle(epochs=20, peak_epoch=6, lr_max=0.1, lr_min=0.04, lr_end=0)),
        ("plateau", Plateau(shape="plateau", epochs=40, lr_max="find")),
    ],
)
def test_schedules(name: str, schedule: OneCycle | Plateau) -> None:
    assert RECIPES[name]().schedule == schedule


@pytest.mark.parametrize("name", ["custom-resnet-a", "custom-resnet-d", "resnet18", "resnet18-gn"])
def test_those_with_given_rates_start_peak_and_end_at_them(name: str) -> None:
    schedule = RECIPES[name]().schedule
    assert isinstance(schedule, OneCycle)
    steps = 98
    peak = round(schedule.peak_epoch * steps) - 1  # torch's OneCycleLR: the last step before

    assert lr_at(schedule, 0, steps) == pytest.approx(schedule.lr_min, rel=1e-12)
    assert lr_at(schedule, peak, steps) == pytest.approx(schedule.lr_max, rel=1e-12)
    assert lr_at(schedule, schedule.epochs * steps - 1, steps) == pytest.approx(0, abs=1e-15)


def test_digits_fit_their_eight_pixels() -> None:
    recipe = RECIPES["digits"]()

    assert (recipe.data.source, recipe.data.image_size) == ("digits", 8)
    assert recipe.augment == Augment(crop_pad_px=1, flip="none", cutout_px=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_promise_says_what_it_is_and_which_command_runs_it(name: str) -> None:
    first, *others = promise(name).splitlines()
    fields = {line.split()[0] for line in others if line.strip() and not line.startswith("  ")}
    commands = [line for line in others if line.startswith("command")]

    assert re.fullmatch(r"\S.*\.", first)
    assert fields >= {"data", "accuracy", "command"}
    assert len(commands) == 1
    assert re.findall(r"resight train --recipe (\S+)", commands[0]) == [name]
    source = re.findall(r"--data (\S+)", commands[0]) or ["digits"]
    assert source == [RECIPES[name]().data.source]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_found_by_its_name(name: str) -> None:
    assert find_recipe(name) == RECIPES[name]()


def test_a_recipe_is_found_in_a_file_and_in_itself(tmp_path: Path) -> None:
    recipe = Recipe(name="mine", optimizer=Sgd(momentum=0.5))
    toml, other, plain = tmp_path / "a.toml", tmp_path / "a.json", tmp_path / "recipe"
    toml.write_text(recipe.to_toml())
    other.write_text(json.dumps(recipe.to_dict()))
    plain.write_text(recipe.to_toml())

    assert find_recipe(recipe) is recipe
    assert find_recipe(toml) == recipe
    assert find_recipe(str(other)) == recipe
    assert find_recipe(plain) == recipe


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("custom_resnet", "custom-resnet"),
        ("digts", "digits"),
        ("ResNet18", "resnet18"),
        ("resnet18-ln", "resnet18-gn"),
        ("platau", "plateau"),
    ],
)
def test_an_unknown_name_gets_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(ResightError) as caught:
        find_recipe(wrong)

    assert str(caught.value) == (
        f"recipe '{wrong}' is neither a name nor a file; did you mean '{right}'?"
    )


def test_a_name_like_nothing_known_gets_all_of_them() -> None:
    with pytest.raises(ResightError) as caught:
        find_recipe("xyz")

    assert str(caught.value).endswith("known: " + ", ".join(NAMES))


def test_a_missing_file_is_named_as_a_file() -> None:
    with pytest.raises(ResightError, match="can't be read as a recipe"):
        find_recipe("nowhere/mine.toml")
