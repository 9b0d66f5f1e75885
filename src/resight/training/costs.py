"""What a training will cost on this machine: estimated before it starts, from a few timed steps."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from resight.engine.fitting import piece_size
from resight.engine.forward import VIEWS, eager, images_at_once
from resight.engine.job import Job
from resight.engine.needs import step_needs
from resight.engine.norms import MAX_IMAGES
from resight.engine.rates import given_rates
from resight.errors import ResightError
from resight.progress import duration
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import px_at
from resight.training.lr_test_plan import LrTestPlan, plan_lr_test

Clock = Callable[[], float]

MIN_HALVED = 4  # images; batch norm needs two
FIRST_IMAGES_CPU = 8  # of the first step that is timed, which decides how large the others are
MAX_IMAGES_CPU = 256  # keeps steps cheap: the rate hardly depends on the batch size
STEP_SECONDS_CPU = 0.25  # of a timed step, about
BURST_STEPS = 8  # timed together, because waiting for the device takes time too
MIN_ROUNDS, MAX_ROUNDS = 3, 20
MAX_UPDATE_SHARE = 0.9  # of a step; a larger one comes from times that scatter
MAX_SECONDS = 3.0  # spent on timing, if one round takes no longer
MAX_SHARE = 0.02  # of the training, if three rounds take no longer


@dataclass(frozen=True)
class Cost:
    """Seconds. update: of a step, whatever its images. image: per image of a step, by the side to
    which images are scaled down (0: their full size). test_image: per image of an evaluation.

    cpu_share: the processor's time that this process got while it was timed, as a share of what its
    threads could have had; 1 on a GPU."""

    update: float
    image: Mapping[int, float]
    test_image: float
    cpu_share: float = 1.0

    def steps(self, job: Job, first: int = 0, stop: int | None = None) -> float:
        """Seconds of the training's steps from `first` up to `stop` (by default all of them)."""
        stop = job.total_steps if stop is None else stop
        seconds = self.update * (stop - first)
        for px, begin, end in _phases(job):
            begin, end = max(begin, first), min(end, stop)
            if begin < end:
                seconds += self.image[px] * (_images_before(job, end) - _images_before(job, begin))
        return seconds

    def evaluations(self, job: Job, first: int = 0) -> float:
        """Seconds of the evaluations after the epochs from number `first` (from 0) on."""
        each = job.recipe.evaluate.when == "each-epoch"
        count = job.recipe.schedule.epochs - first if each else 1
        images = float(len(job.monitor))
        if job.recipe.evaluate.norm == "anew":  # seen once, whatever the views of the others
            images += min(MAX_IMAGES, len(job.train)) / VIEWS[job.recipe.evaluate.tta]
        return self.test_image * images * count

    def lr_test(self, job: Job) -> float:
        """Seconds of the LR test if it does not end early; 0 if the recipe needs none."""
        if not job.recipe.schedule.needs_lr_test:
            return 0.0
        plan = plan_lr_test(job)
        return self.test_of_lrs(job, plan) if plan else 0.0

    def test_of_lrs(self, job: Job, plan: LrTestPlan) -> float:
        px = px_at(job.recipe.schedule, 0, job.steps_per_epoch)
        return self.update * plan.steps + plan.images * self.image[px]

    def training(self, job: Job) -> float:
        """Seconds of the whole training: LR test, steps, evaluations."""
        return self.lr_test(job) + self.steps(job) + self.evaluations(job)


def measure(
    job: Job, clock: Clock = time.perf_counter, cpu_clock: Clock = time.process_time
) -> Cost:
    """Time steps and a forward pass; the state is restored afterwards.

    Each kind of work runs in turn with the others, after a warm-up, until 3 s or 2 % of the
    training are spent. Of its times the fastest half counts: what else the machine does in between
    makes some of them too long, none too short.
    """
    before = job.state.snapshot()
    model = job.state.eval_model
    try:
        works = _whole_steps(job) if _quick(job) else _parts_of_steps(job, clock)
        began, cpu_began = clock(), cpu_clock()
        cost = _timed(job, works, clock)
        if not job.runtime.on_cpu:
            return cost
        could_have = (clock() - began) * job.runtime.threads
        share = min((cpu_clock() - cpu_began) / could_have, 1.0) if could_have else 1.0
        return dataclasses.replace(cost, cpu_share=share)
    finally:
        model.train()
        job.state.restore(before)


