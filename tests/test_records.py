"""Of recorded rows: the epoch after which early stopping ends a training, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.records import best_epoch, epoch_to_stop_at, stopped_words


def rows(*accuracies: float) -> list[dict[str, Any]]:
    return [
        {"epoch": number, "val_accuracy": accuracy, "lr": 0.1 / number}
        for number, accuracy in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(
    ("accuracies", "patience", "expected"),
    [
        ((), 2, None),
        ((0.5, 0.6, 0.7), 2, None),
        ((0.5, 0.4, 0.4), 2, 3),
        ((0.5, 0.5, 0.5), 2, 3),  # as good is not better
        ((0.5, 0.4, 0.6, 0.6, 0.5, 0.9), 2, 5),  # what comes later would not have been seen
        ((0.5, 0.4), 1, 2),
        ((0.5, 0.4, 0.3), 0, None),
        ((0.0, 0.0), 1, 2),
    ],
)
def test_early_stopping_ends_at(
    accuracies: tuple[float, ...], patience: int, expected: int | None
) -> None:
    assert epoch_to_stop_at(rows(*accuracies), patience) == expected


def with_losses(*values: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of (accuracy, loss)."""
    made = rows(*(accuracy for accuracy, _ in values))
    return [{**row, "val_loss": loss} for row, (_, loss) in zip(made, values, strict=True)]


def test_of_equally_accurate_epochs_the_one_with_the_lowest_loss_is_best() -> None:
    seen = with_losses((0.5, 0.69), (0.5, 0.61), (0.25, 0.1), (0.5, 0.61), (0.5, 0.64))
    best = best_epoch(seen, "val_accuracy")
    assert best is not None
    assert best["epoch"] == 2
    assert epoch_to_stop_at(seen, 3) == 5  # the second epoch was better than the first
    assert epoch_to_stop_at(seen, 1) == 3


accuracies_and_losses = st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([1.0, 2.0]))


@given(st.lists(accuracies_and_losses, max_size=12), st.integers(1, 5))
def test_it_is_the_first_epoch_with_enough_behind_it(
    values: list[tuple[float, float]], patience: int
) -> None:
    seen = with_losses(*values)
    stop = epoch_to_stop_at(seen, patience)
    for n in range(1, len(seen) + 1):
        best = best_epoch(seen[:n], "val_accuracy")
        assert best is not None
        due = n - best["epoch"] >= patience
        assert due is (stop is not None and n == stop) or (stop is not None and n > stop)
        if stop == n:
            break


def test_a_stop_is_said_with_what_it_was_for() -> None:
    stopped = rows(0.5, 0.7, 0.6, 0.7)
    assert stopped_words(stopped, 9, 2) == (
        "stopped after epoch 4 of 9, at LR 0.025: no better validation accuracy since epoch 2"
    )
    assert stopped_words(stopped, 4, 2) is None  # it was the last one anyway
    assert stopped_words(stopped, 9, 3) is None
    assert stopped_words([{"epoch": 1, "train_loss": 2.0}], 9, 0) is None
