"""What the record of a training shows, each check by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from diagnosing import evidence, names, recipe, rows
from resight.diagnosis import record_checks
from resight.recipe.catalog import find_recipe, lower_lr
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


def test_no_lr_test_is_advised_where_it_would_say_to_keep_the_lr() -> None:
    own = find_recipe("fast")
    flat = evidence(metrics=rows((1.1, 0.34, 0.33)), recipe=own, lr_max=0.17)
    (ended,) = record_checks.not_learning(flat)
    assert (ended.severity, ended.command) == ("problem", None)
    assert ended.advice == "train longer, and check that the labels are right"
    (trains,) = record_checks.not_learning(dataclasses.replace(flat, finished=False))
    assert (trains.severity, trains.command) == ("note", None)
    assert trains.advice.startswith("wait: much is often learned only as the LR falls; ")
    (other,) = record_checks.not_learning(dataclasses.replace(flat, lr_max=0.3))
    assert other.command == flat.find_lr


def test_after_a_divergence_a_lower_lr_is_named_and_no_test_that_chose_this_one() -> None:
    lost = evidence(metrics=rows((0.5, 0.8, 0.8), (1.11, 0.33, 0.33)), lr_max=0.5)
    chosen = dataclasses.replace(lost, recipe=recipe(**{"schedule.lr_max": "find"}))
    given = dataclasses.replace(lost, recipe=recipe(**{"schedule.lr_max": 0.5}))
    (after_a_test,), (after_a_number,) = (record_checks.diverged(e) for e in (chosen, given))
    assert (after_a_test.advice, after_a_test.command) == (
        "train again with a lower LR, such as --lr 0.003",
        None,
    )
    assert after_a_number.advice.endswith("such as --lr 0.003, or one found by an LR test")
    assert after_a_number.command == lost.find_lr


def test_far_above_it_the_usual_lr_is_named() -> None:
    lost = evidence(metrics=rows((0.5, 0.8, 0.8), (1.11, 0.33, 0.33)), lr_max=1e9)
    (found,) = record_checks.diverged(lost)
    usual = lost.recipe.optimizer.usual_lr(lost.recipe.train.batch_size)
    assert f"such as --lr {usual:.2g}" in found.advice
    assert lower_lr(lost.recipe, usual) == pytest.approx(usual / 10, rel=0.05)
    fast = find_recipe("fast")
    assert lower_lr(fast, 100) == fast.schedule.lr_max
    assert lower_lr(fast, 0.17) == 0.017


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


@pytest.mark.parametrize(
    ("augment", "counts", "advised"),
    [
        ({}, [50, 50, 50], True),
        ({}, [50, 50, 49], False),
        ({"augment.randaugment": 2, "augment.randaugment_magnitude": 9}, [50, 50, 50], False),
        ({"augment.trivialaugment": True}, [50, 50, 50], False),
    ],
)
def test_against_a_gap_randaugment_is_named_where_it_was_seen_to_help(
    augment: dict[str, Any], counts: list[int], advised: bool
) -> None:
    seen = evidence(
        recipe=recipe(**augment), class_counts=np.array(counts), metrics=rows((0.3, 0.9, 0.5))
    )
    (finding,) = record_checks.gap(seen)
    assert ("augment.randaugment=2" in finding.advice) is advised


def test_a_gap_before_the_training_has_warmed_up_is_none() -> None:
    early = evidence(metrics=rows((0.3, 0.9, 0.1)), finished=False, judged_from=121)
    assert not list(record_checks.gap(early))
    assert list(record_checks.gap(dataclasses.replace(early, judged_from=120)))
    assert list(record_checks.gap(dataclasses.replace(early, finished=True)))


def test_of_a_mixed_training_the_accuracy_on_unmixed_images_is_compared() -> None:
    mixed = evidence(recipe=recipe(**{"augment.mixup": 0.2}), metrics=rows((1.0, 0.5, 0.6)))
    assert mixed.train_accuracy is None
    assert not list(record_checks.gap(mixed))
    lost = dataclasses.replace(mixed, metrics=rows((1.1, 0.34, 0.6)))
    assert names(record_checks.not_learning(lost)) == {"not-learning"}
    assert not list(record_checks.not_learning(dataclasses.replace(lost, plain_accuracy=0.6)))
    known = dataclasses.replace(mixed, plain_accuracy=0.95)
    assert "train 95.0%, test 60.0%" in next(record_checks.gap(known)).evidence

    rising = rows((1.0, 0.4, 0.5), (0.8, 0.45, 0.6), (0.7, 0.5, 0.7))
    mixed = dataclasses.replace(mixed, metrics=rising)
    assert not list(record_checks.improving(mixed))
    assert not list(record_checks.improving(dataclasses.replace(mixed, plain_accuracy=0.8)))
    behind = dataclasses.replace(mixed, plain_accuracy=0.72)
    assert "train accuracy is 72.0%" in next(record_checks.improving(behind)).evidence

    fast = {"train.batch_size": 1000, "schedule.lr_max": 0.0256, "augment.cutmix": 1.0}
    low = dataclasses.replace(mixed, recipe=find_recipe("fast").with_changes(fast), lr_max=0.0256)
    assert not list(record_checks.lr_against_recipe(low))
    learnt = dataclasses.replace(low, plain_accuracy=0.95)
    assert not list(record_checks.lr_against_recipe(learnt))
    assert list(record_checks.lr_against_recipe(dataclasses.replace(low, plain_accuracy=0.6)))


def test_of_balanced_samples_the_accuracy_on_each_image_once_is_compared() -> None:
    drawn = evidence(recipe=recipe(**{"train.sampling": "balanced"}), metrics=rows((1.0, 0.9, 0.6)))
    assert drawn.train_accuracy is None
    assert not list(record_checks.gap(drawn))
    known = dataclasses.replace(drawn, plain_accuracy=0.95)
    assert "train 95.0%, test 60.0%" in next(record_checks.gap(known)).evidence


def test_balanced_samples_are_known_by_chance_as_equal_classes_are() -> None:
    counts = np.array([800, 50, 50])
    metrics = rows(*((1.1, 0.34, 0.8) for _ in range(3)))
    drawn = recipe(**{"train.sampling": "balanced"})
    seen = evidence(recipe=drawn, class_counts=counts, metrics=metrics)
    assert seen.chance_loss == pytest.approx(np.log(3))
    assert seen.chance_accuracy(900) == pytest.approx(1 / 3 + 3 * np.sqrt(2 / 9 / 900))
    assert names(record_checks.not_learning(seen)) == {"not-learning"}
    plain = dataclasses.replace(seen, recipe=recipe())
    assert plain.chance_loss == pytest.approx(0.426, abs=1e-3)
    assert plain.chance_accuracy(900) > 8 / 9


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
    assert findings[0].command is None
    assert findings[0].advice.endswith("add images of the rare classes")
    cured = evidence(class_counts=np.array([100, 100, 20]), balanced="resight train --set …")
    (finding,) = record_checks.imbalance(cured)
    assert finding.command == "resight train --set …"
    assert finding.advice.endswith(
        "add images of the rare classes; or balance the classes (train.sampling or "
        "loss.class_weights = 'balanced'), which costs some accuracy on the frequent ones"
    )
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


def test_a_healthy_small_run_is_not_called_diverged() -> None:
    """Two classes at a loss of 0.2: a rise by 0.08 is a seventh of what it had learned."""
    two = {"classes": ("a", "b"), "class_counts": np.array([80, 80])}
    healthy = rows((0.5, 0.8, 0.7), (0.124, 0.95, 0.72), (0.203, 0.93, 0.74))
    assert not list(record_checks.diverged(evidence(metrics=healthy, **two)))
    lost = rows((0.5, 0.8, 0.7), (0.124, 0.95, 0.72), (0.3, 0.9, 0.7))
    assert names(record_checks.diverged(evidence(metrics=lost, **two))) == {"diverged"}


def test_a_high_loss_after_a_few_steps_says_nothing() -> None:
    few = rows((2.5, 0.3, 0.3))
    few[0]["step"] = 3
    assert not list(record_checks.diverged(evidence(metrics=few)))
    few[0]["step"] = 20
    assert names(record_checks.diverged(evidence(metrics=few))) == {"diverged"}


def test_an_early_stop_at_a_high_lr_is_named() -> None:
    stopped = [
        {"epoch": n, "step": 120 * n, "lr": lr, "val_accuracy": accuracy}
        for n, (lr, accuracy) in enumerate([(0.25, 0.5), (0.2, 0.7), (0.15, 0.6), (0.1, 0.7)], 1)
    ]
    changed = recipe(**{"train.early_stop": 2, "data.val_fraction": 0.1})
    early = evidence(recipe=changed, metrics=stopped, lr_max=0.25)
    (finding,) = record_checks.stopped_at_a_high_lr(early)
    assert "after epoch 4 of" in finding.evidence
    assert finding.evidence.endswith("that is 40% of LR max")
    assert "more than 2 epochs" in finding.advice
    low = dataclasses.replace(early, metrics=[*stopped[:3], stopped[3] | {"lr": 0.05}])
    assert not list(record_checks.stopped_at_a_high_lr(low))
    on = dataclasses.replace(early, metrics=stopped[:3])
    assert not list(record_checks.stopped_at_a_high_lr(on))


def test_a_loss_above_chance_at_the_end_is_diverged_though_it_never_learned() -> None:
    never = rows((9.0, 0.34, 0.33), (1.33, 0.33, 0.33))
    (finding,) = record_checks.diverged(evidence(metrics=never))
    assert (finding.name, finding.severity) == ("diverged", "problem")
    assert "the training loss is 1.330 after epoch 2" in finding.evidence
    assert not list(record_checks.diverged(evidence(metrics=rows((1.31, 0.33, 0.33)))))
    early = evidence(metrics=never, finished=False, judged_from=241)
    assert not list(record_checks.diverged(early))


GROWING = {"schedule.small_epochs": 2.0, "schedule.small_px": 12, "model.net": "fastnet"}


@pytest.mark.parametrize(
    ("accuracies", "found"),
    [
        ((0.6, 0.9, 0.79, 0.85), True),
        ((0.6, 0.9, 0.81, 0.85), False),  # 9 points are no cliff
        ((0.6, 0.9, 0.7, 0.91), False),  # it recovered
        ((0.6, 0.9, 0.95, 0.7), False),  # not when the images grew
    ],
)
def test_a_fall_when_the_images_grow_is_named(accuracies: tuple[float, ...], found: bool) -> None:
    changes = {**GROWING, "schedule.epochs": 4, "schedule.peak_epoch": 1.0}
    growing = recipe(**changes, **{"data.image_size": 16})
    metrics = rows(*((0.5, accuracy, 0.5) for accuracy in accuracies))
    findings = list(record_checks.fell_when_images_grew(evidence(recipe=growing, metrics=metrics)))
    assert names(findings) == ({"fell-when-images-grew"} if found else set())
    if found:
        assert "was 90.0% after epoch 2, the last with images of 12 px" in findings[0].evidence
        assert findings[0].advice.endswith(
            "--set schedule.small_epochs=0 --set schedule.small_px=0"
        )
    same = evidence(recipe=recipe(**{"schedule.epochs": 4}), metrics=metrics)
    assert not list(record_checks.fell_when_images_grew(same))


@pytest.mark.parametrize(
    ("lr", "train", "said"), [(1.0, 0.17, True), (1.0, 0.95, False), (0.05, 0.17, False)]
)
def test_an_lr_far_above_the_usual_one_is_named_where_the_recipe_sets_none(
    lr: float, train: float, said: bool
) -> None:
    seen = evidence(metrics=rows((2.2, train, train)), lr_max=lr, finished=True)
    usual = seen.recipe.optimizer.usual_lr(seen.recipe.train.batch_size)
    found = list(record_checks.lr_against_recipe(seen))
    assert [f.name for f in found] == (["lr-too-high"] if said else [])
    assert all(f.advice == f"use the usual LR: --lr {usual:.3g}" for f in found)
