"""What can be found without a net: from metrics, predictions, the LR test and the class counts.

Each check takes `Evidence` and yields findings; it is pure, and silent where its facts are missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.diagnosis.findings import THRESHOLDS, Finding, Severity
from resight.errors import ResightError
from resight.lr_curve import LrTest
from resight.predictions import Predictions
from resight.recipe import Recipe


@dataclass(frozen=True)
class Evidence:
    """What a run has recorded. class_counts: int64 (K,), of train; find_lr: the command."""

    recipe: Recipe
    classes: tuple[str, ...]
    class_counts: npt.NDArray[np.int64]
    metrics: list[dict[str, Any]]
    find_lr: str
    lr_max: float | None = None
    lr_test: LrTest | None = None
    predictions: Predictions | None = None
    failure: dict[str, Any] | None = None
    finished: bool = True


def chance_loss(class_counts: npt.NDArray[np.int64], label_smoothing: float) -> float:
    """The lowest mean loss of a net that sees no image: the entropy of the (smoothed) class
    frequencies, ln K where they are equal. In nats."""
    shares = class_counts / class_counts.sum()
    targets = (1 - label_smoothing) * shares + label_smoothing / len(shares)
    targets = targets[targets > 0]
    return float(-(targets * np.log(targets)).sum())


def chance_accuracy(class_counts: npt.NDArray[np.int64], images: float) -> float:
    """What knowing nothing reaches on `images` images, with room for luck."""
    share = float(class_counts.max() / class_counts.sum())
    luck = 3 * math.sqrt(share * (1 - share) / max(images, 1))
    return share + max(THRESHOLDS.chance_accuracy_margin, luck)


def not_learning(evidence: Evidence) -> Iterator[Finding]:
    """The training loss of the last epoch is that of knowing nothing, and never was much lower."""
    chance = chance_loss(evidence.class_counts, evidence.recipe.loss.label_smoothing)
    if not evidence.metrics or evidence.failure:
        return
    last = evidence.metrics[-1]
    lowest = min(row["train_loss"] for row in evidence.metrics)
    known = chance_accuracy(evidence.class_counts, float(evidence.class_counts.sum()))
    if (
        last["train_loss"] >= THRESHOLDS.chance_loss_share * chance
        and last["train_accuracy"] <= known
        and lowest >= THRESHOLDS.learnt_loss_share * chance
    ):
        yield at_chance(
            evidence,
            f"after {len(evidence.metrics)} epochs the training loss is {last['train_loss']:.3f}, "
            f"the accuracy {last['train_accuracy']:.1%}",
        )


def at_chance(evidence: Evidence, seen: str) -> Finding:
    """The finding "not-learning", with what was seen."""
    k, chance = (
        len(evidence.classes),
        chance_loss(evidence.class_counts, evidence.recipe.loss.label_smoothing),
    )
    even = (
        len(set(evidence.class_counts.tolist())) == 1 and not evidence.recipe.loss.label_smoothing
    )
    name = f"ln {k} = {chance:.3f}" if even else f"{chance:.3f} from the class frequencies alone"
    lr = "" if evidence.lr_max is None else f" at LR max {evidence.lr_max:.3g}"
    return Finding(
        "not-learning",
        "problem",
        "it does not learn",
        f"{seen}{lr}; a net that knows nothing has {name}",
        f"loss at least {THRESHOLDS.chance_loss_share:g} × that",
        "find an LR that learns",
        evidence.find_lr,
    )


def diverged(evidence: Evidence) -> Iterator[Finding]:
    """The loss became infinite, or ended far above where it had been."""
    advice = "train anew with a lower LR"
    if evidence.failure:
        yield Finding(
            "diverged",
            "problem",
            "the training diverged",
            str(evidence.failure["message"]).split(":")[0],
            "any loss or weight that is not finite",
            advice,
            evidence.find_lr,
        )
        return
    if len(evidence.metrics) < 2:
        return
    chance = chance_loss(evidence.class_counts, evidence.recipe.loss.label_smoothing)
    losses = [row["train_loss"] for row in evidence.metrics]
    lowest, last = min(losses), losses[-1]
    learnt = lowest < THRESHOLDS.learnt_loss_share * chance
    rise = THRESHOLDS.diverged_rise
    if (
        learnt
        and last > rise * lowest
        and last - lowest > (1 - THRESHOLDS.learnt_loss_share) * chance
    ):
        yield Finding(
            "diverged",
            "problem",
            "the training diverged",
            f"the training loss was {lowest:.3f} after epoch {losses.index(lowest) + 1} and is "
            f"{last:.3f} after epoch {len(losses)}",
            f"more than {rise:g} × the lowest",
            advice,
            evidence.find_lr,
        )


def gap(evidence: Evidence) -> Iterator[Finding]:
    """Train accuracy far above the watched split's."""
    if not evidence.metrics:
        return
    last = evidence.metrics[-1]
    split = "val" if "val_accuracy" in last else "test"
    train, other = last["train_accuracy"], last[f"{split}_accuracy"]
    images = len(evidence.predictions) if evidence.predictions is not None else math.inf
    error = math.sqrt(max(other * (1 - other), 1e-4) / images)
    difference = train - other
    if difference <= max(THRESHOLDS.gap_note, THRESHOLDS.gap_standard_errors * error):
        return
    gross = difference > THRESHOLDS.gap_problem
    yield Finding(
        "train-test-gap",
        "problem" if gross else "note",
        f"train and {split} accuracy lie far apart",
        f"train {train:.1%}, {split} {other:.1%}: {100 * difference:.0f} points",
        f"{100 * THRESHOLDS.gap_note:.0f} points; a problem from "
        f"{100 * THRESHOLDS.gap_problem:.0f}",
        f"check that the {split} images and labels are of the same kind as train's; else more "
        "augmentation or weight decay, or more images",
    )


