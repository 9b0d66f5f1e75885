"""How many steps an LR test takes, on how many images: never more than a tenth of the training."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.engine.job import Job
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Adam, Muon, Optimizer, Sgd
from resight.training.lr_test_plan import (
    MAX_STEPS,
    MIN_STEPS,
    LrTestPlan,
    longer,
    plan_lr_test,
    smallest_plan,
)


@dataclasses.dataclass
class Sized:
    """As much of a job as a plan needs."""

    recipe: Recipe
    n: int
    on_cpu: bool = True

    @property
    def runtime(self) -> Any:
        return SimpleNamespace(on_cpu=self.on_cpu)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n // self.recipe.train.batch_size)

    def batch_images(self, position: int) -> int:
        return min(self.recipe.train.batch_size, self.n)

    def epoch_images(self) -> int:
        return self.n


def sized(n: int, batch: int = 512, epochs: int = 24, *, on_cpu: bool = True, **more: Any) -> Job:
    recipe = Recipe().with_epochs(epochs).with_changes({"train.batch_size": batch, **more})
    return cast(Job, Sized(recipe, n, on_cpu))


@pytest.mark.parametrize(
    ("n", "batch", "epochs", "expected"),
    [
        (50_000, 512, 24, (98, 512)),  # an epoch's steps
        (50_000, 128, 24, (200, 128)),
        (50_000, 512, 10, (97, 512)),  # a tenth of the training
        (50_000, 512, 3, (50, 300)),  # smaller batches
        (1_119, 512, 24, (50, 53)),
        (450, 512, 24, (33, 32)),  # fewer steps
        (400, 512, 24, (30, 32)),
        (399, 512, 24, None),
        (1_438, 64, 20, (50, 57)),
        (300, 8, 24, (50, 8)),  # a batch that is small anyway
    ],
)
def test_the_steps_and_the_batch(
    n: int, batch: int, epochs: int, expected: tuple[int, int] | None
) -> None:
    plan = plan_lr_test(sized(n, batch, epochs))
    assert (plan and (plan.steps, plan.batch)) == expected


@given(n=st.integers(2, 100_000), batch=st.integers(1, 2000), epochs=st.integers(1, 100))
def test_it_never_sees_more_than_a_tenth_of_what_the_training_sees(
    n: int, batch: int, epochs: int
) -> None:
    job = sized(n, batch, epochs)
    plan = plan_lr_test(job)
    if plan is None:
        return
    again = longer(plan, job)
    assert plan.images + (again.images if again else 0) <= 0.1 * n * epochs
    assert plan.steps <= MAX_STEPS
    assert plan.batch <= min(batch, n)
    if again:
        assert (again.batch, again.lr_scale) == (plan.batch, plan.lr_scale)
        assert again.steps > plan.steps


@pytest.mark.parametrize(
    ("optimizer", "scale"),
    [(Adam(), 2.0), (Sgd(), 4.0), (Muon(name="muon"), 2.0)],
    ids=["adam", "sgd", "muon"],
)
def test_lrs_are_scaled_to_the_batch_of_the_training(optimizer: Optimizer, scale: float) -> None:
    job = sized(64_000, 512, 1)
    job.recipe = job.recipe.model_copy(update={"optimizer": optimizer})
    assert plan_lr_test(job) == LrTestPlan(50, 128, scale)


def test_a_whole_batch_needs_no_scale() -> None:
    plan = plan_lr_test(sized(50_000))
    assert plan is not None
    assert plan.lr_scale == 1.0


def test_few_images_make_the_whole_batch() -> None:
    """Of 300 images a batch of 512 has 300."""
    plan = plan_lr_test(sized(300, 512, 600))
    assert plan == LrTestPlan(50, 300)


def test_batch_norm_keeps_its_pieces() -> None:
    plan = plan_lr_test(sized(50_000, 1000, 9, **{"train.norm_batch": 250}))
    assert plan is not None
    assert (plan.steps, plan.batch) == (50, 750)


@pytest.mark.parametrize(("n", "steps"), [(300, MIN_STEPS), (50_000, MAX_STEPS)])
def test_a_gpu_tests_with_the_batch_that_it_trains_with(n: int, steps: int) -> None:
    plan = plan_lr_test(sized(n, 128, 24, on_cpu=False))
    assert plan == LrTestPlan(steps, min(n, 128))


def test_whoever_asks_for_one_gets_one() -> None:
    plan = smallest_plan(sized(40))
    assert (plan.steps, plan.batch) == (MIN_STEPS, 32)
    assert smallest_plan(sized(9)).batch == 9
