"""What can be found in a net's answers: classes it never gives, labels it denies, confidence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from resight.diagnosis.evidence import Evidence
from resight.diagnosis.thresholds import THRESHOLDS
from resight.findings import Finding, Severity
from resight.intervals import standard_error
from resight.runs.predictions import Predictions


def never_predicted(evidence: Evidence) -> Iterator[Finding]:
    """Classes with test images that no test image is taken for."""
    predictions = evidence.predictions
    if predictions is None or evidence.step < THRESHOLDS.watch_steps:
        return
    k = len(predictions.classes)
    support = np.bincount(predictions.labels, minlength=k)
    predicted = np.bincount(predictions.predicted, minlength=k)
    never = np.flatnonzero((support >= THRESHOLDS.never_support) & (predicted == 0))
    if not len(never):
        return
    names = ", ".join(f"'{predictions.classes[i]}' ({support[i]})" for i in never[:5])
    more = f" and {len(never) - 5} more" if len(never) > 5 else ""
    enough = len(predictions) >= THRESHOLDS.never_images * k  # else an empty column may be chance
    yield Finding(
        "never-predicted",
        "problem" if enough else "note",
        "a class is never predicted" if len(never) == 1 else "classes are never predicted",
        f"no {predictions.split} image is taken for {names}{more} (in brackets: its images)",
        f"a class with {THRESHOLDS.never_support} images or more; a problem where classes have "
        f"{THRESHOLDS.never_images} on average",
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
    """Labels that the net denies with confidence."""
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
        "some labels may be wrong",
        f"{len(found):,} of {len(predictions):,} {predictions.split} images; the first, "
        f"{predictions.ids[first]}, is labelled '{predictions.classes[predictions.labels[first]]}' "
        f"and taken for '{predictions.classes[predictions.predicted[first]]}'",
        f"confidence {THRESHOLDS.suspect_confidence:g} or more, the label's probability "
        f"{THRESHOLDS.suspect_label:g} or less",
        "look at them in the report: gallery, suspects",
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
        advice = "train with --val 0.1, and the report fits a temperature"
    if not recipe.loss.label_smoothing:
        advice += "; or train with --set loss.label_smoothing=0.1"
    yield Finding(
        "overconfident",
        severity,
        "it is surer than it is right",
        f"mean confidence {confidence:.1%}, accuracy {accuracy:.1%}",
        f"{100 * THRESHOLDS.overconfident_note:.0f} points; a problem from "
        f"{100 * THRESHOLDS.overconfident_problem:.0f}",
        advice,
    )
