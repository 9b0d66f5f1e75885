"""Test images that are also in train, pixel for pixel or nearly: they inflate the accuracy.

An exact duplicate has the same pixels: found by hash, then compared. A near duplicate is the same
picture shifted, scaled, recompressed, recoloured or mirrored. It is found by a descriptor: the
image averaged down to 8×8 cells, minus the mean of each row and of each column, per channel, at
unit norm. Of a ship between sea and sky only the ship is left, so two such pictures are not
duplicates. Two images are near duplicates if the cosine of their descriptors is at least 0.91 and
the root mean square difference of their pixels at most 40 grey levels.

Both bounds were chosen from contact sheets of a JPEG copy of CIFAR-10. They find 243 of the 10,000
test images, 21 of them mirrored; only one of those pairs clearly showed two different pictures.
Below 0.91 come aeroplanes in an empty sky, above 40 grey levels the same pose in another colour.
Barz and Denzler (arXiv:1902.00423), who searched with a net and by eye, count 3.3 %.

Where all images are alike, similarity proves nothing: of 8×8 digits, without any copy, 0.91 would
call every third test image a duplicate. So 1 − cosine must also be below half the square of its
usual value for the tenth nearest image: 0.43 in CIFAR-10, where 0.91 stays the bound, and 0.23 in
digits, where it becomes 0.97 and none is found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resight.data.rows import row_digests

MIN_COSINE = 0.91
MAX_DISTANCE = 40.0  # grey levels
GRID = 8  # cells per side of a descriptor
MIN_CONTRAST = 2.0  # grey levels (RMS) of a descriptor: below, only noise is left
USUAL_RANK, USUAL_TRAIN, USUAL_TEST = 10, 10_000, 500
TRAIN_ROWS, TEST_ROWS = 25_000, 512  # at once: 50 MB of cosines
PIXELS_AT_ONCE = 4_000_000  # as float32: 16 MB
MAX_CANDIDATES = 16  # compared by their pixels, per image and block of train

Images = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
Descriptors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Duplicate:
    """Test image `test` is a duplicate of train image `train` (rows). distance: the root mean
    square difference of their pixels in grey levels, 0 to 255; if `mirrored`, after mirroring the
    test image left to right."""

    test: int
    train: int
    kind: Literal["exact", "near"]
    distance: float
    mirrored: bool = False


def find_duplicates(
    train_images: Images,
    test_images: Images,
    *,
    near: bool = True,
    device: torch.device | None = None,
) -> list[Duplicate]:
    """At most one duplicate in train for each test image, in the order of test.

    Images: uint8 (N, H, W, C) and (M, H, W, C), memory maps too. An exact duplicate (the first in
    train) takes precedence over a near one (the nearest of the likeliest). 10,000 against 50,000
    images of 32 px take 10 s on one core and 130 MB. device: where descriptors are compared; by
    default the CPU.
    """
    assert train_images.shape[1:] == test_images.shape[1:], (train_images.shape, test_images.shape)
    found = {duplicate.test: duplicate for duplicate in _exact(train_images, test_images)}
    rest = np.array([row for row in range(len(test_images)) if row not in found], np.int64)
    if near and len(train_images) and len(rest):
        for duplicate in _near(train_images, test_images, rest, device or torch.device("cpu")):
            known = found.get(duplicate.test)
            if known is None or duplicate.distance < known.distance:
                found[duplicate.test] = duplicate
    return [found[row] for row in sorted(found)]


def _exact(train: Images, test: Images) -> Iterator[Duplicate]:
    rows: dict[bytes, int] = {}
    for row, digest in enumerate(row_digests(train)):
        rows.setdefault(digest.tobytes(), row)
    for row, digest in enumerate(row_digests(test)):
        same = rows.get(digest.tobytes())
        if same is not None and np.array_equal(train[same], test[row]):
            yield Duplicate(row, same, "exact", 0.0)


def _near(train: Images, test: Images, rows: Rows, device: torch.device) -> Iterator[Duplicate]:
    """The test `rows` that have a near duplicate in a block of train, each with the nearest."""
    least = 1 - min(1 - MIN_COSINE, usual_distance(train, test) ** 2 / 2)
    queries = describe(test, rows)
    both = {
        False: torch.from_numpy(_flat(queries)).to(device),
        True: torch.from_numpy(_flat(np.ascontiguousarray(queries[:, :, ::-1]))).to(device),
    }
    for start in range(0, len(train), TRAIN_ROWS):
        block = np.arange(start, min(start + TRAIN_ROWS, len(train)))
        keys = torch.from_numpy(_flat(describe(train, block))).to(device).T
        for first in range(0, len(rows), TEST_ROWS):
            for mirrored, flat in both.items():
                cosines = flat[first : first + TEST_ROWS] @ keys
                for i in (cosines.amax(1) >= least).nonzero().flatten().tolist():
                    likely = _likeliest(cosines[i], least) + start
                    row = int(rows[first + i])
                    closest, distance = _nearest(train, likely, test[row], mirrored=mirrored)
                    if distance <= MAX_DISTANCE:
                        yield Duplicate(row, closest, "near", distance, mirrored)


def _likeliest(cosines: Tensor, least: float) -> Rows:
    """The rows of at most 16 of `cosines` (n,) that are at least `least`, the highest first."""
    values, rows = cosines.topk(min(MAX_CANDIDATES, len(cosines)))
    found = rows.cpu().numpy()[values.cpu().numpy() >= least]
    return found.astype(np.int64)


def _nearest(train: Images, rows: Rows, image: Images, *, mirrored: bool) -> tuple[int, float]:
    """The one of train's `rows` whose pixels are nearest to `image`'s, and the distance."""
    differences = train[rows].astype(np.float32) - (image[:, ::-1] if mirrored else image)
    distances = _rms(differences)
    best = int(distances.argmin())
    return int(rows[best]), float(distances[best])


def usual_distance(train: Images, test: Images) -> float:
    """The median over test of 1 − cosine to the tenth nearest image of train.

    Over evenly spaced images, at most 500 of test and 10,000 of train; 1 with fewer than ten in
    train. The tenth, so that a few copies in train of each test image don't count as usual.
    """
    if len(train) < USUAL_RANK:
        return 1.0
    queries, keys = (
        _flat(describe(images, np.linspace(0, len(images) - 1, min(most, len(images)), dtype=int)))
        for images, most in ((test, USUAL_TEST), (train, USUAL_TRAIN))
    )
    tenth = np.partition(queries @ keys.T, -USUAL_RANK, axis=1)[:, -USUAL_RANK]
    return 1 - float(np.median(tenth))


def describe(images: Images, rows: Rows) -> Descriptors:
    """The descriptors of images[rows]: float32 (n, 8, 8, C) at unit norm, fewer cells if smaller.

    All zero if next to nothing is left without the means: one colour, or plain stripes.
    """
    height, width, channels = images.shape[1:]
    down, across = _averages(min(GRID, height), height), _averages(min(GRID, width), width)
    cells = np.empty((len(rows), len(down), len(across), channels), dtype=np.float32)
    step = max(1, PIXELS_AT_ONCE // (height * width * channels))
    for start in range(0, len(rows), step):
        pixels = images[rows[start : start + step]].astype(np.float32)
        columns = np.tensordot(pixels, across, (2, 1))  # (n, H, C, 8)
        cells[start : start + step] = np.tensordot(columns, down, (1, 1)).transpose(0, 3, 2, 1)
    cells -= cells.mean(1, keepdims=True)
    cells -= cells.mean(2, keepdims=True)
    contrast = _rms(cells)
    norm = contrast * math.sqrt(math.prod(cells.shape[1:]))
    cells /= np.where(contrast >= MIN_CONTRAST, norm, np.inf)[:, None, None, None]
    return cells


def _averages(cells: int, pixels: int) -> npt.NDArray[np.float32]:
    """(cells, pixels): the share of each pixel in each of equal cells; rows sum to 1."""
    edges = np.arange(cells + 1)[:, None] * (pixels / cells)
    covered = np.clip(edges - np.arange(pixels), 0, 1)  # of each pixel, left of each edge
    return np.asarray(np.diff(covered, axis=0) * (cells / pixels), dtype=np.float32)


def _flat(descriptors: Descriptors) -> Descriptors:
    return descriptors.reshape(len(descriptors), math.prod(descriptors.shape[1:]))


def _rms(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The root mean square of each image's values: (N, H, W, C) -> (N,)."""
    flat = _flat(values)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", flat, flat) / flat.shape[1]), dtype=np.float32)
