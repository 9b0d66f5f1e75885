"""An epoch's images as PyTorch tutorials load them: a DataLoader over PIL images and transforms.

The transforms do what torchvision's do, in PIL and torch: crop with padding, flip, to tensor,
normalise, cutout. If Albumentations is installed, there is also a pipeline of its transforms.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resight.data.types import ImageData
from resight.recipe.settings import Augment, Train

Transform = Callable[[Image.Image], Tensor]


class PilImages(Dataset[tuple[Tensor, int]]):
    """Decoded images in memory, one PIL image per item, like torchvision's CIFAR10."""

    def __init__(self, data: ImageData, transform: Transform) -> None:
        self.images, self.labels = data.train.images, data.train.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[number])), self.labels[number]


class PilTransform:
    """One image at a time, with random numbers from torch's generator, like torchvision."""

    def __init__(self, data: ImageData, augment: Augment) -> None:
        self.augment = augment
        self.mean = torch.tensor(data.mean, dtype=torch.float32)[:, None, None]
        self.std = torch.tensor(data.std, dtype=torch.float32)[:, None, None]

    def __call__(self, image: Image.Image) -> Tensor:
        settings = self.augment
        if settings.crop_pad_px:
            image = self._crop(image)
        if settings.flip != "none" and torch.rand(1).item() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        normalized = pixels.float().div(255).sub_(self.mean).div_(self.std)
        return self._cutout(normalized) if settings.cutout_px else normalized

    def _crop(self, image: Image.Image) -> Image.Image:
        pad, side = self.augment.crop_pad_px, image.width
        if self.augment.crop_fill == "zero":
            padded = ImageOps.expand(image, border=pad, fill=0)
        else:
            edges = ((pad, pad), (pad, pad), (0, 0))
            padded = Image.fromarray(np.pad(np.asarray(image), edges, mode="reflect"))
        top, left = torch.randint(0, 2 * pad + 1, (2,)).tolist()
        return padded.crop((left, top, left + side, top + side))

    def _cutout(self, image: Tensor) -> Tensor:
        size, side = self.augment.cutout_px, image.shape[1]
        top, left = torch.randint(0, side - size + 1, (2,)).tolist()
        image[:, top : top + size, left : left + size] = 0.0
        return image


class AlbumentationsTransform:
    """The same augmentation in Albumentations 2, with its own generator."""

    def __init__(self, data: ImageData, augment: Augment) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no network access on import
        import albumentations as library  # type: ignore[import-not-found, unused-ignore]
        from albumentations.pytorch import ToTensorV2  # type: ignore[import-not-found, unused-ignore]

        side, pad, hole = data.image_size, augment.crop_pad_px, augment.cutout_px
        steps: list[Any] = []
        if pad:
            # OpenCV's border modes
            border = {"zero": 0, "reflect": 4}[augment.crop_fill]
            wide = side + 2 * pad
            steps.append(library.PadIfNeeded(wide, wide, border_mode=border))
            steps.append(library.RandomCrop(side, side))
        if augment.flip != "none":
            steps.append(library.HorizontalFlip(p=0.5))
        steps.append(library.Normalize(mean=tuple(data.mean), std=tuple(data.std)))
        if hole:
            sizes = {"hole_height_range": (hole, hole), "hole_width_range": (hole, hole)}
            steps.append(library.CoarseDropout(num_holes_range=(1, 1), fill=0, p=1.0, **sizes))
        self.steps = library.Compose([*steps, ToTensorV2()])

    def __call__(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self.steps(image=np.array(image))["image"]
        return pixels


def transforms(data: ImageData, augment: Augment) -> dict[str, Transform]:
    """By the library's name; Albumentations only if its version 2 is installed."""
    known: dict[str, Transform] = {"PIL": PilTransform(data, augment)}
    try:
        version = metadata.version("albumentations")
    except metadata.PackageNotFoundError:
        return known
    if version.startswith("2."):
        known["Albumentations"] = AlbumentationsTransform(data, augment)
    return known


def make_loader(
    data: ImageData, transform: Transform, train: Train, workers: int
) -> DataLoader[tuple[Tensor, int]]:
    """Shuffled batches as the recipe has them, at least one."""
    return DataLoader(
        PilImages(data, transform),
        batch_size=train.batch_size,
        shuffle=True,
        drop_last=train.last_batch == "drop" and len(data.train) >= train.batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
