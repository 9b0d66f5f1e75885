"""What a training will cost here, and how many epochs fit into the minutes given."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import make_data
from jobs import job_of, recipe_of, runtime
from resight.data.types import ImageData
from resight.engine.job import Job, build_job
from resight.engine.runtime import TORCHS_DEFAULT
from resight.errors import ResightError
from resight.models.summary import summarize
from resight.progress import duration
from resight.recipe.auto import Choice
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import px_at
from resight.recipe.settings import Constant, Data, Evaluate, Model, Train
from resight.training import costs, lr_test_plan
from resight.training.interrupt import Interrupted
from trainings import Listener, StopAt, fit, interrupt, resume, tiny, unequal

COST = costs.Cost(update=0.5, image={0: 0.1, 9: 0.04, 12: 0.06}, test_image=0.01)
ROUND = costs.Cost(update=0.0, image={0: 0.1, 24: 0.1, 28: 0.1}, test_image=0.01)


def shaped(shape: str) -> Recipe:
    return Recipe().with_changes({"schedule.shape": shape})


def fastnet_of(**changes: Any) -> Recipe:
    schedule = {"epochs": 3, "lr_max": 1.0} | changes.pop("schedule", {})
    own = {"model": Model(net="fastnet", width=2), "data": Data(image_size=16)}
    return recipe_of(schedule=Constant(shape="constant", **schedule), **(own | changes))


def test_a_training_costs_its_steps_its_images_and_its_evaluations() -> None:
    job = job_of(recipe_of())  # 3 epochs of 32 + 32 + 6 images, 30 test images
    assert COST.steps(job) == pytest.approx(9 * 0.5 + 210 * 0.1)
    assert COST.steps(job, 2, 5) == pytest.approx(3 * 0.5 + (6 + 64) * 0.1)
    assert COST.steps(job, 9) == 0
    assert COST.evaluations(job) == pytest.approx(3 * 30 * 0.01)
    assert COST.evaluations(job, 2) == pytest.approx(30 * 0.01)
    assert COST.lr_test(job) == 0
    assert COST.training(job) == pytest.approx(4.5 + 21 + 0.9)


def test_an_evaluation_at_the_end_costs_once() -> None:
    end = job_of(recipe_of(evaluate=Evaluate(when="end")))
    assert COST.evaluations(end) == COST.evaluations(end, 2) == pytest.approx(0.3)


def test_norms_taken_anew_cost_a_view_of_each_training_image() -> None:
    job = job_of(recipe_of(evaluate=Evaluate(norm="anew", tta="flip")))
    assert COST.evaluations(job) == pytest.approx(3 * (30 + 70 / 2) * 0.01)


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
    assert said in costs.announcement(job, COST, None)
    without = costs.announcement(job_of(recipe), COST, None)
    assert not any("validation" in line for line in without)


def test_the_last_batch_that_is_dropped_costs_nothing() -> None:
    job = job_of(recipe_of(train=Train(batch_size=32, last_batch="drop")))
    assert COST.steps(job) == pytest.approx(6 * 0.5 + 192 * 0.1)


@given(
    small_epochs=st.floats(0.1, 2),
    medium_epochs=st.floats(0.0, 1).map(lambda epochs: epochs if epochs > 0.1 else 0.0),
    first=st.integers(0, 9),
    more=st.integers(0, 9),
)
def test_steps_on_smaller_images_cost_what_they_cost(
    small_epochs: float, medium_epochs: float, first: int, more: int
) -> None:
    data = _SIXTEEN
    sizes = {"small_epochs": small_epochs, "small_px": 9, "medium_epochs": medium_epochs}
    recipe = fastnet_of(schedule=sizes | {"medium_px": 12 if medium_epochs else 0})
    job = build_job(recipe, data, runtime())
    stop = min(first + more, 9)
    expected = sum(
        0.5 + (6 if step % 3 == 2 else 32) * COST.image[px_at(recipe.schedule, step, 3)]
        for step in range(first, stop)
    )
    assert COST.steps(job, first, max(stop, first)) == pytest.approx(expected)


_SIXTEEN = make_data(70, size=16)


class Clock:
    """Stands still except while the work that is timed says how long it takes."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def timed(
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    step: Callable[[int, bool], float],
    test: float = 0.002,
) -> tuple[costs.Cost, Clock]:
    """The measured cost where a step takes `step(images, small)` seconds, and the clock."""
    clock = Clock()

    def train_on(index: torch.Tensor, plan: object) -> None:
        clock.now += step(len(index), job.state.step < job.total_steps)

    def forward(start: int, stop: int) -> None:
        clock.now += test * (stop - start)

    monkeypatch.setattr(job.executor, "train_on", train_on)
    monkeypatch.setattr(costs, "eager", lambda *_: forward)
    return costs.measure(job, clock), clock


