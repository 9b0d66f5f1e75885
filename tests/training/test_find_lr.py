"""The LR test: running it gives torch-lr-finder's losses and leaves nothing changed."""

from __future__ import annotations

import copy
import itertools
import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch_lr_finder
from torch.utils.data import DataLoader

from helpers import batches, make_data
from reading import refusal
from resight.engine.job import Job, build_job
from resight.engine.runtime import Runtime
from resight.progress import Quiet
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Adam, Augment, Constant, Data, Model, Optimizer, Sgd, Train
from resight.runs.lr_test import LrTest, memory, smooth
from resight.training import find_lr
from resight.training.find_lr import run_range_test
from resight.training.lr_test_plan import LrTestPlan, plan_lr_test, smallest_plan
from states import changes_between, pointers, tensors
from trainings import Listener

PLAN = LrTestPlan(50, 32)


def small(**changes: Any) -> Recipe:
    return Recipe(
        model=Model(width=8),
        data=Data(image_size=8),
        augment=changes.pop("augment", Augment(crop_pad_px=1, flip="random", cutout_px=3)),
        schedule=Constant(shape="constant"),
        optimizer=changes.pop("optimizer", Adam(weight_decay=1e-4)),
        train=Train(batch_size=32, **changes),
    )


def make_job(recipe: Recipe | None = None) -> Job:
    runtime = Runtime.choose("cpu", "fp32", threads=1)
    return build_job(recipe or small(), make_data(256), runtime)


def train(job: Job, steps: int, lr: float = 0.003) -> list[float]:
    return [float(loss) for loss in job.steps_at([lr] * steps)]


@pytest.mark.parametrize(
    "recipe",
    [
        small(ema=0.9),
        small(optimizer=Sgd(weight_decay=1e-4, decay="weights")),
        small(optimizer=Sgd(momentum=0.0), ema=0.5),
    ],
    ids=["adam", "sgd", "plain sgd"],
)
@pytest.mark.parametrize("steps", [0, 5])
def test_running_it_leaves_no_trace(recipe: Recipe, steps: int) -> None:
    job, twin = make_job(recipe), make_job(recipe)
    state = job.state
    train(job, steps)
    train(twin, steps)
    state.trace.losses.fill_(1.5)
    state.trace.correct.fill_(3)
    state.history.append({"epoch": 1, "loss": 2.0})
    state.epoch_seconds = 4.5
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    random.seed(11)
    before = copy.deepcopy(state.state_dict())
    places = [
        value.data_ptr() for _, value in tensors(state.state_dict()) if torch.is_tensor(value)
    ]
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    run_range_test(job, PLAN)

    assert changes_between(before, state.state_dict()) == []
    assert pointers(state.state_dict()) == places
    assert all(p.grad is None for p in state.model.parameters())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (
        changes_between(
            [str(part) for part in generators[1]],
            [str(part) for part in np.random.get_state()],  # noqa: NPY002
        )
        == []
    )
    assert random.getstate() == generators[2]
    assert train(job, 5) == train(twin, 5)


def test_it_gives_the_same_twice_and_follows_the_rates_of_its_range() -> None:
    job = make_job()
    first, second = run_range_test(job, PLAN), run_range_test(job, PLAN)

    np.testing.assert_array_equal(first.losses, second.losses)
    assert (first.stop, first.chance) == (second.stop, math.log(3))
    np.testing.assert_allclose(first.lrs, np.geomspace(1e-5, 10, 50)[: len(first.lrs)], rtol=1e-12)
    assert len(first.lrs) == len(first.losses)


