"""What the predictions show, each check by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from diagnosing import evidence, names, predictions, rows
from resight.diagnosis import prediction_checks
from resight.diagnosis.diagnose import check
from resight.recipe.catalog import find_recipe


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
    assert "chance" not in findings[0].advice


def test_a_class_of_few_test_images_that_is_never_predicted_is_worth_a_note() -> None:
    said, there = [0, 1] * 40 + [0] * 5, [0, 1] * 40 + [1] + [2] * 4
    (finding,) = prediction_checks.never_predicted(
        evidence(predictions=predictions(np.eye(3)[said], there))
    )
    assert finding.severity == "note"
    assert finding.evidence == "no test image is predicted as 'c' (4 images)"
    assert "with so few test images it may be chance" in finding.advice
    there[-5:] = [2] * 5
    (finding,) = prediction_checks.never_predicted(
        evidence(predictions=predictions(np.eye(3)[said], there))
    )
    assert finding.severity == "problem"
    there[-5:] = [0, 0, 0, 0, 2]
    (finding,) = prediction_checks.never_predicted(
        evidence(predictions=predictions(np.eye(3)[said], there))
    )
    assert finding.evidence.endswith("'c' (1 image)")
    absent = predictions(np.eye(3)[said], [0, 1] * 40 + [1] * 5)  # nothing to be right about
    assert not list(prediction_checks.never_predicted(evidence(predictions=absent)))
    two = predictions(np.eye(3)[[0] * 8], [0] * 4 + [1] * 1 + [2] * 3)
    (finding,) = prediction_checks.never_predicted(evidence(predictions=two))
    assert finding.evidence.endswith("as 'c' (3 images), 'b' (1 image)")
    assert finding.advice.startswith("look at their rows ")


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


@pytest.mark.parametrize(("test", "named"), [(0.65, False), (0.75, True)])
def test_labels_that_a_net_far_below_its_train_accuracy_denies_are_not_suspected(
    test: float, named: bool
) -> None:
    labels = np.array([0, 1, 2] * 10)
    logits = 12.0 * np.eye(3)[labels]
    labels[4] = 0
    seen = evidence(predictions=predictions(logits, labels), metrics=rows((0.1, 1.0, test)))
    assert ("suspicious-labels" in names(check(seen))) is named


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


def of_two(right: int, wrong: int, *, a: int) -> Any:
    """Predictions for `a` images of class a and the rest of b; the first `right` are right."""
    n = right + wrong
    labels = np.array([0] * a + [1] * (n - a))
    said = np.where(np.arange(n) < right, labels, 1 - labels)
    return predictions(np.eye(2)[said], labels)


def test_accuracy_within_luck_of_guessing_is_named() -> None:
    (finding,) = prediction_checks.barely_above_guessing(
        evidence(predictions=of_two(45, 34, a=43), metrics=rows((0.7, 0.5, 0.5)))
    )
    assert (finding.name, finding.severity) == ("barely-above-guessing", "problem")
    assert finding.title == "accuracy is hardly better than guessing"
    assert "always answering 'a', the largest class, is right on 54.4%" in finding.evidence
    assert "more than 120 steps" in finding.advice
    (finding,) = prediction_checks.barely_above_guessing(
        evidence(predictions=of_two(45, 34, a=43), metrics=rows((0.1, 0.97, 0.5)))
    )
    assert finding.advice.startswith("more steps won't help, since train accuracy is 97.0%: ")
    few = rows((0.1, 0.97, 0.5))
    few[-1]["step"] = 99
    (finding,) = prediction_checks.barely_above_guessing(
        evidence(predictions=of_two(45, 34, a=43), metrics=few)
    )
    assert finding.advice.startswith("train for more than 99 steps ")
    better = of_two(60, 19, a=43)
    assert better.accuracy_interval[0] > 43 / 79
    assert not list(prediction_checks.barely_above_guessing(evidence(predictions=better)))


def test_a_net_that_knows_the_rare_class_knows_something() -> None:
    """95 % of one class, and 90 % right on either: worse than guessing, and useful."""
    labels = np.array([0] * 950 + [1] * 50)
    said = labels.copy()
    said[:95], said[-5:] = 1, 0
    useful = predictions(np.eye(2)[said], labels)
    assert useful.accuracy < useful.guess_accuracy
    (finding,) = prediction_checks.barely_above_guessing(evidence(predictions=useful))
    assert finding.severity == "note"
    assert finding.title == "accuracy is below guessing, but the classes are told apart"
    assert "recall per class" in finding.advice


def test_of_one_class_there_is_nothing_to_guess() -> None:
    one = predictions(np.eye(2)[[0, 0, 1]], [0, 0, 0])
    assert not list(prediction_checks.barely_above_guessing(evidence(predictions=one)))


def test_probabilities_that_are_worse_than_none_are_named() -> None:
    sure = predictions(30.0 * np.eye(3)[[0, 1, 2, 0, 1, 2]], [0, 1, 2, 0, 1, 0])
    assert sure.loss == pytest.approx(5.0, abs=1e-3)
    (finding,) = prediction_checks.loss_above_chance(evidence(predictions=sure))
    assert finding.evidence.startswith("test loss is 5.000;")
    modest = predictions(3.0 * np.eye(3)[[0, 1, 2, 0, 1, 2]], [0, 1, 2, 0, 1, 0])
    assert not list(prediction_checks.loss_above_chance(evidence(predictions=modest)))


def test_what_a_net_that_knows_nothing_is_sure_of_is_not_named() -> None:
    blind = predictions(30.0 * np.eye(2)[[0] * 80], [0] * 41 + [1] * 39)
    found = check(evidence(predictions=blind, classes=("a", "b"), class_counts=np.array([50, 50])))
    assert names(found) == {"barely-above-guessing", "never-predicted"}


@pytest.mark.parametrize(("counts", "advised"), [([80, 80, 41], False), ([80, 80, 40], True)])
def test_balancing_is_advised_where_classes_are_unequal(counts: list[int], advised: bool) -> None:
    """Where the net answers one class only, train has `counts` images of each."""
    blind = predictions(np.eye(3)[[0] * 90], [0] * 30 + [1] * 30 + [2] * 30)
    command = "resight train --recipe r/recipe.json --data d --set train.sampling=balanced"
    seen = evidence(class_counts=np.array(counts), predictions=blind, balanced=command)
    for look_for in (prediction_checks.never_predicted, prediction_checks.barely_above_guessing):
        (finding,) = look_for(seen)
        assert finding.command == (command if advised else None)
        assert ("; or balance the classes (train.sampling" in finding.advice) == advised
        (finding,) = look_for(dataclasses.replace(seen, balanced=None))  # balanced already
        assert finding.command is None
        assert "balance" not in finding.advice


@pytest.mark.parametrize(("train", "advised"), [(0.9701, False), (0.9699, True), (0.7, True)])
def test_balancing_is_not_advised_where_the_rare_classes_were_learnt(
    train: float, advised: bool
) -> None:
    """Of 100 training images 30 are not of the largest class: three mistakes are few."""
    blind = predictions(np.eye(3)[[0] * 90], [0] * 30 + [1] * 30 + [2] * 30)
    seen = evidence(
        class_counts=np.array([70, 20, 10]),
        predictions=blind,
        balanced="resight train",
        metrics=rows((0.1, train, 0.33)),
    )
    for look_for in (prediction_checks.never_predicted, prediction_checks.barely_above_guessing):
        (finding,) = look_for(seen)
        assert finding.command == ("resight train" if advised else None)


@pytest.mark.parametrize(
    ("lr_max", "expected"),
    [
        (3.0, {"lr-too-high"}),
        (0.01, {"lr-too-low"}),
        (0.17, {"barely-above-guessing", "never-predicted"}),
    ],
)
def test_where_the_lr_is_wrong_no_other_cure_is_advised_for_what_follows(
    lr_max: float, expected: set[str]
) -> None:
    blind = predictions(np.eye(2)[[0] * 80], [0] * 41 + [1] * 39)
    seen = evidence(
        recipe=find_recipe("fast"),
        predictions=blind,
        classes=("a", "b"),
        class_counts=np.array([50, 50]),
        metrics=rows((0.6, 0.6, 0.5)),
        lr_max=lr_max,
    )
    assert names(check(seen)) == expected