@pytest.mark.parametrize("update", [0.0, 0.03])
def test_a_steps_fixed_part_is_told_from_its_images(
    update: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(recipe_of(train=Train(batch_size=64)))
    cost, _ = timed(job, monkeypatch, lambda images, small: update + 0.001 * images)
    assert cost.image.keys() == {0}
    assert (cost.update, cost.image[0], cost.test_image) == pytest.approx((update, 0.001, 0.002))


def test_smaller_images_are_timed_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"small_epochs": 1.5, "small_px": 9, "medium_epochs": 1.0, "medium_px": 12}
    job = build_job(fastnet_of(schedule=sizes), make_data(size=16), runtime())
    per_image = {0: 0.001, 9: 0.0003, 12: 0.0006}

    def step(images: int, small: bool) -> float:
        return 0.02 + per_image[job.context.kind_at(job.state.step).px] * images

    cost, _ = timed(job, monkeypatch, step)
    assert cost.image == pytest.approx(per_image)
    assert (cost.update, cost.test_image) == pytest.approx((0.02, 0.002))


def test_times_that_scatter_leave_the_images_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(recipe_of(train=Train(batch_size=64)))
    cost, _ = timed(job, monkeypatch, lambda images, small: 0.3 if images < 8 else 0.2)
    assert cost.update == pytest.approx(0.18)
    assert cost.image[0] > 0


def test_what_else_the_machine_does_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(recipe_of(train=Train(batch_size=64)))
    calls = iter(range(10_000))

    def step(images: int, small: bool) -> float:
        return 0.001 * images * (5 if next(calls) % 5 == 4 else 1)

    cost, _ = timed(job, monkeypatch, step)
    assert cost.image[0] == pytest.approx(0.001)


def test_the_fastest_half_counts() -> None:
    assert costs.fastest_half([5.0, 1.0, 3.0, 9.0]) == 2.0
    assert costs.fastest_half([5.0, 1.0, 3.0]) == 2.0
    assert costs.fastest_half([7.0]) == 7.0


