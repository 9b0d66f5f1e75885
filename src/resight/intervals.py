"""The uncertainty of measured numbers: intervals, standard errors and the tests built on them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
SURE = 0.05  # a smaller p is a significant difference: 0 is outside its 95 % interval


def wilson_interval(correct: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval for `correct` of `n`; 95 % at the default z."""
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    centre = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def standard_error(accuracy: float, images: int) -> float:
    """The standard error of an accuracy over `images` images (Agresti-Coull): not 0 at 0 or 1."""
    share = (accuracy * images + 2) / (images + 4)
    return math.sqrt(share * (1 - share) / (images + 4))


def standard_deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample (n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of normally distributed values; None for fewer than two.

    Student's t: mean ± t(0.975, n - 1) · std / √n.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # scipy comes with scikit-learn

    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values)
    half /= math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def t_test(values: Sequence[float]) -> float:
    """The two-sided p-value of Student's t-test that the mean is 0; at least two values."""
    from scipy.special import stdtr

    n, mean, spread = len(values), statistics.fmean(values), statistics.stdev(values)
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(n - 1, -abs(mean) / (spread / math.sqrt(n))))


def exact_p(only_a: int, only_b: int) -> float:
    """The two-sided p-value of McNemar's exact test, in (0, 1].

    Under the null hypothesis that both are equally accurate, an image that only one of them gets
    right is a coin toss: p is the probability of a split at least as uneven, summed in integers.
    """
    n = only_a + only_b
    ways = term = 1
    for i in range(min(only_a, only_b)):
        term = term * (n - i) // (i + 1)
        ways += term
    return min(1.0, max(2 * ways / (1 << n), math.ulp(0.0)))


def difference_interval(only_a: int, only_b: int, images: int) -> tuple[float, float]:
    """The 95 % interval of A's accuracy minus B's, both measured on the same `images`.

    Wald's, with Laplace's adjustment: Bonett and Price 2012, recommended for paired proportions by
    Fagerland, Lydersen and Laake 2014 (https://doi.org/10.1002/sim.6148). Alone it would at times
    exclude 0 where `exact_p`, which is stricter, does not, never the other way round. So 0 is
    tested exactly and every other difference by Bonett and Price: the interval reaches to 0 unless
    p < 0.05, and covers no less.
    """
    share_a, share_b = (only_a + 1) / (images + 2), (only_b + 1) / (images + 2)
    centre = share_a - share_b
    margin = Z_95 * math.sqrt((share_a + share_b - centre**2) / (images + 2))
    low, high = max(-1.0, centre - margin), min(1.0, centre + margin)
    return (low, high) if exact_p(only_a, only_b) < SURE else (min(low, 0.0), max(high, 0.0))


def holm(ps: Sequence[float]) -> list[float]:
    """Each p-value, corrected for multiple comparisons (Holm 1979), in the same order."""
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected
