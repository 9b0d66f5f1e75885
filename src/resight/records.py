"""Reading recorded rows: one per epoch (`metrics.jsonl`) or per class (`per_class`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
CLOCKS = ("train_seconds", "evaluate_seconds", "images_per_second")  # of an epoch: never the same
UNEVEN_SHARE = 1.5  # of an even share, for the largest class


def best_epoch(rows: Iterable[Row], key: str) -> Row | None:
    """The row with the highest `key`, an accuracy; of equal ones the one with the lowest loss on
    the same split, then the first. None if no row has it.
    """
    return max((row for row in rows if key in row), key=lambda row: _merit(row, key), default=None)


def _merit(row: Row, key: str) -> tuple[float, float]:
    """What an epoch is compared by. Of few images many epochs get equally many right, and the loss
    says which is the surest of them."""
    return float(row[key]), -float(row.get(key.replace("accuracy", "loss"), math.inf))


def epoch_to_stop_at(rows: Sequence[Row], patience: int) -> int | None:
    """The epoch after which early stopping ends the training: the first with `patience` epochs
    behind it of which none was better on validation, by the rule of `best_epoch`. None if there is
    none yet; patience 0: never.
    """
    best, since = (-1.0, -math.inf), 0
    for row in rows if patience else ():
        if (merit := _merit(row, "val_accuracy")) > best:
            best, since = merit, row["epoch"]
        elif row["epoch"] - since >= patience:
            return int(row["epoch"])
    return None


def stopped_words(rows: Sequence[Row], epochs: int, patience: int) -> str | None:
    """Why a training of `epochs` ended before its last one; None if it did not."""
    epoch, best = epoch_to_stop_at(rows, patience), best_epoch(rows, "val_accuracy")
    if epoch is None or epoch == epochs or best is None:
        return None
    return (
        f"stopped after epoch {epoch} of {epochs}, at LR {rows[-1]['lr']:.3g}: no better "
        f"validation accuracy since epoch {best['epoch']}"
    )


def watched_split(row: Row) -> str:
    """The split that was measured after an epoch: validation if there is one, else test."""
    return "val" if "val_accuracy" in row else "test"


def weakest_first(rows: Iterable[Row]) -> list[Row]:
    """Classes by rising accuracy; those without images, whose accuracy is None, last."""
    return sorted(rows, key=lambda row: 2.0 if row["accuracy"] is None else row["accuracy"])


def accuracy_words(split: str, accuracy: float, interval: Sequence[float], images: int) -> str:
    """`test accuracy 90.66% (95% CI: 90.07% to 91.22%, 10,000 images)`."""
    low, high = interval
    return f"{split} accuracy {accuracy:.2%} (95% CI: {low:.2%} to {high:.2%}, {images:,} images)"


def beside_words(guess: float, balanced: float, classes: int) -> str:
    """`guessing the largest class gives 67.80%; balanced accuracy 81.20%`, the latter where the
    largest of `classes` has 1.5 times its even share or more."""
    words = f"guessing the largest class gives {guess:.2%}"
    return words + (f"; balanced accuracy {balanced:.2%}" if is_uneven(guess, classes) else "")


def is_uneven(guess: float, classes: int) -> bool:
    """Whether the largest of `classes` has 1.5 times its even share of the images or more."""
    return guess * classes >= UNEVEN_SHARE
