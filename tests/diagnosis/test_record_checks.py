"""What the record of a training shows, each check by itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from diagnosing import evidence, names, rows
from resight.diagnosis import record_checks
from resight.recipe.catalog import find_recipe
from resight.runs.lr_test import LrTest


def test_a_loss_at_chance_is_not_learning_and_one_below_is() -> None:
    assert names(record_checks.not_learning(evidence(metrics=rows((1.1, 0.34, 0.33))))) == {
        "not-learning"
    }
    assert not list(record_checks.not_learning(evidence(metrics=rows((1.0, 0.45, 0.4)))))
    # it had learnt before: that is another finding
    lost = evidence(metrics=rows((0.5, 0.8, 0.8), (1.11, 0.33, 0.33)))
    assert not list(record_checks.not_learning(lost))
    assert names(record_checks.diverged(lost)) == {"diverged"}


def test_a_bump_in_the_middle_is_no_divergence() -> None:
    bump = rows((0.9, 0.6, 0.6), (0.5, 0.8, 0.8), (0.9, 0.6, 0.6), (0.4, 0.9, 0.9))
    assert not list(record_checks.diverged(evidence(metrics=bump)))


@pytest.mark.parametrize(
    ("train", "test", "severity"), [(0.9, 0.8, None), (0.9, 0.7, "note"), (0.92, 0.5, "problem")]
)
def test_a_gap_is_a_note_and_a_large_one_a_problem(
    train: float, test: float, severity: str | None
) -> None:
    findings = list(record_checks.gap(evidence(metrics=rows((0.3, train, test)))))
    assert [f.severity for f in findings] == ([severity] if severity else [])


def test_a_gap_within_the_luck_of_a_few_test_images_is_none() -> None:
    few = evidence(metrics=rows((0.3, 0.9, 0.6)), watched_images=5)
    assert not list(record_checks.gap(few))
    assert list(record_checks.gap(dataclasses.replace(few, watched_images=100)))


def test_a_gap_before_the_training_has_warmed_up_is_none() -> None:
    early = evidence(metrics=rows((0.3, 0.9, 0.1)), finished=False, judged_from=121)
    assert not list(record_checks.gap(early))
    assert list(record_checks.gap(dataclasses.replace(early, judged_from=120)))
    assert list(record_checks.gap(dataclasses.replace(early, finished=True)))


def test_too_few_steps_are_not_called_not_learning() -> None:
    short = rows((1.1, 0.34, 0.33))
    short[0]["step"] = 99
    assert not list(record_checks.not_learning(evidence(metrics=short)))


def test_accuracy_that_rises_to_the_end_is_a_note_unless_train_is_ahead() -> None:
    rising = rows((1.0, 0.5, 0.5), (0.8, 0.6, 0.6), (0.6, 0.7, 0.7))
    assert names(record_checks.improving(evidence(metrics=rising))) == {"still-improving"}
    ahead = rows((1.0, 0.5, 0.5), (0.8, 0.6, 0.6), (0.6, 0.8, 0.7))
    assert not list(record_checks.improving(evidence(metrics=ahead)))
    flat = rows((1.0, 0.7, 0.7), (0.8, 0.7, 0.7), (0.6, 0.7, 0.701))
    assert not list(record_checks.improving(evidence(metrics=flat)))
    perfect = evidence(metrics=rows((0.1, 0.98, 0.988), (0.05, 0.99, 1.0)), watched_images=160)
    assert not list(record_checks.improving(perfect))


def curve() -> LrTest:
    """Falls from 1e-4 to 1e-1, then rises and diverges at 3."""
    lrs = np.geomspace(1e-6, 3, 120)
    x = np.log10(lrs)
    losses = 2.0 - 1.5 * np.clip((x + 4) / 3, 0, 1) + 3.0 * np.clip(x + 0.5, 0, None)
    return LrTest(lrs, losses, "diverged at 3", chance=2.3, method="minimum/2")


@pytest.mark.parametrize(
    ("lr", "name", "severity"),
    [
        (5.0, "lr-too-high", "problem"),
        (1.5, "lr-too-high", "note"),
        (0.05, None, None),
        (1e-5, "lr-too-low", "problem"),
    ],
)
def test_the_lr_is_judged_by_the_runs_own_test(
    lr: float, name: str | None, severity: str | None
) -> None:
    findings = list(record_checks.lr_against_curve(evidence(lr_max=lr, lr_test=curve())))
    assert [(f.name, f.severity) for f in findings] == ([(name, severity)] if name else [])
    assert all(f.command and f.command.startswith("resight find-lr") for f in findings)


def test_a_rare_class_is_a_note() -> None:
    findings = list(record_checks.imbalance(evidence(class_counts=np.array([100, 100, 20]))))
    assert names(findings) == {"class-imbalance"}
    assert "100 images of 'a' and 20 of 'c'" in findings[0].evidence
    assert not list(record_checks.imbalance(evidence(class_counts=np.array([100, 100, 21]))))


@pytest.mark.parametrize(
    ("lr", "batch", "train", "expected"),
    [
        (0.0256, 1000, 0.65, "lr-too-low"),  # what an LR test read where 0.17 is right
        (0.6, 1000, 0.65, "lr-too-high"),
        (0.17, 1000, 0.3, None),
        (0.06, 1000, 0.65, None),  # less than 3 times
        (0.0256, 1000, 0.91, None),  # it did no harm
        (0.017, 250, 0.65, "lr-too-low"),  # Muon's scales with the root of the batch: 0.085
        (0.03, 250, 0.65, None),
    ],
)
def test_an_lr_far_from_the_recipes_own_is_named(
    lr: float, batch: int, train: float, expected: str | None
) -> None:
    fast = find_recipe("fast").with_changes({"train.batch_size": batch, "schedule.lr_max": lr})
    seen = evidence(recipe=fast, lr_max=lr, metrics=rows((1.0, train, 0.6)))
    findings = list(record_checks.lr_against_recipe(seen))
    assert [finding.name for finding in findings] == ([expected] if expected else [])
    if expected and batch == 1000:
        assert findings[0].severity == "problem"
        assert findings[0].advice.endswith("--lr 0.17")
        assert f"LR max is {lr:.3g}, where fast sets 0.17" in findings[0].evidence


def test_only_a_named_recipe_with_an_lr_of_its_own_is_held_against_it() -> None:
    said = rows((1.0, 0.5, 0.5))
    for recipe_ in (
        find_recipe("custom-resnet"),  # it leaves the LR to a test
        find_recipe("fast").with_changes({"name": "mine"}),
        find_recipe("custom-resnet-d").with_changes({"optimizer.name": "adam"}),
        find_recipe("custom-resnet-d").with_changes({"model.net": "resnet18"}),
    ):
        seen = evidence(recipe=recipe_, lr_max=1e-6, metrics=said)
        assert list(record_checks.lr_against_recipe(seen)) == []
    unfinished = evidence(recipe=find_recipe("fast"), lr_max=1e-6, metrics=said, finished=False)
    assert list(record_checks.lr_against_recipe(unfinished)) == []
