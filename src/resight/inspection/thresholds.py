"""The thresholds of everything that is found in images before a training, in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Where each finding starts. `docs/data.md` says why. What near duplicates are: see
    `data/duplicates.py`."""

    # light: in grey levels, 0 to 255, of the pixels that the net will see
    blank_sd: float = 3.0  # sd within each channel, at most: hardly any contrast
    dark_level: float = 50.0  # mean + 2 sd at most: nothing in it is bright
    bright_level: float = 205.0  # mean − 2 sd at least: nothing in it is dark
    # size: of the file's image, upright
    thin_ratio: float = 3.0  # longer side / shorter, at least: a square holds a third of it
    tiny_px: int = 8  # shorter side: below, there is nothing to see
    tiny_share: float = 0.5  # shorter side / the size that is trained on: below, it is blown up
    imbalance_ratio: float = 5.0  # images of the largest class / of the smallest, to train on
    # copies
    leak_problem: float = 0.01  # share of a split's images that are in train, pixel for pixel
    compared_images: int = 100_000  # among more, near duplicates are not searched for


THRESHOLDS = Thresholds()
