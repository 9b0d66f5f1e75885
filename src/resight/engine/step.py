"""One training step, and the executor that runs it operation by operation.

The LR test and the time estimate run the same step on a snapshot; nothing else trains a net.
`captured.py` has the executor that replays it as a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from resight.data import augment
from resight.data.batches import DeviceSplit
from resight.data.plan import EpochPlan
from resight.engine.fitting import piece_size
from resight.engine.memory import is_out_of_memory
from resight.engine.optim import group_rates, set_rates
from resight.engine.rates import Rates
from resight.engine.runtime import Runtime
from resight.engine.state import TrainState, Whitened
from resight.errors import ResightError
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import px_at, stem_frozen_at
from resight.recipe.settings import Loss


class Executor(Protocol):
    """Runs the steps of an epoch in order. recording_seconds: spent so far on recording steps.
    fallback: why it runs eagerly although it was to be captured; None if it was not or does not."""

    recording_seconds: float
    fallback: str | None

    def begin(self, plan: EpochPlan, rates: Rates, first: int = 0) -> None:
        """Prepare for the steps of `plan` from number `first` on, at `rates`."""

    def step(self, position: int) -> None:
        """Train on batch `position` of the plan and advance `state.step` by one.

        At `position` of `state.trace` it writes the loss (mean over the batch's images, label
        smoothing included) and the number of images whose prediction was right, both from before
        the update.
        """

    def train_on(self, index: Tensor, plan: EpochPlan) -> tuple[Tensor, Tensor]:
        """A step on the samples `index` (int64 (B,)), at the optimizer's rates; no averaging.

        Returns loss and correct predictions as `step` writes them, float32 and int64 scalars on the
        device.
        """


@dataclass(frozen=True)
class StepKind:
    """What steps differ in besides their numbers. px: the side to which images are scaled down; 0
    for none. stem_frozen: whether a whitening stem has stopped learning."""

    px: int = 0
    stem_frozen: bool = False


@dataclass(frozen=True)
class StepContext:
    """What every step works with; only `state` changes. split: train. steps: per epoch."""

    state: TrainState
    recipe: Recipe
    runtime: Runtime
    split: DeviceSplit
    steps: int

    def kind_at(self, step: int) -> StepKind:
        """The kind of `step` (over the whole training)."""
        schedule = self.recipe.schedule
        return StepKind(
            px_at(schedule, step, self.steps), stem_frozen_at(schedule, step, self.steps)
        )


class Eager:
    """The reference executor: eager execution."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.recording_seconds = 0.0
        self.fallback: str | None = None

    def begin(self, plan: EpochPlan, rates: Rates, first: int = 0) -> None:
        self._plan, self._rates = plan, rates

    def step(self, position: int) -> None:
        rates, state = self._rates, self.context.state
        momentum = rates.momenta[position] if rates.momenta else None
        lrs = group_rates(state.optimizer, rates.lr[position], rates.stem[position])
        set_rates(state.optimizer, lrs, momentum)
        index = self._plan.batch(position, self.context.recipe.train.batch_size)
        loss, correct = self.train_on(index, self._plan)
        if rates.average[position] and state.average:
            state.average.update(state.model, rates.average[position])
        state.trace.losses[position], state.trace.correct[position] = loss, correct

    def train_on(self, index: Tensor, plan: EpochPlan) -> tuple[Tensor, Tensor]:
        kind = self.context.kind_at(self.context.state.step)
        try:
            loss, correct = learn(self.context, index, plan, kind)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise too_large(self.context, len(index)) from error
        self.context.state.step += 1
        return loss, correct


def too_large(context: StepContext, batch: int) -> ResightError:
    """The error for a step that the device has no memory for."""
    recipe, runtime = context.recipe, context.runtime
    images = min(piece_size(recipe, runtime) or batch, batch)
    smaller = f"use --batch-size {images // 2}, or " if images > 1 else "use "
    if recipe.train.norm_batch:
        smaller = f"use --set train.norm_batch={max(images // 2, 1)}, or "
    return ResightError(
        f"out of memory in step {context.state.step} on {runtime.name}: {images} images of "
        f"{recipe.data.image_size} px at a time are too many; {smaller}a smaller --image-size or "
        "model.width, in a new run; what was saved of this one is kept"
    )


def learn(
    context: StepContext, index: Tensor, plan: EpochPlan, kind: StepKind
) -> tuple[Tensor, Tensor]:
    """Forward, backward and the optimizer's step on the samples `index`; see `Executor.step`.

    In pieces if the recipe or the runtime asks for it: their gradients are summed, each piece's
    loss weighted by its images, so that the update is that of the whole batch. Batch norm's
    statistics are per piece.
    """
    state, recipe, runtime = context.state, context.recipe, context.runtime
    model, optimizer = state.model.train(), state.optimizer
    size, scale = piece_size(recipe, runtime), runtime.loss_scale
    if recipe.model.facts.whitening_stem:
        cast(Whitened, model).stem_frozen = kind.stem_frozen
    losses, corrects = [], []
    for piece in torch.split(index, size or len(index)):
        images, labels = context.split.augmented(piece, plan, recipe.augment)
        if kind.px:
            images = augment.shrink(images, kind.px)
        with runtime.autocast():
            logits = model(images)
        loss, right = _measured(context, logits.float(), labels, piece, plan)
        share = len(piece) / len(index)
        weight = share * scale
        (loss * weight if weight != 1.0 else loss).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach() * share if share != 1.0 else loss.detach())
        corrects.append(right)
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


def _measured(
    context: StepContext, logits: Tensor, labels: Tensor, piece: Tensor, plan: EpochPlan
) -> tuple[Tensor, Tensor]:
    """Loss and correct predictions of the samples `piece`, whose `labels` are given.

    Of a mixed one the loss is the mean of both labels' losses by their shares, and the label with
    the larger share is the right one.
    """
    split, settings = context.split, context.recipe.loss
    guessed, weights = logits.detach().argmax(1), split.weights[plan.images_of(piece)]
    if plan.partners is None:
        loss = _loss(logits, labels, settings, weights)
        return loss, (guessed == labels).sum()
    assert plan.shares is not None
    partners, shares = plan.images_of(plan.partners[piece]), plan.shares[piece]
    others = split.labels[partners]
    own = _losses(logits, labels, settings, weights)
    other = _losses(logits, others, settings, split.weights[partners])
    right = guessed == torch.where(shares >= 0.5, labels, others)
    return (own * shares + other * (1 - shares)).mean(), right.sum()


def _loss(logits: Tensor, labels: Tensor, settings: Loss, weights: Tensor) -> Tensor:
    """The mean over images; weights: float32 (B,), for balanced classes. Not divided by the batch's
    own weights, so that a batch counts as much as there are rare classes in it."""
    if settings.class_weights == "none":
        return cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    return _losses(logits, labels, settings, weights).mean()


def _losses(logits: Tensor, labels: Tensor, settings: Loss, weights: Tensor) -> Tensor:
    """Of each image: float32 (B,)."""
    smoothing = settings.label_smoothing
    each = cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return each if settings.class_weights == "none" else each * weights
