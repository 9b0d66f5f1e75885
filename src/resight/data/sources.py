"""The one entrance to data: a known name or a path in, `ImageData` out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resight.data import cache, cifar, digits, folder
from resight.data.download import data_dir
from resight.data.splits import (
    check_classes,
    check_measured,
    nearest,
    statistics_of_sums,
    stratified_split,
)
from resight.data.table import Found, Progress, Table, decode_table, fingerprint, shared_images
from resight.data.types import ImageData
from resight.errors import ResightError, did_you_mean

NAMES = ("cifar10", "cifar100", "digits")
TEST_FRACTION = 0.2
LAYOUTS = (
    "train/ and test/ (or val/) with a folder a class, a folder a class, "
    f"{cifar.CIFAR10.folder}, {cifar.CIFAR100.folder} or the archive of either"
)


def load_data(
    source: str | os.PathLike[str],
    *,
    image_size: int,
    channels: int | None = None,
    split_seed: int = 0,
    skip_bad: bool = False,
    held_out: bool = True,
    progress: Progress | None = None,
) -> ImageData:
    """Decoded images of a known data set, a folder of images or a CIFAR archive.

    source: 'cifar10', 'cifar100' or 'digits', or a path. A str that is a known name always means
    the data set: './cifar10', or a `Path`, means the folder. Nothing is ever downloaded here.
    image_size: height and width in pixels; other sizes are resized by their shorter side (Lanczos)
    and cropped to the centre, 32x32 images at 32 stay as they are.
    channels: 1 or 3 to force grey or RGB; None takes 1 only where every image is grey.
    split_seed: draws the 20 % that are held out for test where the source has no test split.
    skip_bad: leave unreadable files out (`ImageData.bad`, and a note) instead of refusing.
    held_out: False to measure a trained net on these images. A source without a test split is then
    all test (and train is that same Split), one class is enough, classes without an image are left
    out, and train may lack classes or be empty, for which test takes its place.
    progress: called with (images done, images in all) while decoding, not where the cache has them.

    Raises ResightError for everything the user can mend, in one line.
    """
    if channels not in (None, 1, 3):
        raise ResightError(f"channels must be 1 (grey), 3 (RGB) or left out, not {channels}")
    if image_size < 1:
        raise ResightError(f"image_size must be at least 1 pixel, not {image_size}")
    seed = split_seed if held_out else None
    if source == "digits":
        listing = digits.read(image_size, channels)
        table = decode_table(listing, np.zeros(listing.shape, np.uint8), progress)
        return _assemble(table, "digits", "digits", [], seed, skip_bad=skip_bad)
    found = _find_named(source) if source in cifar.VARIANTS else _find(source, held_out=held_out)
    table = cache.fetch(found, image_size=image_size, channels=channels, progress=progress)
    origin = str(source) if source in cifar.VARIANTS else str(_path(source))
    return _assemble(table, found.name, origin, [*found.notes], seed, skip_bad=skip_bad)


def _path(source: str | os.PathLike[str]) -> Path:
    return Path(source).expanduser().resolve()


def _find_named(name: str) -> Found:
    variant = cifar.VARIANTS[name]
    found = cifar.find_named(variant, data_dir())
    if found is None:
        raise ResightError(
            f"{name} is not on this machine: `resight data {name}` downloads it, or put "
            f"{variant.archive} into {data_dir()} by hand; --data digits needs no download"
        )
    return found


def _find(source: str | os.PathLike[str], *, held_out: bool) -> Found:
    path = _path(source)
    try:
        if not os.fspath(source) or not path.exists():
            raise _no_such(os.fspath(source), path)
        found = cifar.find(path)
        if found is None and path.is_dir():
            below = _dataset_below(path)
            if below is not None:
                raise ResightError(
                    f"{path} holds nothing but {below.relative_to(path)}: did you mean {below}?"
                )
            found = folder.find(path, held_out=held_out)
        if found is None:
            raise _not_understood(path)
    except OSError as error:
        raise ResightError(
            f"{error.filename or path} can't be read: {error.strerror or error}"
        ) from error
    return found


def _no_such(text: str, path: Path) -> ResightError:
    """What was asked for, with the nearest known name or neighbour on the disk."""
    beside = path.parent if path.parent.is_dir() else None
    siblings = [entry.name for entry in beside.iterdir()] if beside else []
    hint = did_you_mean(text, NAMES)
    if not hint.startswith("; did") and (near := nearest(path.name, siblings)):
        hint = near
    return ResightError(
        f"no data '{text}': neither a known name nor a file or folder that exists{hint}"
    )


def _dataset_below(path: Path) -> Path | None:
    """The data set inside folders that hold nothing but one folder: unzipped one level too deep."""
    for _ in range(4):
        inside = folder.subfolders(path)
        if len(inside) != 1:
            return None
        path = inside[0]
        if cifar.find(path) or folder.is_dataset(path):
            return path
    return None


def _not_understood(path: Path) -> ResightError:
    if path.is_file():
        return ResightError(
            f"{path} is no archive that is understood ({cifar.CIFAR10.archive}, "
            f"{cifar.CIFAR100.archive}): unpack it and give the folder"
        )
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    more = f", … ({len(names)} in all)" if len(names) > 5 else ""
    holds = ", ".join(names[:5]) + more or "nothing"
    return ResightError(f"{path} holds {holds}; understood are {LAYOUTS}")


def _assemble(
    table: Table, name: str, source: str, notes: list[str], seed: int | None, *, skip_bad: bool
) -> ImageData:
    """The splits of `table`; `seed` None: to be measured, so nothing is held out."""
    if table.bad and not skip_bad:
        raise _unreadable(table, source)
    if table.bad:
        notes.append(f"{len(table.bad)} unreadable files left out: {_bad_files(table)}")
    splits = _split_rows(table, seed)
    one = splits["train"] is splits["test"]
    counts = {
        split: np.bincount(table.labels[rows], minlength=len(table.classes)).tolist()
        for split, rows in splits.items()
    }
    if len(table.parts) == 1:  # "all"
        notes.append(
            f"{source} has no test split: all {len(splits['test'])} images are measured"
            if seed is None
            else f"no test split in {source}: 20 % of each class held out (seed {seed}), "
            f"{len(splits['train'])} train / {len(splits['test'])} test"
        )
    check = check_measured if seed is None else check_classes
    notes += check(source, table.classes, counts)
    if not one:
        notes += [_shared(table, splits, other) for other in splits if other != "train"]
    mean, std = statistics_of_sums(
        table.sums[splits["train"]], table.images.shape[1] * table.images.shape[2]
    )
    test = table.split(splits["test"])
    return ImageData(
        name=name,
        source=source,
        classes=table.classes,
        train=test if one else table.split(splits["train"]),
        test=test,
        val=table.split(splits["val"]) if "val" in splits else None,
        mean=mean,
        std=std,
        fingerprint=fingerprint(table, splits),
        notes=tuple(note for note in notes if note),
        bad=tuple(str(table.ids[row]) for row in table.bad),
    )


def _split_rows(table: Table, seed: int | None) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of each split without the unreadable ones; without a seed to split by, see `load_data`.

    Where train and test are the same images they are the same array.
    """
    good = np.ones(len(table.labels), dtype=bool)
    good[list(table.bad)] = False
    starts = np.cumsum([0, *(rows for _, rows in table.parts)])
    splits = {
        split: start + np.flatnonzero(good[start : start + rows])
        for (split, rows), start in zip(table.parts, starts[:-1], strict=True)
    }
    if "all" in splits:
        rows = splits["all"]
        if seed is None:
            return {"train": rows, "test": rows}
        keep, held = stratified_split(table.labels[rows], TEST_FRACTION, seed)
        return {"train": rows[keep], "test": rows[held]}
    if seed is None:
        splits = {name: rows for name, rows in splits.items() if name != "val" or len(rows)}
        if not len(splits["train"]):
            splits["train"] = splits["test"]
    return splits


def _shared(table: Table, splits: dict[str, npt.NDArray[np.int64]], other: str) -> str:
    """A note on images of `other` that are in train too, pixel for pixel; empty where none is."""
    pairs = shared_images(table, splits["train"], splits[other])
    if not pairs:
        return ""
    first, second = (str(table.ids[row]) for row in pairs[0])
    images = "1 image is" if len(pairs) == 1 else f"{len(pairs)} images are"
    return (
        f"{images} in {other} and, pixel for pixel, in train too, which flatters the {other} "
        f"accuracy (first: {second} = {first})"
    )


def _unreadable(table: Table, source: str) -> ResightError:
    return ResightError(
        f"{len(table.bad)} of {len(table.labels)} images in {source} can't be read: "
        f"{_bad_files(table)}; replace or remove them, or leave them out with --skip-bad"
    )


def _bad_files(table: Table) -> str:
    first = [f"{table.ids[row]} ({why})" for row, why in list(table.bad.items())[:10]]
    more = f" and {len(table.bad) - 10} more" if len(table.bad) > 10 else ""
    return ", ".join(first) + more
