"""What a training will cost here, and how many epochs fit into the minutes given."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from helpers import make_data
from jobs import job_of, recipe_of, runtime
from resight.data.types import ImageData
from resight.engine.job import build_job
from resight.errors import ResightError
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Evaluate
from resight.training import costs
from trainings import fit, tiny


def shaped(shape: str) -> Recipe:
    return Recipe().with_changes({"schedule.shape": shape})


def test_an_evaluation_at_the_end_costs_once() -> None:
    each = job_of(recipe_of())
    end = job_of(recipe_of(evaluate=Evaluate(when="end")))
    cost = costs.Cost(train_image=0.1, test_image=0.01)
    assert (cost.epoch(each), cost.once(each)) == pytest.approx((7.3, 0.0))
    assert (cost.epoch(end), cost.once(end)) == pytest.approx((7.0, 0.3))


def test_minutes_fit_whole_epochs_after_the_lr_test(data: ImageData) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find"}).with_epochs(24)
    job = build_job(recipe, make_data(320, n_test=100), runtime())
    cost = costs.Cost(train_image=0.1, test_image=0.01)
    # an epoch: 320 × 0.1 + 100 × 0.01 = 33 s; the LR test: 50 steps of 32 images = 160 s
    assert cost.epoch(job) == pytest.approx(33)
    assert cost.lr_test(job) == pytest.approx(160)
    assert costs.epochs_that_fit(job, cost, 10) == 13
    assert costs.epochs_that_fit(job, cost, 1000) == 24
    with pytest.raises(ResightError, match=r"minutes = 3 is too short: .* --minutes 4"):
        costs.epochs_that_fit(job, cost, 3)


def test_a_long_training_is_offered_some_minutes() -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find"}).with_epochs(24)
    job = build_job(recipe, make_data(320, n_test=100), runtime())
    lines = costs.announcement(job, costs.Cost(train_image=0.1, test_image=0.01), None)
    assert lines[-2].startswith("LR test: up to 50 steps of 32 images, about 2 min 40 s; ")
    assert lines[-1].startswith("24 epochs of 10 steps, about 16 min in total on this CPU")
    assert lines[-1].endswith("(10 images/s); --minutes 5 is enough for 4 epochs")
    short = costs.announcement(job, costs.Cost(train_image=0.01, test_image=0.001), None)
    assert "--minutes" not in short[-1]


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (find_recipe("digits"), "one-cycle over 20 epochs, peak at epoch 5"),
        (
            find_recipe("fast"),
            "linear over 9 epochs, stem bias trained until epoch 3, images of 24 px until epoch 5",
        ),
        (shaped("step"), "step over 24 epochs, a step every 8 epochs"),
        (shaped("triangular"), "triangular over 24 epochs, cycles of 8 epochs"),
        (shaped("constant").with_epochs(1), "constant over 1 epoch"),
    ],
)
def test_the_schedule_is_announced_with_its_durations(recipe: Recipe, line: str) -> None:
    job = job_of(recipe_of())
    announced = costs.announcement(
        dataclasses.replace(job, recipe=recipe), costs.Cost(0.1, 0.1), None
    )
    assert f"schedule: {line}" in announced


def test_minutes_shorten_the_recipe_that_is_kept(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "measure", lambda job: costs.Cost(0.5, 0.0))
    run = fit(tiny("digits").with_epochs(24), data, out, minutes=1.2)  # 35 s an epoch: two fit
    assert run.recipe.schedule.epochs == 2
    assert run.recipe.schedule.peak_epoch == pytest.approx(0.5)
    assert len(run.metrics) == 2


def test_a_measured_cost_leaves_the_state_as_it_was(data: ImageData) -> None:
    job = build_job(tiny("digits", **{"train.ema": 0.5}), data, runtime())
    before = job.state.snapshot()
    costs.measure(job)
    after = job.state.snapshot()
    assert json.dumps(before["step"]) == json.dumps(after["step"])
    for key, value in before["model"].items():
        assert torch.equal(value, after["model"][key]), key
    for index, state in before["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, after["optimizer"]["state"][index][key]), key
