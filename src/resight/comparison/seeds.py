"""Folders of seeds side by side: recipes, not single nets, paired by seed."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resight.comparison import tables, text
from resight.comparison.pairs import Answers, Pair, verdict
from resight.comparison.rows import recipe_differences, short_names
from resight.comparison.tables import NONE, NOTES, Section
from resight.errors import ResightError
from resight.intervals import SURE, holm, t_interval, t_test
from resight.progress import duration
from resight.runs.seeds import SeedsResult, read_summary

METHOD = (
    "Student's t-test on the differences of the accuracies, seed by seed; the interval is that of "
    "their mean"
)
MIN_SEEDS = 2  # in both of a pair


@dataclass(frozen=True)
class SeedsTest:
    """Folders `a` and `b` (names) on the `seeds` that finished in both. differences: `a`'s accuracy
    minus `b`'s, by seed, in [-1, 1]. p: of the t-test; p_holm: corrected for the number of pairs.
    """

    a: str
    b: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    p: float
    p_holm: float

    @property
    def difference(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `difference`."""
        interval = t_interval(self.differences)
        assert interval is not None
        return interval

    @property
    def better(self) -> str | None:
        """The better folder; None if the difference is not significant."""
        if self.p_holm >= SURE:
            return None
        return self.a if self.difference > 0 else self.b

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "difference": self.difference,
            "interval": list(self.interval),
            "better": self.better,
            "said": self.said(self.a, self.b),
        }

    def said(self, a: str, b: str) -> str:
        """The verdict in a sentence that calls the folders `a` and `b`."""
        basis = f" over {len(self.seeds)} seeds, paired"
        p = self.p, self.p_holm
        return verdict(a, b, self.difference, self.interval, p, basis=basis)


