"""A finished LR test: what is read off its curve, what is refused, and how it is drawn."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch_lr_finder
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from reading import refusal
from resight.errors import ResightError
from resight.recipe.settings import (
    Constant,
    Cosine,
    Cyclic,
    ExpRange,
    OneCycle,
    Plateau,
    Schedule,
    Step,
)
from resight.runs.lr_test import (
    METHODS,
    LrTest,
    longest_fall,
    memory,
    method_for,
    save_plot,
    smooth,
)

Array = npt.NDArray[np.float64]
N = 200
LRS = np.geomspace(1e-5, 10, N)
GRID = 6 / (N - 1)  # decades between two steps


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def falling_then_rising(
    centre: float = -2.5, slope: float = 5.0, *, high: float = 2.3, low: float = 0.6
) -> Array:
    """A loss that falls around 10**centre and explodes near 1."""
    x = np.log10(LRS)
    return high - (high - low) * sigmoid(slope * (x - centre)) + np.exp(6 * (x - 0.2))


def lr_test(losses: Array, lrs: Array = LRS, *, chance: float = math.inf) -> LrTest:
    return LrTest(lrs[: len(losses)], losses, "reached 10", chance)


@settings(max_examples=60)
@given(
    losses=st.lists(st.floats(0, 100), min_size=1, max_size=60),
    beta=st.sampled_from([0.0, 0.5, 0.9, 0.98]),
)
def test_smoothing_is_the_weighted_mean_of_all_losses_so_far(
    losses: list[float], beta: float
) -> None:
    expected = [
        np.average(losses[: i + 1], weights=beta ** np.arange(i, -1, -1.0))
        for i in range(len(losses))
    ]

    result = smooth(np.array(losses), beta)
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-12)
    assert result[0] == pytest.approx(losses[0], rel=1e-12)


def test_smoothing_leaves_a_constant_and_weighs_the_last_loss_by_what_is_left() -> None:
    np.testing.assert_allclose(smooth(np.full(100, 2.3), 0.9), 2.3, rtol=1e-12)
    step = np.r_[np.zeros(300), np.ones(3)]
    np.testing.assert_allclose(smooth(step, 0.9)[-3:], [0.1, 0.19, 0.271], rtol=1e-9)
    assert len(smooth(np.array([]), 0.9)) == 0


@pytest.mark.parametrize(("steps", "beta"), [(61, 5 / 6), (601, 59 / 60), (7, 0.0), (2, 0.0)])
def test_the_mean_remembers_six_tenths_of_a_decade(steps: int, beta: float) -> None:
    """Its weights' mean age, 1 / (1 - beta), is 0.6 decades, in steps, and no less than one."""
    lrs = np.geomspace(1e-5, 10, steps)

    assert memory(lrs) == pytest.approx(beta, abs=1e-12)
    assert memory(lrs[: max(2, steps // 3)]) == pytest.approx(beta, abs=1e-9)
    assert memory(lrs[:1]) == memory(lrs[:0]) == 0.0


def test_a_test_of_more_steps_is_read_alike() -> None:
    """A mean of so many steps would lag by more decades, the fewer the steps are."""
    read = {}
    for steps in (50, 200, 800):
        lrs = np.geomspace(1e-5, 10, steps)
        losses = np.interp(np.log10(lrs), np.log10(LRS), falling_then_rising())
        read[steps] = lr_test(losses, lrs).suggestions()
    for method in METHODS:
        for steps in (50, 200):
            apart = math.log10(read[steps][method] / read[800][method])
            assert abs(apart) < 0.12, (steps, method)


@pytest.mark.parametrize("centre", [-3.2, -2.5, -1.7])
@pytest.mark.parametrize("slope", [2.0, 5.0, 9.0])
def test_steepest_is_within_a_step_of_the_smoothed_curves_steepest_point(
    centre: float, slope: float
) -> None:
    test = lr_test(falling_then_rising(centre, slope))

    def derivative(x: Array) -> Array:
        s = sigmoid(slope * (x - centre))
        return -1.7 * slope * s * (1 - s) + 6 * np.exp(6 * (x - 0.2))

    # the exponential mean shifts and mixes the curve, and its slope in the very same way
    fine = np.linspace(-4, 0, 20_001)
    kept = memory(LRS)
    smoothed = sum(kept**lag * derivative(fine - lag * GRID) for lag in range(400))
    exact = fine[np.argmin(smoothed)]
    assert abs(math.log10(test.suggest("steepest")) - exact) <= GRID


def test_valley_is_halfway_along_a_fall_without_noise() -> None:
    test = lr_test(falling_then_rising())
    start, low = N // 10, int(test.smoothed[20:].argmin()) + 20
    assert (np.diff(test.smoothed[start : low + 1]) < 0).all()

    assert test.suggest("valley") == LRS[start + (low - start) // 2]
    assert test.suggest() == test.suggest("valley")


def test_the_lr_advised_is_the_recipes_own_or_the_usual_one_or_what_is_read() -> None:
    test = lr_test(falling_then_rising())
    assert test.advised_lr == test.suggest()
    usual = dataclasses.replace(test, usual_lr=0.003)
    assert usual.advised_lr == 0.003
    assert dataclasses.replace(usual, recipe_lr=0.25).advised_lr == 0.25
    flat = lr_test(np.full(N, 2.0))
    assert dataclasses.replace(flat, usual_lr=0.003).advised_lr == 0.003
    with pytest.raises(ResightError):
        _ = flat.advised_lr


def test_a_tenth_and_half_of_the_minimum_are_just_that() -> None:
    test = lr_test(falling_then_rising())
    lowest = LRS[int(test.smoothed.argmin())]

    assert test.suggest("minimum/10") == lowest / 10
    assert test.suggest("minimum/2") == lowest / 2


def test_suggestions_are_all_methods_and_lie_between_the_start_and_the_lowest_loss() -> None:
    test = lr_test(falling_then_rising())
    suggestions = test.suggestions()
    lowest = LRS[int(test.smoothed.argmin())]

    assert list(suggestions) == list(METHODS)
    assert set(METHODS) == {"steepest", "valley", "minimum/10", "minimum/2"}
    assert suggestions == {method: test.suggest(method) for method in METHODS}
    for method in ("steepest", "valley"):
        assert LRS[20] < suggestions[method] < lowest


def test_a_loss_that_is_all_gone_is_lowest_where_it_first_was() -> None:
    """Learnt by heart, it sinks still further at rates at which no training could begin."""
    x = np.log10(LRS)
    test = lr_test(2.0 * sigmoid(-8 * (x + 2.5)) + 1e-6 * (1 - x))
    gone = int(np.flatnonzero(test.smoothed <= 0.05 * test.smoothed[20])[0])

    assert int(test.smoothed.argmin()) == N - 1
    assert test.suggest("minimum/2") == LRS[gone] / 2 < 0.1
    assert test.suggest("minimum/10") == LRS[gone] / 10


def test_a_small_loss_that_is_not_gone_is_lowest_where_it_is() -> None:
    test = lr_test(falling_then_rising(high=2.3, low=0.2))

    assert test.suggest("minimum/2") == LRS[int(test.smoothed.argmin())] / 2


@pytest.mark.parametrize(
    ("schedule", "method"),
    [
        (OneCycle(), "minimum/2"),
        (Cyclic(shape="triangular"), "minimum/2"),
        (Cyclic(shape="triangular2"), "minimum/2"),
        (ExpRange(shape="exp-range"), "minimum/2"),
        (Cosine(shape="cosine"), "minimum/10"),
        (Step(shape="step"), "minimum/10"),
        (Constant(shape="constant"), "minimum/10"),
        (Plateau(shape="plateau"), "minimum/10"),
    ],
)
def test_a_schedule_that_starts_at_its_maximum_gets_a_lower_one(
    schedule: Schedule, method: str
) -> None:
    assert method_for(schedule) == method


def test_noise_that_a_batch_makes_moves_no_suggestion_by_half_a_decade() -> None:
    clean = lr_test(falling_then_rising()).suggestions()
    for seed in range(20):
        noise = 0.05 * np.random.default_rng(seed).standard_normal(N)
        noisy = lr_test(falling_then_rising() + noise).suggestions()
        for method in METHODS:
            assert abs(math.log10(noisy[method] / clean[method])) < 0.5, (seed, method)


def test_the_settling_of_the_mean_at_the_start_is_no_fall() -> None:
    losses = falling_then_rising()
    losses[:3] += 5.0

    assert lr_test(losses).suggest("steepest") == pytest.approx(
        lr_test(falling_then_rising()).suggest("steepest"), rel=0.2
    )


def test_reading_begins_below_the_loss_of_guessing() -> None:
    """Fresh weights lose their surplus over ln K at any LR, and faster than they learn."""
    x = np.log10(LRS)
    surplus = 6.0 * sigmoid(-12 * (x + 4.0))
    test = lr_test(falling_then_rising(-2.0) + surplus, chance=2.3)
    plain = lr_test(falling_then_rising(-2.0))

    assert lr_test(test.losses).suggest("steepest") < 1e-3
    apart = math.log10(test.suggest("steepest") / plain.suggest("steepest"))
    assert abs(apart) < 0.1  # decades: a last bit of the surplus is still in the mean
    below = int(np.flatnonzero(test.smoothed < 2.3)[0])
    low = int(test.smoothed.argmin())
    assert below > 20
    assert test.suggest("valley") == LRS[below + (low - below) // 2]


@pytest.mark.parametrize("level", [1e-3, 1.0, 2.303, 50.0])
def test_a_flat_curve_is_refused(level: float) -> None:
    assert "flat" in refusal(lr_test(np.full(N, level)))


def test_a_curve_that_falls_by_less_than_a_twentieth_is_flat() -> None:
    slightly = falling_then_rising(high=2.3, low=2.3 * 0.96)
    enough = falling_then_rising(high=2.3, low=2.3 * 0.92)

    assert "flat" in refusal(lr_test(slightly))
    assert lr_test(enough).suggest("steepest") > 0


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5, 1.0])
def test_pure_noise_is_refused(scale: float) -> None:
    for seed in range(40):
        noise = np.abs(2.3 + scale * np.random.default_rng(seed).standard_normal(N))
        message = refusal(lr_test(noise))
        assert "flat" in message or "noisy" in message


def test_a_fall_drowned_in_noise_says_how_noisy() -> None:
    losses = falling_then_rising(high=2.3, low=1.8)
    losses += 0.8 * (-1.0) ** np.arange(N)

    assert "too noisy: the loss scatters by" in refusal(lr_test(losses))


def test_a_fall_of_two_steps_is_refused() -> None:
    losses = np.r_[np.linspace(5, 1, 8), np.geomspace(4, 400, 42)]
    test = lr_test(losses, np.geomspace(1e-5, 10, 50))

    assert int(test.smoothed.argmin()) == 7  # reading begins at 5
    assert "noisy" in refusal(test)


def test_a_curve_that_only_rises_is_refused() -> None:
    assert "flat" in refusal(lr_test(np.linspace(2.3, 9.0, N)))
    assert "flat" in refusal(lr_test(np.geomspace(2.3, 1e9, N)))


def test_a_curve_never_below_guessing_is_refused_with_that_reason() -> None:
    message = refusal(lr_test(falling_then_rising(high=9.0, low=2.4), chance=math.log(10)))

    assert "never falls below 2.3, the chance level" in message


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_curve_of_few_steps_is_refused_with_the_reason_it_stopped(steps: int) -> None:
    lrs = np.geomspace(1e-5, 10, 50)[:steps]
    message = refusal(LrTest(lrs, np.linspace(2, 1, steps), "diverged at 1.3e-05", math.log(3)))

    assert f"only {steps} steps" in message
    assert "diverged at 1.3e-05" in message


def test_a_curve_that_gets_below_guessing_at_its_very_end_is_refused() -> None:
    losses = np.r_[np.full(46, 1.2), np.full(4, 0.2)]
    message = refusal(lr_test(losses, np.geomspace(1e-5, 10, 50), chance=math.log(3)))

    assert "the chance level, only 4 steps before it stopped (reached 10)" in message


def test_an_unknown_method_gets_the_nearest() -> None:
    test = lr_test(falling_then_rising())
    for wrong, right in (("steepst", "steepest"), ("Valley", "valley"), ("min/10", "minimum/10")):
        with pytest.raises(ResightError) as caught:
            test.suggest(wrong)  # type: ignore[arg-type]
        assert str(caught.value) == f"unknown suggestion '{wrong}'; did you mean '{right}'?"


def test_the_lowest_lr_is_where_a_twentieth_of_the_fall_is_done() -> None:
    test = lr_test(falling_then_rising())
    smoothed, low = test.smoothed, int(test.smoothed.argmin())
    begun = test.suggest_lr_min(1e9)
    place = int(np.flatnonzero(begun == LRS)[0])
    done = (smoothed[20] - smoothed) / (smoothed[20] - smoothed[low])

    assert 20 <= place < low
    assert done[place] < 0.05 <= done[place + 1]


@settings(max_examples=60)
@given(
    lr_max=st.floats(1e-7, 10),
    centre=st.floats(-3.2, -1.5),
    slope=st.floats(2, 9),
    seed=st.integers(0, 1000),
)
def test_the_lowest_lr_is_at_most_a_tenth_of_the_highest(
    lr_max: float, centre: float, slope: float, seed: int
) -> None:
    noise = 0.03 * np.random.default_rng(seed).standard_normal(N)
    lr_min = lr_test(falling_then_rising(centre, slope) + noise).suggest_lr_min(lr_max)

    assert 0 < lr_min <= lr_max / 10


@settings(max_examples=150)
@given(values=st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_the_longest_fall_is_that_of_trying_all(values: list[int]) -> None:
    fall = longest_fall(np.array(values, dtype=np.float64))
    longest = max(
        length
        for length in range(1, len(values) + 1)
        for some in itertools.combinations(values, length)
        if all(a > b for a, b in itertools.pairwise(some))
    )

    assert fall == sorted(set(fall))
    assert all(values[a] > values[b] for a, b in itertools.pairwise(fall))
    assert len(fall) == longest


def test_a_test_is_the_same_after_json() -> None:
    test = LrTest(LRS, falling_then_rising(), "diverged at 3.1", math.log(10))
    again = LrTest.from_dict(json.loads(json.dumps(test.to_dict(), allow_nan=False)))

    np.testing.assert_array_equal(again.lrs, test.lrs)
    np.testing.assert_array_equal(again.losses, test.losses)
    assert (again.stop, again.chance) == (test.stop, test.chance)
    assert again.suggestions() == test.suggestions()


def test_the_plot_shows_curve_and_suggestions_without_pyplot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # its import would raise
    test = lr_test(falling_then_rising())
    figure = test.plot()

    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    curve, smoothed, *lines = axes.lines
    np.testing.assert_array_equal(curve.get_xydata(), np.c_[test.lrs, test.losses])
    np.testing.assert_array_equal(smoothed.get_xydata(), np.c_[test.lrs, test.smoothed])
    marked = [line.get_xdata()[0] for line in lines]
    assert marked == list(test.suggestions().values())
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize(
    "losses",
    [np.full(N, 2.3), np.linspace(2.3, 9, N), np.array([2.0, 1.9]), np.array([2.0]), np.array([])],
    ids=["flat", "rising", "two steps", "one step", "none"],
)
def test_a_refused_curve_is_drawn_with_the_reason(losses: Array, tmp_path: Path) -> None:
    test = lr_test(losses, chance=2.303)
    figure = test.plot()
    figure.savefig(tmp_path / "a.png")

    assert figure.axes[0].get_title() == refusal(test)
    assert (tmp_path / "a.png").stat().st_size > 0


def test_a_plot_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    test = lr_test(falling_then_rising())
    save_plot(test, tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")

    (tmp_path / "folder.png").mkdir()
    for name, words in {
        "missing/a.png": f"there is no folder {tmp_path / 'missing'} for the plot: create it",
        "a.xyz": f"--plot {tmp_path / 'a.xyz'} must end in .png, .svg or .pdf",
        "folder.png": f"can't write {tmp_path / 'folder.png'}: Is a directory",
    }.items():
        with pytest.raises(ResightError) as caught:
            save_plot(test, tmp_path / name)
        assert str(caught.value).startswith(words)


@pytest.mark.parametrize("seed", range(5))
def test_the_steepest_point_is_that_of_torch_lr_finder(seed: int) -> None:
    noise = 0.05 * np.random.default_rng(seed).standard_normal(N)
    test = lr_test(falling_then_rising() + noise)
    smoothed, start = test.smoothed, N // 10
    low = start + int(smoothed[start:].argmin())
    net = torch.nn.Linear(1, 1)
    finder = torch_lr_finder.LRFinder(net, torch.optim.SGD(net.parameters(), lr=1), None)
    finder.history = {"lr": test.lrs.tolist(), "loss": smoothed.tolist()}
    _, theirs = finder.plot(
        skip_start=start, skip_end=N - 1 - low, ax=Figure().subplots(), suggest_lr=True
    )

    assert test.suggest("steepest") == theirs


def test_it_is_printed_without_its_arrays() -> None:
    said = repr(lr_test(falling_then_rising()))
    assert re.fullmatch(
        r"LrTest\(\d+ steps from LR \S+ to \S+, reached 10, method='valley'\)", said
    )
