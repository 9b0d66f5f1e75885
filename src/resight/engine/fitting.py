"""Fit a recipe and a runtime to each other: what is refused, and how large batches are run."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings

from torch import nn

from resight.data.batches import DeviceSplit
from resight.data.types import ImageData
from resight.engine.runtime import REQUESTED, Runtime
from resight.errors import ResightError, ResightWarning, listed
from resight.recipe.nets import NETS
from resight.recipe.recipe import Recipe

PIECE_IMAGES = 256  # that fit a CPU's caches between two layers
LARGE_BATCH = 512
# cuDNN's search builds every plan for some 45 shapes, which takes 6 to 9 s on an H200: only for
# trainings of about half a minute and more, at a few milliseconds a step
SEARCH_STEPS = 7500
SEARCHED_ALGORITHMS = 4
FUSED_STEPS = 1000  # compiling the kernels takes seconds, which shorter trainings don't win back


def check_batches(recipe: Recipe, data: ImageData, piece: int) -> None:
    """Refuse a batch of one image where the net's last map is 1×1: batch norm has no variance.

    piece: images that go through the net at a time; 0 for the whole batch.
    """
    net, batch, n = recipe.model.facts, recipe.train.batch_size, len(data.train)
    schedule = recipe.schedule  # images may be smaller in the first epochs
    size = schedule.small_px or schedule.medium_px or recipe.data.image_size
    if not net.batch_norm or net.last_map(size) > 1:
        return
    piece = piece or batch
    batches = {min(batch, n)} | ({n % batch} if recipe.train.last_batch == "keep" else set())
    if any(min(piece, images) == 1 or images % piece == 1 for images in batches):
        what = f"train.batch_size = {batch}"
        what += f" in pieces of {piece} gives a piece" if piece < batch else " gives a batch"
        raise ResightError(
            f"{what} of one image ({n} training images): batch norm needs at least two at {size} "
            "px; change the batch size or add --set train.last_batch=drop"
        )


def check_lookahead(recipe: Recipe, steps: int) -> None:
    """Refuse a lookahead longer than the training, which would never average."""
    total = recipe.schedule.epochs * steps
    if recipe.train.lookahead > total:
        raise ResightError(
            f"train.lookahead = {recipe.train.lookahead} must be at most the training's {total} "
            "steps, or nothing is ever averaged; 0 switches it off"
        )


def check_width(recipe: Recipe, runtime: Runtime) -> None:
    """Refuse a net so narrow that it would corrupt the process's memory on a CPU (see `NETS`)."""
    least = recipe.model.facts.narrowest_on_cpu
    if runtime.on_cpu and recipe.model.width < least:
        narrower = [name for name, net in NETS.items() if net.narrowest_on_cpu < least]
        raise ResightError(
            f"model.width = {recipe.model.width} must be at least {least} for {recipe.model.net} "
            "on a CPU (with fewer channels torch's convolutions write past their memory); "
            f"{listed(narrower)} can be narrower"
        )


def fitted(recipe: Recipe, runtime: Runtime, train: DeviceSplit, total_steps: int) -> Runtime:
    """`runtime` fitted to what is trained: on a CPU pieces of the batch that fit its caches; on a
    GPU fused kernels and cuDNN's search if the training is long enough for them to pay off, and the
    eager executor if a step can't be captured."""
    if runtime.on_cpu:
        return in_pieces(recipe, runtime)
    runtime = searching(dataclasses.replace(runtime, fused=fuses(total_steps)), total_steps)
    if runtime.executor != "captured":
        return runtime
    if not train.resident:
        why = "the images are streamed from disk"
    elif recipe.optimizer.cycle_momentum:
        why = "torch's momentum can't be a tensor, so a CUDA graph can't cycle it"
    else:
        return runtime
    if runtime.reasons.get("executor") == REQUESTED:
        warnings.warn(
            f"--executor captured is ignored: {why}; using eager execution",
            ResightWarning,
            stacklevel=2,
        )
    reasons = {**runtime.reasons, "executor": why}
    return dataclasses.replace(runtime, executor="eager", reasons=reasons)


def searching(runtime: Runtime, total_steps: int) -> Runtime:
    """`runtime` with cuDNN's search decided, if it was not."""
    if runtime.search is not None:
        return runtime
    search = SEARCHED_ALGORITHMS if total_steps >= SEARCH_STEPS else 0
    why = f"{total_steps:,} steps {'win' if search else 'would not win'} back the time it takes"
    return dataclasses.replace(runtime, search=search, reasons={**runtime.reasons, "search": why})


def fuses(total_steps: int) -> bool:
    return total_steps >= FUSED_STEPS and importlib.util.find_spec("triton") is not None


def in_pieces(recipe: Recipe, runtime: Runtime) -> Runtime:
    """On a CPU a large batch goes through the net in equal pieces, its gradients summed.

    With group norm that changes only the rounding. Batch norm's statistics are then per piece, so
    the usual batches, up to 512 images, stay whole.
    """
    batch, has_batch_norm = recipe.train.batch_size, recipe.model.facts.batch_norm
    if recipe.train.norm_batch or batch <= (LARGE_BATCH if has_batch_norm else PIECE_IMAGES):
        return runtime
    size = -(-batch // -(-batch // PIECE_IMAGES))
    why = f"a batch of {batch} is processed in pieces of {size}, which fit the caches"
    why += "; batch norm's statistics are per piece" if has_batch_norm else ""
    reasons = {**runtime.reasons, "micro_batch": why}
    return dataclasses.replace(runtime, micro_batch=size, reasons=reasons)


def slow_norms(model: nn.Module, share: float) -> None:
    """Make running statistics move as far over all pieces of a batch as over the whole batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = 1 - (1 - module.momentum) ** share


def piece_size(recipe: Recipe, runtime: Runtime) -> int:
    """Images that go through the net at a time; 0 for the whole batch."""
    return recipe.train.norm_batch or runtime.micro_batch
