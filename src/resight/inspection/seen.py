"""`Seen`: the images of a source, decoded, with their headers and splits: what is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from resight.data.headers import Header
from resight.data.table import Table
from resight.recipe.settings import Fit

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Seen:
    """splits: the readable rows of each, train first. paths, headers: of each row's file; None
    where images are not in files of their own. fit: how they were made square."""

    table: Table
    splits: Mapping[str, Rows]
    paths: Sequence[str] | None
    headers: Sequence[Header | None] | None
    fit: Fit

    @property
    def image_size(self) -> int:
        return int(self.table.images.shape[1])

    @cached_property
    def rows(self) -> Rows:
        """All readable rows, sorted."""
        return np.unique(np.concatenate([*self.splits.values()]))

    @cached_property
    def split_of(self) -> npt.NDArray[np.int64]:
        """(N,): the number of each row's split; -1 if it is in none."""
        numbers = np.full(len(self.table.labels), -1)
        for number, rows in enumerate(self.splits.values()):
            numbers[rows] = number
        return numbers

    def split_name(self, row: int) -> str:
        return [*self.splits][int(self.split_of[row])]

    def class_name(self, row: int) -> str:
        return self.table.classes[int(self.table.labels[row])]

    @property
    def train(self) -> Rows:
        """The rows to train on, or those that are yet to be split."""
        return next(iter(self.splits.values()))

    def counts(self) -> dict[str, list[int]]:
        """Images per class by split."""
        labels, classes = self.table.labels, len(self.table.classes)
        return {
            name: np.bincount(labels[rows], minlength=classes).tolist()
            for name, rows in self.splits.items()
        }

    def readable_headers(self) -> dict[int, Header]:
        """By row, without the files whose pixels can't be read."""
        headers = self.headers or []
        return {row: header for row in self.rows.tolist() if headers and (header := headers[row])}
