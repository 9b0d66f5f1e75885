"""Intervals and tests equal scipy's, the published ones and those by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest

from resight.intervals import difference_interval, exact_p, holm, standard_error, wilson_interval

counts = st.integers(0, 400)


@given(counts, counts)
def test_the_exact_test_is_scipys_binomial_test(b: int, c: int) -> None:
    expected = binomtest(min(b, c), b + c).pvalue if b + c else 1.0

    assert exact_p(b, c) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (0, 5, 2 / 32), (1, 5, 2 * 7 / 64), (4, 4, 1.0), (10, 0, 2 / 1024)],
)
def test_the_exact_test_by_hand(b: int, c: int, p: float) -> None:
    assert exact_p(b, c) == p


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_p_does_not_mind_the_order_and_is_above_zero(b: int, c: int) -> None:
    assert exact_p(b, c) == exact_p(c, b)
    assert 0 < exact_p(b, c) <= 1


def test_the_interval_by_hand() -> None:
    # Bentur et al. 2009, as in Fagerland, Lydersen and Laake: 1 and 7 of 21 pairs differ
    low, high = difference_interval(1, 7, 21)
    centre, spread = 2 / 23 - 8 / 23, math.sqrt((10 / 23 - (6 / 23) ** 2) / 23)

    assert low == pytest.approx(centre - 1.959964 * spread) == pytest.approx(-0.5084, abs=5e-5)
    assert high == 0  # not -0.0134, as the exact p is 0.0703
    low, high = difference_interval(0, 7, 21)
    centre, spread = 1 / 23 - 8 / 23, math.sqrt((9 / 23 - (7 / 23) ** 2) / 23)
    assert (low, high) == pytest.approx((centre - 1.959964 * spread, centre + 1.959964 * spread))


@given(counts, counts, counts)
def test_the_interval_excludes_0_exactly_where_the_test_is_significant(
    b: int, c: int, n: int
) -> None:
    low, high = difference_interval(b, c, b + c + n + 1)

    assert (low > 0 or high < 0) == (exact_p(b, c) < 0.05)


@given(counts, counts, counts)
def test_swapping_the_runs_flips_the_interval_around_the_difference(b: int, c: int, n: int) -> None:
    images = b + c + n + 1
    low, high = difference_interval(b, c, images)

    assert difference_interval(c, b, images) == pytest.approx((-high, -low))
    assert -1 <= low <= (b - c) / images <= high <= 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_and_keeps_their_order(ps: list[float]) -> None:
    corrected = holm(ps)

    assert all(p <= c <= 1 for p, c in zip(ps, corrected, strict=True))
    assert sorted(range(len(ps)), key=lambda i: (ps[i], corrected[i])) == sorted(
        range(len(ps)), key=lambda i: (corrected[i], ps[i])
    )


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857), method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # at half: 1/2 ± z / (2 sqrt(n + z²))
        (50, 100, 0.40383153, 0.59616847),
        (9225, 10000, 0.91710256, 0.92757987),
    ],
)
def test_wilsons_interval_is_the_published_one(
    correct: int, n: int, low: float, high: float
) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


@settings(max_examples=150)
@given(n=st.integers(1, 100_000), share=st.floats(0, 1))
def test_wilsons_interval_is_scipys_lies_in_0_to_1_and_holds_the_share(
    n: int, share: float
) -> None:
    correct = round(n * share)
    low, high = wilson_interval(correct, n)
    expected = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")

    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)
    assert 0 <= low <= correct / n + 1e-15
    assert correct / n - 1e-15 <= high <= 1
    mirrored = wilson_interval(n - correct, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_of_no_images_everything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_luck_of_an_accuracy_does_not_vanish_at_1() -> None:
    assert standard_error(0.5, 96) == pytest.approx(0.05, abs=1e-3)
    assert standard_error(1.0, 160) == pytest.approx(0.0086, abs=1e-4)
