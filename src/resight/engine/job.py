"""`Job`: a recipe, its data and the runtime, made ready to step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resight.data.ahead import load_ahead
from resight.data.augment import normalize
from resight.data.auto import recipe_for, settled
from resight.data.batches import DeviceSplit, steps_per_epoch
from resight.data.plan import EpochPlan
from resight.data.splits import with_validation
from resight.data.types import ImageData
from resight.engine.captured import Captured
from resight.engine.fitting import (
    Room,
    check_batches,
    check_early_stop,
    check_lookahead,
    check_width,
    equal_piece,
    fitted,
    fuses,
    in_pieces,
    piece_size,
    searching,
    slow_norms,
    threaded,
)
from resight.engine.forward import Forwards
from resight.engine.memory import free_memory
from resight.engine.needs import step_needs
from resight.engine.rates import given_rates
from resight.engine.runtime import Runtime
from resight.engine.state import Trace, TrainState
from resight.engine.step import Eager, Executor, StepContext
from resight.errors import ResightError
from resight.models.blocks import fuse
from resight.recipe.recipe import Recipe

CUDA_LOG_STEPS = 32
WHITENING_PIXELS = 5000 * 32**2  # as many as in airbench


@dataclass
class Job:
    """Everything that a training and an LR test share."""

    recipe: Recipe
    data: ImageData
    runtime: Runtime
    state: TrainState
    executor: Executor
    train: DeviceSplit
    monitor: DeviceSplit  # validation if there is one, else test: measured each epoch
    test: DeviceSplit
    steps_per_epoch: int
    forwards: Forwards | None = None  # recorded passes, if steps are recorded too

    @property
    def context(self) -> StepContext:
        """What its steps work with."""
        return StepContext(self.state, self.recipe, self.runtime, self.train, self.steps_per_epoch)

    @property
    def total_steps(self) -> int:
        return self.recipe.schedule.epochs * self.steps_per_epoch

    @property
    def log_interval(self) -> int:
        """Steps between two readings of the losses; on a GPU each one waits for the device."""
        return 1 if self.runtime.on_cpu else CUDA_LOG_STEPS

    @property
    def monitors(self) -> str:
        return "val" if self.data.val is not None else "test"

    def plan(self, epoch: int) -> EpochPlan:
        """The numbers of `epoch` (from 0), on the device."""
        return EpochPlan.of(self.recipe, self.data, epoch).to(self.runtime.device)

    def steps_at(self, lrs: Sequence[float]) -> Iterator[Tensor]:
        """Train one step at each of `lrs`, epoch after epoch from the first.

        Yields the loss of each, which the next epoch overwrites.
        """
        for first in range(0, len(lrs), self.steps_per_epoch):
            some = lrs[first : first + self.steps_per_epoch]
            plan = self.plan(first // self.steps_per_epoch)
            self.executor.begin(plan, given_rates(self.state, some, self.total_steps))
            for position in range(len(some)):
                self.executor.step(position)
                yield self.state.trace.losses[position]

    def batch_images(self, position: int) -> int:
        """Images in batch number `position` (from 0) of an epoch."""
        batch = self.recipe.train.batch_size
        return min(batch, len(self.train) - position * batch)

    def epoch_images(self) -> int:
        """Images that an epoch trains on."""
        return min(len(self.train), self.steps_per_epoch * self.recipe.train.batch_size)


def prepare(
    recipe: str | Path | Recipe | None,
    data: str | Path | ImageData | None,
    runtime: Runtime,
    *,
    changes: Mapping[str, Any],
    skip_bad: bool = False,
    decoding: Callable[[int, int], None] | None = None,
) -> Job:
    """Load, place and build: a `Job` at step 0. Raises `ResightError`."""
    choice = recipe_for(recipe, data, changes)
    runtime.apply()
    loaded = open_data(data, choice.recipe, skip_bad=skip_bad, decoding=decoding)
    choice = settled(choice, recipe, data, changes, loaded)
    return build_job(choice.recipe, loaded, runtime)


def build_job(recipe: Recipe, data: ImageData, runtime: Runtime) -> Job:
    """A `Job` at step 0 for loaded data."""
    steps = steps_per_epoch(len(data.train), recipe.train.batch_size, recipe.train.last_batch)
    check_width(recipe, runtime)
    check_lookahead(recipe, steps)
    check_early_stop(recipe, data)
    train, test = place(data, "train", runtime), place(data, "test", runtime)
    monitor = test if data.val is None else place(data, "val", runtime)
    half = runtime.precision != "fp32"
    needs = step_needs(recipe, classes=len(data.classes), channels=data.channels, half=half)
    room = Room(len(data.train), needs.nbytes, free_memory(runtime.device))
    runtime = in_pieces(recipe, runtime, room)
    runtime = threaded(recipe, runtime, needs, len(data.train))
    runtime.apply_threads()
    runtime = fitted(recipe, runtime, train, recipe.schedule.epochs * steps)
    runtime.apply_search()
    check_batches(recipe, data, piece_size(recipe, runtime))
    state = TrainState.build(
        recipe,
        classes=len(data.classes),
        channels=data.channels,
        steps_per_epoch=steps,
        device=runtime.device,
        sample=_sample(train) if recipe.model.facts.whitening_stem else None,
    )
    fuse(state.model, fused=runtime.fused)
    piece, batch = piece_size(recipe, runtime), recipe.train.batch_size
    if not recipe.train.norm_batch:
        batch = min(batch, len(data.train))
    if 0 < piece < batch:
        slow_norms(state.model, piece / batch)
    executor = _executor(StepContext(state, recipe, runtime, train, steps))
    recorded = runtime.executor == "captured" and monitor.resident and test.resident
    recorded &= recipe.evaluate.when == "each-epoch"  # recording pays off only if replayed
    forwards = Forwards(runtime) if recorded else None
    return Job(recipe, data, runtime, state, executor, train, monitor, test, steps, forwards)


def with_recipe(job: Job, recipe: Recipe) -> Job:
    """`job` with another schedule: the same weights and images, the runtime fitted to it.

    Raises `ResightError`.
    """
    check_lookahead(recipe, job.steps_per_epoch)
    runtime = job.runtime
    if not runtime.on_cpu:
        total = recipe.schedule.epochs * job.steps_per_epoch
        undecided = None if "search" in runtime.reasons else runtime.search
        runtime = dataclasses.replace(runtime, fused=fuses(total), search=undecided)
        runtime = searching(runtime, total)
        runtime.apply_search()
        fuse(job.state.model, fused=runtime.fused)
    job = dataclasses.replace(job, recipe=recipe, runtime=runtime)
    return dataclasses.replace(job, executor=_executor(job.context))


def with_batch(job: Job, batch: int) -> Job:
    """`job` with steps of `batch` images, whole pieces of the recipe's `norm_batch` if it has more,
    on the same net and optimizer: for a test and not for a training. No smaller batch ends an
    epoch."""
    changes = {
        "train.batch_size": batch,
        "train.norm_batch": min(job.recipe.train.norm_batch, batch),
        "train.last_batch": "drop",
    }
    recipe = job.recipe.with_changes(changes)
    steps = steps_per_epoch(len(job.train), batch, recipe.train.last_batch)
    most = job.runtime.micro_batch or batch  # of a training's images at a time
    runtime = dataclasses.replace(job.runtime, micro_batch=equal_piece(batch, most))
    trace = Trace.empty(steps, runtime.device)
    state = dataclasses.replace(job.state, trace=trace)
    job = dataclasses.replace(
        job, recipe=recipe, runtime=runtime, state=state, steps_per_epoch=steps
    )
    return dataclasses.replace(job, executor=_executor(job.context))


def _executor(context: StepContext) -> Executor:
    if context.runtime.executor != "captured":
        return Eager(context)
    context.runtime.wait_until_awake()
    return Captured(context)


def _sample(train: DeviceSplit) -> Tensor:
    """Images from the whole split, as a folder is sorted by class: float (n, C, H, W), on the
    device."""
    n = len(train)
    most = max(1, WHITENING_PIXELS // train.images.shape[1] ** 2)
    places = torch.linspace(0, n - 1, min(n, most)).round().long()
    images = train.images[places.to(train.images.device)].to(train.device)
    return normalize(images, train.mean, train.std)


def place(data: ImageData, split: str, runtime: Runtime) -> DeviceSplit:
    """A split on the device if it fits in half of its free memory, else streamed from disk."""
    images = getattr(data, split)
    return DeviceSplit.place(
        images,
        torch.from_numpy(data.mean.astype(np.float32)),
        torch.from_numpy(data.std.astype(np.float32)),
        runtime.device,
        resident=runtime.fits(images.images.nbytes),
    )


def open_data(
    data: str | Path | ImageData | None,
    recipe: Recipe,
    *,
    skip_bad: bool = False,
    decoding: Callable[[int, int], None] | None = None,
) -> ImageData:
    """The recipe's data, or `data` in its place, with the recipe's validation split."""
    if not isinstance(data, ImageData):
        data = load_ahead(
            data if data is not None else recipe.data.source,
            image_size=recipe.data.image_size,
            fit=recipe.data.fit,
            split_seed=recipe.data.split_seed,
            group=recipe.data.group,
            skip_bad=skip_bad,
            progress=decoding,
        )
    elif data.image_size != recipe.data.image_size:
        raise ResightError(
            f"the images are {data.image_size} px wide and the recipe expects "
            f"{recipe.data.image_size} px: set data.image_size = {data.image_size}"
        )
    if recipe.data.val_fraction:
        settings = recipe.data
        data = with_validation(data, settings.val_fraction, settings.split_seed, settings.group)
    return data
