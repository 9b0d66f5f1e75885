"""What several seeds say together."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy import stats

from resight.intervals import t_interval
from resight.runs.seeds import SeedsResult


def result_of(*accuracies: float, failures: dict[int, str] | None = None) -> SeedsResult:
    failures = failures or {}
    return SeedsResult(
        path=Path("runs/x-seeds-1"),
        seeds=tuple(range(len(accuracies) + len(failures))),
        runs=(None,) * len(accuracies),  # type: ignore[arg-type]
        accuracies=accuracies,
        train_seconds=accuracies,
        failures=failures,
    )


def test_mean_spread_and_interval_are_the_textbooks() -> None:
    result = result_of(0.90, 0.92, 0.94, 0.91, 0.93)
    assert result.mean == pytest.approx(0.92)
    assert result.std == pytest.approx(math.sqrt(0.001 / 4))  # n - 1
    expected = stats.t.interval(0.95, 4, loc=0.92, scale=stats.sem(result.accuracies))
    assert result.interval == pytest.approx(expected)
    assert t_interval([0.0, 1.0]) == pytest.approx((0.5 - 12.7062047 / 2, 0.5 + 12.7062047 / 2))
    assert result_of(0.0, 1.0).interval == (0.0, 1.0)  # as far as an accuracy goes
    assert result.headline == (
        "test accuracy 92.00% ± 1.58% (n=5; 95% CI of the mean: 90.04% to 93.96%)"
    )


def test_one_seed_has_no_spread() -> None:
    result = result_of(0.9)
    assert (result.n, result.mean, result.std, result.interval) == (1, 0.9, None, None)
    assert result.headline == "test accuracy 90.00% (n=1: one seed has no spread)"
    assert result_of(failures={0: "nan"}).headline == (
        "no accuracy: no seed finished; 1 of 1 failed: seed 0"
    )
