"""Files that are whole or not there: temporary name, flush, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from resight.errors import ResightError


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Replace `path` by `content` (bytes, or a function that writes to an open file) in one step.

    A link stays, and what it leads to is replaced. A crash at any point leaves the old file or the
    new one. Raises `ResightError` where the disk is full or can't be written to, and for a folder,
    pipe or device in its place.
    """
    with in_one_line(path):
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe or a device"
            raise ResightError(
                f"can't write {path}: it is {what}; move it away or choose another name"
            )
        _replace(Path(os.path.realpath(path)), content)


def _replace(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp's 0600 would hide results from a group
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there. Raises `ResightError`."""
    with in_one_line(path):
        path.mkdir(parents=True, exist_ok=True)


def json_bytes(value: Any) -> bytes:
    """Indented JSON, as a file holds it; what is no text in a file's name is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode(errors="backslashreplace")


def append_line(path: Path, line: str) -> None:
    """Add a line in one write, without waiting for the disk. Raises `ResightError`."""
    with in_one_line(path), path.open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file while inside. Raises `ResightError` where another process holds it.

    The file stays: to remove it on release would let a process that has just opened it lock what
    is gone while a third one locks a new file.
    """
    lock = FileLock(path, blocking=False)
    with in_one_line(path):
        path.parent.stat()  # filelock would make a folder that is missing
        try:
            lock.acquire()
        except Timeout:
            raise ResightError(
                f"{path.parent} is being trained by another process; wait for it or stop it"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """What fails while writing `path` becomes a `ResightError`."""
    try:
        yield
    except OSError as error:
        raise ResightError(
            f"can't write {path}: {error.strerror or error}; make room or pick a folder that can "
            "be written to; what was there before is kept"
        ) from None


def identity(path: Path) -> tuple[int, int]:
    """Of a file or folder, whatever its name becomes. Raises `OSError` if there is none."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def leftovers(folder: Path) -> list[Path]:
    """The temporary files of a process that was killed while writing into `folder`, also below."""
    return [*folder.rglob(".*.tmp")]


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
