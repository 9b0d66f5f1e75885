"""`Forecast`: how long the rest of a training takes, by the estimate and the steps so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resight.engine.job import Job
from resight.progress import duration
from resight.training.costs import Cost

MIN_SECONDS = 10.0  # of steps, before they are held against the estimate
MAX_ERROR = 1.25  # the estimate is corrected where the time is so many times longer or shorter


@dataclass
class Forecast:
    """cost: the estimate, None where none was made (a resumed run). told: the seconds for the whole
    training that were last announced. due: seconds of steps after which that is judged."""

    job: Job
    cost: Cost | None
    told: float = 0.0
    due: float = MIN_SECONDS

    def __post_init__(self) -> None:
        if self.cost is not None:
            self.told = self._steps(0) + self.cost.evaluations(self.job)

    def seconds_left(self) -> float:
        """Seconds of the remaining steps and evaluations, if the machine keeps its speed."""
        state, history = self.job.state, self.job.state.history
        if history and "evaluate_seconds" in history[-1]:
            epochs = self.job.recipe.schedule.epochs - len(history)
            evaluations = float(history[-1]["evaluate_seconds"]) * epochs
        else:
            evaluations = self.cost.evaluations(self.job, len(history)) if self.cost else 0.0
        return self._steps(state.step) * self.pace() + evaluations

    def pace(self) -> float:
        """How many times longer than estimated the steps so far took."""
        done = self._steps(0) - self._steps(self.job.state.step)
        return self._spent() / done if done else 1.0

    def correction(self) -> str | None:
        """A line that corrects the last announcement, if the training so far shows it to be wrong:
        again only after twice the time, as one pause makes all later estimates a little better."""
        if self.cost is None or self._spent() < self.due:
            return None
        measured = [row.get("evaluate_seconds", 0.0) for row in self.job.state.history]
        left = self.seconds_left()
        total = self._spent() + math.fsum(measured) + left
        if max(total / self.told, self.told / total) <= MAX_ERROR:
            return None
        before = max(self.told - total + left, 0.0)
        self.told, self.due = total, 2 * self._spent()
        expected = f"instead of {duration(before)}" if before >= 1 else "longer than estimated"
        return f"corrected: about {duration(left)} left, {expected}"

    def _spent(self) -> float:
        state = self.job.state
        return math.fsum(row["train_seconds"] for row in state.history) + state.epoch_seconds

    def _steps(self, first: int) -> float:
        """The estimated seconds of the steps from `first` on; without an estimate their number."""
        if self.cost is None:
            return float(self.job.total_steps - first)
        return self.cost.steps(self.job, first)
