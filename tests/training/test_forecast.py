"""How long the rest takes: the estimate, corrected by the steps so far."""

from __future__ import annotations

import pytest

from jobs import job_of, recipe_of
from resight.engine.job import Job
from resight.training.costs import Cost
from resight.training.forecast import MIN_SECONDS, Forecast

# 3 epochs of 70 images, 30 test images: 70 s of steps and 3 s of evaluation per epoch
COST = Cost(update=0.0, image={0: 1.0}, test_image=0.1)


def trained(job: Job, *, steps: int, seconds: float, epochs: int = 0) -> Job:
    """`job` after `steps` steps of which all but the current epoch's are in its history."""
    job.state.step = steps
    for epoch in range(epochs):
        row = {"epoch": epoch + 1, "train_seconds": seconds, "evaluate_seconds": 6.0}
        job.state.history.append(row)
    job.state.epoch_seconds = 0.0 if epochs else seconds
    return job


def test_what_is_left_takes_as_many_times_longer_as_the_steps_so_far() -> None:
    job = trained(job_of(recipe_of()), steps=1, seconds=64.0)  # 32 images, estimated at 32 s
    forecast = Forecast(job, COST)
    assert forecast.pace() == 2.0
    assert forecast.seconds_left() == pytest.approx(2 * (210 - 32) + 3 * 3)


def test_evaluations_take_as_long_as_the_last_one() -> None:
    job = trained(job_of(recipe_of()), steps=3, seconds=70.0, epochs=1)
    assert Forecast(job, COST).seconds_left() == pytest.approx(140 + 2 * 6.0)


def test_without_an_estimate_steps_are_counted() -> None:
    job = trained(job_of(recipe_of()), steps=3, seconds=30.0, epochs=1)
    forecast = Forecast(job, None)
    assert forecast.seconds_left() == pytest.approx(6 * 10.0 + 2 * 6.0)
    assert forecast.correction() is None


def test_before_the_first_step_the_estimate_holds() -> None:
    forecast = Forecast(job_of(recipe_of()), COST)
    assert forecast.seconds_left() == pytest.approx(210 + 9)
    assert forecast.correction() is None


@pytest.mark.parametrize(("seconds", "said"), [(41.0, True), (39.0, False), (24.0, True)])
def test_an_estimate_that_was_wrong_is_corrected(seconds: float, said: bool) -> None:
    """Of 219 s: 32 s of steps that take 41 make it 278 s, 1.27 times as much."""
    job = trained(job_of(recipe_of()), steps=1, seconds=seconds)
    assert (Forecast(job, COST).correction() is not None) == said


def test_it_is_corrected_again_only_after_twice_the_time() -> None:
    """10 s lost once make every later estimate a little better, which is not worth a line each."""
    job = trained(job_of(recipe_of()), steps=1, seconds=64.0)
    forecast = Forecast(job, COST)
    assert forecast.correction() == "corrected: about 6 min left, instead of 2 min 40 s"
    assert forecast.correction() is None
    trained(job, steps=2, seconds=127.9)
    assert forecast.correction() is None
    trained(job, steps=4, seconds=128.0)  # faster again: 102 images, estimated at 102 s
    said = forecast.correction()
    assert said is not None
    assert said.startswith("corrected: about ")


def test_slow_evaluations_correct_it_too() -> None:
    job = trained(job_of(recipe_of()), steps=3, seconds=70.0, epochs=1)
    job.state.history[-1]["evaluate_seconds"] = 60.0
    assert (
        Forecast(job, COST).correction()
        == "corrected: about 4 min 20 s left, instead of 1 min 30 s"
    )


def test_the_first_seconds_prove_nothing() -> None:
    job = trained(job_of(recipe_of()), steps=1, seconds=MIN_SECONDS - 0.1)
    assert Forecast(job, COST).correction() is None