@pytest.mark.parametrize(
    ("image", "epochs", "most"),
    [
        (0.001, 3, 0.9),  # next to no training: three rounds, and no more
        (0.001, 300, 0.9),  # 2 % of 21 s
        (0.01, 3000, 4.5),  # a long one: 3 s, and the round that was begun
        (0.5, 3000, 250.0),  # steps so slow that three rounds take longer
    ],
)
def test_timing_takes_a_small_part_of_the_training(
    image: float, epochs: int, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Constant(shape="constant", epochs=epochs, lr_max=1.0)
    job = job_of(recipe_of(train=Train(batch_size=64), schedule=schedule))
    _, clock = timed(job, monkeypatch, lambda images, small: image * images, test=image / 4)
    assert clock.now - 100 <= most


def test_few_images_are_timed_where_steps_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    job = build_job(recipe_of(train=Train(batch_size=512)), make_data(600), runtime())

    def step(images: int, small: bool) -> float:
        seen.append(images)
        return 0.00499 * images  # 2.6 s for a batch

    cost, _ = timed(job, monkeypatch, step)
    assert cost.image[0] == pytest.approx(0.00499)
    assert set(seen) == {8, 50, 25}  # 0.25 s a step, and half of it


def test_no_more_images_are_evaluated_at_once_than_later(monkeypatch: pytest.MonkeyPatch) -> None:
    job = build_job(recipe_of(train=Train(batch_size=32)), make_data(40, n_test=30), runtime())
    assert costs._test(job, 20).images == 20
    monkeypatch.setattr("resight.engine.forward.EVAL_PIXELS_CPU", 7 * job.data.image_size**2)
    assert costs._test(job, 20).images == 7


@pytest.mark.parametrize(
    "train",
    [
        Train(batch_size=2),
        Train(batch_size=3, last_batch="drop"),
        Train(batch_size=62, norm_batch=31),
    ],
    ids=["two", "three", "pieces of 31"],
)
def test_what_can_be_trained_can_be_timed(train: Train) -> None:
    """No piece of one image, for which batch norm has no variance."""
    job = build_job(recipe_of(train=train), make_data(124), runtime())
    assert costs.measure(job).steps(job) > 0


def test_minutes_fit_whole_epochs_after_the_lr_test() -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find"}).with_epochs(24)
    job = build_job(recipe, make_data(640, n_test=100), runtime())
    # an epoch: 640 × 0.1 + 100 × 0.01 = 65 s; the LR test: a tenth of the images, 48 batches
    assert ROUND.lr_test(job) == pytest.approx(48 * 32 * 0.1)
    assert ROUND.training(job) == pytest.approx(24 * 65 + 153.6)
    # 16 epochs: 1,040 s and an LR test of 32 steps, 102.4 s; 17 take 1,105 s and 108.8 s
    assert costs.epochs_that_fit(job, ROUND, 20) == 16
    assert costs.epochs_that_fit(job, ROUND, 1142.5 / 60) == 16
    assert costs.epochs_that_fit(job, ROUND, 1142.3 / 60) == 15
    assert costs.epochs_that_fit(job, ROUND, 1000) == 24
    assert costs.epochs_that_fit(job, ROUND, 66 / 60) == 1  # too short for an LR test
    with pytest.raises(
        ResightError, match=r"minutes = 0.5 is too short: one epoch takes .* --minutes 2"
    ):
        costs.epochs_that_fit(job, ROUND, 0.5)


def test_a_long_training_is_offered_some_minutes() -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find"}).with_epochs(24)
    job = build_job(recipe, make_data(640, n_test=100), runtime())
    lines = costs.announcement(job, ROUND, None)
    assert lines[-2] == "LR test: up to 48 steps of 32 images, about 2 min 30 s"
    assert lines[-1].startswith("24 epochs of 20 steps, about 29 min in total on this CPU")
    assert lines[-1].endswith("(10 images/s); --minutes 5 is enough for 4 epochs")
    short = costs.announcement(job, costs.Cost(0.0, {0: 0.01}, 0.001), None)
    assert "--minutes" not in short[-1]


@pytest.mark.parametrize(
    ("threads", "got", "share"), [(1, 0.9, 0.9), (2, 0.9, 0.45), (1, 1.2, 1.0)]
)
def test_a_share_of_the_processor_is_of_what_the_threads_could_have(
    threads: int, got: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(recipe_of(train=Train(batch_size=64)), runtime(threads=threads))
    clock = Clock()

    def train_on(index: torch.Tensor, plan: object) -> None:
        clock.now += 0.01 * len(index)

    monkeypatch.setattr(job.executor, "train_on", train_on)
    cost = costs.measure(job, clock, lambda: got * clock.now)
    assert cost.cpu_share == pytest.approx(share)


def test_a_busy_machine_is_said() -> None:
    beside = dataclasses.replace(ROUND, cpu_share=0.634)
    one, two = job_of(recipe_of()), job_of(recipe_of(), runtime(threads=2))
    assert costs.busy_line(two, beside) == costs.busy_line(one, beside)  # as stored in a run
    two = dataclasses.replace(two, runtime=two.runtime.with_threads(2, TORCHS_DEFAULT))
    assert costs.busy_line(two, dataclasses.replace(ROUND, cpu_share=0.9)) is None
    said = costs.busy_line(one, beside)
    assert said == (
        "other programs use this CPU (the timed steps got 63% of it): the training may take a "
        "third or three times as long as estimated"
    )
    more = costs.busy_line(two, beside)
    assert more == f"{said}; fewer threads may be faster beside them: OMP_NUM_THREADS=1"


def test_threads_of_a_run_that_would_not_be_chosen_here_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = job_of(recipe_of(), runtime(threads=3))
    monkeypatch.setattr(costs, "cores", lambda most: min(1, most))
    assert costs.stored_threads_line(job) == (
        "3 threads, as stored in the run, on 1 core wait for each other; fewer would change the "
        "result: to train with 1, start a new run"
    )
    chosen = dataclasses.replace(job, runtime=job.runtime.with_threads(3, TORCHS_DEFAULT))
    assert costs.stored_threads_line(chosen) is None
    monkeypatch.setattr(costs, "cores", lambda most: min(4, most))
    monkeypatch.setattr(costs, "default_threads", lambda: 3)
    assert costs.stored_threads_line(job) is None
    monkeypatch.setattr(costs, "default_threads", lambda: 1)  # OMP_NUM_THREADS=1
    assert costs.stored_threads_line(job) == (
        "3 threads, as stored in the run, where a new run would use 1: another number would change "
        "the result"
    )


def test_a_busy_machine_is_said_at_the_start_and_on_a_resume(
    data: ImageData, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        costs, "measure", lambda job: costs.Cost(0.0, {0: 0.001}, 0.001, cpu_share=0.5)
    )
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
    assert costs.price(job, ROUND, plan) == "up to 50 steps of 32 images, about 2 min 40 s"
    job = build_job(recipe.with_epochs(150), make_data(320), runtime())
    said = costs.price(job, ROUND, plan)
    assert said.endswith("; if inconclusive, again with 100")


def test_dropped_images_are_said() -> None:
    dropping = recipe_of(train=Train(batch_size=32, last_batch="drop"))
    lines = costs.announcement(job_of(dropping), ROUND, None)
    assert any(
        line.startswith("each epoch leaves out 6 of the 70 training images") for line in lines
    )
    assert not any(
        "left out" in line for line in costs.announcement(job_of(recipe_of()), ROUND, None)
    )


@pytest.mark.parametrize(("last", "each", "times"), [("keep", 17, "2.5"), ("drop", 16, "2.3")])
def test_balanced_sampling_is_said(last: Any, each: int, times: str) -> None:
    recipe = recipe_of(train=Train(batch_size=16, last_batch=last, sampling="balanced"))
    data = unequal(make_data(100, size=recipe.data.image_size))
    assert np.bincount(data.train.labels).tolist() == [34, 11, 7]
    lines = costs.announcement(build_job(recipe, data, runtime()), ROUND, None)
    assert [line for line in lines if "balanced" in line or "leaves out" in line] == [
        f"balanced sampling: about {each} images of each class per epoch, so each of the 7 of "
        f"'class 2' about {times} times"
    ]


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
    announced = costs.announcement(dataclasses.replace(job, recipe=recipe), ROUND, None)
    assert f"schedule: {line}" in announced


def test_minutes_shorten_the_recipe_that_is_kept(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "measure", lambda job: costs.Cost(0.0, {0: 0.5}, 0.0))
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
    monkeypatch.setattr(costs, "measure", lambda job: costs.Cost(0.0, {0: 0.7}, 0.0))
    monkeypatch.setattr(costs, "FEW_STEPS", 9)
    job = build_job(tiny("digits").with_epochs(24), data, runtime())
    listener = Listener()
    other = job.recipe.with_changes({"data.image_size": 16})
    choice = Choice(job.recipe, ("chosen: because",), (other,), most)
    shortened, _ = costs.say(job, None, choice, listener)
    assert shortened.recipe.schedule.epochs == epochs
    assert "chosen: because" in listener.lines
    said = [line for line in listener.lines if line.startswith("shortened")]
    one = "s" * (epochs > 1)
    assert said == (
        [] if epochs == 24 else [f"shortened to {epochs} epoch{one} (limit: {most:g} min)"]
    )
    assert listener.lines[-1] == costs.other_sizes(
        job, costs.Cost(0.0, {0: 0.7 * epochs / 24}, 0.0), [other], 60 * (most or math.inf)
    )


def test_other_sizes_are_priced_by_the_operations_of_their_own_net_and_epochs() -> None:
    job = job_of(fastnet_of())
    cost = costs.Cost(0.0, {0: 1.0}, 0.0)
    seconds = cost.training(job)
    random = torch.get_rng_state()

    def said(most: float = math.inf, **changes: Any) -> str:
        return costs.other_sizes(job, cost, [fastnet_of(**changes)], most)

    same = f"with --image-size 16 about {duration(seconds)}"
    assert said() == same
    assert said(schedule={"epochs": 6}) == f"with --image-size 16 about {duration(2 * seconds)}"
    small = {"small_px": 10, "small_epochs": 1.0, "medium_px": 12, "medium_epochs": 1.0}
    part = ((10 / 16) ** 2 + (12 / 16) ** 2 + 1) / 3
    assert said(schedule=small) == f"with --image-size 16 about {duration(part * seconds)}"
    assert said(most=7.0) == "with --image-size 16 about 7.0 s"
    first, second = (
        sum(row.macs for row in summarize(job_of(recipe).state.model, (3, px, px)).rows)
        for recipe, px in ((job.recipe, 16), (fastnet_of(model=Model(net="fastnet", width=4)), 32))
    )
    wide = fastnet_of(model=Model(net="fastnet", width=4), data=Data(image_size=32))
    price = duration(seconds * second / first)
    both = costs.other_sizes(job, cost, [job.recipe, wide])
    assert both == f"{same}; with --image-size 32 about {price}"
    assert torch.equal(torch.get_rng_state(), random)


def test_few_steps_are_warned_of_unless_they_were_chosen() -> None:
    job = job_of(recipe_of())
    few = dataclasses.replace(job, recipe=recipe_of().with_epochs(2))
    said = "\n".join(costs.announcement(few, ROUND, None))
    assert f"only {few.total_steps} steps in all" in said
    assert "--recipe auto chooses" in said
    auto = dataclasses.replace(few, recipe=few.recipe.with_changes({"name": "auto"}))
    assert "steps in all" not in "\n".join(costs.announcement(auto, ROUND, None))
    enough = dataclasses.replace(job, recipe=recipe_of().with_epochs(50))
    assert enough.total_steps >= 100
    assert "steps in all" not in "\n".join(costs.announcement(enough, ROUND, None))


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