def test_an_interrupt_in_the_middle_restores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()
    train(job, 3)
    before = copy.deepcopy(job.state.state_dict())
    step, calls = job.executor.step, itertools.count()

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 7:
            raise KeyboardInterrupt
        return step(*arguments, **options)

    monkeypatch.setattr(job.executor, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_range_test(job, PLAN)
    assert changes_between(before, job.state.state_dict()) == []


@pytest.mark.parametrize("optimizer", [Adam(), Sgd()], ids=["adam", "sgd"])
def test_images_learnt_by_heart_get_a_rate_at_which_they_are_learnt_again(
    optimizer: Optimizer,
) -> None:
    plain = Augment(crop_pad_px=0, flip="none", cutout_px=0)
    job = make_job(small(optimizer=optimizer, augment=plain))
    test = run_range_test(job, PLAN)

    assert test.lrs[test.smoothed.argmin()] > 5  # half of that ends at 18 with adam, nan with sgd
    losses = train(job, 48, lr=test.suggest("minimum/2"))
    assert max(losses[-8:]) < 0.2


def replay(job: Job, losses: list[float]) -> LrTest:
    """The test with losses that a step would have given."""
    values, trace = iter(losses), job.state.trace
    trace.losses = trace.losses.double()

    def step(position: int) -> None:
        trace.losses[position] = next(values)

    job.executor = SimpleNamespace(begin=lambda *_: None, step=step)  # type: ignore[assignment]
    return run_range_test(job, PLAN)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("interval", [1, 7, 32])
def test_a_loss_that_is_no_number_ends_it_and_is_left_out(
    bad: float, interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "log_interval", interval)
    good = np.linspace(1.0, 0.4, 40).tolist()
    test = replay(make_job(), [*good, bad, *[0.1] * 9])

    assert test.losses.tolist() == good
    lrs = np.geomspace(1e-5, 10, 50)
    np.testing.assert_array_equal(test.lrs, lrs[:40])
    assert test.stop == f"diverged at LR {lrs[40]:.3g}"
    assert test.suggest("steepest") in test.lrs


def test_a_first_loss_that_is_no_number_leaves_an_empty_curve() -> None:
    test = replay(make_job(), [math.nan] * 50)

    assert len(test.lrs) == len(test.losses) == 0
    assert "only 0 steps" in refusal(test)


@pytest.mark.parametrize("interval", [1, 7, 32])
def test_a_loss_far_above_the_lowest_and_the_first_ends_it(
    interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "log_interval", interval)
    losses = np.r_[np.linspace(1.0, 0.5, 30), np.linspace(0.5, 8, 20)]
    test = replay(make_job(), losses.tolist())
    smoothed = smooth(losses, memory(np.geomspace(1e-5, 10, 50)))
    lowest = np.minimum.accumulate(smoothed)
    end = int(np.flatnonzero((smoothed > 2 * lowest) & (smoothed > smoothed[0]))[0])

    assert test.losses.tolist() == losses[: end + 1].tolist()
    assert test.stop == f"diverged at LR {test.lrs[-1]:.3g}"
    assert 30 < end < 40


def test_a_loss_that_returns_to_where_it_began_has_not_diverged() -> None:
    losses = np.r_[np.geomspace(1.0, 0.01, 25), np.geomspace(0.01, 0.9, 25)].tolist()
    test = replay(make_job(), losses)

    assert (len(test.losses), test.stop) == (50, "reached LR 10")


def test_the_progress_counts_the_steps() -> None:
    seen: list[tuple[int, int]] = []
    test = run_range_test(make_job(), PLAN, progress=lambda done, of: seen.append((done, of)))

    assert seen == [(done, 50) for done in range(1, len(test.losses) + 1)]


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (Sgd(momentum=0.9), lambda p: torch.optim.SGD(p, lr=1e-5, momentum=0.9)),
        (Sgd(momentum=0.0), lambda p: torch.optim.SGD(p, lr=1e-5)),
        (Adam(weight_decay=1e-4), lambda p: torch.optim.Adam(p, lr=1e-5, weight_decay=1e-4)),
    ],
    ids=["momentum", "sgd", "adam"],
)
def test_the_losses_are_those_of_torch_lr_finder(mine: Optimizer, theirs: Any) -> None:
    job = make_job(small(optimizer=mine, augment=Augment(crop_pad_px=0, flip="none", cutout_px=0)))
    net = copy.deepcopy(job.state.model)
    drawn = [
        job.train.augmented(index, plan, job.recipe.augment)
        for epoch in range(-(-50 // job.steps_per_epoch))
        for plan in [job.plan(epoch)]
        for index in batches(job, plan)
    ]
    test = run_range_test(job, PLAN)
    finder = torch_lr_finder.LRFinder(net, theirs(net.parameters()), torch.nn.CrossEntropyLoss())
    loader = DataLoader(drawn, batch_size=None)  # type: ignore[arg-type]
    finder.range_test(
        loader, start_lr=1e-5, end_lr=10, num_iter=50, smooth_f=0, diverge_th=math.inf
    )
    n = len(test.losses)
    reference = np.array(finder.history["loss"][:n])

    np.testing.assert_allclose(test.lrs, finder.history["lr"][:n], rtol=1e-9)
    # until a large LR blows the last bits up; on one machine SGD's are the same to the last
    gentle = test.lrs < 0.01
    assert gentle.sum() == 25
    np.testing.assert_allclose(test.losses[gentle], reference[gentle], rtol=1e-5)


@pytest.mark.parametrize(
    ("readable_from", "epochs", "expected"),
    [
        (50, 1000, [50]),
        (100, 1000, [50, 200]),
        (999, 1000, [50, 200]),
        (999, 157, [50, 75]),  # 256 images an epoch: a tenth of them are 125 batches
        (999, 156, [50]),  # 74 steps more are too few for another test
        (999, 62, [50]),
    ],
)
def test_a_curve_that_says_nothing_is_drawn_again_with_more_steps(
    readable_from: int, epochs: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def draw(job: object, plan: LrTestPlan, progress: object) -> LrTest:
        asked.append(plan.steps)
        lrs = np.geomspace(1e-5, 10, plan.steps)
        fall = np.clip((np.log10(lrs) + 4) / 3, 0, 1)
        losses = 2.2 - (1.0 if plan.steps >= readable_from else 0.01) * fall
        return LrTest(lrs, losses, "reached LR 10", chance=2.3)

    monkeypatch.setattr(find_lr, "_raise_lr", draw)
    job = make_job(small().with_changes({"schedule.epochs": epochs}))
    assert len(find_lr.run_range_test(job, PLAN).lrs) == expected[-1]
    assert asked == expected


def test_smaller_batches_are_tested_at_lower_rates_and_leave_no_trace_either() -> None:
    """A job with batches of 8 and the LRs of a batch of 32: half of them, for Adam."""
    job, eighths = make_job(), make_job(small().with_changes({"train.batch_size": 8}))
    before = copy.deepcopy(job.state.state_dict())
    test = run_range_test(job, LrTestPlan(50, 8, 2.0))
    losses = [float(loss) for loss in eighths.steps_at((np.geomspace(1e-5, 10, 50) / 2).tolist())]
    assert changes_between(before, job.state.state_dict()) == []
    assert test.losses.tolist() == losses[: len(test.losses)]
    np.testing.assert_allclose(test.lrs, np.geomspace(1e-5, 10, 50)[: len(test.lrs)])
    assert (test.batch, test.lr_scale) == (8, 2.0)
    assert LrTest.from_dict(test.to_dict()).to_dict() == test.to_dict()


@pytest.mark.parametrize(
    ("n", "train"),
    [
        (241, Train(batch_size=512)),  # 241 = 15 × 16 + 1
        (33, Train(batch_size=512)),
        (300, Train(batch_size=24, norm_batch=12)),
        (700, Train(batch_size=600)),
    ],
)
def test_any_training_can_have_its_lr_tested(n: int, train: Train) -> None:
    """No batch of the test is smaller than the others, nor any of their pieces."""
    recipe = small().model_copy(update={"train": train})
    job = build_job(recipe, make_data(n), Runtime.choose("cpu", "fp32", threads=1))
    plan = plan_lr_test(job) or smallest_plan(job)
    test = run_range_test(job, plan)
    assert len(test.lrs) > 10
    assert test.batch == plan.batch


def test_a_training_of_too_few_steps_is_warned_of() -> None:
    told = Listener()
    find_lr.find_lr(small(), make_data(64), reporter=told)
    (few,) = [line for line in told.lines if "too few for most nets" in line]
    assert few.startswith("note: a training has only ")


def test_a_named_recipes_own_lr_is_known_whatever_lr_was_given() -> None:
    """The LR of a run that was started with another one is to be corrected, not kept."""
    fast = find_recipe("fast")
    changes = {"model.width": 4, "data.image_size": 12, "augment.crop_pad_px": 1}
    changes |= {"train.batch_size": 32, "schedule.small_px": 9}
    own = fast.with_changes({"train.norm_batch": 0, **changes})
    right = 0.17 * (32 / 1000) ** 0.5
    for lr, expected in ((right, right), (8.0, right), ("find", None)):
        test = find_lr.find_lr(
            own.with_changes({"schedule.lr_max": lr}), make_data(64, size=12), reporter=Quiet()
        )
        assert test.recipe_lr == (pytest.approx(expected) if expected else None)


@pytest.mark.parametrize(("fall", "expected"), [(1.0, None), (0.01, 0.003)])
def test_a_curve_without_an_lr_comes_with_the_usual_one(
    fall: float, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(job: object, plan: LrTestPlan, progress: object) -> LrTest:
        lrs = np.geomspace(1e-5, 10, 50)
        return LrTest(lrs, 2.2 - fall * np.clip((np.log10(lrs) + 4) / 3, 0, 1), "", chance=2.3)

    monkeypatch.setattr(find_lr, "_raise_lr", draw)
    recipe = small().with_changes({"schedule.lr_max": 0.01})
    assert find_lr.find_lr(recipe, make_data(64), reporter=Quiet()).usual_lr == expected
