"""Checks of the images themselves: their statistics, and duplicates across train and test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from resight.data.duplicates import Duplicate
from resight.data.types import ImageData, Split
from resight.diagnosis.thresholds import THRESHOLDS
from resight.findings import Finding

LISTED = {  # where near duplicates are, by split
    "test": "look at them in the report",
    "val": "`resight data` lists them, with the same --val if it was held out by that",
}


def split_statistics(data: ImageData) -> Iterator[Finding]:
    """Splits whose pixels, normalised as the net sees them, are very different from train's."""
    for name in ("train", "val", "test"):
        split: Split | None = getattr(data, name)
        if split is None or (name != "train" and split is data.train):
            continue
        yield from _unlike(name, split, data.mean, data.std)


def _unlike(
    name: str,
    split: Split,
    mean: npt.NDArray[np.float64],
    std: npt.NDArray[np.float64],
) -> Iterator[Finding]:
    own_mean, own_std = split.statistics
    shift = np.abs(own_mean - mean) / std
    ratio = np.maximum(own_std / std, std / np.maximum(own_std, 1e-9))
    # with few images, their mean is uncertain
    pixels = split.images.shape[1] * split.images.shape[2]
    spread = (split.sums[:, 0] / (255 * pixels)).std(0)
    luck = THRESHOLDS.standard_errors * spread / np.sqrt(len(split)) / std
    bound = THRESHOLDS.own_mean_sd if name == "train" else THRESHOLDS.split_mean_sd
    channel = int((shift - luck).argmax())
    shifted = bool(shift[channel] > bound + luck[channel])
    enough = len(split) >= THRESHOLDS.split_sd_images
    scaled = enough and bool((ratio > THRESHOLDS.split_sd_ratio).any())
    if not shifted and not scaled:
        return
    if not shifted:
        channel = int(ratio.argmax())
    yield Finding(
        name="split-statistics",
        severity="problem",
        title="the train images are not normalised correctly"
        if name == "train"
        else f"the {name} images are very different from the training images",
        evidence=f"channel {channel} of {name} has mean {own_mean[channel]:.3f} and sd "
        f"{own_std[channel]:.3f}, but is normalised with mean {mean[channel]:.3f} and sd "
        f"{std[channel]:.3f}: off by {shift[channel]:.2f} sd",
        threshold=f"a mean off by more than {bound:g} sd, or an sd "
        f"{THRESHOLDS.split_sd_ratio:g} times too large or too small",
        advice=f"check where the {name} images come from: a different camera, inverted or grey "
        "images, different preprocessing; all splits must be prepared the same way",
    )


def leakage(duplicates: list[Duplicate], images: int, split: str = "test") -> Iterator[Finding]:
    """Images of a split, of which there are `images`, that are also in train, exactly or nearly."""
    exact = sum(d.kind == "exact" for d in duplicates)
    near = len(duplicates) - exact
    share = exact / images
    if exact >= THRESHOLDS.leak_note:
        yield Finding(
            name="leakage",
            severity="problem" if share > THRESHOLDS.leak_problem else "note",
            title=f"{split} images also appear in train",
            evidence=f"{exact:,} of {images:,} {split} images ({share:.1%}), pixel for pixel",
            threshold=f"{THRESHOLDS.leak_note} image; a problem above "
            f"{THRESHOLDS.leak_problem:.0%}",
            advice="remove them from one of the two splits "
            + "(the report lists the first hundred) " * (split == "test")
            + "and train again",
        )
    if near / images > THRESHOLDS.near_note:
        yield Finding(
            name="near-duplicates",
            severity="note",
            title=f"{split} images have near duplicates in train",
            evidence=f"{near:,} of {images:,} {split} images ({near / images:.1%})",
            threshold=f"{THRESHOLDS.near_note:.0%} of the {split} images",
            advice=f"{LISTED[split]}; keep pictures of the same scene in one split (--group REGEX, "
            "where the file names tell which they are)",
        )
