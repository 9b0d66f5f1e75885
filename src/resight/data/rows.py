"""What is kept of each image besides its pixels, so that nothing needs a second pass over them."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 16


def row_digests(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A 16-byte BLAKE2b hash of each image's pixels: (N, H, W, C) -> (N, 16)."""
    digests = b"".join(
        hashlib.blake2b(image.tobytes(), digest_size=DIGEST_BYTES).digest() for image in images
    )
    return np.frombuffer(digests, dtype=np.uint8).reshape(len(images), DIGEST_BYTES)


def row_sums(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Sum of the pixels and of their squares per image and channel: (N, H, W, C) -> (N, 2, C)."""
    flat = images.reshape(len(images), -1, images.shape[3])
    planes = np.ascontiguousarray(flat.transpose(0, 2, 1))  # 8 times faster along the last axis
    squares = np.square(planes, dtype=np.uint16)  # 255² fits
    return np.stack([values.sum(axis=2, dtype=np.int64) for values in (planes, squares)], axis=1)


def statistics_of_sums(
    sums: npt.NDArray[np.int64], pixels: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and std (C,) in [0, 1] from `row_sums` (N, 2, C) of images of `pixels` pixels each.

    In Python integers until the last division, so nothing saturates or cancels. A channel that
    is the same everywhere gets std 1, so that normalising never divides by zero.
    """
    count = len(sums) * pixels
    totals, squares = ([int(value) for value in part] for part in sums.sum(axis=0))
    mean = [total / (255 * count) for total in totals]
    spread = [count * square - total**2 for total, square in zip(totals, squares, strict=True)]
    std = [math.sqrt(value) / (255 * count) if value else 1.0 for value in spread]
    return np.array(mean), np.array(std)
