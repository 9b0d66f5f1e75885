"""Fit a recipe and a runtime to each other: what is refused, and how large batches are run."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from dataclasses import dataclass

from torch import nn

from resight.data.batches import DeviceSplit
from resight.data.types import ImageData
from resight.engine.needs import StepNeeds
from resight.engine.runtime import REQUESTED, STORED, TORCHS_DEFAULT, Runtime
from resight.errors import ResightError, ResightWarning, listed
from resight.recipe.nets import NETS
from resight.recipe.recipe import Recipe

PIECE_IMAGES = 256  # that fit a CPU's caches between two layers
LARGE_BATCH = 512
# of the free memory, for what a step's images need: the rest is for weights, gradients, workspaces,
# fragments, and what else runs on the machine
MEMORY_SHARE = 0.6
MIN_NORM_BATCH = 16  # that is advised: the statistics of fewer images are worth little
# cuDNN's search builds every plan for some 45 shapes, which takes 6 to 9 s on an H200: only for
# trainings of about half a minute and more, at a few milliseconds a step
SEARCH_STEPS = 7500
SEARCHED_ALGORITHMS = 4
# of a step for each thread: with fewer a second thread gains next to nothing, and beside another
# busy process loses two thirds of the speed (docs/benchmarks.md)
THREAD_FLOP = 1e9
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


def check_early_stop(recipe: Recipe, data: ImageData) -> None:
    """Refuse early stopping where there is nothing to watch: the test split selects nothing."""
    if recipe.train.early_stop and data.val is None:
        raise ResightError(
            f"train.early_stop = {recipe.train.early_stop} needs a validation split: hold one out "
            "with --val 0.1, or leave out --early-stop"
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
    """`runtime` fitted to what is trained on a GPU: fused kernels and cuDNN's search if the
    training is long enough for them to pay off, and the eager executor if a step can't be
    captured."""
    if runtime.on_cpu:
        return runtime
    runtime = searching(dataclasses.replace(runtime, fused=fuses(total_steps)), total_steps)
    if runtime.executor != "captured":
        return runtime
    if not train.resident:
        why = "the images are streamed from disk"
    elif recipe.optimizer.cycle_momentum:
        why = "torch's momentum can't be a tensor, so a CUDA graph can't cycle it"
    else:
        return runtime
    if (asked := runtime.reasons.get("executor")) in (REQUESTED, STORED):
        warnings.warn(
            f"executor captured ({asked}) can't be used: {why}; using eager execution",
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


@dataclass(frozen=True)
class Room:
    """The memory for a step. train_images: how many there are; image_bytes: that each of a step's
    images needs (`StepNeeds`); free_bytes: that are free."""

    train_images: int
    image_bytes: int
    free_bytes: int

    def holds(self, images: int) -> bool:
        return images * self.image_bytes <= self.free_bytes

    @property
    def images(self) -> int:
        """How many there is ample room for."""
        return int(MEMORY_SHARE * self.free_bytes / self.image_bytes)

    def words(self, images: int) -> str:
        needed, free = (_in_words(n) for n in (images * self.image_bytes, self.free_bytes))
        return f"about {needed} of memory, and {free} are free"


def _in_words(nbytes: int) -> str:
    """`0.21 GB`, `21 GB`, `107 GB`"""
    gigabytes = nbytes / 1e9
    return f"{gigabytes:.2g} GB" if gigabytes < 99.5 else f"{gigabytes:,.0f} GB"


def in_pieces(recipe: Recipe, runtime: Runtime, room: Room) -> Runtime:
    """`runtime` with the pieces that a batch goes through the net in, its gradients summed.

    On a CPU a large batch goes in equal pieces that fit the caches; anywhere a batch for which the
    memory is too small goes in the fewest equal pieces that fit. With group norm that changes only
    the rounding. Batch norm's statistics are then per piece, so the usual batches, up to 512
    images, stay whole where they fit. The pieces that a run has recorded stay as they are unless
    there is no memory for them any more, which is warned of.

    Raises `ResightError` where nothing fits, or not the pieces that the recipe sets.
    """
    batch = min(recipe.train.batch_size, room.train_images)
    if recipe.train.norm_batch:
        _check_norm_batch(recipe, room)
        return runtime.with_pieces(0, "")
    recorded = runtime.micro_batch
    if recorded is not None:
        images = min(recorded or batch, batch)
        if room.holds(images):
            return runtime
        warnings.warn(
            f"{images} images went through the net at a time, which needs {room.words(images)}: "
            "smaller pieces from now on, so the result will not be bit-identical",
            ResightWarning,
            stacklevel=2,
        )
    whole, size = recipe.train.batch_size, _cached_piece(recipe) if runtime.on_cpu else 0
    why = "which fit the caches"
    if min(size or batch, batch) > room.images:
        if not room.images:
            raise ResightError(
                f"data.image_size = {recipe.data.image_size} is too large here: each image of a "
                f"step needs {room.words(1)}; use a smaller --image-size or model.width"
            )
        whole, size = batch, equal_piece(batch, room.images)
        free = _in_words(room.free_bytes)
        why = f"for which {MEMORY_SHARE:.0%} of the free memory ({free}) is enough"
    if not size:
        return runtime.with_pieces(0, "")
    why = f"a batch of {whole} is processed in pieces of {size}, {why}"
    why += "; batch norm's statistics are per piece" if recipe.model.facts.batch_norm else ""
    return runtime.with_pieces(size, why)


def _check_norm_batch(recipe: Recipe, room: Room) -> None:
    """Raise `ResightError` if there is no memory for the recipe's own pieces."""
    batch, piece = recipe.train.batch_size, recipe.train.norm_batch
    images = min(piece, room.train_images)
    if room.holds(images):
        return
    fitting = (n for n in range(min(room.images, batch), MIN_NORM_BATCH - 1, -1) if batch % n == 0)
    smaller = next(fitting, None)
    advice = f"use --set train.norm_batch={smaller}, or " if smaller else "use "
    raise ResightError(
        f"train.norm_batch = {piece} at {recipe.data.image_size} px needs {room.words(images)}; "
        f"{advice}a smaller --image-size"
    )


