"""`Evidence`: what a run has recorded, and what chance level would look like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.diagnosis.thresholds import THRESHOLDS
from resight.recipe.recipe import Recipe
from resight.runs.lr_test import LrTest
from resight.runs.predictions import Predictions


@dataclass(frozen=True)
class Evidence:
    """What a run has recorded. class_counts: int64 (K,), of train; find_lr: the command;
    watched_images: number in the split measured each epoch; judged_from: the step from which an
    unfinished training is judged; unmixed_accuracy: on training images without Mixup and CutMix,
    if the recipe has them and the net could be asked."""

    recipe: Recipe
    classes: tuple[str, ...]
    class_counts: npt.NDArray[np.int64]
    metrics: list[dict[str, Any]]
    find_lr: str | None
    watched_images: int
    judged_from: int = 0
    lr_max: float | None = None
    lr_test: LrTest | None = None
    predictions: Predictions | None = None
    failure: dict[str, Any] | None = None
    finished: bool = True
    unmixed_accuracy: float | None = None

    @property
    def train_accuracy(self) -> float | None:
        """Of the last epoch, comparable to that of other splits; None if not known. Of mixed images
        it is low by construction, so that one that was measured afterwards stands for it."""
        if self.recipe.augment.mixes:
            return self.unmixed_accuracy
        return float(self.metrics[-1]["train_accuracy"]) if self.metrics else None

    @property
    def chance_loss(self) -> float:
        """The lowest mean training loss that is possible without seeing the images."""
        counts, loss = self.class_counts, self.recipe.loss
        if loss.class_weights == "balanced":
            counts = np.minimum(counts, 1)  # each class weighs as much as any other
        return chance_loss(counts, loss.label_smoothing)

    @property
    def step(self) -> int:
        """The last step of the recorded epochs."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def settled(self) -> bool:
        """Whether accuracies can be judged: during warm-up they may be anything."""
        return self.finished or self.step >= self.judged_from


def chance_loss(class_counts: npt.NDArray[np.int64], label_smoothing: float) -> float:
    """The lowest mean loss possible without seeing the images: the entropy of the (smoothed) class
    frequencies, ln K if they are equal. In nats."""
    shares = class_counts / class_counts.sum()
    targets = (1 - label_smoothing) * shares + label_smoothing / len(shares)
    targets = targets[targets > 0]
    return float(-(targets * np.log(targets)).sum())


def chance_accuracy(class_counts: npt.NDArray[np.int64], images: float) -> float:
    """The accuracy that a model which has learned nothing reaches on `images` images, with luck."""
    share = float(class_counts.max() / class_counts.sum())
    luck = THRESHOLDS.chance_standard_errors * math.sqrt(share * (1 - share) / max(images, 1))
    return share + max(THRESHOLDS.chance_accuracy_margin, luck)
