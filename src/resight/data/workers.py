"""Decoding in processes: a small image takes microseconds, most of them under Python's lock.

A worker is an interpreter that runs `main`, not a child of `multiprocessing`: so it needs no main
guard in a user's script and may be started before or after torch, from any thread. It reads one
task per line and writes its rows straight into the file of the table's images. It ends when its
input does, so none outlives this process.
"""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from resight.characters import is_utf8
from resight.data.decode import decode_file, reason
from resight.data.rows import DIGEST_BYTES, row_digests, row_sums
from resight.recipe.settings import Fit

PACKAGE = str(Path(__file__).parents[2])  # where a worker finds this package
CODE = "import sys; sys.path.append(sys.argv[1]); from resight.data.workers import main; main()"


class WorkerLost(Exception):
    """No worker did the task: it is still to be done."""


@dataclass(frozen=True)
class Decoded:
    """Rows that were decoded. digests: uint8 (n, 16); sums: int64 (n, 2, C), see `row_sums`; bad:
    {row: why it could not be read}."""

    digests: npt.NDArray[np.uint8]
    sums: npt.NDArray[np.int64]
    bad: dict[int, str]


def decode_rows(
    paths: Sequence[str], first: int, out: npt.NDArray[np.uint8], how: Fit
) -> dict[int, str]:
    """Decode files into `out` (n, H, W, C), which are rows `first`, `first + 1`, … of a table;
    unreadable ones, and those whose name a run could not hold, become zero. how: see `decode.fit`.
    Returns why: {row: reason}."""
    bad: dict[int, str] = {}
    for number, path in enumerate(paths):
        if not is_utf8(path):
            out[number] = 0
            bad[first + number] = "its name is not valid UTF-8: rename it"
            continue
        try:
            out[number] = decode_file(path, out.shape[1], out.shape[3], how)
        except Exception as error:  # Pillow's readers raise anything on a damaged file
            out[number] = 0
            bad[first + number] = reason(error, path)
    return bad


class Workers:
    """While entered, `count` processes that decode into the .npy file `images`."""

    def __init__(self, images: Path, count: int) -> None:
        self._images, self._count = images, count
        self._all: list[subprocess.Popen[str]] = []
        self._idle: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        """Without the processes that can't be started."""
        # -P: what lies in the current folder is not imported
        command = [sys.executable or "python", "-P", "-c", CODE, PACKAGE, str(self._images)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with contextlib.suppress(OSError):
            for _ in range(self._count):
                worker: subprocess.Popen[str] = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
                self._all.append(worker)
        self._idle = list(self._all)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End them at once; a task under way is lost."""
        for worker in self._all:
            worker.kill()
        for worker in self._all:
            with contextlib.suppress(OSError), worker:  # closes its pipes and waits for it
                pass

    def decode(self, paths: Sequence[str], first: int, how: Fit) -> Decoded:
        """Decode files into the rows from `first` on. From several threads, at most `count`.

        Raises `WorkerLost`.
        """
        try:
            worker = self._idle.pop()
            answer = _ask(worker, {"first": first, "paths": list(paths), "how": how})
        except (IndexError, OSError, ValueError):
            raise WorkerLost from None
        self._idle.append(worker)
        return Decoded(
            digests=_unpacked(answer["digests"], np.uint8, (len(paths), DIGEST_BYTES)),
            sums=_unpacked(answer["sums"], np.int64, (len(paths), 2, -1)),
            bad={int(row): str(why) for row, why in answer["bad"]},
        )


def _ask(worker: subprocess.Popen[str], task: dict[str, Any]) -> dict[str, Any]:
    """The worker's answer to a task. Raises OSError or ValueError if it has ended."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(task) + "\n")
    worker.stdin.flush()
    answer: dict[str, Any] = json.loads(worker.stdout.readline())
    return answer


def main() -> None:
    """A worker. sys.argv: where the package is, the .npy file; tasks come as lines of JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started it
    warnings.simplefilter("ignore")  # Pillow's, about files; failures are in the answer
    images = np.lib.format.open_memmap(sys.argv[2], mode="r+")
    for line in sys.stdin:
        task = json.loads(line)
        rows = images[task["first"] : task["first"] + len(task["paths"])]
        bad = decode_rows(task["paths"], task["first"], rows, task["how"])
        answer = {
            "digests": _packed(row_digests(rows)),
            "sums": _packed(row_sums(rows)),
            "bad": list(bad.items()),
        }
        print(json.dumps(answer), flush=True)


def _packed(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _unpacked(text: str, dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape)
