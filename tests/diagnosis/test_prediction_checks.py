"""What the predictions show, each check by itself."""

from __future__ import annotations

import numpy as np

from diagnosing import evidence, names, predictions, rows
from resight.diagnosis import prediction_checks


def test_a_class_that_is_never_predicted_is_a_problem_from_five_images_on() -> None:
    logits = np.eye(3)[[0, 1] * 5 + [0] * 5]
    long = rows((0.5, 0.7, 0.7))
    five = predictions(logits, [0, 1] * 5 + [2] * 5)
    findings = list(prediction_checks.never_predicted(evidence(predictions=five, metrics=long)))
    assert [(f.name, f.severity) for f in findings] == [("never-predicted", "note")]
    assert "'c' (5 images)" in findings[0].evidence
    many = predictions(np.tile(logits, (4, 1)), ([0, 1] * 5 + [2] * 5) * 4)  # 20 a class
    findings = list(prediction_checks.never_predicted(evidence(predictions=many, metrics=long)))
    assert [f.severity for f in findings] == ["problem"]
    four = predictions(logits[:-1], [0, 1] * 5 + [2] * 4)
    assert not list(prediction_checks.never_predicted(evidence(predictions=four, metrics=long)))


def test_a_label_that_a_sure_net_denies_is_suspicious() -> None:
    logits = 12.0 * np.eye(3)[[0, 1, 2] * 10]
    labels = np.array([0, 1, 2] * 10)
    assert not list(
        prediction_checks.suspicious_labels(evidence(predictions=predictions(logits, labels)))
    )
    labels[4] = 0  # the net is sure that it is 1
    findings = list(
        prediction_checks.suspicious_labels(evidence(predictions=predictions(logits, labels)))
    )
    assert names(findings) == {"suspicious-labels"}
    assert "1 of 30" in findings[0].evidence
    assert "4.png, is labelled 'a' but predicted as 'b'" in findings[0].evidence


def test_confidence_far_above_accuracy_is_named() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    seen = np.where(rng.random(300) < 0.6, labels, (labels + 1) % 3)
    sure = predictions(10.0 * np.eye(3)[seen], labels)
    assert [f.severity for f in prediction_checks.overconfident(evidence(predictions=sure))] == [
        "problem"
    ]
    modest = predictions(1.0 * np.eye(3)[seen], labels)
    assert not list(prediction_checks.overconfident(evidence(predictions=modest)))