@dataclass(frozen=True)
class _Work:
    """What is timed: `images` in each of `times` steps, or in a forward pass."""

    run: Callable[[], None]
    images: int
    times: int = 1


def _timed(job: Job, works: Mapping[str, _Work], clock: Clock) -> Cost:
    """The cost from the seconds of `works`: see `_cost`."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    views = VIEWS[job.recipe.evaluate.tta]
    began = clock()
    for work in works.values():
        work.run()
    for done in range(1, MAX_ROUNDS + 1):
        for name, work in works.items():
            start = clock()
            work.run()
            seconds[name].append((clock() - start) / work.times)
        cost = _cost({name: fastest_half(times) for name, times in seconds.items()}, works, views)
        spent = clock() - began
        enough = done >= MIN_ROUNDS and spent >= MAX_SHARE * cost.training(job)
        if enough or spent >= MAX_SECONDS:
            break
    return cost


def _cost(seconds: Mapping[str, float], works: Mapping[str, _Work], views: float) -> Cost:
    """From the seconds of "test" (one of an image's `views`), "step 0" and, if there are such,
    "half" (half as many images) and "step 24" (images of 24 px)."""
    images, step = works["step 0"].images, seconds["step 0"]
    update = 0.0
    if "half" in works:
        half = works["half"].images
        line = (seconds["half"] * images - step * half) / (images - half)
        update = min(max(line, 0.0), MAX_UPDATE_SHARE * step)
    per_image = {
        int(name.removeprefix("step ")): max(seconds[name] - update, 0.0) / work.images
        for name, work in works.items()
        if name.startswith("step ")
    }
    return Cost(update, per_image, seconds["test"] / works["test"].images * views)


def fastest_half(times: list[float]) -> float:
    """The mean of the fastest half."""
    kept = sorted(times)[: (len(times) + 1) // 2]
    return math.fsum(kept) / len(kept)


def _parts_of_steps(job: Job, clock: Clock) -> dict[str, _Work]:
    """Steps on few enough images, so that timing them takes little; a step is a fixed part and a
    part for each of its images, which two sizes tell apart."""
    plan = job.plan(0)
    most = _without_a_rest(job, min(job.batch_images(0), MAX_IMAGES_CPU))

    def step(images: int, number: int) -> _Work:
        def run() -> None:
            job.state.step = number
            job.executor.train_on(plan.order[:images], plan)

        return _Work(run, images)

    first = step(_without_a_rest(job, min(FIRST_IMAGES_CPU, most)), job.total_steps)
    first.run()  # the first step of any size also prepares kernels
    start = clock()
    first.run()
    seconds = max(clock() - start, 1e-6)
    images = int(first.images * STEP_SECONDS_CPU / seconds)
    images = _without_a_rest(job, min(most, max(first.images, images)))
    works = {name: step(images, number) for name, number in _kinds(job).items()}
    if images >= MIN_HALVED:
        works["half"] = step(_without_a_rest(job, images // 2), job.total_steps)
    return works | {"test": _test(job, images)}


def _without_a_rest(job: Job, images: int) -> int:
    """`images`, or a few less if the last piece of a batch would be smaller than the others: batch
    norm may have no variance there."""
    piece = piece_size(job.recipe, job.runtime)
    return images - images % piece if 0 < piece < images else images


def _kinds(job: Job) -> dict[str, int]:
    """A step of each size of images: "step 24" for those of 24 px, "step 0" for full size."""
    numbers = {f"step {px}": begin for px, begin, _ in _phases(job)}
    return numbers | {"step 0": job.total_steps}  # past the last step they have their full size


def _quick(job: Job) -> bool:
    """Whether whole steps take milliseconds."""
    return not job.runtime.on_cpu or job.runtime.executor == "captured"


def _whole_steps(job: Job) -> dict[str, _Work]:
    """Whole steps as the training runs them: recordings made here are replayed there."""
    plan = job.plan(0)
    times = min(BURST_STEPS, job.steps_per_epoch)

    def steps(number: int) -> _Work:
        def run() -> None:
            job.state.step = number
            rates = given_rates(job.state, [0.0] * times, job.total_steps)
            job.executor.begin(plan, rates)
            for position in range(times):
                job.executor.step(position)
            _wait(job)

        return _Work(run, job.batch_images(0), times)

    works = {name: steps(number) for name, number in _kinds(job).items()}
    return works | {"test": _test(job, job.recipe.train.batch_size)}


def _wait(job: Job) -> None:
    if job.runtime.device.type == "cuda":
        torch.cuda.synchronize(job.runtime.device)


def _test(job: Job, images: int) -> _Work:
    shown = min(images, len(job.monitor), images_at_once(job.monitor.image_size, job.runtime))
    model = job.state.eval_model
    forward = eager(model, job.monitor, job.runtime, "none")

    def run() -> None:
        model.eval()
        with torch.no_grad():
            forward(0, shown)
        _wait(job)

    return _Work(run, shown)


def _phases(job: Job) -> list[tuple[int, int, int]]:
    """The training's phases: (side to which images are scaled down, first step, end)."""
    schedule, per_epoch = job.recipe.schedule, job.steps_per_epoch
    small = math.ceil(schedule.small_epochs * per_epoch)
    medium = math.ceil((schedule.small_epochs + schedule.medium_epochs) * per_epoch)
    ends = ((schedule.small_px, 0, small), (schedule.medium_px, small, medium))
    return [*(phase for phase in ends if phase[0]), (0, medium, job.total_steps)]


def _images_before(job: Job, step: int) -> int:
    """The images of the training's steps before `step`."""
    epochs, rest = divmod(step, job.steps_per_epoch)
    return epochs * job.epoch_images() + rest * job.batch_images(0)


def epochs_that_fit(job: Job, cost: Cost, minutes: float) -> int:
    """Whole epochs that fit into `minutes` with the LR test; at most the recipe's.

    Raises `ResightError` if not even one fits.
    """
    fit = most_epochs(job, cost, minutes)
    if not fit:
        one = _with_epochs(job, 1)
        least, tests = cost.training(one) / 60, cost.lr_test(one) > 0
        raise ResightError(
            f"minutes = {minutes:g} is too short: one epoch{' with the LR test' * tests} takes "
            f"about {duration(least * 60)} here; use --minutes {int(least) + 1} or a smaller "
            f"model.width{', or give an --lr' * tests}"
        )
    return fit


def most_epochs(job: Job, cost: Cost, minutes: float) -> int:
    """The most epochs that fit, at most the recipe's; 0 if not even one does."""
    for epochs in range(job.recipe.schedule.epochs, 0, -1):
        if cost.training(_with_epochs(job, epochs)) <= minutes * 60:
            return epochs
    return 0


def _with_epochs(job: Job, epochs: int) -> Job:
    """`job` with a schedule of `epochs`, to be priced, not trained."""
    if epochs == job.recipe.schedule.epochs:
        return job
    return dataclasses.replace(job, recipe=job.recipe.with_epochs(epochs))


def check_minutes(minutes: float | None) -> None:
    if minutes is not None and not 0 < minutes < math.inf:
        raise ResightError(f"minutes = {minutes:g} must be a number above 0")


def of_other(job: Job, cost: Cost, other: Recipe) -> float:
    """Seconds of a training by `other` instead of `job`'s recipe: what its steps take whatever
    their images, and the rest in proportion to the operations."""
    rest = cost.training(job) - cost.update * job.total_steps
    updates = cost.update * job.steps_per_epoch * other.schedule.epochs
    return updates + rest * _operations(job, other) / _operations(job, job.recipe)


def _operations(job: Job, recipe: Recipe) -> float:
    """Of one image in all epochs; of a smaller image in proportion to its pixels."""
    side, schedule = recipe.data.image_size, recipe.schedule
    each = step_needs(
        recipe, classes=len(job.data.classes), channels=job.data.channels, half=False
    ).flop
    smaller = (
        (schedule.small_px, schedule.small_epochs),
        (schedule.medium_px, schedule.medium_epochs),
    )
    saved = sum(epochs * (1 - (px / side) ** 2) for px, epochs in smaller if px)
    return each * (schedule.epochs - saved)
