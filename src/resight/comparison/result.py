"""`Comparison`: runs side by side, as text, Markdown, HTML and JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resight.comparison import tables, text
from resight.comparison.pairs import Answers, PairTest
from resight.comparison.rows import RunNumbers
from resight.comparison.tables import NOTES, Section
from resight.runs.run import Run


@dataclass(frozen=True, eq=False)
class Comparison:
    """differences: `section.field` → its value in each run (None if a run has no such setting), for
    the fields that differ. tests: one for each pair of runs on the same images. answers: None for a
    run without predictions."""

    runs: tuple[Run, ...]
    numbers: tuple[RunNumbers, ...]
    differences: dict[str, tuple[Any, ...]]
    tests: tuple[PairTest, ...]
    notes: tuple[str, ...]
    answers: tuple[Answers | None, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.numbers)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        return {
            "version": 1,
            "runs": [asdict(row) for row in self.numbers],
            "differences": {field: list(values) for field, values in self.differences.items()},
            "tests": [test.to_dict() for test in self.tests],
            "notes": list(self.notes),
        }

    @property
    def first_line(self) -> str:
        """How many runs, and what is the same in all of them."""
        return tables.first_line(self.numbers)

    def sections(self, labels: Sequence[str] | None = None) -> list[Section]:
        """What is shown, in order. labels: what the runs are called, by default their names."""
        labels = self.names if labels is None else labels
        sections = [
            tables.accuracy(self.numbers, labels),
            tables.training(self.numbers, labels),
            tables.recipes(self.differences, labels),
        ]
        if self.tests:
            sections.append(tables.tests(self.tests, dict(zip(self.names, labels, strict=True))))
        if self.notes:
            sections.append(Section(NOTES, [], list(self.notes)))
        return sections

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
