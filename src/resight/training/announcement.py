"""What a training will do and what it will cost, said before it starts, line by line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from resight.data.table import cores
from resight.engine.job import Job, with_recipe
from resight.engine.runtime import STORED, TORCHS_DEFAULT, default_threads
from resight.progress import Reporter, duration
from resight.recipe.auto import Choice
from resight.recipe.catalog import AUTO
from resight.recipe.recipe import Recipe
from resight.recipe.settings import KINDS
from resight.training import costs
from resight.training.costs import Cost
from resight.training.lr_test_plan import LrTestPlan, longer, plan_lr_test

# less of the processor's time says that other programs take it: idle it was 0.99, beside one busy
# process on two cores 0.61 to 0.66
MIN_CPU_SHARE = 0.85

FEW_STEPS = 100  # fewer teach a net little
MIN_OFFER_SECONDS = 600.0  # `--minutes` is offered for trainings that take longer
OFFERED_MINUTES = (5, 10, 20, 30, 60, 120, 240)
OFFERED_PART = 7  # the offer is at least a seventh of the whole training
SHORTEST = 0.1  # s, that are said of a training with images of another size

# each setting that `--epochs` and `--minutes` scale, in words
DURATIONS = {
    "peak_epoch": "peak at epoch {epochs:.3g}",
    "step_epochs": "a step every {epochs:.3g} epochs",
    "cycle_epochs": "cycles of {epochs:.3g} epochs",
    "stem_epochs": "stem bias trained until epoch {epochs:.3g}",
    "small_epochs": "images of {small_px} px until epoch {epochs:.3g}",
    "medium_epochs": "images of {medium_px} px until epoch {epochs:.3g}",
}
assert all(set(kind.durations) <= DURATIONS.keys() for kind in KINDS["schedule"].values())


def say(job: Job, minutes: float | None, choice: Choice, reporter: Reporter) -> tuple[Job, Cost]:
    """Report what will be done and what it costs; with `minutes`, or where the choice of the recipe
    sets a limit, reduce the epochs to what fits."""
    for note in job.data.notes:
        reporter.say(f"note: {note}")
    cost = costs.measure(job)
    epochs = job.recipe.schedule.epochs
    most = choice.most_minutes if minutes is None else minutes
    if minutes is not None:
        epochs = costs.epochs_that_fit(job, cost, minutes)
    elif most is not None:
        least = math.ceil(FEW_STEPS / job.steps_per_epoch)
        epochs = min(epochs, max(costs.most_epochs(job, cost, most), least))
    for line in choice.why:
        reporter.say(line)
    if epochs < job.recipe.schedule.epochs:
        if choice.why:
            reporter.say(f"shortened to {epochs} epoch{'s' * (epochs > 1)} (limit: {most:g} min)")
        job = with_recipe(job, job.recipe.with_epochs(epochs))
    for line in lines(job, cost, minutes):
        reporter.say(line)
    if choice.others:
        limit = math.inf if most is None else 60 * most
        reporter.say(other_sizes(job, cost, choice.others, limit))
    if busy := busy_line(job, cost):
        reporter.say(busy)
    return job, cost


def other_sizes(job: Job, cost: Cost, others: Sequence[Recipe], most: float = math.inf) -> str:
    """What trainings by `others`, which differ in the images' size, would take. most: seconds to
    which they would be shortened."""
    prices = {other.data.image_size: costs.of_other(job, cost, other) for other in others}
    return "; ".join(
        f"with --image-size {px} about {duration(min(max(seconds, SHORTEST), most))}"
        for px, seconds in prices.items()
    )


def lines(job: Job, cost: Cost, minutes: float | None) -> list[str]:
    """What will be done and what it will cost, line by line."""
    recipe, data = job.recipe, job.data
    steps, epochs = job.steps_per_epoch, recipe.schedule.epochs
    total, trained = cost.training(job), cost.steps(job)
    rate = epochs * job.epoch_images() / trained
    splits = f"{len(data.train):,} train"
    splits += f" / {len(data.val):,} val" if data.val is not None else ""
    where = "this CPU" if job.runtime.on_cpu else job.runtime.name
    said = [
        f"{recipe.name} on {data.name}: {splits} / {len(data.test):,} test, {len(data.classes)} "
        f"classes, {data.image_size}×{data.image_size} px",
        device_line(job),
    ]
    reasons = job.runtime.reasons
    if (why := reasons.get("threads", STORED)) not in (TORCHS_DEFAULT, STORED):
        said.append(why)
    said.append(_schedule_line(recipe))
    if "micro_batch" in reasons:
        said.append(reasons["micro_batch"])
    if not job.runtime.on_cpu and job.runtime.executor == "eager":
        said.append(f"eager execution, no CUDA graphs: {reasons['executor']}")
    if not job.train.resident:
        said.append("the images need more than half of the free memory: streamed from disk")
    if recipe.train.sampling == "balanced":
        said.append(_balanced_line(job))
    elif dropped := len(data.train) - job.epoch_images():
        said.append(
            f"each epoch leaves out {dropped:,} of the {len(data.train):,} training images, "
            "different ones each time: the recipe drops the last, smaller batch (--set "
            "train.last_batch=keep uses them)"
        )
    if recipe.schedule.needs_lr_test and (plan := plan_lr_test(job)):
        said.append(f"LR test: {price(job, cost, plan)}")
    if few := few_steps_line(job):
        said.append(few)
    if data.val is not None and (patience := recipe.train.early_stop):
        said.append(
            f"early stopping: after {patience} epoch{'s' * (patience > 1)} without a better "
            f"accuracy on {len(data.val):,} validation images (one is {1 / len(data.val):.1%})"
        )
    elif data.val is not None:
        said.append(_validation_line(job, cost))
    line = f"{epochs} epoch{'s' * (epochs > 1)} of {steps} step{'s' * (steps > 1)}, about "
    line += f"{duration(total)} in total on {where} ({rate:,.0f} images/s)"
    if minutes is None and total > MIN_OFFER_SECONDS:
        line += _offer(job, cost, total)
    return [*said, line]


def few_steps_line(job: Job) -> str | None:
    """That a training has too few steps, unless they were chosen for its images."""
    steps = job.total_steps
    if steps >= FEW_STEPS or job.recipe.name == AUTO:
        return None
    return (
        f"only {steps} step{'s' * (steps > 1)} in all, too few for most nets: --recipe auto "
        "chooses batch and epochs for these images"
    )


def busy_line(job: Job, cost: Cost) -> str | None:
    """What an estimate is worth that was made while other programs used this CPU."""
    if cost.cpu_share >= MIN_CPU_SHARE:
        return None
    line = (
        f"other programs use this CPU (the timed steps got {cost.cpu_share:.0%} of it): the "
        "training may take a third or three times as long as estimated"
    )
    threads = job.runtime.threads
    if threads > 1 and job.runtime.reasons.get("threads") == TORCHS_DEFAULT:  # not a run's own
        line += f"; fewer threads may be faster beside them: OMP_NUM_THREADS={threads - 1}"
    return line


def stored_threads_line(job: Job) -> str | None:
    """That a resumed run keeps its number of threads, where another would be chosen here."""
    threads, chosen = job.runtime.threads, default_threads()
    if not job.runtime.on_cpu or job.runtime.reasons.get("threads") != STORED:
        return None
    if (here := cores(threads)) < threads:
        return (
            f"{threads} threads, {STORED}, on {here} core{'s' * (here > 1)} wait for each other; "
            f"fewer would change the result: to train with {here}, start a new run"
        )
    if chosen == threads:
        return None
    return (
        f"{threads} thread{'s' * (threads > 1)}, {STORED}, where a new run would use {chosen}: "
        "another number would change the result"
    )


def device_line(job: Job) -> str:
    """What the training runs on, and why with that precision."""
    runtime = job.runtime
    return f"{runtime.name}, {runtime.precision} ({runtime.reasons['precision']})"


def _validation_line(job: Job, cost: Cost) -> str:
    """When the validation images are looked at, for what, and what that costs."""
    images = f"{len(job.monitor):,} validation image{'s' * (len(job.monitor) > 1)}"
    if job.recipe.evaluate.when == "end":
        return (
            f"{images} once, at the end: no best epoch, no curve (--set evaluate.when=each-epoch "
            "has both)"
        )
    seconds = duration(cost.evaluations(job))
    return (
        f"{images} after each epoch, about {seconds} in all: the weights of the best epoch count "
        "(--set evaluate.when=end looks once, and the last epoch's count)"
    )


def _balanced_line(job: Job) -> str:
    """How many images of each class an epoch has, and how often those of the smallest."""
    labels, counts = np.unique(job.data.train.labels, return_counts=True)
    rarest, fewest = job.data.classes[labels[counts.argmin()]], int(counts.min())
    each = job.epoch_images() / len(labels)
    times = each / fewest
    return (
        f"balanced sampling: about {each:,.0f} images of each class per epoch, so each of the "
        f"{fewest:,} of '{rarest}' about {times:,.{int(times < 10)}f} times"
    )


def price(job: Job, cost: Cost, plan: LrTestPlan) -> str:
    """The most that an LR test costs, in words; it ends early if the loss diverges."""
    seconds = duration(cost.test_of_lrs(job, plan))
    again = longer(plan, job)
    more = f"; if inconclusive, again with {again.steps}" if again else ""
    return f"up to {plan.steps} steps of {plan.batch} images, about {seconds}{more}"


def _offer(job: Job, cost: Cost, total: float) -> str:
    """`; --minutes M is enough for N epochs`, or nothing where no M is worth offering."""
    for minutes in OFFERED_MINUTES:
        fit = costs.most_epochs(job, cost, minutes)
        if fit and minutes * 60 >= total / OFFERED_PART:
            epochs = f"{fit} epoch{'s' * (fit > 1)}"
            return f"; --minutes {minutes} is enough for {epochs}" if minutes * 60 < total else ""
    return ""


def _schedule_line(recipe: Recipe) -> str:
    """The schedule's shape and its durations."""
    schedule = recipe.schedule
    durations = {key: epochs for key in schedule.durations if (epochs := getattr(schedule, key))}
    if "medium_epochs" in durations:  # they follow those of small images
        durations["medium_epochs"] += schedule.small_epochs
    found = [
        DURATIONS[key].format(
            epochs=epochs, small_px=schedule.small_px, medium_px=schedule.medium_px
        )
        for key, epochs in durations.items()
    ]
    shape = f"{schedule.shape} over {schedule.epochs} epoch{'s' * (schedule.epochs > 1)}"
    return f"schedule: {', '.join([shape, *found])}"
