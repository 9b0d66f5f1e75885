"""Which image is in which split, and the statistics of a split: counts, mean and std."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from resight.data.groups import Groups, hold_out
from resight.data.types import ImageData, Note
from resight.errors import ResightError, did_you_mean


def stratified_split(
    labels: npt.NDArray[np.int64], fraction: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows to keep and rows to hold out, both sorted: `fraction` of each class, drawn with `seed`.

    labels: (N,). A class of two or more images has at least one on each side; a single image is
    kept. A class's draw depends only on the seed, its label and its size, and the numbers are raw
    Philox output, which numpy promises never to change.

    Raises ResightError if `fraction` is not in (0, 1).
    """
    if not 0 < fraction < 1:
        raise ResightError(f"the fraction to hold out must be between 0 and 1, not {fraction}")
    held = np.zeros(len(labels), dtype=bool)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    for members in np.split(order, starts[1:]):
        count = held_count(len(members), fraction)
        if count:
            key = (int(labels[members[0]]) << 64) | (seed & (2**64 - 1))
            draws = np.random.Philox(key=key).random_raw(len(members))
            held[members[np.argsort(draws, kind="stable")[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def held_count(size: int, fraction: float) -> int:
    """How many of a class's `size` images are held out: rounded, at least one on either side."""
    return min(max(math.floor(size * fraction + 0.5), 1), size - 1) if size > 1 else 0


def grouped_split(
    labels: npt.NDArray[np.int64], groups: Groups, fraction: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Like `stratified_split`, in whole groups: each class as near to `fraction` as they allow."""
    targets = [held_count(size, fraction) for size in np.bincount(labels).tolist()]
    held = hold_out(groups.numbers, labels, targets, seed)
    return np.flatnonzero(~held), np.flatnonzero(held)


def with_validation(data: ImageData, fraction: float, seed: int, group: str = "") -> ImageData:
    """`data` with a stratified `fraction` of train held out as `val`; mean and std of the rest.

    group: a regular expression; in whole groups, see `Groups`. The fingerprint stays: it names the
    data, not how train is used.

    Raises ResightError if `fraction` is not in (0, 0.5], if the data has its own val split, or if
    no class has an image, or a group, to spare.
    """
    if data.val is not None:
        raise ResightError(
            f"{data.source} has its own val split: leave out --val (data.val_fraction = 0)"
        )
    if not 0 < fraction <= 0.5:
        raise ResightError(f"--val (data.val_fraction) must be in (0, 0.5], not {fraction}")
    groups = Groups.find(data.train.ids, group) if group else None
    if groups is None:
        keep, held = stratified_split(data.train.labels, fraction, seed)
    else:
        keep, held = grouped_split(data.train.labels, groups, fraction, seed)
    if not len(held) and groups:
        raise nothing_to_spare(data.source, "--val", groups, group)
    if not len(held):
        raise ResightError(
            f"no image to spare for --val: every class in {data.source} has only one train image; "
            "add images, or leave out --val and --early-stop"
        )
    train, val = data.train.part(keep), data.train.part(held)
    mean, std = train.statistics
    note = f"{100 * fraction:g}% of each train class held out as val (seed {seed})"
    note += divided(keep, held, "val", groups)
    return dataclasses.replace(
        data, train=train, val=val, mean=mean, std=std, notes=(*data.notes, Note(note))
    )


def divided(
    keep: npt.NDArray[np.int64], held: npt.NDArray[np.int64], split: str, groups: Groups | None
) -> str:
    """The end of a note on images (rows) held out of train as `split`."""
    images = f", {len(keep)} train / {len(held)} {split}"
    if groups is None:
        return images
    sides = f"{len(groups.among(keep))} / {len(groups.among(held))}"
    return f" in whole groups{images} in {sides} groups"


def nothing_to_spare(where: str, split: str, groups: Groups, pattern: str) -> ResightError:
    """The error for groups of which none can be held out as `split`."""
    return ResightError(
        f"no group to spare for {split}: by --group {shlex.quote(pattern)} every class in {where} "
        f"is in a single group, such as {groups.names[0]!r}; choose a pattern that tells more apart"
    )


def check_classes(
    where: str, classes: Sequence[str], counts: Mapping[str, Sequence[int]]
) -> list[str]:
    """Notes on classes that lack images; ResightError if no training is possible.

    `counts`: split name -> images per class, the train split first (or, not yet split, "all").
    """
    if len(classes) < 2:
        only = f"only one class ('{classes[0]}')" if classes else "no class"
        raise ResightError(
            f"{only} in {where}: a classifier needs at least two; put the images of each class "
            "into a sub-folder of its own"
        )
    train, *others = counts
    for split in others:
        if not sum(counts[split]):
            raise ResightError(
                f"the {split} split of {where} has no images: put images into its class folders"
            )
    for index, name in enumerate(classes):
        if counts[train][index]:
            continue
        holders = [split for split in others if counts[split][index]]
        if holders:
            known = [c for c, count in zip(classes, counts[train], strict=True) if count]
            raise ResightError(
                f"class '{name}' is in the {holders[0]} split of {where} but not in train: both "
                f"need the same class folders{nearest(name, known)}"
            )
        raise ResightError(
            f"class '{name}' in {where} has no images: put images into its folder or remove it"
        )
    return [note for split in others for note in _missing(split, classes, counts[split])]


def check_measured(
    where: str, classes: Sequence[str], counts: Mapping[str, Sequence[int]]
) -> list[str]:
    """Like `check_classes`, but to measure a trained net: one test image is enough."""
    split = "test" if "test" in counts else "all"
    if not sum(counts[split]):
        if counts.get("train") == counts[split]:
            raise ResightError(
                f"{where} has no images to evaluate: put images into its class folders"
            )
        raise ResightError(
            f"the test split of {where} has no images: put images into its class folders"
        )
    return _missing(split, classes, counts[split])


def _missing(split: str, classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    names = [f"'{name}'" for name, count in zip(classes, counts, strict=True) if not count]
    if len(names) < 2:
        return [f"class {n} has no images in {split}: its accuracy there is unknown" for n in names]
    listed = ", ".join(names[:10]) + ", …" * (len(names) > 10)
    return [
        f"{len(names)} classes have no images in {split} ({listed}): their accuracy there is "
        "unknown"
    ]


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or an empty string if no name is close."""
    hint = did_you_mean(name, known)
    return hint if hint.startswith("; did") else ""
