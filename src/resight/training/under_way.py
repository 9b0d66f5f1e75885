"""`Training`: a training in progress."""

from __future__ import annotations

from dataclasses import dataclass

from resight.diagnosis.watch import Watch
from resight.engine.job import Job
from resight.recipe.settings import Schedule
from resight.records import stopped_words
from resight.runs.run import Run
from resight.training.forecast import Forecast
from resight.training.session import Session


@dataclass(frozen=True)
class Training:
    """A job that trains into a run's folder, in a session.

    schedule: with all LRs as numbers. watch: judges its steps and epochs. forecast: what is left.
    resumed_from: the step it was resumed from; None for a new run.
    """

    session: Session
    job: Job
    run: Run
    schedule: Schedule
    watch: Watch
    forecast: Forecast
    resumed_from: int | None = None

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0: as many are finished."""
        return len(self.job.state.history)

    @property
    def stopped(self) -> str | None:
        """Why early stopping has ended it, if it has."""
        recipe = self.job.recipe
        return stopped_words(
            self.job.state.history, recipe.schedule.epochs, recipe.train.early_stop
        )
