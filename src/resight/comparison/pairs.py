"""Runs image by image: where two of them disagree, and what McNemar's test says about it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.intervals import SURE, difference_interval, exact_p, holm
from resight.runs.run import Run

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Answers:
    """A run's predictions for each test image, without the logits. fingerprint, source and
    image_size: of the data; each array is (N,), as in `Predictions`."""

    fingerprint: str
    source: str
    image_size: int
    classes: tuple[str, ...]
    ids: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]

    @classmethod
    def of(cls, run: Run) -> Answers:
        """Of a finished run. Raises `ResightError` if its predictions are missing or damaged."""
        said = run.predictions
        return cls(
            fingerprint=run.resolved["data"]["fingerprint"],
            source=run.resolved["data"]["source"],
            image_size=run.recipe.data.image_size,
            classes=said.classes,
            ids=said.ids,
            labels=said.labels,
            predicted=said.predicted,
            confidence=said.confidence,
            losses=said.losses,
        )

    def same_images(self, other: Answers) -> bool:
        """Whether images of the same id are the same pictures, perhaps at another size: not if they
        come from two places and were decoded to different pixels of one size."""
        if self.classes != other.classes:
            return False
        moved = self.source != other.source and self.image_size == other.image_size
        return self.fingerprint == other.fingerprint or not moved


@dataclass(frozen=True, eq=False)
class Pair:
    """Two runs on the images that both were measured on: `rows_a` of `a` match `rows_b` of `b`."""

    a: Answers
    b: Answers
    rows_a: Rows
    rows_b: Rows

    @classmethod
    def match(cls, a: Answers, b: Answers) -> Pair:
        """By the images' ids, in the order of `a`; none if equal ids may be different images."""
        place = {name: i for i, name in enumerate(b.ids.tolist())} if a.same_images(b) else {}
        both = [(i, place[name]) for i, name in enumerate(a.ids.tolist()) if name in place]
        rows = np.array(both, dtype=np.int64).reshape(-1, 2)
        return cls(a, b, rows[:, 0], rows[:, 1])

    def __len__(self) -> int:
        return len(self.rows_a)

    @property
    def labels_agree(self) -> bool:
        return np.array_equal(self.a.labels[self.rows_a], self.b.labels[self.rows_b])

    @property
    def identical(self) -> bool:
        """Whether both predict the same, to the last bit of each confidence and loss."""
        return all(
            np.array_equal(mine[self.rows_a], theirs[self.rows_b])
            for mine, theirs in (
                (self.a.predicted, self.b.predicted),
                (self.a.confidence, self.b.confidence),
                (self.a.losses, self.b.losses),
            )
        )

    def disagreements(self) -> tuple[Rows, Rows, Rows]:
        """Positions in `rows_a` and `rows_b` where only `a` is right, where only `b` is, and where
        both are wrong in different ways; each by descending difference of the losses."""
        said_a, said_b = self.a.predicted[self.rows_a], self.b.predicted[self.rows_b]
        labels = self.a.labels[self.rows_a]
        right_a, right_b = said_a == labels, said_b == labels
        apart = np.abs(self.a.losses[self.rows_a] - self.b.losses[self.rows_b])
        order = np.argsort(-apart, kind="stable").astype(np.int64)
        wrong = ~right_a & ~right_b & (said_a != said_b)
        only_a, only_b, both = (
            order[kind[order]] for kind in (right_a & ~right_b, right_b & ~right_a, wrong)
        )
        return only_a, only_b, both


@dataclass(frozen=True)
class PairTest:
    """Runs `a` and `b` (names) on the `images` that both were measured on.

    only_a, only_b: images that only one gets right. both_wrong: those that both get wrong, with
    different predictions. p: from `exact_p`; p_holm: corrected for the number of pairs. identical:
    whether both predict the same, to the bit.
    """

    a: str
    b: str
    images: int
    only_a: int
    only_b: int
    both_wrong: int
    p: float
    p_holm: float
    identical: bool = False

    @property
    def difference(self) -> float:
        """A's accuracy minus B's, in [-1, 1]."""
        return (self.only_a - self.only_b) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `difference`, of this pair alone: 0 is outside if p < 0.05."""
        return difference_interval(self.only_a, self.only_b, self.images)

    @property
    def better(self) -> str | None:
        """The better run; None if the difference is not significant."""
        if self.p_holm >= SURE:
            return None
        return self.a if self.only_a > self.only_b else self.b

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "difference": self.difference,
            "interval": list(self.interval),
            "better": self.better,
            "said": str(self),
        }

    def __str__(self) -> str:
        """The verdict in a sentence."""
        return self.said(self.a, self.b)

    def said(self, a: str, b: str) -> str:
        """The verdict in a sentence that calls the runs `a` and `b`."""
        if self.identical:
            return f"{a} and {b} predict the same for all {self.images:,} images, to the last bit"
        if self.only_a == self.only_b == 0:
            return f"{a} and {b} are right on exactly the same images"
        return verdict(a, b, self.difference, self.interval, (self.p, self.p_holm))


def verdict(
    a: str,
    b: str,
    difference: float,
    interval: tuple[float, float],
    p: tuple[float, float],
    *,
    basis: str = "",
) -> str:
    """Which of `a` and `b` is better, in a sentence. difference: of `a` minus `b`, in [-1, 1], with
    its 95 % interval; p: itself, and corrected for the number of pairs, which decides; basis: what
    it rests on."""
    (low, high), points, (plain, corrected) = interval, 100 * difference, p
    words, which = f"{basis}, p {p_value(plain)}", "95% CI"
    if corrected != plain:
        words += f", corrected for the number of pairs {p_value(corrected)}"
        which += " of this pair alone"
    if corrected >= SURE:
        return (
            f"no significant difference between {a} and {b}: {points:+.2f} points ({which}: "
            f"{100 * low:+.2f} to {100 * high:+.2f}){words}"
        )
    if difference < 0:
        a, b, low, high = b, a, -high, -low
    return (
        f"{a} is better than {b} by {abs(points):.2f} points ({which}: {100 * low:.2f} to "
        f"{100 * high:.2f}){words}"
    )


def p_value(p: float) -> str:
    """`= 0.0031`, `= 0.417`, `< 0.0001`."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.3g}"


def pair_tests(
    names: Sequence[str], answers: Sequence[Answers | None]
) -> tuple[list[PairTest], list[str]]:
    """McNemar's test of each pair that shares images, and a note on each whose images differ."""
    counted: list[dict[str, Any]] = []
    notes = []
    for (i, a), (j, b) in itertools.combinations(enumerate(answers), 2):
        if a is None or b is None:
            continue
        pair, both = Pair.match(a, b), f"{names[i]} and {names[j]}"
        if 0 < len(pair) < max(len(a.ids), len(b.ids)):
            notes.append(
                f"{both} share {len(pair):,} of their {len(a.ids):,} and {len(b.ids):,} test "
                "images and are tested on these"
            )
        if not pair.labels_agree:
            notes.append(f"{both} are not tested: the same images have different labels")
        elif len(pair):
            only_a, only_b, wrong = map(len, pair.disagreements())
            counted.append(
                {
                    "a": names[i],
                    "b": names[j],
                    "images": len(pair),
                    "only_a": only_a,
                    "only_b": only_b,
                    "both_wrong": wrong,
                    "identical": pair.identical,
                }
            )
    ps = [exact_p(counts["only_a"], counts["only_b"]) for counts in counted]
    rows = zip(counted, ps, holm(ps), strict=True)
    return [PairTest(**counts, p=p, p_holm=p_holm) for counts, p, p_holm in rows], notes
