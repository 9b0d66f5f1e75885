"""What a training will cost here, said before it starts, from a few timed steps."""

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

TIMED_IMAGES_CPU = 128  # a few cheap steps: on a CPU the rate hardly depends on the batch
TIMED_SECONDS = 0.5
TIMED_STEPS = (3, 20)  # at least, at most
WORTH_CUTTING = 600.0  # seconds from which `--minutes` is offered


@dataclass(frozen=True)
class Cost:
    """Seconds an image, of a training step and of an evaluation.

    Where smaller images are trained on at first, that of a step is the schedule's mean.
    """

    train_image: float
    test_image: float

    def epoch(self, job: Job) -> float:
        """Seconds of an epoch with its evaluation, if it has one."""
        seconds = self.train_image * job.epoch_images()
        return seconds + (0.0 if _measured_at_end(job) else self.evaluation(job))

    def evaluation(self, job: Job) -> float:
        return self.test_image * len(job.monitor)

    def once(self, job: Job) -> float:
        """Seconds beside the epochs': of the LR test, and of an evaluation at the end alone."""
        return self.lr_test(job) + (self.evaluation(job) if _measured_at_end(job) else 0.0)

    def lr_test(self, job: Job) -> float:
        """Seconds of the LR test, if the recipe wants one and it does not end early."""
        if not job.recipe.schedule.needs_lr_test:
            return 0.0
        batch = min(job.recipe.train.batch_size, len(job.train))
        return self.train_image * batch * job.lr_test_steps


def measure(job: Job) -> Cost:
    """Time a few steps and a forward pass on a snapshot; the state is the same after."""
    images = min(job.recipe.train.batch_size, len(job.train))
    if job.runtime.on_cpu:
        images = min(images, TIMED_IMAGES_CPU)
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
        # after the last step images are of full size in any case
        train += _seconds(job, lambda: step(job.total_steps)) * (1 - small)
        model.eval()
        test = _seconds(job, forward)
    finally:
        model.train()
        job.state.restore(before)
    return Cost(train / images, test / shown)


def lr_test_price(job: Job, cost: Cost | None = None) -> str:
    """What the LR test costs here at most, in words; it ends early where the loss diverges."""
    cost = cost or measure(job)
    batch = min(job.recipe.train.batch_size, len(job.train))
    steps = job.lr_test_steps
    seconds = cost.train_image * batch * steps
    again = "" if steps >= LR_TEST_STEPS else "; if they show no LR, again with twice as many"
    return f"LR test: at most {steps} steps of {batch} images, {duration(seconds)}{again}"


def epochs_that_fit(job: Job, cost: Cost, minutes: float) -> int:
    """Whole epochs within `minutes`, the LR test taken off first; at most the recipe's.

    Raises `ResightError` if not one fits.
    """
    budget = minutes * 60 - cost.once(job)
    fit = int(budget // cost.epoch(job))
    if fit < 1:
        least = (cost.once(job) + cost.epoch(job)) / 60
        tests = job.recipe.schedule.needs_lr_test
        raise ResightError(
            f"minutes = {minutes:g} is too short: one epoch{' with the LR test' * tests} takes "
            f"about {duration(least * 60)} here; give --minutes {int(least) + 1}, or a smaller "
            f"model.width{', or an --lr of your own' * tests}"
        )
    return min(fit, job.recipe.schedule.epochs)


def check_minutes(minutes: float | None) -> None:
    if minutes is not None and not 0 < minutes < math.inf:
        raise ResightError(f"minutes = {minutes:g} must be a number above 0")


def say(job: Job, minutes: float | None, reporter: Reporter) -> Job:
    """Say what will be done and what it costs; with `minutes`, cut the epochs to what fits."""
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
    """What will be done and what it will cost, in lines."""
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
        *_scaled(recipe),
    ]
    if why := job.runtime.reasons.get("micro_batch"):
        lines.append(why)
    if not job.runtime.on_cpu and job.runtime.executor == "eager":
        lines.append(f"each operation as it comes, no graphs: {job.runtime.reasons['executor']}")
    if not job.train.resident:
        lines.append("the images take more than half of the free memory: streamed from the disk")
    if recipe.schedule.needs_lr_test:
        lines.append(lr_test_price(job, cost))
    epochs = recipe.schedule.epochs
    plan = f"{epochs} epoch{'s' * (epochs > 1)} of {job.steps_per_epoch} steps, about "
    plan += f"{duration(total)} on {where} ({rate:,.0f} images/s)"
    if minutes is None and total > WORTH_CUTTING:
        plan += _offer(job, cost, total)
    return [*lines, plan]


def _offer(job: Job, cost: Cost, total: float) -> str:
    """`; --minutes M fits N`: about a seventh of the whole, so that something is left to choose."""
    for minutes in (5, 10, 20, 30, 60, 120, 240):
        fit = (minutes * 60 - cost.once(job)) // cost.epoch(job)
        if fit >= 1 and minutes * 60 >= total / 7:
            return f"; --minutes {minutes} fits {int(fit)}" if minutes * 60 < total else ""
    return ""


def _scaled(recipe: Recipe) -> list[str]:
    """The durations of the schedule, in epochs: `--epochs` and `--minutes` scale them."""
    names = {
        "peak_epoch": "peak at epoch",
        "step_epochs": "a step every",
        "cycle_epochs": "cycle of",
        "small_epochs": f"images of {recipe.schedule.small_px} px until epoch",
    }
    found = [
        f"{words} {getattr(recipe.schedule, key):.3g}"
        for key, words in names.items()
        if getattr(recipe.schedule, key, 0)
    ]
    shape = f"{recipe.schedule.shape} over {recipe.schedule.epochs} epochs"
    return [", ".join([shape, *found])]


def _measured_at_end(job: Job) -> bool:
    return job.recipe.evaluate.when == "end"


def _seconds(job: Job, work: Callable[[], object]) -> float:
    """Seconds of one call: the median of those of about half a second, after one that warms up."""
    least, most = TIMED_STEPS
    times: list[float] = []
    while len(times) <= least or (sum(times[1:]) < TIMED_SECONDS and len(times) <= most):
        start = time.perf_counter()
        work()
        if job.runtime.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
