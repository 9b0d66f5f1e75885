"""Checks of a net's predictions: classes never predicted, suspicious labels, confidence."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from resight.diagnosis.evidence import BALANCE, Evidence
from resight.diagnosis.thresholds import THRESHOLDS
from resight.findings import Finding, Severity
from resight.intervals import standard_error
from resight.runs.predictions import Predictions

MAX_CLASSES_NAMED = 5  # in a finding


def never_predicted(evidence: Evidence) -> Iterator[Finding]:
    """Classes with test images that are predicted for no image."""
    predictions = evidence.predictions
    if predictions is None:
        return
    k = len(predictions.classes)
    support = np.bincount(predictions.labels, minlength=k).tolist()
    predicted = np.bincount(predictions.predicted, minlength=k).tolist()
    never = [i for i in range(k) if support[i] and not predicted[i]]
    if not never:
        return
    never.sort(key=lambda i: -support[i])
    named = never[:MAX_CLASSES_NAMED]
    names = ", ".join(
        f"'{predictions.classes[i]}' ({support[i]} image{'s' * (support[i] > 1)})" for i in named
    )
    more = f" and {len(never) - len(named)} more" if len(never) > len(named) else ""
    # with fewer it may be chance
    enough = support[never[0]] >= THRESHOLDS.never_support
    enough = enough and len(predictions) >= THRESHOLDS.never_images * k
    yield Finding(
        name="never-predicted",
        severity="problem" if enough else "note",
        title="a class is never predicted"
        if len(never) == 1
        else "some classes are never predicted",
        evidence=f"no {predictions.split} image is predicted as {names}{more}",
        threshold=f"1 class; a problem if it has {THRESHOLDS.never_support} images or more, and "
        f"classes have {THRESHOLDS.never_images} or more on average",
        advice=(
            "look at its row in the confusion matrix; check its labels, or add images of it"
            if len(never) == 1
            else "look at their rows in the confusion matrix; check their labels, or add images of "
            "them"
        )
        + "; with so few test images it may be chance" * (not enough)
        + f"; or {BALANCE}" * bool(evidence.cure),
        command=evidence.cure,
    )


def barely_above_guessing(evidence: Evidence) -> Iterator[Finding]:
    """Accuracy that always answering the largest class might reach as well."""
    predictions = evidence.predictions
    if predictions is None:
        return
    guess, (low, high) = predictions.guess_accuracy, predictions.accuracy_interval
    if low > guess or predictions.classes_measured < 2:
        return
    largest = predictions.classes[int(np.bincount(predictions.labels).argmax())]
    balanced, even = predictions.balanced_accuracy, 1 / predictions.classes_measured
    knows = balanced - even > THRESHOLDS.guess_standard_errors * _balanced_error(predictions)
    cure = None if knows else evidence.cure
    train = evidence.train_accuracy
    few = evidence.step < THRESHOLDS.guess_steps
    if train is not None and train > THRESHOLDS.guess_memorised and not few:
        advice = (
            f"more steps won't help, since train accuracy is {train:.1%}: train on more images, "
            "and check that the labels are right"
        )
    else:
        advice = (
            f"train for more than {evidence.step:,} step{'s' * (evidence.step != 1)} (more epochs, "
            "or smaller batches) or on more images, and check that the labels are right"
        )
    advice += f"; or {BALANCE}" * bool(cure)
    yield Finding(
        name="barely-above-guessing",
        severity="note" if knows else "problem",
        title="accuracy is "
        + ("below guessing" if high < guess else "hardly better than guessing")
        + ", but the classes are told apart" * knows,
        evidence=f"{predictions.split} accuracy is {predictions.accuracy:.1%} (95% CI: {low:.1%} "
        f"to {high:.1%}, {len(predictions):,} images), and always answering '{largest}', the "
        f"largest class, is right on {guess:.1%}; balanced accuracy is {balanced:.1%}, of which "
        f"chance gives {even:.1%}",
        threshold="an interval that does not lie above guessing",
        advice="look at recall per class rather than accuracy" if knows else advice,
        command=cure,
    )


def _balanced_error(predictions: Predictions) -> float:
    """The standard error of the balanced accuracy."""
    rows = [row for row in predictions.per_class() if row["support"]]
    errors = [standard_error(row["recall"], row["support"]) for row in rows]
    return math.hypot(*errors) / len(rows)


def loss_above_chance(evidence: Evidence) -> Iterator[Finding]:
    """Probabilities that cost more than knowing nothing would."""
    predictions = evidence.predictions
    if predictions is None:
        return
    even = math.log(len(predictions.classes))
    if predictions.loss <= THRESHOLDS.worse_than_chance * even:
        return
    yield Finding(
        name="loss-above-chance",
        severity="problem",
        title="the probabilities are worse than knowing nothing",
        evidence=f"{predictions.split} loss is {predictions.loss:,.3f}; the same probability for "
        f"every class has ln {len(predictions.classes)} = {even:.3f}",
        threshold=f"a loss above {THRESHOLDS.worse_than_chance:g} × that",
        advice=_calibrating(evidence),
    )


def _calibrating(evidence: Evidence) -> str:
    """What makes probabilities better."""
    recipe, advice = evidence.recipe, "divide the logits by the temperature in the report"
    if not recipe.data.val_fraction:
        advice = "train with --val 0.1, so that the report fits a temperature"
    if not recipe.loss.label_smoothing:
        advice += "; or train with --set loss.label_smoothing=0.1"
    return advice


def suspects(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Indices of probable label errors, if confident enough to be worth a look."""
    rows = predictions.label_suspects()
    p = predictions.probabilities
    sure = p[rows, predictions.predicted[rows]] >= THRESHOLDS.suspect_confidence
    unlikely = p[rows, predictions.labels[rows]] <= THRESHOLDS.suspect_label
    kept: npt.NDArray[np.int64] = rows[sure & unlikely]
    return kept


