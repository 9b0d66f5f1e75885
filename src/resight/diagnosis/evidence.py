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

BALANCE = (  # the advice that goes with `Evidence.cure`
    "balance the classes (train.sampling or loss.class_weights = 'balanced'), which costs some "
    "accuracy on the frequent ones"
)


@dataclass(frozen=True)
class Evidence:
    """What a run has recorded. class_counts: int64 (K,), of train; find_lr, balanced: the commands,
    of an LR test and of a training with balanced classes; watched_images: number in the split
    measured each epoch; judged_from: the step from which an unfinished training is judged;
    plain_accuracy: on training images, each once and not mixed, if the recipe mixes or repeats them
    and the net could be asked."""

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
    plain_accuracy: float | None = None
    balanced: str | None = None

    @property
    def train_accuracy(self) -> float | None:
        """Of the last epoch, comparable to that of other splits; None if not known. Of mixed images
        it is low by construction, of balanced samples another mean, so that one that was measured
        afterwards stands for it."""
        if not trains_on_plain_images(self.recipe):
            return self.plain_accuracy
        return float(self.metrics[-1]["train_accuracy"]) if self.metrics else None

    @property
    def chance_loss(self) -> float:
        """The lowest mean training loss that is possible without seeing the images."""
        counts = self.class_counts
        if self.recipe.balances_classes:
            counts = np.minimum(counts, 1)  # each class weighs as much as any other
        return chance_loss(counts, self.recipe.loss.label_smoothing)

    def chance_accuracy(self, images: float) -> float:
        """The training accuracy that a model which has learned nothing reaches on `images` images,
        with luck."""
        even = self.recipe.train.sampling == "balanced"
        counts = np.minimum(self.class_counts, 1) if even else self.class_counts
        return chance_accuracy(counts, images)

    @property
    def cure(self) -> str | None:
        """The command that balances classes, where they are unequal, were not balanced, and those
        but the largest were not learnt anyway."""
        most, fewest = int(self.class_counts.max()), int(self.class_counts.min())
        if most < THRESHOLDS.unequal_ratio * max(fewest, 1):
            return None
        others = 1 - most / int(self.class_counts.sum())
        train = self.train_accuracy
        learnt = train is not None and 1 - train < THRESHOLDS.rare_mistakes * others
        return None if learnt else self.balanced

    @property
    def step(self) -> int:
        """The last step of the recorded epochs."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def settled(self) -> bool:
        """Whether accuracies can be judged: during warm-up they may be anything."""
        return self.finished or self.step >= self.judged_from


def trains_on_plain_images(recipe: Recipe) -> bool:
    """Whether an epoch's training images are the split's, each once and not mixed."""
    return not recipe.augment.mixes and recipe.train.sampling == "uniform"


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
