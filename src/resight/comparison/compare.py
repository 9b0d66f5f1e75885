"""`compare`: two or more runs side by side, and which of them is better.

`result.py` has the result, `tables.py` what is shown of it, `text.py` and `page.py` how; `seeds.py`
compares folders of seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resight.comparison.pairs import Answers, Pair, PairTest, pair_tests
from resight.comparison.result import Comparison
from resight.comparison.rows import RunNumbers, recipe_differences, short_names
from resight.comparison.seeds import SeedsComparison, compare_seeds
from resight.errors import ResightError
from resight.runs.run import Run, holds_seeds, load_run

MAX_TESTED = 10  # runs; more have too many pairs to read


def compare(runs: Sequence[str | Path | Run]) -> Comparison | SeedsComparison:
    """Show two or more runs side by side; a run that is still training is shown as far as it is.

    For each pair of finished runs on the same test images, McNemar's exact test says whether their
    accuracies differ, for up to 10 runs. Folders of seeds (`resight train --seeds`) are compared as
    recipes, paired by seed. Raises `ResightError`.
    """
    if isinstance(runs, str):  # a sequence too, of characters
        runs = [runs]
    folders = [Path(run) for run in runs if not isinstance(run, Run) and holds_seeds(Path(run))]
    if folders and len(folders) < len(runs):
        raise ResightError(
            f"{folders[0]} holds the runs of several seeds, and others given are single "
            f"runs; compare folders of seeds with each other, or runs such as {folders[0]}/seed-N"
        )
    if folders:
        return compare_seeds(folders)
    opened = [run if isinstance(run, Run) else load_run(run) for run in runs]
    if len(opened) < 2:
        given = f"only {opened[0].path} is" if opened else "no run is"
        raise ResightError(f"{given} given to compare: name two or more run folders")
    places = [run.path.resolve() for run in opened]
    for place, run in zip(places, opened, strict=True):
        if places.count(place) > 1:
            raise ResightError(f"{run.path} is given twice: name each run only once")
    names = short_names(places)
    numbers = [RunNumbers.of(run, name) for run, name in zip(opened, names, strict=True)]
    notes = _unfinished(opened, numbers)
    answers: list[Answers | None] = []
    for run, row in zip(opened, numbers, strict=True):
        try:
            answers.append(Answers.of(run) if row.finished else None)
        except ResightError as error:
            answers.append(None)
            notes.append(f"{row.name} is not tested: {error}")
    notes += [*_other_data(opened, names, answers), *_devices(numbers)]
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


def _other_data(
    runs: Sequence[Run], names: Sequence[str], answers: Sequence[Answers | None]
) -> list[str]:
    """A note if the test images are not the same in all finished runs."""
    groups: list[tuple[Answers, str, list[str]]] = []
    for run, name, told in zip(runs, names, answers, strict=True):
        if told is None:
            continue
        facts = run.resolved["data"]
        group = next((group for group in groups if len(Pair.match(group[0], told))), None)
        if group is None:
            group = (told, f"{facts['name']} ({facts['test']:,} test images)", [])
            groups.append(group)
        group[2].append(name)
    if len(groups) < 2:
        return []
    said = "; ".join(f"{', '.join(members)} on {kind}" for _, kind, members in groups)
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
