"""Checkpoints: written atomically, only if finite, and without making the training wait."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resight.errors import ResightError, first_line
from resight.formats import with_format, without_format
from resight.runs.manifest import read_file

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT_SECONDS = 30.0
LAST = "last.pt"
Write = Callable[[dict[str, bytes]], None]  # `Run.write_files`
Fetch = Callable[[], dict[str, Any]]  # gives a snapshot on the CPU, which does not change any more


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """A checkpoint, loaded with `weights_only=True`; None if there is no file. Raises
    `ResightError` for a damaged one."""
    import torch

    try:
        content = read_file(path)
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise not_a_checkpoint(path, "not an archive")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()  # by the checksums that torch writes and does not read
        if damaged:
            raise not_a_checkpoint(path, f"the checksum of {damaged} is wrong")
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except ResightError:
        raise
    except Exception as error:  # a damaged archive raises a dozen different types
        raise not_a_checkpoint(path, first_line(error).split(". ")[0]) from None
    if not isinstance(saved, dict):
        raise not_a_checkpoint(path, f"it holds a {type(saved).__name__}")
    return without_format(saved, path)


def not_a_checkpoint(path: Path, why: str) -> ResightError:
    """The error for a file that is no checkpoint of its run."""
    return ResightError(
        f"{path}: not a checkpoint of this run, or damaged ({why}): restore an intact copy or "
        "start a new run"
    )


def write_checkpoint(write: Write, snapshot: dict[str, Any]) -> bool:
    """Write `snapshot` unless it contains a non-finite value. Returns whether it was written."""
    if not all_finite(snapshot):
        return False
    write({LAST: serialized(snapshot)})
    return True


def serialized(value: dict[str, Any]) -> bytes:
    """The bytes that `read_checkpoint` reads back, with their format."""
    import torch

    buffer = io.BytesIO()  # torch.save to a full disk raises no OSError
    torch.save(with_format(value), buffer)
    return buffer.getvalue()


class Checkpointer:
    """Writes snapshots to `last.pt` in the background, at most one every 30 s."""

    def __init__(self, write: Write, every_seconds: float = CHECKPOINT_SECONDS) -> None:
        self._write, self._every = write, every_seconds
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[bool] | None = None
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether 30 s have passed and the last write is done. Re-raises that write's exception."""
        if self._pending is not None and self._pending.done():
            self._wait()
        return self._pending is None and time.monotonic() - self._last >= self._every

    def save(self, fetch: Fetch) -> None:
        """Start writing what `fetch` gives: it is called in the writer's thread."""
        self._wait()
        self._last = time.monotonic()
        self._pending = self._writer.submit(lambda: write_checkpoint(self._write, fetch()))

    def save_and_wait(self, fetch: Fetch) -> bool:
        """Write now. Returns whether the snapshot was finite and therefore written."""
        self.save(fetch)
        return self._wait()

    def close(self) -> None:
        """Wait for a write in progress to end."""
        self._writer.shutdown(wait=True)

    def _wait(self) -> bool:
        pending, self._pending = self._pending, None
        return pending.result() if pending else True


def all_finite(saved: dict[str, Any]) -> bool:
    """Whether every tensor of a snapshot is finite; no other snapshot becomes a checkpoint."""
    import torch

    values = saved.values() if isinstance(saved, dict) else saved
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.is_floating_point() and not _finite(value):
                return False
        elif isinstance(value, dict | list) and not all_finite(value):  # type: ignore[arg-type]
            return False
    return True


def _finite(tensor: Tensor) -> bool:
    import torch

    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        # numpy, not torch: in the writer's thread torch would start a second OpenMP team; with more
        # threads than cores, every barrier in the training would then sleep
        return bool(np.isfinite(tensor.numpy()).all())
    return bool(torch.isfinite(tensor).all())
