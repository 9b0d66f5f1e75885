"""A split that training steps can read, and the batches of an epoch."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resight.data import augment, operations
from resight.data.plan import EpochPlan
from resight.data.types import Split
from resight.recipe.settings import Augment


@dataclass(frozen=True)
class DeviceSplit:
    """images: uint8 (N, H, W, C); labels: int64 (N,); mean, std: float32 (C,), of x / 255.

    `images` is on the device, or a memory map that is read batch by batch (`resident` says which).
    weights: float32 (N,), of each image, so that all classes weigh the same and the mean is 1.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    mean: Tensor
    std: Tensor
    device: torch.device
    resident: bool

    @classmethod
    def place(
        cls, split: Split, mean: Tensor, std: Tensor, device: torch.device, *, resident: bool
    ) -> DeviceSplit:
        images, labels = _as_tensor(split.images), torch.from_numpy(split.labels)
        return cls(
            images=images.to(device, copy=True) if resident else images,
            labels=labels.to(device),
            weights=balanced_weights(labels).to(device),
            mean=mean.to(device),
            std=std.to(device),
            device=device,
            resident=resident,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        return int(self.images.shape[1])

    def at(self, rows: Tensor) -> DeviceSplit:
        """The images at `rows` (int64 (n,), on the CPU) as a split of their own."""
        return dataclasses.replace(
            self,
            images=self.images[rows.to(self.images.device)],
            labels=self.labels[rows.to(self.labels.device)],
            weights=self.weights[rows.to(self.weights.device)],
        )

    def plain(self, start: int, stop: int) -> Tensor:
        """Images [start, stop) without augmentation: float32 (B, C, H, W), normalised."""
        images = self.images[start:stop].to(self.device, non_blocking=True)
        return augment.normalize(images, self.mean, self.std)

    def augmented(self, index: Tensor, plan: EpochPlan, settings: Augment) -> tuple[Tensor, Tensor]:
        """Images and labels of the samples `index` (int64 (B,), on the device) as `plan` drew them.

        What a sample is mixed with, `plan.partners[index]`, is augmented by its own numbers.
        """
        images = self._seen(index, plan, settings)
        if plan.partners is not None:
            partners = self._seen(plan.partners[index], plan, settings)
            patches = None if plan.patches is None else plan.patches[index]
            assert plan.shares is not None
            images = augment.mix(images, partners, plan.shares[index], patches)
        return images, self.labels[plan.images_of(index)]

    def _seen(self, index: Tensor, plan: EpochPlan, settings: Augment) -> Tensor:
        """The samples `index`, not mixed: float32 (B, C, H, W), normalised."""
        rows = plan.images_of(index)
        shifts = None if plan.shifts is None else plan.shifts[index]
        flips = None if plan.flips is None else plan.flips[index]
        if self.resident:
            images, where = self.images, rows
        else:
            images = self.images[rows.cpu()].to(self.device, non_blocking=True)
            where = torch.arange(len(index), device=self.device)
        pixels = augment.crop_flip(
            images, where, shifts, flips, pad_px=settings.crop_pad_px, fill=settings.crop_fill
        )
        if not plan.changes_values:
            normalized = augment.normalize(pixels, self.mean, self.std)
        else:
            values = _changed(augment.unit(pixels), index, plan, settings)
            mean, std = self.mean[:, None, None], self.std[:, None, None]
            normalized = (values - mean) / std
        if plan.boxes is not None:
            normalized = augment.cutout(normalized, plan.boxes[index], size_px=settings.cutout_px)
        if plan.erased is not None:
            normalized = augment.erase(normalized, plan.erased[index])
        return normalized


def balanced_weights(labels: Tensor) -> Tensor:
    """float32 (N,) for `labels` int64 (N,): N / (classes with images · images of the class)."""
    counts = torch.bincount(labels).double()
    weights = len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1))
    return weights[labels].float()


def _changed(images: Tensor, index: Tensor, plan: EpochPlan, settings: Augment) -> Tensor:
    """`images` (B, C, H, W) in [0, 1], those of the samples `index`, as `plan` drew them."""
    sources = []
    if plan.turns is not None:
        turns = plan.turns[index]
        sources.append(
            augment.turns_of(turns, rotate_deg=settings.rotate_deg, scale=settings.scale)
        )
    drawn: list[tuple[Tensor, Tensor]] = []
    if plan.operations is not None and plan.strengths is not None:
        kinds, strengths = plan.operations[index], plan.strengths[index]
        drawn += zip(kinds.unbind(1), strengths.unbind(1), strict=True)
    ranges, side = operations.ranges_of(settings), images.shape[2]
    sources += [operations.moves(*one, ranges, side) for one in drawn]
    if sources:  # in one resampling
        images = augment.warp(images, functools.reduce(augment.chained, sources))
    for one in drawn:
        images = operations.change_values(images, *one, ranges)
    if plan.tints is not None:
        images = augment.tint(
            images,
            plan.tints[index],
            brightness=settings.brightness,
            contrast=settings.contrast,
            saturation=settings.saturation,
        )
    if plan.hues is not None:
        images = augment.turn_hue(images, plan.hues[index], hue_deg=settings.hue_deg)
    if plan.greys is not None:
        images = augment.without_colour(images, plan.greys[index])
    if plan.blurs is not None:
        images = augment.blur(images, plan.blurs[index])
    return images


def steps_per_epoch(n: int, batch_size: int, last_batch: Literal["keep", "drop"]) -> int:
    """Batches per epoch; with "drop" at least one, so that a small split still trains."""
    whole, rest = divmod(n, batch_size)
    return max(1, whole) if last_batch == "drop" else whole + (rest > 0)


def _as_tensor(pixels: npt.NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():  # about a read-only map: nothing here writes to it
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(pixels)
