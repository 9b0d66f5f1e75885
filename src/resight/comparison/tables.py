"""What a comparison shows, as tables and sentences for any output format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resight.comparison.pairs import PairTest, p_value
from resight.comparison.rows import RunNumbers

MAX_RECIPE_COLUMNS = 6  # runs whose recipes are shown side by side; more are listed by value
NONE = "–"
NOTES = "Notes"
BEST_TEST = "best test: the epoch is chosen on the test images themselves, so it is not a result"
TRAIN = "train: measured during training, on the last epoch's augmented images"
UNEVEN = (
    "balanced: the mean of the classes' recall; guessing: what always answering the largest class "
    "gives. With classes as unequal as these, more accuracy may be less use"
)
WALL_OF_RESUMED = "wall: for a resumed run, only the time since it was resumed; training: all of it"
METHOD = (
    "McNemar's exact test on the images that only one of the two gets right; the interval is "
    "Bonett and Price's for paired proportions, and includes 0 unless p is below 0.05"
)
COLUMNS_OF_PAIRS = (
    "alone: how many images only the first run gets right : only the second; points: the first "
    "run's accuracy minus the second's"
)
RESULT = ("points", "95% CI", "p", "Holm", "better")
HOLM = (
    "; interval and p are of a pair alone; Holm: p corrected for the number of pairs; it decides "
    "which is better"
)
ABOUT_NETS = (
    "this compares these trained nets, not their recipes: another seed gives another accuracy, so "
    "before you prefer a recipe, train several seeds of each (--seeds 5 --out FOLDER) and compare "
    "the two folders"
)


@dataclass(frozen=True)
class Section:
    """A heading, a table (its first row names the columns; [] for no table) and lines below it."""

    heading: str
    table: list[list[str]]
    lines: list[str]


def first_line(numbers: Sequence[RunNumbers]) -> str:
    """How many runs, and what is the same in all of them."""
    words = {"parameters": "{} parameters", "seed": "seed {}"}
    same = _shared(numbers).items()
    said = [words.get(heading, "{}").format(text) for heading, text in same]
    return " · ".join([f"{len(numbers)} runs", *said])


def setting(value: Any) -> str:
    """A recipe's value as written in a recipe file."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def _best(value: float | None, epoch: int | None) -> str:
    return NONE if value is None else f"{100 * value:.2f} ({epoch})"


def _test(row: RunNumbers) -> str:
    if row.test_accuracy is None or row.test_accuracy_95 is None:
        return NONE
    low, high = row.test_accuracy_95
    return f"{100 * row.test_accuracy:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _lr(row: RunNumbers) -> str:
    if row.lr_max is None:
        return NONE
    how = "found" if row.lr_found else "usual" if row.lr_usual else "set"
    return f"{row.lr_max:.3g} {how}"


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


_CONTEXT: dict[str, Callable[[RunNumbers], str]] = {
    "recipe": lambda row: row.recipe,
    "data": lambda row: row.data or NONE,
    "parameters": lambda row: NONE if row.parameters is None else f"{row.parameters:,}",
    "seed": lambda row: str(row.seed),
    "device": lambda row: f"{row.device}, {row.precision}" if row.device else NONE,
}


def _shared(numbers: Sequence[RunNumbers]) -> dict[str, str]:
    """Those of `_CONTEXT` that are known and the same in all runs."""
    texts = {heading: {show(row) for row in numbers} for heading, show in _CONTEXT.items()}
    same = {heading: said.pop() for heading, said in texts.items() if len(said) == 1}
    return {heading: text for heading, text in same.items() if text != NONE}


