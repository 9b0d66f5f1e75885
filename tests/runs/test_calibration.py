"""Bins and their error equal scikit-learn's and a plain loop; the temperature is the optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from torch.nn.functional import cross_entropy

from resight.runs.calibration import calibration, fit_temperature, with_temperature
from resight.runs.predictions import Predictions


def make(n: int = 200, k: int = 4, seed: int = 0, *, scale: float = 2.0) -> Predictions:
    """Logits that know something of the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = scale * rng.standard_normal((n, k)) + 1.5 * np.eye(k)[labels]
    ids = np.array([str(i) for i in range(n)])
    return Predictions(logits.astype(np.float32), labels, ids, tuple("abcdefghij"[:k]))


def of(probabilities: list[list[float]], labels: list[int]) -> Predictions:
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(probabilities, dtype=np.float32)).clip(-200)
    ids = np.array([str(i) for i in range(len(labels))])
    return Predictions(logits, np.array(labels), ids, tuple("abc"[: logits.shape[1]]))


def test_bins_by_hand() -> None:
    predictions = of([[0.6, 0.4], [0.7, 0.3], [0.1, 0.9]], [0, 1, 1])
    found = calibration(predictions, bins=4)

    low, second, third, last = found.rows
    empty = {"count": 0, "correct": 0, "confidence": None, "accuracy": None}
    assert low == {"low": 0.0, "high": 0.25, **empty}
    assert second == {"low": 0.25, "high": 0.5, **empty}
    assert (third["count"], third["correct"], third["accuracy"]) == (2, 1, 0.5)
    assert third["confidence"] == pytest.approx(0.65)
    assert (last["low"], last["high"], last["count"], last["correct"]) == (0.75, 1.0, 1, 1)
    assert last["confidence"] == pytest.approx(0.9)
    # two thirds of the images are 0.15 off, one third 0.1
    assert found.ece == pytest.approx((2 * 0.15 + 0.1) / 3)


def test_an_edge_belongs_to_the_bin_below() -> None:
    halves = calibration(of([[0.5, 0.5]], [0]), bins=4).rows
    certain = calibration(of([[1.0, 0.0]], [0]), bins=4)

    assert [row["count"] for row in halves] == [0, 1, 0, 0]
    assert [row["count"] for row in certain.rows] == [0, 0, 0, 1]
    assert certain.ece == 0.0


def test_confidences_of_0_and_1_are_in_a_bin() -> None:
    predictions = of([[0.6, 0.4]] * 3, [0, 0, 0])
    predictions.__dict__["confidence"] = np.array([0.0, 1.0, 1e-300])  # as if cached

    assert [row["count"] for row in calibration(predictions, bins=3).rows] == [2, 0, 1]


def test_a_sure_net_that_is_always_wrong_has_the_whole_error() -> None:
    assert calibration(of([[1.0, 0.0]] * 4, [1] * 4)).ece == 1.0


def test_fifteen_bins_of_equal_width_unless_asked_for_others() -> None:
    rows = calibration(make()).rows

    assert len(rows) == 15
    assert [row["low"] for row in rows[1:]] == [row["high"] for row in rows[:-1]]
    assert (rows[0]["low"], rows[-1]["high"]) == (0.0, 1.0)
    assert [row["high"] - row["low"] for row in rows] == pytest.approx([1 / 15] * 15)


@settings(max_examples=60)
@given(
    n=st.integers(1, 300),
    k=st.integers(2, 8),
    bins=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    scale=st.floats(0, 20),
)
def test_the_error_is_the_mean_gap_of_the_bins(
    n: int, k: int, bins: int, seed: int, scale: float
) -> None:
    predictions = make(n, k, seed, scale=scale)
    found = calibration(predictions, bins)
    right = predictions.predicted == predictions.labels
    gap = 0.0
    for row in found.rows:
        within = (predictions.confidence > row["low"]) & (predictions.confidence <= row["high"])
        assert row["count"] == within.sum()
        assert row["correct"] == right[within].sum()
        if within.any():
            assert row["accuracy"] == pytest.approx(right[within].mean())
            assert row["confidence"] == pytest.approx(predictions.confidence[within].mean())
            gap += within.sum() / n * abs(row["accuracy"] - row["confidence"])

    assert found.ece == pytest.approx(gap, abs=1e-12)
    assert 0 <= found.ece <= 1
    assert sum(row["count"] for row in found.rows) == n
    assert sum(row["correct"] for row in found.rows) == predictions.correct