@dataclass(frozen=True, eq=False)
class SeedsComparison:
    """differences: `section.field` → its value in each folder's recipe, for the fields that differ.
    tests: one for each pair of folders that have two or more seeds in common, on the same test
    images."""

    results: tuple[SeedsResult, ...]
    names: tuple[str, ...]
    differences: dict[str, tuple[Any, ...]]
    tests: tuple[SeedsTest, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        return {
            "version": 1,
            "folders": [
                {"name": name, **result.to_dict()}
                for name, result in zip(self.names, self.results, strict=True)
            ],
            "differences": {field: list(values) for field, values in self.differences.items()},
            "tests": [test.to_dict() for test in self.tests],
            "notes": list(self.notes),
        }

    @property
    def first_line(self) -> str:
        return f"{len(self.results)} folders of seeds"

    def sections(self, labels: Sequence[str] | None = None) -> list[Section]:
        """What is shown, in order. labels: what the folders are called, by default their names."""
        labels = self.names if labels is None else labels
        sections = [
            self._accuracy(labels),
            self._by_seed(labels),
            tables.recipes(self.differences, labels),
        ]
        if self.tests:
            sections.append(self._better(dict(zip(self.names, labels, strict=True))))
        if self.notes:
            sections.append(Section(NOTES, [], list(self.notes)))
        return sections

    def _accuracy(self, labels: Sequence[str]) -> Section:
        rows = [["folder", "n", "mean", "± std", "95% CI of the mean", "training"]]
        for label, result in zip(labels, self.results, strict=True):
            interval = result.interval
            seconds = statistics.fmean(result.train_seconds) if result.n else None
            rows.append(
                [
                    label,
                    str(result.n),
                    _percent(result.mean),
                    _percent(result.std),
                    NONE if interval is None else " to ".join(map(_percent, interval)),
                    NONE if seconds is None else duration(seconds),
                ]
            )
        return Section("Test accuracy in %", rows, [])

    def _by_seed(self, labels: Sequence[str]) -> Section:
        found = [_accuracies(result) for result in self.results]
        rows = [
            [str(seed), *(_percent(accuracies.get(seed)) for accuracies in found)]
            for seed in sorted({seed for accuracies in found for seed in accuracies})
        ]
        return Section("By seed", [["seed", *labels], *rows], [])

    def _better(self, labels: dict[str, str]) -> Section:
        if len(self.tests) == 1:
            test = self.tests[0]
            return Section(
                "Which is better", [], [test.said(labels[test.a], labels[test.b]), METHOD]
            )
        rows = [["first", "second", "seeds", *tables.RESULT]]
        for test in self.tests:
            better = labels[test.better] if test.better else None
            ps = test.p, test.p_holm
            of = tables.result_cells(test.difference, test.interval, ps, better)
            rows.append([labels[test.a], labels[test.b], str(len(test.seeds)), *of])
        return Section("Which is better", rows, [METHOD + tables.HOLM])

    def __str__(self) -> str:
        """Tables and sentences, at most 80 columns wide; letters replace long names."""
        labels = text.labels(self.names)
        names = dict(zip(labels, self.names, strict=True))
        return text.as_text(self.first_line, self.sections(labels), names)

    def to_markdown(self) -> str:
        """GitHub Markdown, with each name escaped."""
        return text.as_markdown(self.first_line, self.sections())

    def _repr_html_(self) -> str:
        return text.as_html(self.first_line, self.sections())


def compare_seeds(folders: Sequence[Path]) -> SeedsComparison:
    """Two or more folders of seeds, paired by seed. Raises `ResightError`."""
    if len(folders) < 2:
        raise ResightError(
            f"only {folders[0]} is given to compare: name two or more folders of seeds, or its "
            f"runs, {folders[0]}/seed-*"
        )
    places = [folder.resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise ResightError(f"{folder} is given twice: name each folder only once")
    results = [read_summary(folder)[1] for folder in folders]
    names = short_names(places)
    notes = [
        f"{name}: {result.n} of {len(result.seeds)} seeds have finished"
        for name, result in zip(names, results, strict=True)
        if result.n < len(result.seeds)
    ]
    differences: dict[str, tuple[Any, ...]] = {}
    if all(result.n for result in results):
        differences = recipe_differences([result.runs[0] for result in results])
        differences.pop("train.seed", None)
    tests, said = _tests(names, results)
    return SeedsComparison(
        results=tuple(results),
        names=tuple(names),
        differences=differences,
        tests=tuple(tests),
        notes=(*notes, *said),
    )


def _tests(
    names: Sequence[str], results: Sequence[SeedsResult]
) -> tuple[list[SeedsTest], list[str]]:
    """The test of each pair, and a note on each that can't be tested."""
    pairs: list[tuple[str, str, tuple[int, ...], tuple[float, ...]]] = []
    notes = []
    for (i, a), (j, b) in itertools.combinations(enumerate(results), 2):
        first, second = _accuracies(a), _accuracies(b)
        seeds = tuple(seed for seed in first if seed in second)
        both = f"{names[i]} and {names[j]}"
        if len(seeds) < MIN_SEEDS:
            notes.append(
                f"{both} are not tested: {len(seeds) or 'none'} of their finished seeds "
                f"{'is' if len(seeds) == 1 else 'are'} in both, and at least {MIN_SEEDS} are needed"
            )
        elif not _same_test_images(a, b):
            notes.append(f"{both} are not tested: their test images are not the same")
        else:
            pairs.append(
                (names[i], names[j], seeds, tuple(first[seed] - second[seed] for seed in seeds))
            )
    ps = [t_test(differences) for *_, differences in pairs]
    return [
        SeedsTest(*pair, p=p, p_holm=corrected)
        for pair, p, corrected in zip(pairs, ps, holm(ps), strict=True)
    ], notes


def _accuracies(result: SeedsResult) -> dict[int, float]:
    """Of the finished runs, by seed."""
    seeds = (run.recipe.train.seed for run in result.runs)
    return dict(zip(seeds, result.accuracies, strict=True))


def _same_test_images(a: SeedsResult, b: SeedsResult) -> bool:
    """All seeds of a folder are measured on one split, so one run of each tells."""
    pair = Pair.match(Answers.of(a.runs[0]), Answers.of(b.runs[0]))
    return len(pair) == len(pair.a.ids) == len(pair.b.ids) and pair.labels_agree


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"
