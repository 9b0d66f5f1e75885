"""Checks of a net's predictions: classes never predicted, suspicious labels, confidence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from resight.diagnosis.evidence import Evidence
from resight.diagnosis.thresholds import THRESHOLDS
from resight.findings import Finding, Severity
from resight.intervals import standard_error
from resight.runs.predictions import Predictions

MAX_CLASSES_NAMED = 5  # in a finding


def never_predicted(evidence: Evidence) -> Iterator[Finding]:
    """Classes with test images that are predicted for no image."""
    predictions = evidence.predictions
    if predictions is None or evidence.step < THRESHOLDS.watch_steps:
        return
    k = len(predictions.classes)
    support = np.bincount(predictions.labels, minlength=k)
    predicted = np.bincount(predictions.predicted, minlength=k)
    never = np.flatnonzero((support >= THRESHOLDS.never_support) & (predicted == 0))
    if not len(never):
        return
    named = never[:MAX_CLASSES_NAMED]
    names = ", ".join(f"'{predictions.classes[i]}' ({support[i]} images)" for i in named)
    more = f" and {len(never) - len(named)} more" if len(never) > len(named) else ""
    enough = len(predictions) >= THRESHOLDS.never_images * k  # with fewer it may be chance
    yield Finding(
        name="never-predicted",
        severity="problem" if enough else "note",
        title="a class is never predicted"
        if len(never) == 1
        else "some classes are never predicted",
        evidence=f"no {predictions.split} image is predicted as {names}{more}",
        threshold=f"a class with {THRESHOLDS.never_support} images or more; a problem if classes "
        f"have {THRESHOLDS.never_images} or more on average",
        advice="look at its row in the confusion matrix; check its labels, or add images of it",
    )


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
    recipe, advice = evidence.recipe, "divide the logits by the temperature in the report"
    if not recipe.data.val_fraction:
        advice = "train with --val 0.1, so that the report fits a temperature"
    if not recipe.loss.label_smoothing:
        advice += "; or train with --set loss.label_smoothing=0.1"
    yield Finding(
        name="overconfident",
        severity=severity,
        title="the model is overconfident",
        evidence=f"mean confidence {confidence:.1%}, accuracy {accuracy:.1%}",
        threshold=f"{100 * THRESHOLDS.overconfident_note:.0f} points; a problem above "
        f"{100 * THRESHOLDS.overconfident_problem:.0f}",
        advice=advice,
    )