def improving(evidence: Evidence) -> Iterator[Finding]:
    """The accuracy still rose at the end, and train is not ahead: more epochs would help."""
    rows = evidence.metrics
    if len(rows) < 2 or not evidence.finished:
        return
    split = "val" if "val_accuracy" in rows[-1] else "test"
    late = max(1, round(len(rows) / 10))
    before = max(row[f"{split}_accuracy"] for row in rows[:-late])
    now, train = rows[-1][f"{split}_accuracy"], rows[-1]["train_accuracy"]
    images = len(evidence.predictions) if evidence.predictions is not None else math.inf
    error = math.sqrt(max(now * (1 - now), 1e-4) / images)
    gain = max(THRESHOLDS.improving_gain, THRESHOLDS.improving_standard_errors * error)
    if now - before <= gain or train - now > THRESHOLDS.improving_gap:
        return
    epochs = evidence.recipe.schedule.epochs
    yield Finding(
        "still-improving",
        "note",
        "it was still improving at the end",
        f"{split} accuracy rose from {before:.1%} to {now:.1%} in the last "
        f"{'epoch' if late == 1 else f'{late} epochs'}, and train is at {train:.1%}",
        f"a rise of {100 * gain:.1f} points with train at most "
        f"{100 * THRESHOLDS.improving_gap:.0f} ahead",
        f"train longer: --epochs {2 * epochs}",
    )


def lr_against_curve(evidence: Evidence) -> Iterator[Finding]:
    """The LR max that was used, on the curve of the run's own LR test."""
    test, lr = evidence.lr_test, evidence.lr_max
    if test is None or lr is None:
        return
    if test.stop.startswith("diverged") and lr >= float(test.lrs[-1]):
        yield Finding(
            "lr-too-high",
            "problem",
            "the LR is too high for its own test",
            f"LR max is {lr:.3g}, and the LR test {test.stop}",
            "the LR at which the test diverged",
            "take what the curve suggests",
            evidence.find_lr,
        )
        return
    try:
        lowest, start = 2 * test.suggest("minimum/2"), test.suggest_lr_min(math.inf)
    except ResightError:  # no curve to judge by: find-lr says so
        return
    if lr > lowest or lr < start:
        high = lr > lowest
        yield Finding(
            "lr-too-high" if high else "lr-too-low",
            "note" if high else "problem",
            f"the LR is too {'high' if high else 'low'} for its own test",
            f"LR max is {lr:.3g}; the test's loss starts to fall at {start:.3g} and is lowest at "
            f"{lowest:.3g}",
            "the LR of the lowest loss" if high else "the LR where the loss starts to fall",
            "take what the curve suggests",
            evidence.find_lr,
        )


