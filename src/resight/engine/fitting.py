"""What a recipe can't be trained with here: refused before the first step, in words."""

from __future__ import annotations

from resight.data.types import ImageData
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from resight.recipe.recipe import Recipe


def check_batches(recipe: Recipe, data: ImageData, piece: int) -> None:
    """Refuse a batch of one image where the net's last map is 1×1: batch norm has no spread.

    piece: images that go through the net at a time; 0 for the whole batch.
    """
    net, batch, n = recipe.model.net, recipe.train.batch_size, len(data.train)
    size = recipe.schedule.small_px or recipe.data.image_size  # at first
    if net == "resnet18-gn" or _last_map(net, size) > 1:
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


def _last_map(net: str, size: int) -> int:
    """Side of the last map that is normed, of images of `size` px."""
    if net == "custom-resnet":
        return size // 8
    return (size - 1) // 8 if net.startswith("fastnet") else -(-size // 8)


def check_lookahead(recipe: Recipe, steps: int) -> None:
    """Refuse an average that no step of the training would come to."""
    total = recipe.schedule.epochs * steps
    if recipe.train.lookahead > total:
        raise ResightError(
            f"train.lookahead = {recipe.train.lookahead} must be at most the training's {total} "
            "steps, or nothing is ever averaged; 0 switches it off"
        )


def check_width(recipe: Recipe, runtime: Runtime) -> None:
    """Refuse a ResNet-18 that would corrupt the process's memory.

    Below 8 channels torch 2.13's weight gradient of a strided 1×1 convolution in channels-last
    memory writes past its end on a CPU, and the process dies of it sooner or later.
    """
    if runtime.on_cpu and recipe.model.net.startswith("resnet18") and recipe.model.width < 8:
        raise ResightError(
            f"model.width = {recipe.model.width} with {recipe.model.net} on a CPU: allowed is 8 or "
            "more (with fewer channels torch's convolutions write past their memory); take "
            "custom-resnet for a narrower net"
        )