def test_the_reliability_curve_is_scikit_learns() -> None:
    predictions = make(2000, 6)
    right = predictions.predicted == predictions.labels
    accuracy, confidence = calibration_curve(right, predictions.confidence, n_bins=15)
    rows = [row for row in calibration(predictions).rows if row["count"]]

    assert [row["accuracy"] for row in rows] == pytest.approx(accuracy.tolist())
    assert [row["confidence"] for row in rows] == pytest.approx(confidence.tolist())


@settings(max_examples=60)
@given(
    n=st.integers(2, 200),
    k=st.integers(2, 8),
    seed=st.integers(0, 10_000),
    scale=st.floats(0.5, 10),
)
def test_the_gradient_is_zero_at_the_temperature(n: int, k: int, seed: int, scale: float) -> None:
    predictions = make(n, k, seed, scale=scale)
    temperature = fit_temperature(predictions)
    assume(0.05 < temperature < 20)
    logits = torch.from_numpy(predictions.logits).double()
    log_t = torch.tensor(math.log(temperature), dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(logits / log_t.exp(), torch.from_numpy(predictions.labels))
    loss.backward()  # type: ignore[no-untyped-call]

    assert log_t.grad is not None
    assert abs(log_t.grad.item()) < 1e-7 * scale / temperature
    assert with_temperature(predictions, temperature).loss <= predictions.loss + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_is_scipys_optimum(seed: int) -> None:
    predictions = make(500, 5, seed, scale=4.0)
    logits = torch.from_numpy(predictions.logits).double()
    labels = torch.from_numpy(predictions.labels)
    found = minimize_scalar(
        lambda log_t: cross_entropy(logits / math.exp(log_t), labels).item(),
        bounds=(math.log(0.05), math.log(20)),
        method="bounded",
        options={"xatol": 1e-10},
    )

    assert fit_temperature(predictions) == pytest.approx(math.exp(found.x), rel=1e-6)


def test_logits_that_are_too_large_by_a_factor_have_it_as_their_temperature() -> None:
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((60_000, 3)).astype(np.float32) * 2
    shares = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    labels = (rng.random((len(honest), 1)) > shares.cumsum(1)).sum(1).clip(0, 2)
    ids = np.arange(len(honest)).astype(np.str_)
    sure = Predictions(3 * honest, labels, ids, ("a", "b", "c"))
    temperature = fit_temperature(sure)

    assert temperature == pytest.approx(3, rel=0.02)
    assert calibration(with_temperature(sure, temperature)).ece < 0.01
    assert calibration(sure).ece > 0.1


@pytest.mark.parametrize("factor", [0.5, 2.0, 4.0])
def test_larger_logits_have_a_larger_temperature(factor: float) -> None:
    predictions = make()
    larger = with_temperature(predictions, 1 / factor)

    assert fit_temperature(larger) == pytest.approx(factor * fit_temperature(predictions), rel=1e-5)


def test_where_all_are_right_the_temperature_is_the_lowest() -> None:
    predictions = of([[0.9, 0.1], [0.2, 0.8]], [0, 1])

    assert fit_temperature(predictions) == 0.05


def test_where_all_are_wrong_the_temperature_is_the_highest() -> None:
    predictions = of([[0.9, 0.1], [0.2, 0.8]], [1, 0])

    assert fit_temperature(predictions) == 20.0


def test_huge_logits_are_no_trouble() -> None:
    predictions = make(50, 4, scale=1e4)

    assert math.isfinite(fit_temperature(predictions))
    assert math.isfinite(calibration(predictions).ece)


def test_a_temperature_changes_no_decision_and_not_the_predictions_it_is_given() -> None:
    predictions = make()
    before, sure = predictions.logits.copy(), predictions.confidence.copy()
    cooled = with_temperature(predictions, 2.5)

    np.testing.assert_array_equal(predictions.logits, before)
    np.testing.assert_array_equal(cooled.predicted, predictions.predicted)
    expected = torch.softmax(torch.from_numpy(before).double() / 2.5, 1).max(1).values
    np.testing.assert_allclose(cooled.confidence, expected, rtol=1e-5)
    assert cooled.logits.dtype == np.float32
    assert (cooled.confidence < sure).all()
    assert (cooled.classes, cooled.split) == (predictions.classes, predictions.split)
    np.testing.assert_array_equal(with_temperature(predictions, 1.0).logits, before)


def test_the_temperature_is_of_all_blocks_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = make(100)
    whole = fit_temperature(predictions)
    monkeypatch.setattr("resight.runs.calibration.ROWS_AT_ONCE", 7)

    assert fit_temperature(predictions) == pytest.approx(whole, rel=1e-9)
