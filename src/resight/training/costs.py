"""What a training will cost on this machine: estimated before it starts, from a few timed steps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from resight.engine.forward import eager
from resight.engine.job import LR_TEST_STEPS, Job, with_recipe
from resight.errors import ResightError
from resight.progress import Reporter, duration
from resight.recipe.recipe import Recipe
from resight.recipe.settings import KINDS

MAX_IMAGES_CPU = 128  # keeps steps cheap: on a CPU the rate hardly depends on the batch size
TIMED_SECONDS = 0.5
MIN_TIMED_STEPS, MAX_TIMED_STEPS = 3, 20
MIN_OFFER_SECONDS = 600.0  # `--minutes` is offered for trainings that take longer
OFFERED_MINUTES = (5, 10, 20, 30, 60, 120, 240)
OFFERED_PART = 7  # the offer is at least a seventh of the whole training

# each setting that `--epochs` and `--minutes` scale, in words
DURATIONS = {
    "peak_epoch": "peak at epoch {epochs:.3g}",
    "step_epochs": "a step every {epochs:.3g} epochs",
    "cycle_epochs": "cycles of {epochs:.3g} epochs",
    "stem_epochs": "stem bias trained until epoch {epochs:.3g}",
    "small_epochs": "images of {small_px} px until epoch {epochs:.3g}",
}
assert all(set(kind.durations) <= DURATIONS.keys() for kind in KINDS["schedule"].values())


@dataclass(frozen=True)
class Cost:
    """Seconds per image, of a training step and of an evaluation.

    With a schedule that starts on smaller images, a step's seconds are the mean over the schedule.
    """

    train_image: float
    test_image: float

    def epoch(self, job: Job) -> float:
        """Seconds per epoch, including its evaluation if there is one."""
        seconds = self.train_image * job.epoch_images()
        return seconds + (0.0 if _measured_at_end(job) else self.evaluation(job))

    def evaluation(self, job: Job) -> float:
        return self.test_image * len(job.monitor)

    def once(self, job: Job) -> float:
        """Seconds outside the epochs: the LR test, and an evaluation that is done only at the
        end."""
        return self.lr_test(job) + (self.evaluation(job) if _measured_at_end(job) else 0.0)

    def lr_test(self, job: Job) -> float:
        """Seconds of the LR test if it does not end early; 0 if the recipe needs none."""
        if not job.recipe.schedule.needs_lr_test:
            return 0.0
        batch = min(job.recipe.train.batch_size, len(job.train))
        return self.train_image * batch * job.lr_test_steps


def measure(job: Job) -> Cost:
    """Time a few steps and a forward pass; the state is restored afterwards."""
    images = min(job.recipe.train.batch_size, len(job.train))
    if job.runtime.on_cpu:
        images = min(images, MAX_IMAGES_CPU)
    plan = job.plan(0)
    before = job.state.snapshot()
    shown = min(images, len(job.monitor))
    model = job.state.eval_model
    evaluated = eager(model, job.monitor, job.runtime, job.recipe.evaluate.tta)

    def forward() -> None:
        with torch.no_grad():
            evaluated(0, shown)

    def step(number: int) -> None:
        job.state.step = number
        job.executor.train_on(plan.order[:images], plan)

    try:
        small = job.recipe.schedule.small_epochs / job.recipe.schedule.epochs
        train = _seconds(job, lambda: step(0)) * small if small else 0.0
        # past the last step images always have their full size
        train += _seconds(job, lambda: step(job.total_steps)) * (1 - small)
        model.eval()
        test = _seconds(job, forward)
    finally:
        model.train()
        job.state.restore(before)
    return Cost(train / images, test / shown)


def lr_test_price(job: Job, cost: Cost | None = None) -> str:
    """The most that the LR test costs here, in words; it ends early if the loss diverges."""
    cost = cost or measure(job)
    batch = min(job.recipe.train.batch_size, len(job.train))
    steps = job.lr_test_steps
    seconds = cost.train_image * batch * steps
    again = "" if steps >= LR_TEST_STEPS else "; if inconclusive, again with twice as many"
    return f"LR test: up to {steps} steps of {batch} images, about {duration(seconds)}{again}"


def epochs_that_fit(job: Job, cost: Cost, minutes: float) -> int:
    """Whole epochs that fit into `minutes` after the LR test; at most the recipe's.

    Raises `ResightError` if not even one fits.
    """
    budget = minutes * 60 - cost.once(job)
    fit = int(budget // cost.epoch(job))
    if fit < 1:
        least = (cost.once(job) + cost.epoch(job)) / 60
        tests = job.recipe.schedule.needs_lr_test
        raise ResightError(
            f"minutes = {minutes:g} is too short: one epoch{' with the LR test' * tests} takes "
            f"about {duration(least * 60)} here; use --minutes {int(least) + 1} or a smaller "
            f"model.width{', or give an --lr' * tests}"
        )
    return min(fit, job.recipe.schedule.epochs)


def check_minutes(minutes: float | None) -> None:
    if minutes is not None and not 0 < minutes < math.inf:
        raise ResightError(f"minutes = {minutes:g} must be a number above 0")


def say(job: Job, minutes: float | None, reporter: Reporter) -> Job:
    """Report what will be done and what it costs; with `minutes`, reduce the epochs to what
    fits."""
    for note in job.data.notes:
        reporter.say(f"note: {note}")
    cost = measure(job)
    if minutes is not None:
        epochs = epochs_that_fit(job, cost, minutes)
        if epochs < job.recipe.schedule.epochs:
            job = with_recipe(job, job.recipe.with_epochs(epochs))
    for line in announcement(job, cost, minutes):
        reporter.say(line)
    return job


def announcement(job: Job, cost: Cost, minutes: float | None) -> list[str]:
    """What will be done and what it will cost, line by line."""
    recipe, data = job.recipe, job.data
    rate = 1 / cost.train_image
    total = cost.once(job) + recipe.schedule.epochs * cost.epoch(job)
    splits = f"{len(data.train):,} train"
    splits += f" / {len(data.val):,} val" if data.val is not None else ""
    where = "this CPU" if job.runtime.on_cpu else job.runtime.name
    lines = [
        f"{recipe.name} on {data.name}: {splits} / {len(data.test):,} test, {len(data.classes)} "
        f"classes, {data.image_size}×{data.image_size} px",
        f"{job.runtime.name}, {job.runtime.precision} ({job.runtime.reasons['precision']})",
        _schedule_line(recipe),
    ]
    if why := job.runtime.reasons.get("micro_batch"):
        lines.append(why)
    if not job.runtime.on_cpu and job.runtime.executor == "eager":
        lines.append(f"eager execution, no CUDA graphs: {job.runtime.reasons['executor']}")
    if not job.train.resident:
        lines.append("the images need more than half of the free memory: streamed from disk")
    if recipe.schedule.needs_lr_test:
        lines.append(lr_test_price(job, cost))
    epochs = recipe.schedule.epochs
    steps = job.steps_per_epoch
    plan = f"{epochs} epoch{'s' * (epochs > 1)} of {steps} step{'s' * (steps > 1)}, about "
    plan += f"{duration(total)} in total on {where} ({rate:,.0f} images/s)"
    if minutes is None and total > MIN_OFFER_SECONDS:
        plan += _offer(job, cost, total)
    return [*lines, plan]


def _offer(job: Job, cost: Cost, total: float) -> str:
    """`; --minutes M is enough for N epochs`, or nothing where no M is worth offering."""
    for minutes in OFFERED_MINUTES:
        fit = int((minutes * 60 - cost.once(job)) // cost.epoch(job))
        if fit >= 1 and minutes * 60 >= total / OFFERED_PART:
            epochs = f"{fit} epoch{'s' * (fit > 1)}"
            return f"; --minutes {minutes} is enough for {epochs}" if minutes * 60 < total else ""
    return ""


def _schedule_line(recipe: Recipe) -> str:
    """The schedule's shape and its durations."""
    schedule = recipe.schedule
    found = [
        DURATIONS[key].format(epochs=epochs, small_px=schedule.small_px)
        for key in schedule.durations
        if (epochs := getattr(schedule, key))
    ]
    shape = f"{schedule.shape} over {schedule.epochs} epoch{'s' * (schedule.epochs > 1)}"
    return f"schedule: {', '.join([shape, *found])}"


def _measured_at_end(job: Job) -> bool:
    return job.recipe.evaluate.when == "end"


def _seconds(job: Job, work: Callable[[], object]) -> float:
    """Seconds per call: the median over about half a second of calls, after one to warm up."""
    times: list[float] = []
    while len(times) <= MIN_TIMED_STEPS or (
        sum(times[1:]) < TIMED_SECONDS and len(times) <= MAX_TIMED_STEPS
    ):
        start = time.perf_counter()
        work()
        if job.runtime.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
