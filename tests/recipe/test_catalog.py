"""The named recipes are those of the published write-ups, and say how they are run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from helpers import make_net
from resight.data.batches import steps_per_epoch as steps_per_epoch_of
from resight.engine.forward import VIEWS
from resight.engine.optim import group_rates, make_optimizer
from resight.errors import ResightError
from resight.recipe.catalog import RECIPES, find_recipe, promise
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import lr_at, stem_lr_at
from resight.recipe.settings import Adam, Augment, Linear, Model, Muon, OneCycle, Plateau, Sgd

NAMES = [
    "custom-resnet",
    "custom-resnet-ln",
    "custom-resnet-a",
    "custom-resnet-d",
    "fast",
    "best",
    "custom-resnet-fast",
    "resnet18",
    "resnet18-gn",
    "plateau",
    "digits",
]
FAST = ["fast", "best", "custom-resnet-fast"]
ON_CIFAR10 = [name for name in NAMES if name not in ("digits", *FAST)]


def test_the_eleven_recipes_are_there_under_their_own_names() -> None:
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
        ("fast", Model(net="fastnet", width=64, logit_scale=1 / 256), 1000),
        ("best", Model(net="fastnet-deep", width=128, logit_scale=1 / 9), 1024),
        ("custom-resnet-fast", Model(logit_scale=0.125), 512),
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
        (
            "fast",
            Linear(
                shape="linear",
                epochs=9,
                lr_max=0.17,
                stem_epochs=3,
                small_epochs=5,
                small_px=24,
            ),
        ),
        ("plateau", Plateau(shape="plateau", epochs=40, lr_max="find")),
    ],
)
def test_schedules(name: str, schedule: Linear | OneCycle | Plateau) -> None:
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


@pytest.mark.parametrize(
    ("name", "augment", "tta"),
    [
        ("fast", Augment(crop_pad_px=2, crop_fill="reflect", flip="alternating", cutout_px=0), 2.5),
        ("best", Augment(crop_pad_px=4, crop_fill="reflect", flip="alternating", cutout_px=12), 6),
        (
            "custom-resnet-fast",
            Augment(crop_pad_px=4, crop_fill="reflect", flip="alternating", cutout_px=8),
            2,
        ),
    ],
)
def test_the_fast_ones_smooth_labels_drop_the_rest_and_look_again(
    name: str, augment: Augment, tta: float
) -> None:
    recipe = RECIPES[name]()

    assert recipe.augment == augment
    assert (recipe.data.source, recipe.data.image_size) == ("cifar10", 32)
    assert recipe.loss.label_smoothing == 0.2
    assert recipe.train.last_batch == "drop"
    assert VIEWS[recipe.evaluate.tta] == tta
    assert recipe.data.val_fraction == 0


class Rates(NamedTuple):
    """Of each of the optimizer's groups at each step: LRs (S, G) and weight decays (G,)."""

    lr: npt.NDArray[np.float64]
    decay: npt.NDArray[np.float64]
    groups: list[dict[str, Any]]


def rates_of(name: str, steps_per_epoch: int) -> Rates:
    """The rates of a recipe with rates of its own, as its training sets them."""
    recipe = RECIPES[name]()
    schedule, batch = recipe.schedule, recipe.train.batch_size
    assert steps_per_epoch_of(50_000, batch, recipe.train.last_batch) == steps_per_epoch
    net = make_net(recipe.model.net, classes=10, width=8)
    optimizer = make_optimizer(net, recipe.optimizer)
    rows = []
    for step in range(schedule.epochs * steps_per_epoch):
        lr = lr_at(schedule, step, steps_per_epoch)
        stem = stem_lr_at(schedule, step, steps_per_epoch, lr)
        rows.append(group_rates(optimizer, lr, stem))
    groups = optimizer.param_groups
    decay = np.array([group["weight_decay"] for group in groups])
    return Rates(np.array(rows), decay, groups)


def test_fast_learns_at_the_rates_of_airbench94_muon() -> None:
    """LRs of a loss that is summed over a batch, times its images; what decay takes is the same."""
    rates, recipe = rates_of("fast", 50), RECIPES["fast"]()
    filters, head, biases, stem = range(4)
    steps = 9 * 50
    left = 1 - np.arange(steps) / steps

    assert rates.lr.shape == (steps, 4)
    expected = [0.17, 0.67 * 1000, 0.053 * 1000, 0.053 * 1000]
    assert rates.lr[0] == pytest.approx(expected, rel=1e-3)
    for group in (filters, head, biases):
        np.testing.assert_allclose(rates.lr[:, group], rates.lr[0, group] * left)
    falling = np.clip(1 - np.arange(steps) / (3 * 50), 0, None)
    np.testing.assert_allclose(rates.lr[:, stem], rates.lr[0, stem] * falling, atol=1e-9)
    np.testing.assert_allclose(rates.lr[0] * rates.decay, [0, 4e-3, 4e-3, 4e-3], rtol=1e-9)
    assert [group["momentum"] for group in rates.groups] == [0.6, 0.85, 0.85, 0.85]
    assert rates.groups[filters]["newton_schulz_steps"] == 3
    assert (recipe.optimizer.name, recipe.optimizer.clip_grad_norm) == ("muon", 0)
    assert (recipe.train.ema, recipe.train.lookahead) == (0, 0)


