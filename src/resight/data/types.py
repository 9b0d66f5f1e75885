"""`Split`, `Note` and `ImageData`: what every source of images becomes."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from resight.characters import printable
from resight.data.rows import row_sums, statistics_of_sums
from resight.errors import ResightError

ROWS_AT_ONCE = 512  # keeps the temporary squares of a pixel pass at a few MB


@dataclass(frozen=True)
class Split:
    """Decoded images of one split.

    images: uint8 (N, H, W, C), H = W, possibly a read-only memory map; labels: int64 (N,), in
    [0, K); ids: fixed-width unicode (N,), unique in the split: a path relative to the data's root
    or a name from the archive; rows: int64 (N,), of the source's `Table`, if they are in one.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    rows: npt.NDArray[np.int64] | None = None

    @classmethod
    def counted(
        cls,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        ids: npt.NDArray[np.str_],
        sums: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64] | None,
    ) -> Self:
        """A split whose `sums` are already known."""
        split = cls(images, labels, ids, rows)
        split.__dict__["sums"] = sums  # where cached_property keeps them
        return split

    def part(self, which: npt.NDArray[np.int64]) -> Self:
        """Those of its images, in that order."""
        rows = None if self.rows is None else self.rows[which]
        return self.counted(
            self.images[which], self.labels[which], self.ids[which], self.sums[which], rows
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        _, height, width, channels = self.images.shape
        return f"Split({len(self):,} images, {height}×{width} px, {_kind(channels)})"

    @cached_property
    def sums(self) -> npt.NDArray[np.int64]:
        """int64 (N, 2, C), see `row_sums`; from the images, if no table has counted them."""
        blocks = range(0, max(len(self), 1), ROWS_AT_ONCE)
        return np.concatenate([row_sums(self.images[i : i + ROWS_AT_ONCE]) for i in blocks])

    @property
    def statistics(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Exact mean and population std (C,) of the pixels in [0, 1]; at least one image.

        A channel that is the same everywhere has std 1.
        """
        return statistics_of_sums(self.sums, self.images.shape[1] * self.images.shape[2])


class Note(str):
    """What a user should know about images, in a line. kind: of those that a look at the images
    (`inspect_data`) tells in more detail."""

    kind: Literal["", "unreadable", "ignored", "shared"]

    def __new__(cls, text: str, kind: Literal["", "unreadable", "ignored", "shared"] = "") -> Self:
        note = super().__new__(cls, text)
        note.kind = kind
        return note


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
    notes: tuple[Note, ...] = field(default=())
    bad: tuple[str, ...] = field(default=())  # ids of unreadable files that --skip-bad left out

    def __post_init__(self) -> None:
        """Raises `ResightError` if two classes can't be told apart."""
        seen: dict[str, str] = {}
        for name in self.classes:
            same = unicodedata.normalize("NFC", name).strip()
            if same in seen:
                raise ResightError(
                    f"two classes of {self.source} have the same name, {seen[same]!r} and {name!r}:"
                    " rename one, or put their images together"
                )
            seen[same] = name

    def __repr__(self) -> str:
        parts = {"train": self.train, "val": self.val, "test": self.test}
        counts = " / ".join(f"{len(part):,} {name}" for name, part in parts.items() if part)
        return (
            f"ImageData({printable(self.name)}: {counts}, {len(self.classes):,} classes, "
            f"{self.image_size}×{self.image_size} px, {_kind(self.channels)})"
        )

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[3])

    @property
    def image_size(self) -> int:
        return int(self.train.images.shape[1])


def _kind(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")


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
