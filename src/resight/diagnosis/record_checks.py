"""What can be found in a run's records: metrics, the LR test, the class counts.

Each check takes `Evidence` and yields findings; it is pure, and silent where its facts are missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from resight.diagnosis.evidence import Evidence, chance_accuracy, chance_loss
from resight.diagnosis.thresholds import THRESHOLDS
from resight.errors import ResightError
from resight.findings import Finding
from resight.intervals import standard_error
from resight.records import watched_split


def not_learning(evidence: Evidence) -> Iterator[Finding]:
    """The training loss of the last epoch is that of knowing nothing, and never was much lower."""
    chance = chance_loss(evidence.class_counts, evidence.recipe.loss.label_smoothing)
    if not evidence.metrics or evidence.failure or evidence.step < THRESHOLDS.watch_steps:
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
            f"in epoch {len(evidence.metrics)} the training loss is {last['train_loss']:.3f}, the "
            f"accuracy {last['train_accuracy']:.1%}",
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
    if not evidence.metrics or not evidence.settled:
        return
    last = evidence.metrics[-1]
    split = watched_split(last)
    if f"{split}_accuracy" not in last:  # measured at the end alone
        return
    train, other = last["train_accuracy"], last[f"{split}_accuracy"]
    error = standard_error(other, evidence.watched_images)
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
    if not evidence.metrics or not evidence.finished:
        return
    split = watched_split(evidence.metrics[-1])
    rows = [row for row in evidence.metrics if f"{split}_accuracy" in row]
    if len(rows) < 2:
        return
    late = max(1, round(len(rows) / 10))
    before = max(row[f"{split}_accuracy"] for row in rows[:-late])
    now, train = rows[-1][f"{split}_accuracy"], rows[-1]["train_accuracy"]
    error = math.hypot(*(standard_error(p, evidence.watched_images) for p in (before, now)))
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
