"""What a training will cost here, and how many epochs fit into the minutes given."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import make_data
from jobs import job_of, recipe_of, runtime
from prices import COST, ROUND, fastnet_of
from resight.data.types import ImageData
from resight.engine.job import Job, build_job
from resight.errors import ResightError
from resight.recipe.schedule import px_at
from resight.recipe.settings import Constant, Evaluate, Train
from resight.training import costs
from trainings import tiny


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
