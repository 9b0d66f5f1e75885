"""Work for the benchmarks of steps and sizes: random images, large matrix products, FLOPs."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resight.data.plan import EpochPlan
from resight.data.types import ImageData, Split
from resight.engine.job import Job
from resight.engine.rates import given_rates
from resight.engine.runtime import Runtime
from resight.models.summary import summarize
from resight.recipe.recipe import Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def random_split(n: int, *, size: int = 32, channels: int = 3, classes: int = 10) -> Split:
    """Random pixels and labels: a step's time does not depend on them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    labels = rng.integers(0, classes, n, dtype=np.int64)
    return Split(images, labels, np.arange(n).astype("U8"))


def random_data(recipe: Recipe, n: int) -> ImageData:
    """`n` colour images of 10 classes in the recipe's size, the same for train and test."""
    split = random_split(n, size=recipe.data.image_size)
    half = np.full(3, 0.5)
    names = tuple(str(number) for number in range(10))
    return ImageData("random", "memory", names, split, split, half, half / 2, fingerprint="random")


class MatrixProduct:
    """The product of two random square matrices with sides of `side`, into preallocated memory."""

    def __init__(self, side: int, precision: str, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(0)
        made = (torch.randn(side, side, generator=draw).to(device, DTYPES[precision]) for _ in "ab")
        self.left, self.right = made
        self.out = torch.empty_like(self.left)
        self.flop = 2 * side**3

    def __call__(self) -> Tensor:
        return torch.mm(self.left, self.right, out=self.out)


def at_full_size(recipe: Recipe) -> Recipe:
    """The recipe without smaller images at first, so that every step has the same FLOPs."""
    sizes = ("small_epochs", "small_px", "medium_epochs", "medium_px")
    return recipe.with_changes({f"schedule.{key}": 0 for key in sizes})


def begin_epoch(job: Job, epoch: int, lr: float = 1e-3) -> EpochPlan:
    """Draw an epoch and prepare the executor for its steps, all at `lr`."""
    plan = job.plan(epoch)
    steps = job.steps_per_epoch
    job.executor.begin(plan, given_rates(job.state, [lr] * steps, total=job.total_steps))
    return plan


def training_flop(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Floating-point operations of a training step per image, in convolutions and linear layers.

    Two per multiply-add of the forward pass, as many for the weight's gradient if it is trained,
    and as many for the input's gradient if anything before the layer is trained.
    """
    flop, trained_before = 0, False
    for row in summarize(model, input_shape).rows:
        layer = model.get_submodule(row.name)
        if row.macs:
            weight = layer.get_parameter("weight")
            flop += 2 * row.macs * (1 + weight.requires_grad + trained_before)
        trained_before |= any(p.requires_grad for p in layer.parameters(recurse=False))
    return flop


def describe(runtime: Runtime) -> dict[str, Any]:
    """The machine and the versions to which the figures belong."""
    return {
        **runtime.to_dict(),
        "cores": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
