"""`RunningClock`: the time in which a training is stopped by Ctrl-Z or SIGSTOP does not count."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGCONT = getattr(signal, "SIGCONT", None)  # not on every system


class RunningClock:
    """A clock, in seconds, that stands still while the process is stopped.

    While it is entered, in the main thread, SIGCONT says that the process goes on. Since when it
    was stopped is not known: what passed since the last reading is left out, so read it at each
    step, and of a stop no more than a step's work is lost. A suspended machine stops the clock
    below it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._last = clock, clock()
        self._left_out = 0.0
        self._continued: float | None = None  # since the last reading
        self._previous: Any = None

    def __call__(self) -> float:
        now = self._clock()
        continued, self._continued = self._continued, None
        if continued is not None:
            self._left_out += continued - self._last
            now = max(now, continued)  # it was stopped between the lines above
        self._last = now
        return now - self._left_out

    def __enter__(self) -> Self:
        if SIGCONT is not None and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(SIGCONT, self._go_on)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if SIGCONT is not None and self._previous is not None:
            signal.signal(SIGCONT, self._previous)

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        self._continued = self._clock()
        if callable(self._previous):
            self._previous(number, frame)
