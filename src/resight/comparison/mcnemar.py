"""McNemar's test: whether two nets differ in accuracy, from the images on which they disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Z_95 = 1.959963984540054
SURE = 0.05  # a smaller p says that there is a difference


def exact_p(only_a: int, only_b: int) -> float:
    """The two-sided p of McNemar's exact test, in (0, 1].

    If both are equally accurate, each image that only one gets right is a coin's toss: p is the
    chance of a split at least as uneven, summed in whole numbers.
    """
    n = only_a + only_b
    ways = term = 1
    for i in range(min(only_a, only_b)):
        term = term * (n - i) // (i + 1)
        ways += term
    return min(1.0, max(2 * ways / (1 << n), math.ulp(0.0)))


def difference_interval(only_a: int, only_b: int, images: int) -> tuple[float, float]:
    """The 95 % interval of A's accuracy less B's, both measured on the same `images`.

    Wald's, with Laplace's adjustment: Bonett and Price 2012, recommended for paired proportions by
    Fagerland, Lydersen and Laake 2014 (https://doi.org/10.1002/sim.6148).
    """
    share_a, share_b = (only_a + 1) / (images + 2), (only_b + 1) / (images + 2)
    centre = share_a - share_b
    margin = Z_95 * math.sqrt((share_a + share_b - centre**2) / (images + 2))
    return max(-1.0, centre - margin), min(1.0, centre + margin)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p, corrected for there being several (Holm 1979), in the same order."""
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected


@dataclass(frozen=True)
class PairTest:
    """Runs `a` and `b` (names) on the `images` that both were measured on.

    only_a, only_b: images that only one gets right. both_wrong: those that both get wrong and take
    for different classes. p: of `exact_p`; p_holm: corrected for the number of pairs.
    """

    a: str
    b: str
    images: int
    only_a: int
    only_b: int
    both_wrong: int
    p: float
    p_holm: float

    @property
    def difference(self) -> float:
        """A's accuracy less B's, in [-1, 1]."""
        return (self.only_a - self.only_b) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Of `difference`, 95 %."""
        return difference_interval(self.only_a, self.only_b, self.images)

    @property
    def better(self) -> str | None:
        """Which run is, None where that can't be told."""
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
        """The verdict in a sentence, the runs under these names."""
        p = f"p {p_value(self.p)}"
        if self.p_holm != self.p:
            p += f", corrected {p_value(self.p_holm)}"
        if self.only_a == self.only_b == 0:
            return f"{a} and {b} are right on the very same images"
        (low, high), points = self.interval, 100 * self.difference
        if self.better is None:
            return (
                f"no difference between {a} and {b} can be told: {points:+.2f} points (95 %: "
                f"{100 * low:+.2f} to {100 * high:+.2f}), {p}"
            )
        if self.better == self.b:
            a, b, low, high = b, a, -high, -low
        return (
            f"{a} is better than {b} by {abs(points):.2f} points (95 %: {100 * low:.2f} to "
            f"{100 * high:.2f}), {p}"
        )


def p_value(p: float) -> str:
    """`= 0.0031`, `= 0.417`, `< 0.0001`."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.3g}"
