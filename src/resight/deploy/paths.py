"""Which files a command line means: files, folders, patterns, and a list on standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from resight.characters import is_utf8
from resight.data.folder import every_file, natural_order
from resight.data.table import FileStamp
from resight.errors import ResightError

LISTED = "-"  # the names are on standard input


def image_files(paths: Iterable[str], listed: bytes | None = None) -> list[str]:
    """Every file that `paths` means, once, in their order.

    A folder stands for every image below it; a pattern such as `photos/*.jpg` or `photos/**`, if
    there is no file of that name, for what matches, in natural order; "-" for the names in
    `listed`, one per line, or each followed by a zero byte, as `find -print0` gives them. What is
    not there stays, for whoever opens it to report. Raises `ResightError` for an empty name, and
    for a list that is none.
    """
    found: dict[str, None] = {}
    for path in paths:
        if path == LISTED and listed is not None:
            names = _names(listed)
            found.update(dict.fromkeys(file for name in names for file in _meant(name)))
        else:
            found.update(dict.fromkeys(_meant(path)))
    return [*found]


def _names(listed: bytes) -> list[str]:
    text = os.fsdecode(listed)
    if not is_utf8(text[:1000]):
        raise ResightError(
            "standard input is no list of file names, one per line: give images as arguments"
        )
    names = text.split("\0") if "\0" in text else text.splitlines()
    return [name for name in names if name]


def _meant(path: str) -> Iterator[str]:
    if not path:
        raise ResightError("a path is empty: give files, folders or patterns; . for this folder")
    if "\0" in path:
        yield path
    elif Path(path).is_dir():
        inside = (file for file in every_file(Path(path)) if isinstance(file, FileStamp))
        yield from (str(Path(path) / file.path) for file in inside)
    elif glob.has_magic(path) and not Path(path).exists():
        found = glob.iglob(path, recursive=True)  # noqa: PTH207  # Path.glob refuses absolute ones
        matches = sorted(found, key=natural_order)
        yield from (match for match in matches if not Path(match).is_dir())
        if not matches:
            yield path
    else:
        yield path
