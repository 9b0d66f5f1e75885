"""What is said before a training: what it will do, and what it will cost."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import make_data
from jobs import job_of, recipe_of, runtime
from prices import COST, ROUND, fastnet_of
from resight.data.types import ImageData
from resight.engine.job import build_job
from resight.engine.runtime import TORCHS_DEFAULT
from resight.models.summary import summarize
from resight.progress import duration
from resight.recipe.auto import Choice
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Data, Evaluate, Model, Train
from resight.training import announcement, costs, lr_test_plan
from resight.training.costs import Cost
from resight.training.interrupt import Interrupted
from trainings import Listener, StopAt, fit, interrupt, resume, tiny, unequal


@pytest.mark.parametrize(
    ("when", "said"),
    [
        (
            "each-epoch",
            "12 validation images after each epoch, about 0.4 s in all: the weights of the best "
            "epoch count (--set evaluate.when=end looks once, and the last epoch's count)",
        ),
        (
            "end",
            "12 validation images once, at the end: no best epoch, no curve (--set "
            "evaluate.when=each-epoch has both)",
        ),
    ],
)
def test_it_is_said_when_validation_images_are_looked_at(when: Any, said: str) -> None:
    recipe = recipe_of(evaluate=Evaluate(when=when))
    job = build_job(recipe, make_data(val=12), runtime())
    assert said in announcement.lines(job, COST, None)
    without = announcement.lines(job_of(recipe), COST, None)
    assert not any("validation" in line for line in without)


def test_a_long_training_is_offered_some_minutes() -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find"}).with_epochs(24)
    job = build_job(recipe, make_data(640, n_test=100), runtime())
    lines = announcement.lines(job, ROUND, None)
    assert lines[-2] == "LR test: up to 48 steps of 32 images, about 2 min 30 s"
    assert lines[-1].startswith("24 epochs of 20 steps, about 29 min in total on this CPU")
    assert lines[-1].endswith("(10 images/s); --minutes 5 is enough for 4 epochs")
    short = announcement.lines(job, Cost(0.0, {0: 0.01}, 0.001), None)
    assert "--minutes" not in short[-1]


def test_a_busy_machine_is_said() -> None:
    beside = dataclasses.replace(ROUND, cpu_share=0.634)
    one, two = job_of(recipe_of()), job_of(recipe_of(), runtime(threads=2))
    assert announcement.busy_line(two, beside) == announcement.busy_line(
        one, beside
    )  # as stored in a run
    two = dataclasses.replace(two, runtime=two.runtime.with_threads(2, TORCHS_DEFAULT))
    assert announcement.busy_line(two, dataclasses.replace(ROUND, cpu_share=0.9)) is None
    said = announcement.busy_line(one, beside)
    assert said == (
        "other programs use this CPU (the timed steps got 63% of it): the training may take a "
        "third or three times as long as estimated"
    )
    more = announcement.busy_line(two, beside)
    assert more == f"{said}; fewer threads may be faster beside them: OMP_NUM_THREADS=1"


def test_threads_of_a_run_that_would_not_be_chosen_here_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = job_of(recipe_of(), runtime(threads=3))
    monkeypatch.setattr(announcement, "cores", lambda most: min(1, most))
    assert announcement.stored_threads_line(job) == (
        "3 threads, as stored in the run, on 1 core wait for each other; fewer would change the "
        "result: to train with 1, start a new run"
    )
    chosen = dataclasses.replace(job, runtime=job.runtime.with_threads(3, TORCHS_DEFAULT))
    assert announcement.stored_threads_line(chosen) is None
    monkeypatch.setattr(announcement, "cores", lambda most: min(4, most))
    monkeypatch.setattr(announcement, "default_threads", lambda: 3)
    assert announcement.stored_threads_line(job) is None
    monkeypatch.setattr(announcement, "default_threads", lambda: 1)  # OMP_NUM_THREADS=1
    assert announcement.stored_threads_line(job) == (
        "3 threads, as stored in the run, where a new run would use 1: another number would change "
        "the result"
    )


def test_a_busy_machine_is_said_at_the_start_and_on_a_resume(
    data: ImageData, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "measure", lambda job: Cost(0.0, {0: 0.001}, 0.001, cpu_share=0.5))
    first, second = Listener(), Listener()
    fit(tiny("digits"), data, tmp_path / "whole", reporter=first)
    with pytest.raises(Interrupted):
        fit(tiny("digits"), data, out, reporter=StopAt(2, interrupt))
    resume(out, data, reporter=second)
    for listener in (first, second):
        assert sum(line.startswith("other programs use this CPU") for line in listener.lines) == 1


def test_an_lr_test_that_may_be_repeated_says_so() -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find"}).with_epochs(24)
    job = build_job(recipe.with_epochs(90), make_data(320), runtime())
    plan = lr_test_plan.plan_lr_test(job)
    assert plan is not None
    assert announcement.price(job, ROUND, plan) == "up to 50 steps of 32 images, about 2 min 40 s"
    job = build_job(recipe.with_epochs(150), make_data(320), runtime())
    said = announcement.price(job, ROUND, plan)
    assert said.endswith("; if inconclusive, again with 100")


def test_dropped_images_are_said() -> None:
    dropping = recipe_of(train=Train(batch_size=32, last_batch="drop"))
    lines = announcement.lines(job_of(dropping), ROUND, None)
    assert any(
        line.startswith("each epoch leaves out 6 of the 70 training images") for line in lines
    )
    assert not any(
        "left out" in line for line in announcement.lines(job_of(recipe_of()), ROUND, None)
    )


@pytest.mark.parametrize(("last", "each", "times"), [("keep", 17, "2.5"), ("drop", 16, "2.3")])
def test_balanced_sampling_is_said(last: Any, each: int, times: str) -> None:
    recipe = recipe_of(train=Train(batch_size=16, last_batch=last, sampling="balanced"))
    data = unequal(make_data(100, size=recipe.data.image_size))
    assert np.bincount(data.train.labels).tolist() == [34, 11, 7]
    lines = announcement.lines(build_job(recipe, data, runtime()), ROUND, None)
    assert [line for line in lines if "balanced" in line or "leaves out" in line] == [
        f"balanced sampling: about {each} images of each class per epoch, so each of the 7 of "
        f"'class 2' about {times} times"
    ]


def shaped(shape: str) -> Recipe:
    return Recipe().with_changes({"schedule.shape": shape})


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (find_recipe("digits"), "one-cycle over 20 epochs, peak at epoch 5"),
        (
            find_recipe("fast"),
            "linear over 9 epochs, stem bias trained until epoch 3, images of 24 px until epoch 5",
        ),
        (
            find_recipe("fast").with_changes(
                {"schedule.medium_px": 28, "schedule.medium_epochs": 2.0}
            ),
            "linear over 9 epochs, stem bias trained until epoch 3, images of 24 px until epoch 5, "
            "images of 28 px until epoch 7",
        ),
        (shaped("step"), "step over 24 epochs, a step every 8 epochs"),
        (shaped("triangular"), "triangular over 24 epochs, cycles of 8 epochs"),
        (shaped("constant").with_epochs(1), "constant over 1 epoch"),
    ],
)
def test_the_schedule_is_announced_with_its_durations(recipe: Recipe, line: str) -> None:
    job = job_of(recipe_of())
    announced = announcement.lines(dataclasses.replace(job, recipe=recipe), ROUND, None)
    assert f"schedule: {line}" in announced


def test_minutes_shorten_the_recipe_that_is_kept(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "measure", lambda job: Cost(0.0, {0: 0.5}, 0.0))
    run = fit(tiny("digits").with_epochs(24), data, out, minutes=1.2)  # 35 s an epoch: two fit
    assert run.recipe.schedule.epochs == 2
    assert run.recipe.schedule.peak_epoch == pytest.approx(0.5)
    assert len(run.metrics) == 2


@pytest.mark.parametrize(
    ("most", "epochs"),
    [(None, 24), (60.0, 24), (7.5, 9), (0.1, 3)],  # 70 images an epoch: 49 s; 3 steps
)
def test_a_choice_may_limit_the_epochs_but_not_below_some_steps(
    data: ImageData, monkeypatch: pytest.MonkeyPatch, most: float | None, epochs: int
) -> None:
    monkeypatch.setattr(costs, "measure", lambda job: Cost(0.0, {0: 0.7}, 0.0))
    monkeypatch.setattr(announcement, "FEW_STEPS", 9)
    job = build_job(tiny("digits").with_epochs(24), data, runtime())
    listener = Listener()
    other = job.recipe.with_changes({"data.image_size": 16})
    choice = Choice(job.recipe, ("chosen: because",), (other,), most)
    shortened, _ = announcement.say(job, None, choice, listener)
    assert shortened.recipe.schedule.epochs == epochs
    assert "chosen: because" in listener.lines
    said = [line for line in listener.lines if line.startswith("shortened")]
    one = "s" * (epochs > 1)
    assert said == (
        [] if epochs == 24 else [f"shortened to {epochs} epoch{one} (limit: {most:g} min)"]
    )
    assert listener.lines[-1] == announcement.other_sizes(
        job, Cost(0.0, {0: 0.7 * epochs / 24}, 0.0), [other], 60 * (most or math.inf)
    )


def test_other_sizes_are_priced_by_the_operations_of_their_own_net_and_epochs() -> None:
    job = job_of(fastnet_of())
    cost = Cost(0.0, {0: 1.0}, 0.0)
    seconds = cost.training(job)
    random = torch.get_rng_state()

    def said(most: float = math.inf, **changes: Any) -> str:
        return announcement.other_sizes(job, cost, [fastnet_of(**changes)], most)

    same = f"with --image-size 16 about {duration(seconds)}"
    assert said() == same
    assert said(schedule={"epochs": 6}) == f"with --image-size 16 about {duration(2 * seconds)}"
    small = {"small_px": 10, "small_epochs": 1.0, "medium_px": 12, "medium_epochs": 1.0}
    part = ((10 / 16) ** 2 + (12 / 16) ** 2 + 1) / 3
    assert said(schedule=small) == f"with --image-size 16 about {duration(part * seconds)}"
    assert said(most=7.0) == "with --image-size 16 about 7.0 s"
    steps = costs.Cost(2.0, {0: 0.0}, 0.0)  # which take as long whatever their images
    longer = fastnet_of(schedule={"epochs": 6}, data=Data(image_size=32))
    assert costs.of_other(job, steps, longer) == pytest.approx(2.0 * 2 * job.total_steps)
    first, second = (
        sum(row.macs for row in summarize(job_of(recipe).state.model, (3, px, px)).rows)
        for recipe, px in ((job.recipe, 16), (fastnet_of(model=Model(net="fastnet", width=4)), 32))
    )
    wide = fastnet_of(model=Model(net="fastnet", width=4), data=Data(image_size=32))
    price = duration(seconds * second / first)
    both = announcement.other_sizes(job, cost, [job.recipe, wide])
    assert both == f"{same}; with --image-size 32 about {price}"
    assert torch.equal(torch.get_rng_state(), random)


def test_few_steps_are_warned_of_unless_they_were_chosen() -> None:
    job = job_of(recipe_of())
    few = dataclasses.replace(job, recipe=recipe_of().with_epochs(2))
    said = "\n".join(announcement.lines(few, ROUND, None))
    assert f"only {few.total_steps} steps in all" in said
    assert "--recipe auto chooses" in said
    auto = dataclasses.replace(few, recipe=few.recipe.with_changes({"name": "auto"}))
    assert "steps in all" not in "\n".join(announcement.lines(auto, ROUND, None))
    enough = dataclasses.replace(job, recipe=recipe_of().with_epochs(50))
    assert enough.total_steps >= 100
    assert "steps in all" not in "\n".join(announcement.lines(enough, ROUND, None))