def accuracy(numbers: Sequence[RunNumbers], labels: Sequence[str]) -> Section:
    again = all(row.test_last in (None, row.test_accuracy) for row in numbers)
    uneven = any(row.unequal for row in numbers)
    table = _table(
        {
            "run": list(labels),
            "test (95% CI)": [_test(row) for row in numbers],
            "balanced": [_percent(row.balanced_accuracy) if uneven else NONE for row in numbers],
            "guessing": [_percent(row.guess_accuracy) if uneven else NONE for row in numbers],
            "last test": [NONE if again else _percent(row.test_last) for row in numbers],
            "best test (epoch)": [_best(row.test_best, row.test_best_epoch) for row in numbers],
            "last val": [_percent(row.val_last) for row in numbers],
            "best val (epoch)": [_best(row.val_best, row.val_best_epoch) for row in numbers],
            "train": [_percent(row.train_accuracy) for row in numbers],
        }
    )
    lines = [BEST_TEST] if "best test (epoch)" in table[0] else []
    lines += [UNEVEN] if uneven else []
    return Section("Accuracy in %", table, [*lines, *([TRAIN] if "train" in table[0] else [])])


def training(numbers: Sequence[RunNumbers], labels: Sequence[str]) -> Section:
    same = _shared(numbers)
    columns = {
        "run": list(labels),
        "epochs": [
            str(row.epochs)
            if row.epochs_done == row.epochs
            else f"{row.epochs_done} of {row.epochs}"
            for row in numbers
        ],
        "LR max": [_lr(row) for row in numbers],
        "training (s)": [_seconds(row.train_seconds) for row in numbers],
        "wall (s)": [_seconds(row.wall_seconds) for row in numbers],
    }
    context = {
        heading: [show(row) for row in numbers]
        for heading, show in _CONTEXT.items()
        if heading not in same
    }
    lines = [WALL_OF_RESUMED] if any(row.resumed for row in numbers) else []
    return Section("Training", _table({**columns, **context}), lines)


def _table(columns: dict[str, list[str]]) -> list[list[str]]:
    """The rows, without columns in which nothing is known."""
    kept = {heading: cells for heading, cells in columns.items() if set(cells) != {NONE}}
    return [list(kept), *(list(row) for row in zip(*kept.values(), strict=True))]


def recipes(differences: dict[str, tuple[Any, ...]], labels: Sequence[str]) -> Section:
    if not differences:
        return Section("Recipes", [], ["identical, including the seed"])
    lines = ["identical except for the seed"] if set(differences) == {"train.seed"} else []
    if len(labels) <= MAX_RECIPE_COLUMNS:
        rows = [[field, *map(setting, values)] for field, values in differences.items()]
        return Section("Recipes", [["differs", *labels], *rows], lines)
    for field, values in differences.items():
        said: dict[str, list[str]] = {}
        for label, value in zip(labels, values, strict=True):
            said.setdefault(setting(value), []).append(label)
        groups = " · ".join(f"{value} in {', '.join(group)}" for value, group in said.items())
        lines.append(f"{field}: {groups}")
    return Section("Recipes", [], lines)


def result_cells(
    difference: float, interval: tuple[float, float], ps: tuple[float, float], better: str | None
) -> list[str]:
    """What was tested of a pair, below `RESULT`."""
    low, high = interval
    return [
        f"{100 * difference:+.2f}",
        f"{100 * low:+.2f} to {100 * high:+.2f}",
        *(p_value(p).removeprefix("= ").replace("< ", "<") for p in ps),
        better or "neither",
    ]


def tests(pairs: Sequence[PairTest], labels: Mapping[str, str]) -> Section:
    """A sentence for one pair, a table for more."""
    if len(pairs) == 1:
        test = pairs[0]
        a, b = labels[test.a], labels[test.b]
        if test.identical:
            return Section("Which is better", [], [test.said(a, b)])
        counts = (
            f"of {test.images:,} images, {test.only_a:,} are classified correctly only by {a} and "
            f"{test.only_b:,} only by {b}; {test.both_wrong:,} both misclassify in different ways"
        )
        return Section("Which is better", [], [test.said(a, b), counts, METHOD, ABOUT_NETS])
    rows = [["first", "second", "alone", *RESULT]]
    for test in pairs:
        counts = f"{test.only_a:,} : {test.only_b:,}"
        better = labels[test.better] if test.better else None
        of = result_cells(test.difference, test.interval, (test.p, test.p_holm), better)
        if test.identical:
            of = [*("–" for _ in of[1:]), "identical"]
        rows.append([labels[test.a], labels[test.b], counts, *of])
    return Section("Which is better", rows, [COLUMNS_OF_PAIRS, METHOD + HOLM, ABOUT_NETS])
