"""The entry point to data: a known name or a path in, `ImageData` out."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resight.characters import is_utf8
from resight.data import cache, cifar, digits, folder
from resight.data.download import data_dir
from resight.data.groups import Groups
from resight.data.splits import (
    check_classes,
    check_measured,
    divided,
    grouped_split,
    nearest,
    nothing_to_spare,
    stratified_split,
)
from resight.data.table import (
    Found,
    Progress,
    Table,
    decode_table,
    fingerprint,
    in_memory,
    shared_images,
)
from resight.data.types import ImageData, Note
from resight.errors import ResightError, did_you_mean
from resight.recipe.settings import Fit

NAMES = ("cifar10", "cifar100", "digits")
TEST_FRACTION = 0.2
LAYOUTS = (
    "one sub-folder of images per class, train/ and test/ (or val/) with such sub-folders, "
    f"{cifar.CIFAR10.folder}, {cifar.CIFAR100.folder} or the archive of either"
)


def load_data(
    source: str | os.PathLike[str],
    *,
    image_size: int,
    channels: int | None = None,
    fit: Fit = "crop",
    split_seed: int = 0,
    group: str = "",
    skip_bad: bool = False,
    held_out: bool = True,
    progress: Progress | None = None,
) -> ImageData:
    """Decoded images of a known data set, a folder of images or a CIFAR archive.

    source: 'cifar10', 'cifar100' or 'digits', or a path. A str that is a known name always means
    the data set: use './cifar10' or a `Path` for a folder of that name. Nothing is downloaded here.
    image_size: height and width in pixels; images of another size are resized (Lanczos), images of
    that size are used unchanged. fit: how images that are not square become so, see `decode.fit`.
    channels: 1 or 3 to force grey or RGB; None takes 1 only if every image is grey.
    split_seed: the seed of the 20 % held out for test if the source has no test split. group: a
    regular expression that names the group of an image by its id, which no split divides: see
    `Groups`; "" for none.
    skip_bad: leave unreadable files out (`ImageData.bad`, and a note) instead of raising.
    held_out: False to measure a trained net on these images. A source without a test split is then
    all test (and train is that same Split), one class is enough, classes without images are left
    out, and train may lack classes; if it is empty, test takes its place.
    progress: called with (images done, total) while decoding, not for images from the cache.

    Raises ResightError for everything the user can fix, in one line.
    """
    if channels not in (None, 1, 3):
        raise ResightError(f"channels must be 1 (grey), 3 (RGB) or left out, not {channels}")
    if image_size < 1:
        raise ResightError(f"image_size must be at least 1 pixel, not {image_size}")
    seed = split_seed if held_out else None
    if source == "digits":
        listing = digits.read(image_size, channels)
        table = decode_table(listing, in_memory(listing), progress)
        return _assemble(table, "digits", "digits", [], seed, group, skip_bad=skip_bad)
    found = _find_named(source) if source in cifar.VARIANTS else find(source, held_out=held_out)
    table = cache.fetch(found, image_size=image_size, channels=channels, fit=fit, progress=progress)
    origin = str(source) if source in cifar.VARIANTS else str(_path(source))
    return _assemble(table, found.name, origin, [*found.notes], seed, group, skip_bad=skip_bad)


def _path(source: str | os.PathLike[str]) -> Path:
    return Path(source).expanduser().resolve()


def _find_named(name: str) -> Found:
    variant = cifar.VARIANTS[name]
    found = cifar.find_named(variant, data_dir())
    if found is None:
        raise ResightError(
            f"{name} is not on this machine: `resight data {name}` downloads it, or put "
            f"{variant.archive} into {data_dir()} yourself; --data digits needs no download"
        )
    return found


_listed: dict[tuple[Path, bool], Found] | None = None


@contextlib.contextmanager
def listed_once() -> Iterator[None]:
    """Within it, `find` lists each path once. For a command: in a process that lives longer, files
    may change from one call to the next."""
    global _listed
    _listed = {}
    try:
        yield
    finally:
        _listed = None


def find(source: str | os.PathLike[str], *, held_out: bool = True) -> Found:
    """The images at a path, not yet read; held_out: as in `load_data`. Raises `ResightError`."""
    path, known = _path(source), _listed
    if known is not None and (path, held_out) in known:
        return known[path, held_out]
    found = _find(source, path, held_out=held_out)
    if known is not None:
        known[path, held_out] = found
    return found


def _find(source: str | os.PathLike[str], path: Path, *, held_out: bool) -> Found:
    try:
        if not os.fspath(source) or not path.exists():
            raise _no_such(os.fspath(source), path)
        if not is_utf8(str(path)):  # which a run's files could not name
            raise ResightError(f"the path {str(path)!r} is not valid UTF-8: rename it")
        found = cifar.find(path)
        if found is None and path.is_dir():
            below = _dataset_below(path)
            if below is not None:
                raise ResightError(
                    f"{path} contains only {below.relative_to(path)}: did you mean {below}?"
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
    """The error for a path that does not exist, with the closest known name or neighbour."""
    beside = path.parent if path.parent.is_dir() else None
    siblings = [entry.name for entry in beside.iterdir()] if beside else []
    hint = did_you_mean(text, NAMES)
    if not hint.startswith("; did") and (near := nearest(path.name, siblings)):
        hint = near
    return ResightError(f"no data '{text}': not a known name, and no such file or folder{hint}")


def _dataset_below(path: Path) -> Path | None:
    """The data set inside folders that contain only one folder: unzipped one level too deep."""
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
            f"{path} is not a supported file: expected a folder, {cifar.CIFAR10.archive} or "
            f"{cifar.CIFAR100.archive}; unpack any other archive and give its folder"
        )
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    more = f", … ({len(names)} in all)" if len(names) > 5 else ""
    contents = ", ".join(names[:5]) + more or "nothing"
    return ResightError(
        f"{path} contains {contents}: expected {LAYOUTS}; put the images of each class into a "
        "sub-folder named after it"
    )


def _assemble(
    table: Table,
    name: str,
    source: str,
    notes: list[Note],
    seed: int | None,
    group: str,
    *,
    skip_bad: bool,
) -> ImageData:
    """`table` as `ImageData`; `seed` None: to be measured, so nothing is held out."""
    if table.bad and not skip_bad:
        raise _unreadable(table, source)
    if table.bad:
        files = "1 unreadable file" if len(table.bad) == 1 else f"{len(table.bad)} unreadable files"
        notes.append(Note(f"{files} left out: {_bad_files(table)}", "unreadable"))
    groups = _groups(table, group, source) if group and seed is not None else None
    splits = _split_rows(table, seed, groups)
    if groups and not len(splits["test"]):
        raise nothing_to_spare(source, "test", groups, group)
    one = splits["train"] is splits["test"]
    counts = {
        split: np.bincount(table.labels[rows], minlength=len(table.classes)).tolist()
        for split, rows in splits.items()
    }
    if len(table.parts) == 1:  # "all"
        held = f"all {len(splits['test'])} images are evaluated"
        if seed is not None:
            held = f"20% of each class held out (seed {seed})"
            held += divided(splits["train"], splits["test"], "test", groups)
        notes.append(Note(f"no test split in {source}: {held}"))
    if groups and groups.alone:
        alone = (
            f"{len(groups.alone)} of {len(table.ids)} images are groups of their own, because "
            f"--group {shlex.quote(group)} is not in their names (first: {groups.alone[0]})"
        )
        notes.append(Note(alone))
    if seed is not None:
        _check_readable(table, source)
        _check_spare(table, splits, source)
    check = check_measured if seed is None else check_classes
    notes += map(Note, check(source, table.classes, counts))
    if not one:
        others = [other for other in splits if other != "train"]
        notes += [Note(_shared(table, splits, other), "shared") for other in others]
        if groups:
            notes += [Note(_divided_groups(groups, splits, other)) for other in others]
    test = table.split(splits["test"])
    train = test if one else table.split(splits["train"])
    mean, std = train.statistics
    return ImageData(
        name=name,
        source=source,
        classes=table.classes,
        train=train,
        test=test,
        val=table.split(splits["val"]) if "val" in splits else None,
        mean=mean,
        std=std,
        fingerprint=fingerprint(table, splits),
        notes=tuple(note for note in notes if note),
        bad=tuple(str(table.ids[row]) for row in table.bad),
    )


def _check_readable(table: Table, source: str) -> None:
    """Raise `ResightError` for a class that has files of which none can be read."""
    bad = np.bincount(table.labels[list(table.bad)], minlength=len(table.classes))
    every = np.bincount(table.labels, minlength=len(table.classes))
    for label in np.flatnonzero((bad == every) & (every > 0)).tolist():
        first = next(row for row in table.bad if table.labels[row] == label)
        raise ResightError(
            f"no image of class '{table.classes[label]}' in {source} can be read "
            f"({table.ids[first]}: {table.bad[first]}): replace them or remove the class's folder"
        )


def _check_spare(table: Table, splits: dict[str, npt.NDArray[np.int64]], source: str) -> None:
    """Raise `ResightError` where a test split is to be made and every class has one image only."""
    if len(table.parts) == 1 and len(splits["train"]) and not len(splits["test"]):
        raise ResightError(
            f"no image in {source} to spare for a test split: no class has more than one; add "
            "images, or put others into test/ beside train/"
        )


def _groups(table: Table, pattern: str, source: str) -> Groups:
    """The groups of all images; `ResightError` for those that say nothing."""
    groups = Groups.find(table.ids, pattern)
    if len(groups.names) == 1 < len(table.ids):
        raise ResightError(
            f"--group {shlex.quote(pattern)} puts all images in {source} into one group, "
            f"{groups.names[0]!r}: choose a pattern whose (…) differs from person to person or "
            "scene to scene"
        )
    if len(groups.alone) == len(table.ids):
        raise ResightError(
            f"--group {shlex.quote(pattern)} is in no name of an image in {source}, such as "
            f"{groups.alone[0]!r}: choose a pattern that is, or leave it out"
        )
    return groups


def _split_rows(
    table: Table, seed: int | None, groups: Groups | None
) -> dict[str, npt.NDArray[np.int64]]:
    """The readable rows of each split; without a seed, as `held_out` of `load_data` says.

    If train and test are the same images, they are the same array.
    """
    splits = table.readable()
    if "all" in splits:
        rows = splits["all"]
        if seed is None:
            return {"train": rows, "test": rows}
        labels = table.labels[rows]
        if groups is None:
            keep, held = stratified_split(labels, TEST_FRACTION, seed)
        else:
            keep, held = grouped_split(labels, groups.at(rows), TEST_FRACTION, seed)
        return {"train": rows[keep], "test": rows[held]}
    if seed is None:
        splits = {name: rows for name, rows in splits.items() if name != "val" or len(rows)}
        if not len(splits["train"]):
            splits["train"] = splits["test"]
    return splits


def _shared(table: Table, splits: dict[str, npt.NDArray[np.int64]], other: str) -> str:
    """A note on images of `other` that are also in train, pixel for pixel; empty if none is."""
    pairs = shared_images(table, splits["train"], splits[other])
    if not pairs:
        return ""
    first, second = (str(table.ids[row]) for row in pairs[0])
    images = f"1 {other} image is" if len(pairs) == 1 else f"{len(pairs)} {other} images are"
    return (
        f"{images} also in train, pixel for pixel, which inflates the {other} accuracy "
        f"(first: {second} = {first})"
    )


def _divided_groups(groups: Groups, splits: dict[str, npt.NDArray[np.int64]], other: str) -> str:
    """A note on groups with images both in `other` and in train; empty if there is none."""
    both = np.intersect1d(groups.among(splits["train"]), groups.among(splits[other]))
    if not len(both):
        return ""
    has = "1 group has" if len(both) == 1 else f"{len(both)} groups have"
    return (
        f"{has} images both in train and in {other}, which inflates the {other} accuracy "
        f"(first: {groups.names[both[0]]!r})"
    )


class UnreadableImages(ResightError):
    """Files that can't be read as images. `what`: the same without advice."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what}; replace or remove them, or leave them out with --skip-bad")


def _unreadable(table: Table, source: str) -> UnreadableImages:
    return UnreadableImages(
        f"{len(table.bad)} of {len(table.labels)} images in {source} can't be read: "
        f"{_bad_files(table)}"
    )


def _bad_files(table: Table) -> str:
    first = [f"{table.ids[row]} ({why})" for row, why in list(table.bad.items())[:10]]
    more = f" and {len(table.bad) - 10} more" if len(table.bad) > 10 else ""
    return ", ".join(first) + more
