"""`Answers`: what a net says of images whose classes nobody has told it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.characters import printable
from resight.errors import ResightError
from resight.files import write_atomically
from resight.render import html
from resight.runs.predictions import cell, softmax

NONE_OF_THESE = "none of these"
MAX_SHOWN = 100  # in a notebook
MAX_SHOWN_AS_TEXT = 20
MAX_COUNTED = 10  # classes in the headline


@dataclass(frozen=True, eq=False)
class Answers:
    """logits: float32 (N, K); ids: N names; classes: K names; temperature: what the logits are
    divided by before they become probabilities; min_confidence: below it an answer is none of the
    classes; unreadable: files that could not be read, with the reason."""

    logits: npt.NDArray[np.float32]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    temperature: float = 1.0
    min_confidence: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.logits.shape == (len(self.ids), len(self.classes)), self.logits.shape
        if not 0 <= self.min_confidence <= 1:
            raise ResightError(f"min_confidence = {self.min_confidence} must be from 0 to 1")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """float32 (N, K): softmax of logits / temperature."""
        return softmax(self.logits / np.float32(self.temperature))

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """float32 (N,): the probability of the most probable class."""
        highest: npt.NDArray[np.float32] = self.probabilities.max(1, initial=0)
        return highest

    @property
    def predicted(self) -> list[str | None]:
        """The most probable class of each image; None where it is less probable than
        `min_confidence`."""
        best = self.logits.argmax(1) if len(self) else []
        sure = self.confidence >= self.min_confidence
        return [
            self.classes[i] if is_sure else None
            for i, is_sure in zip(best, sure.tolist(), strict=True)
        ]

    @property
    def headline(self) -> str:
        """How many images, and how often each class was answered, the most frequent first."""
        counts = Counter(name or NONE_OF_THESE for name in self.predicted)
        most = counts.most_common(MAX_COUNTED)
        listed = [f"{count:,} {'class ' * name.isdigit()}{printable(name)}" for name, count in most]
        more = len(counts) - len(listed)
        rest = f" and {more:,} other{'s' * (more > 1)}" if more else ""
        bad = f"; {len(self.unreadable):,} could not be read" if self.unreadable else ""
        images = "1 image" if len(self) == 1 else f"{len(self):,} images"
        return f"{images}: {', '.join(listed)}{rest}{bad}"

    def rows(self, top: int = 5) -> list[dict[str, Any]]:
        """One row per image: id, predicted (None: none of these), confidence, and the `top` most
        probable classes, each with its probability. Raises `ResightError`."""
        if not isinstance(top, int) or top < 1:
            raise ResightError(f"top = {top!r} must be an integer ≥ 1")
        order = np.argsort(-self.logits, axis=1, kind="stable")[:, :top]
        return [
            {
                "id": name,
                "predicted": predicted,
                "confidence": float(self.probabilities[row, order[row, 0]]),
                "top": [
                    {"class": self.classes[i], "probability": float(self.probabilities[row, i])}
                    for i in order[row].tolist()
                ],
            }
            for row, (name, predicted) in enumerate(zip(self.ids, self.predicted, strict=True))
        ]

    def json_lines(self, top: int = 5) -> Iterator[str]:
        """`rows` and what could not be read, each as one line of JSON."""
        for row in self.rows(top):
            yield json.dumps(row)
        for name, why in self.unreadable.items():
            yield json.dumps({"id": name, "error": why})

    def to_csv(self, path: Path, top: int = 5) -> None:
        """Write `csv_text` in UTF-8. Raises `ResightError` if that fails."""
        write_atomically(path, self.csv_text(top).encode())

    def csv_text(self, top: int = 5) -> str:
        """`rows` as CSV: id, predicted, confidence, class_1, probability_1, class_2 …

        predicted is empty for none of these. Names are made harmless as in `Predictions.csv_text`.
        """
        rows = self.rows(top)
        places = range(1, min(top, len(self.classes)) + 1)
        text = io.StringIO()
        writer = csv.writer(text)
        heads = [head for i in places for head in (f"class_{i}", f"probability_{i}")]
        writer.writerow(["id", "predicted", "confidence", *heads])
        for row in rows:
            best = [part for one in row["top"] for part in (cell(one["class"]), one["probability"])]
            writer.writerow(
                [cell(row["id"]), cell(row["predicted"] or ""), row["confidence"], *best]
            )
        return text.getvalue()

    def __str__(self) -> str:
        """One line per image, at most twenty."""
        lines = [
            f"{printable(row['id'])}: {printable(row['predicted'] or NONE_OF_THESE)} "
            f"({row['confidence']:.1%})"
            for row in self[:MAX_SHOWN_AS_TEXT].rows(1)
        ]
        rest = len(self) - MAX_SHOWN_AS_TEXT
        return "\n".join([*lines, *([f"… and {rest:,} more"] if rest > 0 else [])])

    __repr__ = __str__

    def __getitem__(self, rows: slice) -> Answers:
        """Some of the images."""
        return Answers(
            self.logits[rows], self.ids[rows], self.classes, self.temperature, self.min_confidence
        )

    def _repr_html_(self) -> str:
        """A table of the first images."""
        rows = self[:MAX_SHOWN].rows(3)
        table = [
            (
                row["id"],
                row["predicted"] or NONE_OF_THESE,
                " · ".join(f"{one['class']} {one['probability']:.1%}" for one in row["top"]),
            )
            for row in rows
        ]
        more = html.line(f"the first {MAX_SHOWN} of {len(self):,}") if len(self) > MAX_SHOWN else ""
        return more + html.table(("image", "predicted", "most probable"), table)
