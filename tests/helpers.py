"""Where things lie, small images that can be learnt, and nets by their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor, nn

from resight.data.plan import EpochPlan
from resight.data.types import ImageData, Split
from resight.engine.job import Job
from resight.models.build import build_net
from resight.recipe.settings import Model

TESTS = Path(__file__).resolve().parent  # for processes that import what is here
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"  # data that no test makes or downloads


def make_split(n: int, *, classes: int, size: int, channels: int, seed: int) -> Split:
    """Noise around a colour and a corner of the class's own: learnt in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % classes
    images = rng.integers(60, 120, (n, size, size, channels)).astype(np.int64)
    for i, label in enumerate(labels):
        images[i, label % size, :, :] += 100
    ids = np.array([f"{seed}-{i:05d}" for i in range(n)])
    return Split(images.clip(0, 255).astype(np.uint8), labels, ids)


def make_data(
    n: int = 70,
    *,
    classes: int = 3,
    size: int = 8,
    channels: int = 3,
    n_test: int = 30,
    val: int = 0,
) -> ImageData:
    """A dataset in memory, the same at each call."""
    train = make_split(n, classes=classes, size=size, channels=channels, seed=1)
    test = make_split(n_test, classes=classes, size=size, channels=channels, seed=2)
    held = make_split(val, classes=classes, size=size, channels=channels, seed=3) if val else None
    pixels = train.images.reshape(-1, channels).astype(np.float64) / 255
    return ImageData(
        name="made",
        source="memory",
        classes=tuple(f"class {i}" for i in range(classes)),
        train=train,
        test=test,
        mean=pixels.mean(0),
        std=pixels.std(0),
        fingerprint=f"made-{n}-{classes}-{size}-{channels}-{n_test}-{val}",
        val=held,
    )


def channel_statistics(
    images: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and std (C,) of images (N, H, W, C) that no table has counted."""
    labels = np.zeros(len(images), np.int64)
    return Split(images, labels, labels.astype(np.str_)).statistics


def noise(n: int, px: int = 8, channels: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Images of which each pixel is drawn: uint8 (n, px, px, channels)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, px, px, channels), dtype=np.uint8)


def pictures(n: int, seed: int = 0, *, size: int = 32, channels: int = 3) -> npt.NDArray[np.uint8]:
    """Pictures of large and small spots, none like another."""
    rng = np.random.default_rng(seed)
    images = np.empty((n, size, size, channels))
    for image in images:
        for channel in range(channels):
            field = np.zeros((size, size))
            for cells in (3, 6, 12):
                noise = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
                field += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) / cells
            image[:, :, channel] = 128 + 110 * field / np.abs(field).max()
    return images.round().astype(np.uint8)


def picture(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 6) -> Path:
    """train/ and test/ with a folder a class."""
    for split, offset in (("train", 0), ("test", 1000)):
        for k, name in enumerate(classes):
            for i in range(each):
                picture(root / split / name / f"{i}.png", offset + 100 * k + i)
    return root


def make_net(
    name: str, *, classes: int, channels: int = 3, image_size: int = 32, **settings: Any
) -> nn.Module:
    """A net by its name, with settings of a recipe's `model` section."""
    model = Model(net=name, **settings)
    return build_net(model, classes=classes, channels=channels, image_size=image_size)


def batches(job: Job, plan: EpochPlan) -> Iterator[Tensor]:
    """The images of each step of an epoch: int64 (B,)."""
    size = job.recipe.train.batch_size
    return (plan.batch(position, size) for position in range(job.steps_per_epoch))
