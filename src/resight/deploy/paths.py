"""Which files a command line means: files, folders, patterns, and a list on standard input."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from resight.data.folder import every_file, natural_order
from resight.data.table import FileStamp

LISTED = "-"  # the names are on standard input, one per line


def image_files(paths: Iterable[str], listed: IO[str] | None = None) -> list[str]:
    """Every file that `paths` means, once, in their order.

    A folder stands for every image below it; a pattern such as `photos/*.jpg` or `photos/**`, if
    there is no file of that name, for what matches, in natural order; "-" for the lines of
    `listed`. What is not there stays, for whoever opens it to report.
    """
    found: dict[str, None] = {}
    for path in paths:
        if path == LISTED and listed is not None:
            lines = (line.rstrip("\r\n") for line in listed)
            found.update(dict.fromkeys(file for line in lines if line for file in _meant(line)))
        else:
            found.update(dict.fromkeys(_meant(path)))
    return [*found]


def _meant(path: str) -> Iterator[str]:
    if Path(path).is_dir():
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
