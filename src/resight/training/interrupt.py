"""Ctrl-C, SIGTERM and SIGHUP as a flag that the training checks between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

Progress = Callable[[int, int | None], None]


class StopRequested(Exception):
    """Raised by `StopSignals.check` between two steps."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the training. `run`: its folder, None if there was none yet."""

    def __init__(self, message: str, run: Path | None, signal_number: int) -> None:
        super().__init__(message)
        self.run, self.signal_number = run, signal_number

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, as in a shell."""
        return 128 + self.signal_number


class StopSignals:
    """While entered, the first SIGINT, SIGTERM or SIGHUP (the terminal is gone) is noted; a second
    one has its usual effect. A SIGHUP that is ignored, by nohup, stays so."""

    received: int | None = None

    def __enter__(self) -> Self:
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python allows it only there
            for number in _noted():
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._put_back()

    def check(self) -> None:
        """Raise `StopRequested` if a signal has arrived. Call it where the state is consistent."""
        if self.received is not None:
            raise StopRequested

    def checking(self, show: Callable[[int, int | None], None]) -> Progress:
        """`show`, a progress callback, that also checks."""

        def progress(done: int, total: int | None = None) -> None:
            show(done, total)
            self.check()

        return progress

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._put_back()
        with contextlib.suppress(OSError):  # a terminal that is gone
            os.write(2, b"stopping; press Ctrl-C again to stop immediately\n")

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def _noted() -> list[int]:
    hangup = getattr(signal, "SIGHUP", None)  # not on every system
    known = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([hangup] if known and hangup is not None else [])]
