"""Where the seconds of a command went, as parts that sum to the whole."""

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

PARTS = {
    "start": "interpreter, imports, torch set up",
    "data": "images: decoding, or reading the cache",
    "build": "net, optimizer, images on the device",
    "cost": "estimate of the cost",
    "checks": "checks of the images",
    "lr_test": "LR test",
    "steps": "training steps",
    "evaluate": "evaluation",
    "capture": "recording CUDA graphs",
    "epochs": "between the steps: plans, checkpoints",
    "save": "weights and predictions",
    "rest": "everything else",
    "report": "diagnosis and report",
}


class Timings:
    """A recorder: `with timings("data"):` counts what happens inside as `data`.

    A part inside another is counted as its own and not as the outer one's. `measured` has the
    seconds of each part (a key of `PARTS`) so far, those from `started` to now as `start`. It is
    for one thread: what others do meanwhile is not counted.
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
        """Count seconds that something else took the time of; `out_of`: the part in which they
        were counted until now."""
        for part, value in seconds.items():
            self._add(part, value)
            if out_of is not None:
                self._add(out_of, -value)

    def parts(self, total: float) -> dict[str, float]:
        """`measured` in the order of `PARTS`, and `rest`: together `total` seconds."""
        named = {part: self.measured[part] for part in PARTS if part in self.measured}
        named.pop("rest", None)  # of runs that were added: what is left holds it
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
def epochs_told_apart(job: Job, timings: Timings) -> Iterator[None]:
    """Count the steps and evaluations of the epochs inside as their rows have it."""
    state, recorded = job.state, job.executor.recording_seconds
    done, carried = len(state.history), state.epoch_seconds  # of an epoch cut in its middle
    with timings("epochs"):
        yield
    rows = state.history[done:]
    steps = math.fsum(row["train_seconds"] for row in rows) - carried
    measuring = math.fsum(row.get("evaluate_seconds", 0.0) for row in rows)
    timings.add({"steps": steps, "evaluate": measuring}, out_of="epochs")
    if recording := job.executor.recording_seconds - recorded:
        timings.add({"capture": recording}, out_of="epochs")


def count_report(run: Run, started: float) -> None:
    """Add to a result's timings what came after it, the report; `started` as in `Timings`."""
    result = run.result
    result["timings"]["report"] = time.perf_counter() - started - result["wall_seconds"]
    with suppress(ResightError):  # the result is there without it
        run.write("result.json", result)


def seconds_since_process_start() -> float:
    """Wall seconds since this process began, interpreter and imports included."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds after boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    return time.process_time()


def table(parts: Mapping[str, float]) -> list[str]:
    """A line a part: what it is, its seconds, its share of them all."""
    total = math.fsum(parts.values())
    width = max(map(len, PARTS.values()))
    return [
        f"  {PARTS[part]:<{width}} {seconds:>10,.2f} s {seconds / total if total else 0.0:>7.1%}"
        for part, seconds in parts.items()
    ]