def suspicious_labels(evidence: Evidence) -> Iterator[Finding]:
    """Labels that the net confidently contradicts."""
    predictions = evidence.predictions
    if predictions is None:
        return
    found = suspects(predictions)
    if not len(found):
        return
    first = int(found[0])
    yield Finding(
        name="suspicious-labels",
        severity="note",
        title="some labels may be wrong",
        evidence=f"{len(found):,} of {len(predictions):,} {predictions.split} images; the first, "
        f"{predictions.ids[first]}, is labelled {predictions.classes[predictions.labels[first]]!r} "
        f"but predicted as {predictions.classes[predictions.predicted[first]]!r}",
        threshold=f"confidence {THRESHOLDS.suspect_confidence:g} or more, and probability of the "
        f"label {THRESHOLDS.suspect_label:g} or less",
        advice="look at them in the report's gallery: probable label errors",
    )


def overconfident(evidence: Evidence) -> Iterator[Finding]:
    """Mean confidence above accuracy."""
    predictions = evidence.predictions
    if predictions is None:
        return
    accuracy, confidence = predictions.accuracy, float(predictions.confidence.mean())
    error = standard_error(accuracy, len(predictions))
    excess = confidence - accuracy
    least = max(THRESHOLDS.overconfident_note, THRESHOLDS.overconfident_standard_errors * error)
    if excess <= least:
        return
    severity: Severity = "problem" if excess > THRESHOLDS.overconfident_problem else "note"
    yield Finding(
        name="overconfident",
        severity=severity,
        title="the model is overconfident",
        evidence=f"mean confidence {confidence:.1%}, accuracy {accuracy:.1%}",
        threshold=f"{100 * THRESHOLDS.overconfident_note:.0f} points; a problem above "
        f"{100 * THRESHOLDS.overconfident_problem:.0f}",
        advice=_calibrating(evidence),
    )