def equal_piece(batch: int, most: int) -> int:
    """Images in each of the fewest equal pieces of a batch that have at most `most`."""
    return -(-batch // -(-batch // most))


def _cached_piece(recipe: Recipe) -> int:
    batch = recipe.train.batch_size
    whole = LARGE_BATCH if recipe.model.facts.batch_norm else PIECE_IMAGES
    return 0 if batch <= whole else equal_piece(batch, PIECE_IMAGES)


def threaded(recipe: Recipe, runtime: Runtime, needs: StepNeeds, train_images: int) -> Runtime:
    """`runtime` with at most a thread for each `THREAD_FLOP` of what goes through the net at a time
    on a CPU, unless a run has recorded its threads."""
    if not runtime.on_cpu or runtime.reasons.get("threads") != TORCHS_DEFAULT:
        return runtime
    images = min(piece_size(recipe, runtime) or recipe.train.batch_size, train_images)
    flop = images * needs.flop
    threads = max(1, int(flop / THREAD_FLOP))
    if threads >= runtime.threads:
        return runtime
    why = f"{threads} of {runtime.threads} threads: more would gain little in steps "
    why += f"of {flop / 1e9:.2g} GFLOP"
    return runtime.with_threads(threads, why)


def slow_norms(model: nn.Module, share: float) -> None:
    """Make running statistics move as far over all pieces of a batch as over the whole batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = 1 - (1 - module.momentum) ** share


def piece_size(recipe: Recipe, runtime: Runtime) -> int:
    """Images that go through the net at a time; 0 for the whole batch."""
    return recipe.train.norm_batch or runtime.micro_batch or 0
