"""`Split` and `ImageData`: what every source of images becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Split:
    """Decoded images of one split.

    images: uint8 (N, H, W, C), H = W, possibly a read-only memory map; labels: int64 (N,), in
    [0, K); ids: fixed-width unicode (N,), unique in the split: a path relative to the data's root
    or a name from the archive.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """A dataset, ready to train on. `mean` and `std`: float64 (C,), of `train`, in [0, 1]."""

    name: str  # "cifar10", or the folder's name
    source: str  # as requested: a known name or an absolute path
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    fingerprint: str  # of the decoded content of train and test, not of its location
    val: Split | None = None
    notes: tuple[str, ...] = field(
        default=()
    )  # one line each: what a user should know about this data
    bad: tuple[str, ...] = field(default=())  # ids of unreadable files that --skip-bad left out

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[3])

    @property
    def image_size(self) -> int:
        return int(self.train.images.shape[1])


def data_facts(data: ImageData) -> dict[str, Any]:
    """What a run records about its data, and how it finds it again."""
    return {
        "name": data.name,
        "source": data.source,
        "fingerprint": data.fingerprint,
        "classes": list(data.classes),
        "channels": data.channels,
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "train": len(data.train),
        "class_counts": np.bincount(data.train.labels, minlength=len(data.classes)).tolist(),
        "val": len(data.val) if data.val is not None else 0,
        "test": len(data.test),
        "notes": list(data.notes),
        "bad": list(data.bad),
    }
