"""`Session`: a call of `train` or `train_seeds` with its reporter, stop signals and timings."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from resight.data.types import ImageData
from resight.engine.job import Job, build_job, open_data
from resight.engine.runtime import Runtime, RuntimeOptions, kept_threads
from resight.progress import Reporter, default_reporter, duration
from resight.recipe.auto import Choice
from resight.recipe.recipe import Recipe
from resight.records import stopped_words
from resight.runs.run import Run
from resight.training import announcement, costs
from resight.training.clock import RunningClock
from resight.training.costs import Cost
from resight.training.interrupt import Interrupted, Progress, StopSignals
from resight.training.timings import Timings, count_recording

T = TypeVar("T")


class Session:
    """While entered, signals are noted; on exit, what it holds is released and the reporter closed.

    Every training begins with `choose`, `load`, `build` and `announce`, each of them timed. `run`
    is the run that it holds, once there is one; `cost` the estimate, if one was announced.
    """

    def __init__(self, reporter: Reporter | None, started: float | None) -> None:
        """started: the `time.perf_counter()` from which its seconds count; by default now."""
        self.started = time.perf_counter() if started is None else started
        self.timings = Timings(self.started)
        self.reporter = reporter or default_reporter()
        self.stop = StopSignals()
        self.clock = RunningClock()
        self.run: Run | None = None
        self.cost: Cost | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.stop.__enter__()
        self.hold(self.clock)
        self.hold(kept_threads())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.reporter.close()
        finally:  # whatever a broken stream or a second signal raises there
            try:
                self._held.__exit__(kind, error, trace)
            finally:
                self.stop.__exit__(kind, error, trace)

    def say(self, line: str) -> None:
        self.reporter.say(line)

    def counting(self, what: str) -> Progress:
        """A callback that shows the progress of `what`, and in which a signal stops it."""
        return self.stop.checking(self.reporter.counting(what))

    def hold(self, context: contextlib.AbstractContextManager[T]) -> T:
        """Enter `context` until the session ends."""
        return self._held.enter_context(context)

    def hold_run(self, run: Run) -> Run:
        """Keep other processes from training `run` until the session ends."""
        self.hold(run.lock())
        self.run = run
        return run

    def interrupted(self, message: str) -> Interrupted:
        """What to raise after `StopRequested`."""
        assert self.stop.received is not None
        return Interrupted(message, self.run.path if self.run else None, self.stop.received)

    def choose(self, options: RuntimeOptions) -> Runtime:
        """The runtime, applied to torch."""
        with self.timings("start"):
            runtime = options.choose()
            runtime.apply()
            return runtime

    def load(
        self, data: str | Path | ImageData | None, recipe: Recipe, *, skip_bad: bool
    ) -> ImageData:
        """The recipe's images, or `data` instead."""
        decoding = self.counting("decoding images")
        with self.timings("data"):
            return open_data(data, recipe, skip_bad=skip_bad, decoding=decoding)

    def build(self, recipe: Recipe, images: ImageData, runtime: Runtime) -> Job:
        with self.timings("build"):
            return build_job(recipe, images, runtime)

    def announce_rest(self, job: Job, saved: dict[str, Any] | None) -> None:
        """Report the device, and what the rest of a training from the checkpoint `saved` costs."""
        self.say(announcement.device_line(job))
        if kept := announcement.stored_threads_line(job):
            self.say(kept)
        step, rows = (saved["step"], saved["history"]) if saved else (0, [])
        epochs, patience = job.recipe.schedule.epochs, job.recipe.train.early_stop
        if len(rows) == epochs or stopped_words(rows, epochs, patience):
            self.say("no epoch is left to train")
            return
        with count_recording(job, self.timings, "cost"):
            self.cost = costs.measure(job)
        left = self.cost.steps(job, step) + self.cost.evaluations(job, len(rows))
        left += 0.0 if saved else self.cost.lr_test(job)
        self.say(f"{'at most' if patience else 'about'} {duration(left)} left")
        if busy := announcement.busy_line(job, self.cost):
            self.say(busy)

    def announce(self, job: Job, minutes: float | None, choice: Choice) -> Job:
        """Report what the training will cost; with `minutes`, shorten it to what fits."""
        with count_recording(job, self.timings, "cost"):
            job, self.cost = announcement.say(job, minutes, choice, self.reporter)
            return job
