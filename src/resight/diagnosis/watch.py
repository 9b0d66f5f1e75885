"""While it trains: the failures that can be told before the end, each said once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from resight.diagnosis import checks
from resight.diagnosis.checks import Evidence, at_chance, chance_accuracy, chance_loss
from resight.diagnosis.findings import THRESHOLDS, Finding
from resight.settings import OneCycle, Schedule


def warm_up_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    """Steps until the LR is at its highest for the first time: a one-cycle's peak, else 0."""
    if isinstance(schedule, OneCycle):
        return round(schedule.peak_epoch * steps_per_epoch)
    return 0


@dataclass
class Watch:
    """Remembers the last steps; from `watch_steps` past warm-up on it judges them.

    evidence: the run's facts so far, without metrics. batch: images a step.
    """

    evidence: Evidence
    first_step: int  # from which it judges
    batch: int
    _recent: deque[tuple[float, float]] = field(
        default_factory=lambda: deque(maxlen=THRESHOLDS.watch_steps)
    )
    _seen: int = 0  # steps, over the whole training
    _said: set[str] = field(default_factory=set)

    @classmethod
    def over(
        cls, evidence: Evidence, schedule: Schedule, steps_per_epoch: int, batch: int
    ) -> Watch:
        first = warm_up_steps(schedule, steps_per_epoch) + THRESHOLDS.watch_steps
        return cls(evidence, first, batch)

    def steps(self, first: int, losses: Tensor, correct: Tensor) -> Iterator[Finding]:
        """Take the steps from `first` on (counted over the whole training); those seen before are
        left out. losses: means over a batch (n,); correct: right images of a batch (n,)."""
        new = slice(max(self._seen - first, 0), None)
        self._recent.extend(zip(losses[new].tolist(), correct[new].tolist(), strict=True))
        self._seen = max(self._seen, first + len(losses))
        if self._seen < self.first_step or len(self._recent) < THRESHOLDS.watch_steps:
            return
        yield from self._new(self._judge())

    def epoch(self, metrics: list[dict[str, Any]]) -> Iterator[Finding]:
        """Judge an epoch's end by all rows so far."""
        if self._seen < self.first_step:
            return
        rows = Evidence(**{**vars(self.evidence), "metrics": metrics, "finished": False})
        found = [*checks.gap(rows), *checks.diverged(rows)]
        yield from self._new([f for f in found if f.severity == "problem"])

    def _judge(self) -> list[Finding]:
        n = len(self._recent)
        loss = sum(value for value, _ in self._recent) / n
        accuracy = sum(right for _, right in self._recent) / (n * self.batch)
        counts = self.evidence.class_counts
        chance = chance_loss(counts, self.evidence.recipe.loss.label_smoothing)
        seen = f"over the last {n} steps the loss is {loss:.3f}, the accuracy {accuracy:.1%}"
        if loss > THRESHOLDS.worse_than_chance * chance:
            return [
                Finding(
                    "diverged",
                    "problem",
                    "the training has diverged",
                    f"{seen}; a net that knows nothing has {chance:.3f}",
                    f"a loss above {THRESHOLDS.worse_than_chance:g} × that",
                    "stop it (Ctrl-C) and train anew with a lower LR",
                    self.evidence.find_lr,
                )
            ]
        known = chance_accuracy(counts, n * self.batch)
        if loss >= THRESHOLDS.chance_loss_share * chance and accuracy <= known:
            return [at_chance(self.evidence, seen)]
        return []

    def _new(self, findings: list[Finding]) -> Iterator[Finding]:
        for finding in findings:
            if finding.name not in self._said:
                self._said.add(finding.name)
                yield finding
