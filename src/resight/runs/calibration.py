"""Calibration: does confidence match accuracy, and the temperature that corrects it.

Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks" (2017, arXiv:1706.04599);
the binned error follows Naeini, Cooper, Hauskrecht (2015).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.runs.predictions import Predictions

TEMPERATURE_RANGE = (0.05, 20.0)
BISECTIONS = 34  # of an interval of width ln(20 / 0.05): gives log T to within 4e-10
ROWS_AT_ONCE = 4096  # keeps the float64 copies of a 1000-class pass at 33 MB each


@dataclass(frozen=True)
class Calibration:
    """rows: one per confidence bin, low < c ≤ high (0 is in the first): low, high, count, correct,
    confidence (mean) and accuracy, both None for an empty bin. ece: the expected calibration error
    in [0, 1], the mean over all images of |accuracy − confidence| of their bin."""

    rows: tuple[dict[str, Any], ...]
    ece: float


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """Sort `predictions` by confidence into `bins` bins of equal width."""
    edges = [i / bins for i in range(bins + 1)]
    where = np.searchsorted(edges[1:-1], predictions.confidence, side="left")
    right = predictions.predicted == predictions.labels
    counts = np.bincount(where, minlength=bins).tolist()
    corrects = np.bincount(where[right], minlength=bins).tolist()
    sums = np.bincount(where, weights=predictions.confidence, minlength=bins).tolist()
    rows = tuple(
        {
            "low": low,
            "high": high,
            "count": count,
            "correct": correct,
            "confidence": total / count if count else None,
            "accuracy": correct / count if count else None,
        }
        for low, high, count, correct, total in zip(
            edges[:-1], edges[1:], counts, corrects, sums, strict=True
        )
    )
    gaps = (abs(correct - total) for correct, total in zip(corrects, sums, strict=True))
    return Calibration(rows, math.fsum(gaps) / len(predictions))


def fit_temperature(predictions: Predictions) -> float:
    """The T in [0.05, 20] that minimises the mean cross-entropy of logits / T.

    The loss is convex in 1/T, so the zero of its slope is found by bisection. Without a zero in the
    range, T is a bound: 0.05 if every image is right, 20 if uniform probabilities would do better.
    Fit it on a validation split: fitted on the test split, it would flatter the test results.
    """
    low, high = (math.log(1 / t) for t in reversed(TEMPERATURE_RANGE))
    if _slope(predictions, math.exp(high)) <= 0:
        return TEMPERATURE_RANGE[0]
    if _slope(predictions, math.exp(low)) >= 0:
        return TEMPERATURE_RANGE[1]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _slope(predictions, math.exp(middle)) > 0:
            high = middle
        else:
            low = middle
    return math.exp(-(low + high) / 2)


def _slope(predictions: Predictions, inverse: float) -> float:
    """d loss / d (1/T) at 1/T = `inverse`: the mean of expected logit minus the label's logit."""
    total = 0.0
    for start in range(0, len(predictions), ROWS_AT_ONCE):
        logits = predictions.logits[start : start + ROWS_AT_ONCE].astype(np.float64)
        labels = predictions.labels[start : start + ROWS_AT_ONCE]
        logits -= logits[np.arange(len(labels)), labels][:, None]
        weights = np.exp(inverse * (logits - logits.max(1, keepdims=True)))
        total += float(((weights * logits).sum(1) / weights.sum(1)).sum())
    return total / len(predictions)


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """`predictions` with logits / T: the same classes, different probabilities and losses."""
    assert temperature > 0, temperature
    logits: npt.NDArray[np.float32] = (predictions.logits / temperature).astype(np.float32)
    return dataclasses.replace(predictions, logits=logits)
