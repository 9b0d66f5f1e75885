"""`compare`: two or more runs side by side, and which of them is better.

`result.py` has the result, `tables.py` what is shown of it, `text.py` and `page.py` how.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resight.comparison.pairs import Answers, PairTest, pair_tests
from resight.comparison.result import Comparison
from resight.comparison.rows import RunNumbers, short_names
from resight.errors import ResightError
from resight.runs.run import Run, load_run

MAX_TESTED = 10  # runs; more have too many pairs to read


def compare(runs: Sequence[str | Path | Run]) -> Comparison:
    """Show two or more runs side by side; a run that is still training is shown as far as it is.

    For each pair of finished runs on the same data, McNemar's exact test says whether their
    accuracies differ, for up to 10 runs. Raises `ResightError`.
    """
    if isinstance(runs, str):  # a sequence too, of characters
        runs = [runs]
    opened = [run if isinstance(run, Run) else load_run(run) for run in runs]
    if len(opened) < 2:
        given = f"only {opened[0].path} is" if opened else "no run is"
        raise ResightError(f"compare: {given} given; name two or more run folders")
    places = [run.path.resolve() for run in opened]
    for place, run in zip(places, opened, strict=True):
        if places.count(place) > 1:
            raise ResightError(f"compare: {run.path} is given twice; name each run only once")
    names = short_names(places)
    numbers = [RunNumbers.of(run, name) for run, name in zip(opened, names, strict=True)]
    notes = [*_unfinished(opened, numbers), *_other_data(opened, names), *_devices(numbers)]
    answers: list[Answers | None] = []
    for run, row in zip(opened, numbers, strict=True):
        try:
            answers.append(Answers.of(run) if row.finished else None)
        except ResightError as error:
            answers.append(None)
            notes.append(f"{row.name} is not tested: {error}")
    tests: list[PairTest] = []
    if len(opened) <= MAX_TESTED:
        tests, said = pair_tests(names, answers)
        notes += said
    else:
        notes.append(f"no pairs are tested: there are more than {MAX_TESTED} runs")
    return Comparison(
        runs=tuple(opened),
        numbers=tuple(numbers),
        differences=recipe_differences(opened),
        tests=tuple(tests),
        notes=tuple(notes),
        answers=tuple(answers),
    )


def recipe_differences(runs: Sequence[Run]) -> dict[str, tuple[Any, ...]]:
    """`section.field` → its value in each run's recipe (None if it has none), for the fields that
    differ, including the name. data.source is where the images actually were."""
    recipes = [_flat(run) for run in runs]
    sections = list(runs[0].recipe.to_dict())
    fields = dict.fromkeys(itertools.chain.from_iterable(recipes))
    ordered = sorted(fields, key=lambda field: sections.index(field.partition(".")[0]))
    values = {field: tuple(recipe.get(field) for recipe in recipes) for field in ordered}
    return {field: row for field, row in values.items() if any(v != row[0] for v in row)}


def _flat(run: Run) -> dict[str, Any]:
    source = run.resolved.get("data", {}).get("source")
    flat = run.recipe.flat()
    return flat if source is None else {**flat, "data.source": source}


def _unfinished(runs: Sequence[Run], numbers: Sequence[RunNumbers]) -> list[str]:
    notes = []
    for run, row in zip(runs, numbers, strict=True):
        if row.finished:
            continue
        done = f"{row.epochs_done} of {row.epochs} epochs done"
        if failure := run.failure.get("message"):
            notes.append(f"{row.name} stopped by itself ({done}): {failure}")
        else:
            notes.append(f"{row.name} is not finished ({done}), so it has no result yet")
    return notes


def _other_data(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """A note if the test images are not the same in all runs."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    kinds: dict[tuple[str, tuple[str, ...]], str] = {}
    for run, name in zip(runs, names, strict=True):
        facts = run.resolved.get("data")
        if facts is None:
            continue  # its training has not started
        key = (facts["fingerprint"], tuple(facts["classes"]))
        groups.setdefault(key, []).append(name)
        kinds[key] = f"{facts['name']} ({facts['test']:,} test images)"
    if len(groups) < 2:
        return []
    said = "; ".join(f"{', '.join(members)} on {kinds[key]}" for key, members in groups.items())
    return [
        "the accuracies are not all on the same images; only runs on the same images are tested: "
        f"{said}"
    ]


def _devices(numbers: Sequence[RunNumbers]) -> list[str]:
    if len({(row.device, row.precision) for row in numbers if row.device}) < 2:
        return []
    return [
        "the runs used different devices or precisions: their training times are not comparable"
    ]
