"""One training step, and the executor that runs it as it comes.

The LR test and the time estimate run this very step on a snapshot; nothing else trains a net here.
`captured.py` has the executor that replays it as a CUDA graph.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from resight.data import augment
from resight.data.batches import DeviceSplit
from resight.data.plan import EpochPlan
from resight.engine.optim import group_rates, set_rates
from resight.engine.rates import Rates
from resight.engine.runtime import Runtime
from resight.engine.state import TrainState
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import small_at


class Executor(Protocol):
    """Runs the steps of an epoch in order. recording_seconds: spent so far on what is replayed."""

    recording_seconds: float

    def begin(self, plan: EpochPlan, rates: Rates, first: int = 0) -> None:
        """Make ready for the steps of `plan` from number `first` on, at `rates`."""

    def step(self, position: int) -> tuple[Tensor, Tensor]:
        """Train on batch `position` of the plan and advance `state.step` by one.

        Returns the loss (mean over its images, label smoothing included) and the number of images
        whose prediction was right, both of before the update and still on the device: float32 and
        int64, without dimensions, valid until the next step.
        """

    def train_on(self, index: Tensor, plan: EpochPlan) -> tuple[Tensor, Tensor]:
        """A step on the images at `index` (int64 (B,)), at the optimizer's rates; averages stay."""


class Eager:
    """The reference executor: each operation as it comes."""

    def __init__(
        self, state: TrainState, recipe: Recipe, runtime: Runtime, split: DeviceSplit, steps: int
    ) -> None:
        """steps: of an epoch."""
        self.state, self.recipe, self.runtime, self.split = state, recipe, runtime, split
        self.steps = steps
        self.recording_seconds = 0.0

    def begin(self, plan: EpochPlan, rates: Rates, first: int = 0) -> None:
        self._plan, self._rates = plan, rates

    def step(self, position: int) -> tuple[Tensor, Tensor]:
        rates, optimizer = self._rates, self.state.optimizer
        momentum = rates.momenta[position] if rates.momenta else None
        lrs = group_rates(optimizer, rates.lr[position], rates.stem[position])
        set_rates(optimizer, lrs, momentum)
        index = self._plan.batch(position, self.recipe.train.batch_size)
        loss, correct = self.train_on(index, self._plan)
        if rates.average[position] and self.state.average:
            self.state.average.update(self.state.model, rates.average[position])
        return loss, correct

    def train_on(self, index: Tensor, plan: EpochPlan) -> tuple[Tensor, Tensor]:
        small = small_at(self.recipe.schedule, self.state.step, self.steps)
        loss, correct = learn(
            self.state, self.recipe, self.runtime, self.split, index, plan, small=small
        )
        self.state.step += 1
        return loss, correct


def learn(
    state: TrainState,
    recipe: Recipe,
    runtime: Runtime,
    split: DeviceSplit,
    index: Tensor,
    plan: EpochPlan,
    *,
    small: bool,
) -> tuple[Tensor, Tensor]:
    """Forward, backward and the optimizer's step on the images at `index`; see `Executor.step`.

    In pieces where the recipe or the runtime wants that: their gradients are summed, each piece's
    loss weighted by its images, so that the update is of the whole batch. Statistics of batch norm
    are a piece's.
    """
    model, optimizer = state.model.train(), state.optimizer
    size, scale = piece_size(recipe, runtime), runtime.loss_scale
    losses, corrects = [], []
    for piece in torch.split(index, size or len(index)):
        images, labels = split.augmented(piece, plan, recipe.augment)
        if small:
            images = augment.shrink(images, recipe.schedule.small_px)
        with runtime.autocast():
            logits = model(images)
        loss = cross_entropy(logits.float(), labels, label_smoothing=recipe.loss.label_smoothing)
        share = len(piece) / len(index)
        weight = share * scale
        (loss * weight if weight != 1.0 else loss).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach() * share if share != 1.0 else loss.detach())
        corrects.append((logits.detach().argmax(1) == labels).sum())
    if scale != 1.0:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / scale)
    if recipe.optimizer.clip_grad_norm:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if len(losses) == 1:
        return losses[0], corrects[0]
    return torch.stack(losses).sum(), torch.stack(corrects).sum()


def piece_size(recipe: Recipe, runtime: Runtime) -> int:
    """Images that go through the net at a time; 0 for the whole batch."""
    return recipe.train.norm_batch or runtime.micro_batch
