"""`Job`: a recipe, its data and the runtime, made ready to step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resight.catalog import find_recipe
from resight.changes import changed
from resight.data.batches import DeviceSplit, batch_indices, steps_per_epoch
from resight.data.plan import EpochPlan
from resight.data.sources import load_data
from resight.data.splits import with_validation
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.recipe import Recipe
from resight.runtime import Runtime
from resight.state import TrainState
from resight.step import Eager

CUDA_LOG_STEPS = 32
LR_TEST_STEPS = 200
FEWEST_LR_TEST_STEPS = 50  # where an epoch has fewer: 50 cheap steps draw a curve, 5 don't


@dataclass
class Job:
    """Everything that a training and an LR test share."""

    recipe: Recipe
    data: ImageData
    runtime: Runtime
    state: TrainState
    executor: Eager
    train: DeviceSplit
    monitor: DeviceSplit  # validation where there is one, else test: measured each epoch
    test: DeviceSplit
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        return self.recipe.schedule.epochs * self.steps_per_epoch

    @property
    def lr_test_steps(self) -> int:
        """How many steps the LR test takes at most: on a CPU an epoch's, but no fewer than 50."""
        if not self.runtime.on_cpu:
            return LR_TEST_STEPS
        return max(FEWEST_LR_TEST_STEPS, min(LR_TEST_STEPS, self.steps_per_epoch))

    @property
    def log_interval(self) -> int:
        """Steps between two looks at the losses; on a GPU each look waits for the device."""
        return 1 if self.runtime.on_cpu else CUDA_LOG_STEPS

    @property
    def monitors(self) -> str:
        return "val" if self.data.val is not None else "test"

    def plan(self, epoch: int) -> EpochPlan:
        """The numbers of `epoch` (from 0), on the device."""
        plan = EpochPlan.draw(
            len(self.train),
            self.data.image_size,
            self.recipe.augment,
            seed=self.recipe.train.seed,
            epoch=epoch,
        )
        return plan.to(self.runtime.device)

    def batches(self, plan: EpochPlan, first: int = 0) -> Iterator[Tensor]:
        return batch_indices(plan, self.recipe.train.batch_size, self.steps_per_epoch, first)

    def endless_batches(self, steps: int) -> Iterator[tuple[Tensor, EpochPlan]]:
        """`steps` batches with their plans, epoch after epoch from the first."""
        epoch = 0
        while steps > 0:
            plan = self.plan(epoch)
            for index in self.batches(plan):
                if steps > 0:
                    yield index, plan
                steps -= 1
            epoch += 1

    def epoch_images(self) -> int:
        """Images that an epoch trains on."""
        return min(len(self.train), self.steps_per_epoch * self.recipe.train.batch_size)


def prepare(
    recipe: str | Path | Recipe,
    data: str | Path | ImageData | None,
    runtime: Runtime,
    *,
    changes: Mapping[str, Any],
    skip_bad: bool = False,
    decoding: Callable[[int, int], None] | None = None,
) -> Job:
    """Load, place and build: a `Job` at step 0. Raises `ResightError`."""
    complete = changed(find_recipe(recipe), changes)
    runtime.apply()
    loaded = open_data(data, complete, skip_bad=skip_bad, decoding=decoding)
    return build_job(complete, loaded, runtime)


def build_job(recipe: Recipe, data: ImageData, runtime: Runtime) -> Job:
    """A `Job` at step 0 of data that is loaded."""
    steps = steps_per_epoch(len(data.train), recipe.train.batch_size, recipe.train.last_batch)
    _check_batches(recipe, data, steps)
    _check_width(recipe, runtime)
    state = TrainState.build(
        recipe,
        classes=len(data.classes),
        channels=data.channels,
        steps_per_epoch=steps,
        device=runtime.device,
    )
    train = place(data, "train", runtime)
    test = place(data, "test", runtime)
    monitor = test if data.val is None else place(data, "val", runtime)
    executor = Eager(state, recipe, runtime, train)
    return Job(recipe, data, runtime, state, executor, train, monitor, test, steps)


def with_recipe(job: Job, recipe: Recipe) -> Job:
    """`job` at another schedule: the same weights, images and runtime."""
    executor = Eager(job.state, recipe, job.runtime, job.train)
    return dataclasses.replace(job, recipe=recipe, executor=executor)


def _check_batches(recipe: Recipe, data: ImageData, steps: int) -> None:
    """Refuse a batch of one image where the net's last map is 1×1: batch norm has no spread."""
    net, size, batch = recipe.model.net, recipe.data.image_size, recipe.train.batch_size
    last_map = size // 8 if net == "custom-resnet" else -(-size // 8)
    if net == "resnet18-gn" or last_map > 1:
        return
    rest = len(data.train) - (steps - 1) * batch
    if min(batch, len(data.train)) == 1 or (rest == 1 and recipe.train.last_batch == "keep"):
        raise ResightError(
            f"train.batch_size = {batch} makes a batch of one image of {len(data.train)}, and "
            f"batch norm needs two at {size} px; change it or --set train.last_batch=drop"
        )


def _check_width(recipe: Recipe, runtime: Runtime) -> None:
    """Refuse a ResNet-18 that would corrupt the process's memory.

    Below 8 channels torch 2.13's weight gradient of a strided 1×1 convolution in channels-last
    memory writes past its end on a CPU, and the process dies of it sooner or later.
    """
    if runtime.on_cpu and recipe.model.net != "custom-resnet" and recipe.model.width < 8:
        raise ResightError(
            f"model.width = {recipe.model.width} with {recipe.model.net} on a CPU: allowed is 8 or "
            "more (with fewer channels torch's convolutions write past their memory); take "
            "custom-resnet for a narrower net"
        )


def place(data: ImageData, split: str, runtime: Runtime) -> DeviceSplit:
    """A split on the device if it fits in half of its free memory, else streamed from its map."""
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
    """The recipe's data, or `data` in its place, with the validation split it wants."""
    if not isinstance(data, ImageData):
        data = load_data(
            data if data is not None else recipe.data.source,
            image_size=recipe.data.image_size,
            split_seed=recipe.data.split_seed,
            skip_bad=skip_bad,
            progress=decoding,
        )
    elif data.image_size != recipe.data.image_size:
        raise ResightError(
            f"the images are of {data.image_size} px and the recipe is for "
            f"{recipe.data.image_size}: set data.image_size = {data.image_size}"
        )
    if recipe.data.val_fraction:
        data = with_validation(data, recipe.data.val_fraction, recipe.data.split_seed)
    return data


def needs_lr_test(recipe: Recipe) -> bool:
    """Whether some LR of the schedule is to be found."""
    schedule = recipe.schedule
    return "find" in (schedule.lr_max, getattr(schedule, "lr_min", None))
