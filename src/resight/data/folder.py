"""A folder of images: one sub-folder per class, or `train/` and `test/` with such sub-folders."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resight.characters import is_utf8
from resight.data.decode import SUFFIXES, is_grey
from resight.data.splits import check_classes, check_measured
from resight.data.table import FileStamp, Found, Listing
from resight.data.types import Note
from resight.data.workers import decode_rows
from resight.errors import ResightError, shortened
from resight.files import identity
from resight.recipe.settings import Fit

ROLES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
MAX_DEPTH = 100  # folders inside each other
JUNK = ("thumbs.db", "desktop.ini", "__macosx")  # in addition to everything that starts with a dot


def find(root: Path, *, held_out: bool = True) -> Found | None:
    """The images of a folder, by class and split; None if no folder in it contains an image.

    held_out: see `load_data`; False skips class folders without images, in every split.
    Raises ResightError if the layout is clear but something in it must be fixed first.
    """
    splits, notes = _layout(root, held_out=held_out)
    if not splits:
        return None
    scans = {name: _scan(folder, root) for name, folder in splits.items()}
    notes += _merged(root, scans)
    for name, scan in scans.items():
        if not scan.classes and (held_out or name == "test"):
            raise _unlabelled(splits, name, held_out=held_out)
    if not held_out:
        scans = {name: _without_empty(scan) for name, scan in scans.items()}
    classes = _class_names(scans)
    images = {
        name: [scan.classes.get(_nfc(spelling), []) for spelling in classes]
        for name, scan in scans.items()
    }
    counts = {name: [len(files) for files in by_class] for name, by_class in images.items()}
    (check_classes if held_out else check_measured)(str(root), classes, counts)
    notes += _left_out(root, splits, scans)
    stamps = [stamp for by_class in images.values() for files in by_class for stamp in files]
    labels = [np.repeat(np.arange(len(classes)), count) for count in counts.values()]
    parts = tuple((name, sum(count)) for name, count in counts.items())
    read = partial(
        _read, root, stamps, np.concatenate(labels).astype(np.int64), tuple(classes), parts
    )
    return Found(root.name, root, stamps, tuple(notes), read, tuple(classes), counts)


def is_dataset(path: Path) -> bool:
    """Whether `path` has one folder per split, or at least two folders, one of them with images."""
    folders = subfolders(path)
    if _split_folders(path, folders) is not None:
        return True
    return len(folders) > 1 and any(has_image(folder) for folder in folders)


def subfolders(path: Path) -> list[Path]:
    return [path / entry.name for entry in _entries(path) if entry.is_dir()]


def has_image(folder: Path) -> bool:
    return any(isinstance(file, FileStamp) for file in _walk(folder, "", set()))


def every_file(root: Path) -> Iterator[FileStamp | str]:
    """Every image below `root` as a FileStamp, every other file as its path; hidden files apart."""
    return _walk(root, "", {identity(root)})


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A sort key under which 'class2' comes before 'class10', whatever the Unicode form."""
    runs = re.split(r"(\d+)", _nfc(name))
    return [int(run) if odd % 2 else run.casefold() for odd, run in enumerate(runs)], _nfc(name)


