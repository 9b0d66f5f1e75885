"""`EpochPlan`: every random number of an epoch, drawn on the CPU for all N images.

Each number is keyed by (seed, epoch, purpose) and belongs to an image, not to a place in a batch:
so the device, the batch size, the number of processes or an interruption cannot change what is
drawn, and switching one augmentation off leaves the others unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resight.recipe.settings import Augment


def generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator keyed by seed, epoch and purpose."""
    key = hashlib.blake2b(f"resight|{seed}|{epoch}|{purpose}".encode(), digest_size=8).digest()
    # torch takes [-2**63, 2**64); the half below 2**63 is plenty
    return torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)


@dataclass(frozen=True)
class EpochPlan:
    """order: int64 (N,), the images in the order they are trained on. Per image: shifts int64
    (N, 2) in [0, 2·pad] (rows, columns), flips bool (N,), turns float32 (N, 2) in [-1, 1], of
    rotation and scale, tints float32 (N, 3) in [-1, 1], of brightness, contrast and saturation,
    boxes int64 (N, 2), the cutout's upper left corner. What the recipe does not use is None."""

    order: Tensor
    shifts: Tensor | None
    flips: Tensor | None
    turns: Tensor | None
    tints: Tensor | None
    boxes: Tensor | None

    @classmethod
    def draw(cls, n: int, image_size: int, augment: Augment, *, seed: int, epoch: int) -> EpochPlan:
        """The numbers of `epoch` (from 0) for `n` images of `image_size` px."""

        def integers(purpose: str, high: int) -> Tensor:
            return torch.randint(high, (n, 2), generator=generator(seed, epoch, purpose))

        def signed(purpose: str, columns: int) -> Tensor:
            drawn = torch.rand((n, columns), generator=generator(seed, epoch, purpose))
            return 2 * drawn - 1

        pad, cutout = augment.crop_pad_px, augment.cutout_px
        turned = augment.rotate_deg or augment.scale
        tinted = augment.brightness or augment.contrast or augment.saturation
        return cls(
            order=torch.randperm(n, generator=generator(seed, epoch, "order")),
            shifts=integers("crop", 2 * pad + 1) if pad else None,
            flips=_flips(n, augment, seed=seed, epoch=epoch),
            turns=signed("turn", 2) if turned else None,
            tints=signed("tint", 3) if tinted else None,
            boxes=integers("cutout", image_size - cutout + 1) if cutout else None,
        )

    def batch(self, position: int, size: int) -> Tensor:
        """The images of batch number `position` (from 0): int64 (B,), B = `size` or fewer."""
        return self.order[position * size : (position + 1) * size]

    def of(self, rows: Tensor) -> EpochPlan:
        """The plan of the images at `rows` (int64 (n,)) alone, in that order."""
        return self.each(lambda part: part[rows], order=torch.arange(len(rows)))

    def to(self, device: torch.device) -> EpochPlan:
        return self.each(lambda part: part.to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor], **instead: Tensor) -> EpochPlan:
        """A plan whose tensors are changed by `change`, or are those given `instead`."""
        parts = {name: part for name, part in vars(self).items() if part is not None}
        changed = {name: change(part) for name, part in parts.items() if name not in instead}
        return replace(self, **changed, **instead)


def _flips(n: int, augment: Augment, *, seed: int, epoch: int) -> Tensor | None:
    if augment.flip == "none":
        return None
    if augment.flip == "random":
        return torch.rand(n, generator=generator(seed, epoch, "flip")) < 0.5
    # alternating: half of the images start mirrored, then all are flipped each epoch
    # (airbench's derandomised flip: every image is seen both ways in any two epochs)
    first = torch.rand(n, generator=generator(seed, 0, "flip")) < 0.5
    return first ^ bool(epoch % 2)
