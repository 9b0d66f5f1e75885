"""A recipe and a runtime fitted to each other: what is refused, and how large batches are run."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings

from torch import nn

from resight.data.batches import DeviceSplit
from resight.data.types import ImageData
from resight.engine.runtime import Runtime
from resight.errors import ResightError, ResightWarning
from resight.recipe.recipe import Recipe

PIECE_IMAGES = 256  # that a CPU's caches hold between two layers
LARGE_BATCH = 512
FUSED_STEPS = 1000  # compiling the kernels takes seconds, which a shorter training does not save


def check_batches(recipe: Recipe, data: ImageData, piece: int) -> None:
    """Refuse a batch of one image where the net's last map is 1×1: batch norm has no spread.

    piece: images that go through the net at a time; 0 for the whole batch.
    """
    net, batch, n = recipe.model.facts, recipe.train.batch_size, len(data.train)
    size = recipe.schedule.small_px or recipe.data.image_size  # at first
    if not net.batch_norm or net.last_map(size) > 1:
        return
    piece = piece or batch
    batches = {min(batch, n)} | ({n % batch} if recipe.train.last_batch == "keep" else set())
    if any(min(piece, images) == 1 or images % piece == 1 for images in batches):
        what = f"train.batch_size = {batch}"
        what += f" in pieces of {piece} makes a piece" if piece < batch else " makes a batch"
        raise ResightError(
            f"{what} of one image of {n}, and batch norm needs two at {size} px; change it or "
            "--set train.last_batch=drop"
        )


def check_lookahead(recipe: Recipe, steps: int) -> None:
    """Refuse an average that no step of the training would come to."""
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
        raise ResightError(
            f"model.width = {recipe.model.width} must be at least {least} for {recipe.model.net} "
            "on a CPU (with fewer channels torch's convolutions write past their memory); use "
            "custom-resnet for a narrower net"
        )


def fitted(recipe: Recipe, runtime: Runtime, train: DeviceSplit, total_steps: int) -> Runtime:
    """`runtime` fitted to what is trained: pieces of the batch that a CPU's caches hold; on a GPU
    fused kernels where the training is long enough to earn their compiling, and the eager executor
    where a step can't be captured."""
    if runtime.on_cpu:
        return _in_pieces(recipe, runtime)
    runtime = dataclasses.replace(runtime, fused=fuses(total_steps))
    if runtime.executor != "captured":
        return runtime
    if not train.resident:
        why = "the images are streamed from the disk"
    elif recipe.optimizer.cycle_momentum:
        why = "torch's momentum can't be a tensor, so it is not cycled inside a graph"
    else:
        return runtime
    if runtime.reasons.get("executor") == "asked for":
        warnings.warn(
            f"--executor captured is ignored: {why}; each operation is run as it comes",
            ResightWarning,
            stacklevel=2,
        )
    reasons = {**runtime.reasons, "executor": why}
    return dataclasses.replace(runtime, executor="eager", reasons=reasons)


def fuses(total_steps: int) -> bool:
    return total_steps >= FUSED_STEPS and importlib.util.find_spec("triton") is not None


def _in_pieces(recipe: Recipe, runtime: Runtime) -> Runtime:
    """On a CPU a large batch goes through the net in equal pieces, its gradients summed.

    With group norm that changes nothing but the rounding. Batch norm's statistics are then a
    piece's, so that the usual batches, up to 512 images, stay whole.
    """
    batch, has_batch_norm = recipe.train.batch_size, recipe.model.facts.batch_norm
    if recipe.train.norm_batch or batch <= (LARGE_BATCH if has_batch_norm else PIECE_IMAGES):
        return runtime
    size = -(-batch // -(-batch // PIECE_IMAGES))
    why = f"a batch of {batch} goes through in pieces of {size}, which the caches hold"
    why += ": batch norm's statistics are of a piece" if has_batch_norm else ""
    reasons = {**runtime.reasons, "micro_batch": why}
    return dataclasses.replace(runtime, micro_batch=size, reasons=reasons)


def slow_norms(model: nn.Module, share: float) -> None:
    """Let running statistics move as far in all pieces of a batch as they would in the whole."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = 1 - (1 - module.momentum) ** share


def piece_size(recipe: Recipe, runtime: Runtime) -> int:
    """Images that go through the net at a time; 0 for the whole batch."""
    return recipe.train.norm_batch or runtime.micro_batch