def test_muon_as_it_comes_has_airbench94s_rates_for_batches_of_2000() -> None:
    settings = Muon(name="muon")
    assert 0.24 * settings.bias_lr_scale == pytest.approx(0.053 * 2000, rel=1e-3)
    assert 0.24 * settings.head_lr_scale == pytest.approx(0.67 * 2000, rel=1e-3)
    assert (settings.momentum, settings.sgd_momentum, settings.newton_schulz_steps) == (
        0.6,
        0.85,
        3,
    )


def test_best_is_airbench96_on_the_mean_loss() -> None:
    """LRs of a loss that is summed over 1,024 images, times 1,024; what decay takes is the same."""
    rates = rates_of("best", 48)
    kilostep = 1024 * (1 + 1 / (1 - 0.85))
    weights, biases, stem = range(3)
    lr, highest = rates.lr[:, weights], 9.0 * 1024 / kilostep
    total, peak = 37 * 48, int(0.1 * 37 * 48)

    assert kilostep == pytest.approx(7850.67, rel=1e-6)
    assert RECIPES["best"]().schedule.lr_max == pytest.approx(highest, rel=1e-6)
    assert lr[0] == pytest.approx(0.2 * highest, rel=1e-6)
    assert len(lr) == total
    # torch's one-cycle comes to its peak and to its end a step earlier than airbench's triangle
    triangle = np.interp(np.arange(total), [0, peak, total], [0.2, 1.0, 0.0])
    np.testing.assert_allclose(lr / highest, triangle, atol=0.006)
    np.testing.assert_allclose(rates.lr[:, biases], 64 * lr)
    np.testing.assert_allclose(rates.lr[:, stem], lr)

    assert highest * rates.decay[weights] == pytest.approx(1.5652e-3, rel=1e-4)
    assert rates.decay[weights] == pytest.approx(1.3653 / 1024, rel=1e-6)
    assert rates.decay[biases] == pytest.approx(0.021333 / 1024, rel=1e-4)
    assert rates.decay[stem] == rates.decay[weights]
    for group in rates.groups:
        assert (group["momentum"], group["nesterov"]) == (0.85, True)
    assert (RECIPES["best"]().train.lookahead, RECIPES["best"]().train.ema) == (5, 0)


def test_custom_resnet_fast_learns_at_davidnets_rates() -> None:
    rates = rates_of("custom-resnet-fast", 97)
    epoch = np.arange(24 * 97) / 97

    assert rates.lr.shape == (24 * 97, 1)
    np.testing.assert_allclose(
        rates.lr[:, 0], np.interp(epoch, [0, 5, 24], [0, 0.4, 0]), atol=0.4 / (5 * 97)
    )
    assert rates.lr.max() == pytest.approx(0.4, rel=1e-3)
    assert rates.decay.tolist() == [5e-4]
    assert (rates.groups[0]["momentum"], rates.groups[0]["nesterov"]) == (0.9, True)


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
    for epochs in re.findall(r"(\d+) epochs", first):
        assert int(epochs) == RECIPES[name]().schedule.epochs


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
        ("fats", "fast"),
    ],
)
def test_an_unknown_name_gets_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(ResightError) as caught:
        find_recipe(wrong)

    assert str(caught.value) == (
        f"recipe '{wrong}' is neither a known name nor a file; did you mean '{right}'?"
    )


def test_a_name_like_nothing_known_gets_all_of_them() -> None:
    with pytest.raises(ResightError) as caught:
        find_recipe("xyz")

    assert str(caught.value).endswith("known: " + ", ".join([*NAMES, "auto"]))


def test_a_missing_file_is_named_as_a_file() -> None:
    with pytest.raises(ResightError, match=r"recipe 'nowhere/mine\.toml': no such file"):
        find_recipe("nowhere/mine.toml")


def test_a_folder_in_place_of_a_recipe_is_taken_for_images(tmp_path: Path) -> None:
    with pytest.raises(ResightError, match=f"it is a folder: did you mean --data {tmp_path}"):
        find_recipe(tmp_path)