def _nfc(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """The visible entries of a folder, in an order that does not depend on the file system."""
    with os.scandir(folder) as entries:
        shown = [e for e in entries if e.name[0] != "." and e.name.lower() not in JUNK]
    return sorted(shown, key=lambda entry: (_nfc(entry.name), entry.name))


def _walk(folder: Path | str, prefix: str, seen: set[tuple[int, int]]) -> Iterator[FileStamp | str]:
    """Every image below `folder` as a FileStamp, every other file as its path, after `prefix`.

    `seen`: folders already walked, so that a symbolic link to a parent ends there. A broken link,
    or a folder that can't be searched, counts as an image of size -1: decoding will report what is
    wrong with it. A pipe or a device, which may never end, counts as no image, nor does a link to
    one.

    Raises ResightError for folders nested more than `MAX_DEPTH` deep.
    """
    if prefix.count("/") > MAX_DEPTH:
        raise ResightError(
            f"{prefix[:40]}… has more than {MAX_DEPTH} folders inside each other: images belong "
            "into one folder per class"
        )
    for entry in _entries(folder):
        path = f"{prefix}{entry.name}"
        try:
            folder_inside = entry.is_dir()
        except OSError:  # a link in a circle, which decoding will report
            yield FileStamp(path, -1, 0, 0)
            continue
        if folder_inside:
            this = identity(Path(entry.path))
            if this not in seen:
                seen.add(this)
                try:
                    yield from _walk(entry.path, f"{path}/", seen)
                except PermissionError:  # as a file that can't be read
                    yield FileStamp(path, -1, 0, 0)
        elif not _is_image(entry):
            yield path
        elif entry.is_file():
            yield FileStamp.of(path, entry.stat())
        elif entry.is_symlink() and not Path(entry.path).exists():
            yield FileStamp(path, -1, 0, 0)
        else:
            yield path


@dataclass(frozen=True)
class _Scan:
    """What is in a split's folder: images and spelling of each class by NFC name, other files, and
    the paths of class folders whose NFC name another one has."""

    classes: dict[str, list[FileStamp]]
    spelling: dict[str, str]
    others: list[str]
    merged: list[str]


def _scan(folder: Path, root: Path) -> _Scan:
    scan = _Scan({}, {}, [], [])
    above = [identity(root), identity(folder)]
    prefix = "" if folder == root else f"{folder.name}/"
    for entry in _entries(folder):
        if not entry.is_dir():
            scan.others.append(f"{prefix}{entry.name}")
            continue
        if not is_utf8(entry.name):  # as a class, it would be in each of a run's files
            raise ResightError(
                f"{folder} contains {entry.name!r}, which is not valid UTF-8: rename it"
            )
        key = _nfc(entry.name)
        if key in scan.classes:
            scan.merged.append(f"{prefix}{entry.name}")
        scan.spelling.setdefault(key, entry.name)
        images = scan.classes.setdefault(key, [])
        seen = {*above, identity(Path(entry.path))}
        for file in _walk(entry.path, f"{prefix}{entry.name}/", seen):
            if isinstance(file, FileStamp):
                images.append(file)
            else:
                scan.others.append(file)
    return scan


def _without_empty(scan: _Scan) -> _Scan:
    classes = {key: images for key, images in scan.classes.items() if images}
    spelling = {key: scan.spelling[key] for key in classes}
    return replace(scan, classes=classes, spelling=spelling)


def _class_names(scans: Mapping[str, _Scan]) -> list[str]:
    """Every split's classes in natural order, spelt as in the first split that has them."""
    spelling: dict[str, str] = {}
    for scan in scans.values():
        spelling = scan.spelling | spelling
    return sorted(spelling.values(), key=natural_order)


def _layout(root: Path, *, held_out: bool) -> tuple[dict[str, Path], list[Note]]:
    """The folder of each split, train first, or {"all": root} if any has images; and notes."""
    folders = subfolders(root)
    splits = _split_folders(root, folders)
    if splits is None:
        _refuse_half_a_split(root, folders, held_out=held_out)
        return ({"all": root} if any(has_image(folder) for folder in folders) else {}), []
    notes = []
    if "test" not in splits:
        splits["test"] = splits.pop("val")
        used = f"{splits['test'].name}/ is used as the test split"
        notes.append(Note(f"no test split in {root}: {used}"))
    unused = [folder.name for folder in folders if folder not in splits.values()]
    if unused:
        names = ", ".join(unused[:10])
        notes.append(Note(f"folders next to the splits in {root} are ignored: {names}"))
    return {name: splits[name] for name in ("train", "test", "val") if name in splits}, notes


def _left_out(root: Path, splits: Mapping[str, Path], scans: Mapping[str, _Scan]) -> list[Note]:
    """A note on the files that are not images in a class folder, if there are any."""
    files = [file for scan in scans.values() for file in scan.others]
    if root not in splits.values():
        files += [entry.name for entry in _entries(root) if entry.is_file()]
    if not files:
        return []
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    ignored = f"{count} in {root} ignored: not an image or not in a class folder"
    return [Note(f"{ignored} (first: {files[0]})", "ignored")]


def _merged(root: Path, scans: Mapping[str, _Scan]) -> list[Note]:
    """A note on class folders that look the same and became one class, if there are any."""
    names = [path for scan in scans.values() for path in scan.merged]
    if not names:
        return []
    return [
        Note(
            f"in {root} two folders of the same name, written in different Unicode forms, are "
            f"taken as one class: {shortened(names)}"
        )
    ]


def _split_folders(root: Path, folders: list[Path]) -> dict[str, Path] | None:
    """{"train": …, "test" and/or "val": …}; None without train or with train alone."""
    splits: dict[str, Path] = {}
    for folder in folders:
        role = ROLES.get(folder.name.lower())
        if role and role in splits:
            raise ResightError(
                f"{root} has two {role} splits, {splits[role].name}/ and {folder.name}/: "
                "rename or move one of them"
            )
        if role:
            splits[role] = folder
    return splits if "train" in splits and len(splits) > 1 else None


def _refuse_half_a_split(root: Path, folders: list[Path], *, held_out: bool) -> None:
    """A lone train/ full of class folders must not become a class named 'train'."""
    for folder in folders:
        inside = _entries(folder) if folder.name.lower() in ROLES else []
        if any(e.is_dir() for e in inside) and not any(_is_image(e) for e in inside):
            other = "test/ or val/" if ROLES[folder.name.lower()] == "train" else "train/"
            raise ResightError(
                f"{root} has {folder.name}/ with class folders but no {other} next to it: add it, "
                f"or give {folder} itself" + " to hold out 20% of each class for test" * held_out
            )


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES)


def _unlabelled(splits: Mapping[str, Path], name: str, *, held_out: bool) -> ResightError:
    spare = held_out and name != "train"
    way_out = f", or give {splits['train']} to hold out 20% of it for test" if spare else ""
    return ResightError(
        f"{splits[name]} has no class sub-folders, so its images have no labels: put the images of "
        f"each class into a sub-folder of its own{way_out}"
    )


def _read(
    root: Path,
    stamps: Sequence[FileStamp],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    parts: tuple[tuple[str, int], ...],
    image_size: int,
    channels: int | None,
    fit: Fit,
) -> Listing:
    paths = [f"{root}{os.sep}{stamp.path}" for stamp in stamps]
    # The first colour image ends the search.
    wanted = channels or (1 if all(is_grey(path) for path in paths) else 3)

    def fill(start: int, out: npt.NDArray[np.uint8]) -> dict[int, str]:
        return decode_rows(paths[start : start + len(out)], start, out, fit)

    return Listing(
        labels=labels,
        ids=np.array([stamp.path for stamp in stamps]),
        classes=classes,
        parts=parts,
        image_size=image_size,
        channels=wanted,
        fill=fill,
        paths=paths,
        fit=fit,
    )
