"""Images that are there twice, pixel for pixel or nearly.

`find_duplicates`: test images that are also in train, where they inflate the accuracy.
`find_twins`: any two of the images of a table.

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

Twins are searched for by shortened descriptors: their parts along the 31 directions in which
descriptors differ most, and the length of the rest. By Cauchy and Schwarz the product of two of
these is never below the cosine, so that no pair is missed and few need their whole descriptors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from resight.data.rows import row_digests
from resight.data.table import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MIN_COSINE = 0.91
MAX_DISTANCE = 40.0  # grey levels
GRID = 8  # cells per side of a descriptor
MIN_CONTRAST = 2.0  # grey levels (RMS) of a descriptor: below, only noise is left
USUAL_RANK, USUAL_TRAIN, USUAL_TEST = 10, 10_000, 500
TRAIN_ROWS, TEST_ROWS = 25_000, 512  # at once: 50 MB of cosines
PIXELS_AT_ONCE = 4_000_000  # as float32: 16 MB
MAX_CANDIDATES = 16  # compared by their pixels, per image and block of train
SHORT_LENGTH = 32  # of a shortened descriptor
DIRECTIONS_ROWS = 5000  # from which its directions are taken
FIRST_ROWS, SECOND_ROWS = 512, 8192  # at once: 16 MB of products
ROUNDING = 1e-4  # of a product in float32

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


@dataclass(frozen=True)
class Twins:
    """Rows `first` < `second` show the same picture; the rest is as in `Duplicate`."""

    first: int
    second: int
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
    import torch

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
    import torch

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
    queries, keys = (
        _flat(describe(images, _spread(len(images), most)))
        for images, most in ((test, USUAL_TEST), (train, USUAL_TRAIN))
    )
    return _usual(queries, keys, USUAL_RANK)


def _usual(queries: Descriptors, keys: Descriptors, rank: int) -> float:
    """The median over `queries` of 1 − cosine to the key that is nearest but `rank` − 1."""
    if len(keys) < rank:
        return 1.0
    ranked = np.partition(queries @ keys.T, -rank, axis=1)[:, -rank]
    return 1 - float(np.median(ranked))


def _spread(total: int, most: int) -> Rows:
    """At most `most` evenly spaced of `total` rows."""
    return np.linspace(0, total - 1, min(most, total), dtype=np.int64)


def find_twins(
    images: Images,
    rows: Rows,
    digests: npt.NDArray[np.uint8],
    *,
    near: bool = True,
    progress: Progress | None = None,
) -> list[Twins]:
    """The pairs among `rows` (sorted) of a table that show the same picture, in order.

    images, digests: of the whole table, see `Table`. Each exact copy is paired with the first one;
    a near one with at most 16 of those that follow it. 60,000 images of 32 px take 6 s on one
    core. progress: called with (images done, total) by the search for near ones.
    """
    if not len(rows):
        return []
    keys = np.ascontiguousarray(digests[rows]).view(f"V{digests.shape[1]}").ravel()
    _, firsts, group = np.unique(keys, return_index=True, return_inverse=True)
    original = rows[firsts[group]]
    found = [
        Twins(first, row, "exact", 0.0)
        for first, row in zip(original.tolist(), rows.tolist(), strict=True)
        if first != row
    ]
    if near:
        with threadpool_limits(1):  # threads that wait for each other at each small product
            found += _near_twins(images, np.unique(original), progress)
    return sorted(found, key=lambda twins: (twins.first, twins.second))


def _near_twins(images: Images, rows: Rows, progress: Progress | None) -> Iterator[Twins]:
    """The near ones among different images."""
    described = describe(images, rows)
    whole = {False: _flat(described), True: _flat(np.ascontiguousarray(described[:, :, ::-1]))}
    flat = whole[False]
    keys = flat[_spread(len(flat), USUAL_TRAIN)]
    usual = _usual(keys[_spread(len(keys), USUAL_TEST)], keys, USUAL_RANK + 1)  # itself is one
    least = 1 - min(1 - MIN_COSINE, usual**2 / 2)
    basis = _main_directions(flat)
    short = {mirrored: _shortened(descriptors, basis) for mirrored, descriptors in whole.items()}
    memory = np.empty(FIRST_ROWS * SECOND_ROWS, np.float32)  # new memory takes longer than products
    for start in range(0, len(rows), FIRST_ROWS):
        block = slice(start, min(start + FIRST_ROWS, len(rows)))
        nearest: dict[tuple[int, int], tuple[float, bool]] = {}
        for mirrored in (False, True):
            first, second = _alike(
                flat, whole[mirrored], short[False], short[mirrored], block, least, memory
            )
            distances = _distances(images, rows[first], rows[second], mirrored=mirrored)
            for i in np.flatnonzero(distances <= MAX_DISTANCE).tolist():
                pair = int(rows[first[i]]), int(rows[second[i]])
                now = (float(distances[i]), mirrored)
                nearest[pair] = min(nearest.get(pair, now), now)
        for (one, other), (distance, mirrored) in nearest.items():
            yield Twins(one, other, "near", distance, mirrored)
        if progress is not None:
            progress(block.stop, len(rows))


def _main_directions(flat: Descriptors) -> Descriptors:
    """(D, 31) orthonormal: where descriptors differ most."""
    sample = flat[_spread(len(flat), DIRECTIONS_ROWS)].astype(np.float64)
    _, vectors = np.linalg.eigh(sample.T @ sample)  # eigenvalues rise
    return vectors[:, -(SHORT_LENGTH - 1) :].astype(np.float32)


def _shortened(flat: Descriptors, basis: Descriptors) -> Descriptors:
    """(n, 32): the parts along `basis`, and the length of what is left."""
    along = flat @ basis
    rest = np.einsum("ij,ij->i", flat, flat) - np.einsum("ij,ij->i", along, along)
    return np.column_stack([along, np.sqrt(np.maximum(rest, 0))])


def _alike(
    flat: Descriptors,
    others: Descriptors,
    short: Descriptors,
    short_others: Descriptors,
    block: slice,
    least: float,
    memory: Descriptors,
) -> tuple[Rows, Rows]:
    """The pairs (row of `block`, a later row of `others`) whose cosine is at least `least`; for
    each row at most 16, those of the highest. memory: for the products of a block."""
    pairs: list[tuple[Rows, Rows, Descriptors]] = []
    for start in range(block.start, len(flat), SECOND_ROWS):
        queries, keys = short[block], short_others[start : start + SECOND_ROWS]
        products = memory[: len(queries) * len(keys)].reshape(len(queries), len(keys))
        likely = np.matmul(queries, keys.T, out=products) >= least - ROUNDING
        near, far = np.flatnonzero(likely.any(1)), np.flatnonzero(likely.any(0))
        cosines = flat[block][near] @ others[start : start + SECOND_ROWS][far].T
        i, j = np.nonzero(cosines >= least)
        first, second = near[i] + block.start, far[j] + start
        later = second > first
        pairs.append((first[later], second[later], cosines[i, j][later]))
    first, second, cosine = (np.concatenate(part) for part in zip(*pairs, strict=True))
    order = np.lexsort((-cosine, first))
    first, second = first[order], second[order]
    rank = np.arange(len(first)) - np.searchsorted(first, first)
    return first[rank < MAX_CANDIDATES], second[rank < MAX_CANDIDATES]


def _distances(
    images: Images, first: Rows, second: Rows, *, mirrored: bool
) -> npt.NDArray[np.float32]:
    """The root mean square difference of the pixels of each pair; mirrored: of the second one's."""
    distances = np.empty(len(first), dtype=np.float32)
    step = max(1, PIXELS_AT_ONCE // math.prod(images.shape[1:]))
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        others = images[second[part]]
        others = others[:, :, ::-1] if mirrored else others
        distances[part] = _rms(images[first[part]].astype(np.float32) - others)
    return distances


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
