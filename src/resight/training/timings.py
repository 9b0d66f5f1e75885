"""How a command's time was spent, as parts that add up to the total."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from resight.engine.job import Job
from resight.errors import ResightError
from resight.runs.run import Run
from resight.runs.timings import PARTS


class Timings:
    """A recorder: `with timings("data"):` counts the time spent inside as `data`.

    A nested part counts as itself, not as the outer one. `measured` has the seconds of each part (a
    key of `PARTS`) so far; those between `started` and the recorder's creation are `start`. It is
    for one thread: what other threads do is not counted.
    """

    def __init__(self, started: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._last = clock, clock()
        self._open: list[str] = []
        self.measured: dict[str, float] = {"start": self._last - started}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._count()
        self._open.append(part)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def add(self, seconds: Mapping[str, float], *, out_of: str | None = None) -> None:
        """Count seconds that were measured elsewhere; `out_of`: the part that included them so
        far."""
        for part, value in seconds.items():
            self._add(part, value)
            if out_of is not None:
                self._add(out_of, -value)

    def parts(self, total: float) -> dict[str, float]:
        """`measured` in the order of `PARTS`, and `rest`, so that all add up to `total` seconds."""
        named = {part: self.measured[part] for part in PARTS if part in self.measured}
        named.pop("rest", None)  # that of added runs: the new rest includes it
        parts = named | {"rest": total - math.fsum(named.values())}
        return {part: parts[part] for part in PARTS if part in parts}

    def _count(self) -> None:
        now = self._clock()
        if self._open:
            self._add(self._open[-1], now - self._last)
        self._last = now

    def _add(self, part: str, seconds: float) -> None:
        assert part in PARTS, part
        self.measured[part] = self.measured.get(part, 0.0) + seconds


@contextmanager
def count_recording(job: Job, timings: Timings, part: str) -> Iterator[None]:
    """Count the seconds inside as `part`, those spent on recording steps as `capture`."""
    recorded = job.executor.recording_seconds
    with timings(part):
        yield
    if recording := job.executor.recording_seconds - recorded:
        timings.add({"capture": recording}, out_of=part)


@contextmanager
def count_epochs(job: Job, timings: Timings) -> Iterator[None]:
    """Count the steps and evaluations of the epochs inside by the seconds in their rows."""
    state = job.state
    done, carried = len(state.history), state.epoch_seconds  # those of an interrupted epoch
    with count_recording(job, timings, "epochs"):
        yield
    rows = state.history[done:]
    steps = math.fsum(row["train_seconds"] for row in rows) - carried
    measuring = math.fsum(row.get("evaluate_seconds", 0.0) for row in rows)
    timings.add({"steps": steps, "evaluate": measuring}, out_of="epochs")


def count_report(run: Run, started: float) -> None:
    """Add the report, which is written after the result, to the result's timings; `started` as in
    `Timings`."""
    result = run.result
    result["timings"]["report"] = time.perf_counter() - started - result["wall_seconds"]
    with suppress(ResightError):  # the result without it is already written
        run.write("result.json", result)


def seconds_since_process_start() -> float:
    """Wall seconds since this process began, interpreter and imports included."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds after boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    return time.process_time()