def imbalance(evidence: Evidence) -> Iterator[Finding]:
    counts = evidence.class_counts
    most, fewest = int(counts.argmax()), int(counts.argmin())
    if counts[most] < THRESHOLDS.imbalance_ratio * max(counts[fewest], 1):
        return
    yield Finding(
        "class-imbalance",
        "note",
        "the classes are of very different size",
        f"train has {counts[most]:,} images of '{evidence.classes[most]}' and {counts[fewest]:,} "
        f"of '{evidence.classes[fewest]}'",
        f"{THRESHOLDS.imbalance_ratio:g} times as many",
        "read recall per class rather than the accuracy; add images of the rare classes",
    )


def never_predicted(evidence: Evidence) -> Iterator[Finding]:
    """Classes with test images that no test image is taken for."""
    predictions = evidence.predictions
    if predictions is None:
        return
    k = len(predictions.classes)
    support = np.bincount(predictions.labels, minlength=k)
    predicted = np.bincount(predictions.predicted, minlength=k)
    never = np.flatnonzero((support >= THRESHOLDS.never_support) & (predicted == 0))
    if not len(never):
        return
    names = ", ".join(f"'{predictions.classes[i]}' ({support[i]})" for i in never[:5])
    more = f" and {len(never) - 5} more" if len(never) > 5 else ""
    yield Finding(
        "never-predicted",
        "problem",
        "a class is never predicted" if len(never) == 1 else "classes are never predicted",
        f"no {predictions.split} image is taken for {names}{more} (in brackets: its images)",
        f"a class with {THRESHOLDS.never_support} images or more",
        "look at its row of the confusion matrix; add images of it, or check its labels",
    )


def suspects(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Indices of probable label errors that are confident enough to bother a person with."""
    rows = predictions.label_suspects()
    p = predictions.probabilities
    sure = p[rows, predictions.predicted[rows]] >= THRESHOLDS.suspect_confidence
    unlikely = p[rows, predictions.labels[rows]] <= THRESHOLDS.suspect_label
    kept: npt.NDArray[np.int64] = rows[sure & unlikely]
    return kept


def suspicious_labels(evidence: Evidence) -> Iterator[Finding]:
    predictions = evidence.predictions
    if predictions is None:
        return
    found = suspects(predictions)
    if not len(found):
        return
    first = int(found[0])
    yield Finding(
        "suspicious-labels",
        "note",
        "some labels look wrong",
        f"{len(found):,} of {len(predictions):,} {predictions.split} images; the first, "
        f"{predictions.ids[first]}, is labelled '{predictions.classes[predictions.labels[first]]}' "
        f"and taken for '{predictions.classes[predictions.predicted[first]]}'",
        f"confidence {THRESHOLDS.suspect_confidence:g} or more, the label's probability "
        f"{THRESHOLDS.suspect_label:g} or less",
        "look at them in the report: gallery, suspects",
    )


def overconfident(evidence: Evidence) -> Iterator[Finding]:
    predictions = evidence.predictions
    if predictions is None:
        return
    accuracy, confidence = predictions.accuracy, float(predictions.confidence.mean())
    error = math.sqrt(max(accuracy * (1 - accuracy), 1e-4) / len(predictions))
    excess = confidence - accuracy
    least = max(THRESHOLDS.overconfident_note, THRESHOLDS.overconfident_standard_errors * error)
    if excess <= least:
        return
    severity: Severity = "problem" if excess > THRESHOLDS.overconfident_problem else "note"
    yield Finding(
        "overconfident",
        severity,
        "it is surer than it is right",
        f"mean confidence {confidence:.1%}, accuracy {accuracy:.1%}",
        f"{100 * THRESHOLDS.overconfident_note:.0f} points; a problem from "
        f"{100 * THRESHOLDS.overconfident_problem:.0f}",
        "train with --val 0.1, and the report fits a temperature; or with --set "
        "loss.label_smoothing=0.1",
    )


CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    not_learning,
    diverged,
    gap,
    improving,
    lr_against_curve,
    imbalance,
    never_predicted,
    suspicious_labels,
    overconfident,
)


def check(evidence: Evidence) -> list[Finding]:
    """Every finding of every check. What follows from not learning is not said again."""
    found = [finding for each in CHECKS for finding in each(evidence)]
    if any(f.name in ("not-learning", "diverged") for f in found):
        found = [f for f in found if f.name not in ("never-predicted", "suspicious-labels")]
    return found
