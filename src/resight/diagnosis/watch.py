"""During training: failures that can be detected before the end, each reported once."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from resight.diagnosis import record_checks
from resight.diagnosis.evidence import Evidence
from resight.diagnosis.record_checks import at_chance
from resight.diagnosis.thresholds import THRESHOLDS
from resight.findings import Finding
from resight.recipe.settings import Schedule


def judged_from(schedule: Schedule, steps_per_epoch: int) -> int:
    """The step from which a training is judged: `watch_steps` after warm-up.

    Warm-up ends at the peak of a one-cycle schedule, and for no schedule before `watch_steps`:
    fresh weights start above the chance-level loss and first have to get down to it.
    """
    return (
        max(round(schedule.peak * steps_per_epoch), THRESHOLDS.watch_steps) + THRESHOLDS.watch_steps
    )


@dataclass
class Watch:
    """Remembers the last steps and judges them, from `watch_steps` after warm-up.

    evidence: what is known of the run so far, without metrics.
    """

    evidence: Evidence
    _recent: deque[tuple[float, float, float]] = field(
        default_factory=lambda: deque(maxlen=THRESHOLDS.watch_steps)
    )
    _seen: int = 0  # steps, counted over the whole training
    _said: dict[str, Finding] = field(default_factory=dict)

    def steps(
        self, first: int, losses: Tensor, correct: Tensor, images: Tensor
    ) -> Iterator[Finding]:
        """Take the steps from `first` on (counted over the whole training); those already seen are
        ignored. losses: mean per batch (n,); correct, images: number of correct predictions and of
        images per batch (n,)."""
        new = slice(max(self._seen - first, 0), None)
        batches = (losses[new].tolist(), correct[new].tolist(), images[new].tolist())
        self._recent.extend(zip(*batches, strict=True))
        self._seen = max(self._seen, first + len(losses))
        if self._settled() and len(self._recent) == THRESHOLDS.watch_steps:
            yield from self._new(self._judge())

    def epoch(self, metrics: list[dict[str, Any]]) -> Iterator[Finding]:
        """Judge the end of an epoch by all rows so far."""
        if not self._settled():
            return
        rows = dataclasses.replace(self.evidence, metrics=metrics, finished=False)
        found = [*record_checks.gap(rows), *record_checks.diverged(rows)]
        yield from self._new([f for f in found if f.severity == "problem"])

    def withdrawn(self, found: Iterable[Finding]) -> list[Finding]:
        """What was reported on the way and is not among the findings `found` at the end."""
        names = {finding.name for finding in found}
        return [finding for name, finding in self._said.items() if name not in names]

    def _settled(self) -> bool:
        return self._seen >= self.evidence.judged_from

    def _judge(self) -> list[Finding]:
        steps = list(self._recent)
        loss, accuracy = _means(steps)
        half = len(steps) // 2
        k, chance = len(self.evidence.classes), self.evidence.chance_loss
        seen = (
            f"over the last {len(steps)} steps the loss is {loss:.3f} and the accuracy "
            f"{accuracy:.1%}"
        )
        even = math.log(k)  # chance level without even knowing the class frequencies
        if loss > THRESHOLDS.worse_than_chance * even:
            return [
                Finding(
                    name="diverged",
                    severity="problem",
                    title="the training has diverged",
                    evidence=f"{seen}; a model that has learned nothing (chance level) has a loss "
                    f"of ln {k} = {even:.3f}",
                    threshold=f"a loss above {THRESHOLDS.worse_than_chance:g} × that",
                    advice="stop it (Ctrl-C) and train again with a lower LR",
                    command=self.evidence.find_lr,
                )
            ]
        if _means(steps[half:])[0] < THRESHOLDS.falling * _means(steps[:half])[0]:
            return []
        known = self.evidence.chance_accuracy(sum(images for _, _, images in steps))
        if loss >= THRESHOLDS.chance_loss_share * chance and accuracy <= known:
            return [at_chance(self.evidence, seen)]
        return []

    def _new(self, findings: list[Finding]) -> Iterator[Finding]:
        for finding in findings:
            if finding.name not in self._said:
                self._said[finding.name] = finding
                yield finding


def _means(steps: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Mean loss and accuracy over the images of some steps."""
    images = sum(n for _, _, n in steps)
    return sum(loss * n for loss, _, n in steps) / images, sum(k for _, k, _ in steps) / images
