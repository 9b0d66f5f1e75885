"""Faults at file operations: the n-th below a folder fails, or the process is as if killed there.

Every opening for writing, rename, mkdir, unlink and chmod is seen by an audit hook; every fsync,
write of a file that `write_atomically` writes, array and text that is saved, space that is
reserved, map that is flushed and folder that is removed by a stand-in. "Killed" is simulated within
the process: from that operation on none below the folder has an effect, whatever cleans up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


class Killed(BaseException):
    """The process ended here."""


@dataclass
class Fault:
    """At operation `at` (from 1; 0: none) below `folder`: error, an errno, or None for a kill.
    seen: the operations so far, as `verb name`."""

    folder: Path
    at: int = 0
    error: int | None = None
    seen: list[str] = field(default_factory=list)

    def meets(self, verb: str, path: object) -> None:
        try:
            name = os.fsdecode(path)  # type: ignore[arg-type]
        except TypeError:  # a handle
            return
        if not os.path.abspath(name).startswith(f"{self.folder}{os.sep}"):  # noqa: PTH100 (speed)
            return
        if name.endswith(".lock"):  # held by an operating system, which releases it
            return
        self.seen.append(f"{verb} {os.path.basename(name)}")  # noqa: PTH119
        if self.happened:
            self.happen(name)

    def happen(self, name: str) -> None:
        """At `at`, and at each operation after it."""
        if self.error is None:
            raise Killed
        if len(self.seen) == self.at:
            raise OSError(self.error, os.strerror(self.error), name)

    @property
    def happened(self) -> bool:
        return bool(self.at) and len(self.seen) >= self.at


_current: Fault | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _current is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or (
            mode is None and isinstance(flags, int) and flags & WRITING
        ):
            _current.meets("open", path)
    elif event in CHANGES:
        _current.meets(event.removeprefix("os."), arguments[0])


sys.addaudithook(_hook)  # it can't be taken away again


class _Written:
    """An open file whose writes can fail."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> int:
        _meet("write", self._file.fileno())
        return int(self._file.write(content))


def _meet(verb: str, handle: int) -> None:
    if _current is not None:
        with contextlib.suppress(FileNotFoundError):
            _current.meets(verb, os.readlink(f"/proc/self/fd/{handle}"))  # noqa: PTH115


@contextlib.contextmanager
def injected(fault: Fault) -> Iterator[None]:
    """Within it `fault` happens."""
    global _current
    fsync, fdopen, rmtree = os.fsync, os.fdopen, shutil.rmtree
    save, write_text, flush = np.save, Path.write_text, np.memmap.flush
    allocate, told = getattr(os, "posix_fallocate", None), threading.excepthook

    def failing_fsync(handle: int) -> None:
        _meet("fsync", handle)
        fsync(handle)

    def failing_fdopen(handle: int, *arguments: Any, **options: Any) -> Any:
        return _Written(fdopen(handle, *arguments, **options))

    def failing_rmtree(path: Any, ignore_errors: bool = False) -> None:
        try:
            fault.meets("rmtree", path)
        except OSError:
            if not ignore_errors:
                raise
        else:
            rmtree(path, ignore_errors)

    def failing_save(path: Path, array: Any, **options: Any) -> None:
        path.write_bytes(b"half of it")
        fault.meets("save", path)
        save(path, array, **options)

    def failing_write_text(path: Path, text: str, **options: Any) -> int:
        path.write_bytes(b"half of it")
        fault.meets("write", path)
        return write_text(path, text, **options)

    def failing_flush(array: np.memmap[Any, Any]) -> None:
        fault.meets("flush", array.filename)
        flush(array)

    def failing_allocate(handle: int, start: int, size: int) -> None:
        _meet("allocate", handle)
        assert allocate is not None
        allocate(handle, start, size)

    def unless_killed(arguments: Any) -> None:
        if arguments.exc_type is not Killed:
            told(arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", failing_rmtree)
        patch.setattr(np, "save", failing_save)
        patch.setattr(Path, "write_text", failing_write_text)
        patch.setattr(np.memmap, "flush", failing_flush)
        patch.setattr(threading, "excepthook", unless_killed)
        if allocate:
            patch.setattr(os, "posix_fallocate", failing_allocate)
        patch.setattr(os, "fsync", failing_fsync)
        patch.setattr(os, "fdopen", failing_fdopen)
        _current = fault
        try:
            yield
        finally:
            _current = None
