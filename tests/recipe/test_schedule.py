"""The schedules are torch's, step by step, but pure and never below their end."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from resight.recipe.schedule import (
    lr_at,
    momentum_at,
    plateau_lr,
    px_at,
    stem_frozen_at,
    stem_lr_at,
)
from resight.recipe.settings import (
    Constant,
    Cosine,
    Cyclic,
    ExpRange,
    Linear,
    OneCycle,
    Plateau,
    Sgd,
    Step,
)


def sgd(lr: float, momentum: float = 0.0) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=momentum)


def walk(
    optimizer: torch.optim.Optimizer, scheduler: Any, steps: int, *, key: str = "lr"
) -> list[float]:
    """The `key` of each of `steps` steps that torch's scheduler sets."""
    values = []
    for _ in range(steps):
        value = optimizer.param_groups[0][key]
        values.append(float(value[0] if key == "betas" else value))
        optimizer.step()
        if len(values) < steps:
            scheduler.step()
    return values


def ours(schedule: Any, steps_per_epoch: int, steps: int | None = None) -> list[float]:
    total = steps or schedule.epochs * steps_per_epoch
    return [lr_at(schedule, step, steps_per_epoch) for step in range(total)]


def close(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("anneal", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("epochs", "peak", "steps_per_epoch", "lr_min", "lr_end"),
    [
        (24, 5.0, 98, 0.0492 / 8, 0.0),
        (24, 5.0, 7, 0.0204, 0.001),
        (3, 0.625, 13, 0.01, 0.01),
        (20, 6.0, 5, 0.04, 0.0002),
        (1, 0.5, 10, 0.002, 0.05),
        (2, 1.9, 11, 0.0, 0.0),
        (10, 10 / 3, 17, 0.09, 0.003),
    ],
)
def test_one_cycle_is_torchs(
    anneal: Any, epochs: int, peak: float, steps_per_epoch: int, lr_min: float, lr_end: float
) -> None:
    lr_max, total = 0.1, epochs * steps_per_epoch
    schedule = OneCycle(
        epochs=epochs, peak_epoch=peak, anneal=anneal, lr_max=lr_max, lr_min=lr_min, lr_end=lr_end
    )
    optimizer = sgd(lr_max)
    # torch divides by its factors and so can't reach 0; 1e-13 is near enough
    scheduler = lr_scheduler.OneCycleLR(
        optimizer,
        lr_max,
        total_steps=total,
        pct_start=peak / epochs,
        anneal_strategy="cos" if anneal == "cosine" else "linear",
        cycle_momentum=False,
        div_factor=lr_max / lr_min if lr_min else 1e12,
        final_div_factor=lr_min / lr_end if lr_min and lr_end else 1e12,
    )

    assert ours(schedule, steps_per_epoch) == close(walk(optimizer, scheduler, total))


@settings(max_examples=40)
@given(
    epochs=st.integers(1, 12),
    steps_per_epoch=st.integers(2, 12),
    share=st.floats(0.2, 0.99),
    lr_min=st.floats(1e-6, 0.1),
    lr_end=st.floats(1e-6, 0.1),
    anneal=st.sampled_from(["linear", "cosine"]),
)
def test_any_one_cycle_is_torchs(
    epochs: int, steps_per_epoch: int, share: float, lr_min: float, lr_end: float, anneal: Any
) -> None:
    total = epochs * steps_per_epoch
    # torch divides by zero where the peak is the first or the last step
    if not 1.01 < share * total < total - 0.01:
        share = 0.5 + 0.26 / total
    schedule = OneCycle(
        epochs=epochs,
        peak_epoch=share * epochs,
        anneal=anneal,
        lr_max=0.1,
        lr_min=lr_min,
        lr_end=lr_end,
    )
    optimizer = sgd(0.1)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer,
        0.1,
        total_steps=total,
        pct_start=share,
        anneal_strategy="cos" if anneal == "cosine" else "linear",
        cycle_momentum=False,
        div_factor=0.1 / lr_min,
        final_div_factor=lr_min / lr_end,
    )

    assert ours(schedule, steps_per_epoch) == close(walk(optimizer, scheduler, total))


@pytest.mark.parametrize("anneal", ["linear", "cosine"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_cycled_momentum_is_torchs(kind: str, anneal: Any) -> None:
    epochs, peak, steps_per_epoch = 6, 2.0, 9
    total = epochs * steps_per_epoch
    schedule = OneCycle(
        epochs=epochs, peak_epoch=peak, anneal=anneal, lr_max=0.1, lr_min=0.01, lr_end=0.001
    )
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    optimizer: torch.optim.Optimizer
    if kind == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(parameters, lr=0.1)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer,
        0.1,
        total_steps=total,
        pct_start=peak / epochs,
        anneal_strategy="cos" if anneal == "cosine" else "linear",
        cycle_momentum=True,
        div_factor=10,
        final_div_factor=10,
    )
    expected = walk(optimizer, scheduler, total, key="momentum" if kind == "sgd" else "betas")

    mine = [momentum_at(schedule, step, steps_per_epoch) for step in range(total)]
    assert mine == close(expected)
    assert (mine[0], min(mine), mine[-1]) == pytest.approx((0.95, 0.85, 0.95))


@pytest.mark.parametrize("shape", ["triangular", "triangular2"])
@pytest.mark.parametrize(
    ("cycle_epochs", "steps_per_epoch", "half"), [(2.0, 5, 5), (1.0, 9, 4), (8.0, 7, 28)]
)
def test_triangles_are_torchs(
    shape: Any, cycle_epochs: float, steps_per_epoch: int, half: int
) -> None:
    schedule = Cyclic(shape=shape, epochs=20, cycle_epochs=cycle_epochs, lr_max=0.5, lr_min=0.02)
    optimizer = sgd(0.02)
    scheduler = lr_scheduler.CyclicLR(
        optimizer, 0.02, 0.5, step_size_up=half, mode=shape, cycle_momentum=False
    )
    total = 20 * steps_per_epoch

    assert ours(schedule, steps_per_epoch) == close(walk(optimizer, scheduler, total))


@pytest.mark.parametrize("gamma", [0.9995, 0.97, 1.0])
def test_exp_range_is_torchs(gamma: float) -> None:
    schedule = ExpRange(
        shape="exp-range", epochs=12, cycle_epochs=3, lr_max=0.4, lr_min=0.01, gamma=gamma
    )
    optimizer = sgd(0.01)
    scheduler = lr_scheduler.CyclicLR(
        optimizer, 0.01, 0.4, step_size_up=15, mode="exp_range", gamma=gamma, cycle_momentum=False
    )

    assert ours(schedule, 10) == close(walk(optimizer, scheduler, 120))


@pytest.mark.parametrize("lr_end", [0.0, 0.003, 0.3])
@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(24, 98), (3, 5), (1, 2)])
def test_cosine_is_torchs(lr_end: float, epochs: int, steps_per_epoch: int) -> None:
    schedule = Cosine(shape="cosine", epochs=epochs, lr_max=0.3, lr_end=lr_end)
    optimizer = sgd(0.3)
    total = epochs * steps_per_epoch
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=total, eta_min=lr_end)

    # torch's is a recurrence: its rounding adds up
    expected = walk(optimizer, scheduler, total)
    assert ours(schedule, steps_per_epoch) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("step_epochs", "steps_per_epoch", "size"), [(8.0, 4, 32), (0.5, 5, 2), (1.5, 3, 4)]
)
def test_step_is_torchs(step_epochs: float, steps_per_epoch: int, size: int) -> None:
    schedule = Step(shape="step", epochs=20, step_epochs=step_epochs, gamma=0.3, lr_max=0.7)
    optimizer = sgd(0.7)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=size, gamma=0.3)

    expected = walk(optimizer, scheduler, 20 * steps_per_epoch)
    assert ours(schedule, steps_per_epoch) == close(expected)


def test_constant_is_torchs() -> None:
    schedule = Constant(shape="constant", epochs=3, lr_max=0.7)
    optimizer = sgd(0.7)
    scheduler = lr_scheduler.ConstantLR(optimizer, factor=1.0)

    assert ours(schedule, 4) == walk(optimizer, scheduler, 12) == [0.7] * 12


@settings(max_examples=150)
@given(
    # few distinct losses make plateaus, and steps near the threshold
    losses=st.lists(
        st.floats(0, 3) | st.sampled_from([1.0, 0.9999, 0.99, 0.5, 0.0, math.nan, math.inf]),
        max_size=40,
    ),
    patience=st.integers(0, 5),
    factor=st.sampled_from([0.1, 0.5, 0.9]),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]),
    lr_end=st.sampled_from([0.0, 1e-3, 0.5, 1.0]),
)
def test_plateau_is_torchs(
    losses: list[float], patience: int, factor: float, threshold: float, lr_end: float
) -> None:
    schedule = Plateau(
        shape="plateau",
        lr_max=1.0,
        factor=factor,
        patience=patience,
        threshold=threshold,
        lr_end=lr_end,
    )
    optimizer = sgd(1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, threshold=threshold, min_lr=lr_end, eps=0
    )
    expected = [1.0]
    for loss in losses:
        scheduler.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])

    mine = [plateau_lr(schedule, losses[:epochs]) for epochs in range(len(losses) + 1)]
    assert mine == close(expected)
    assert min(mine) >= lr_end


def test_plateau_by_hand() -> None:
    schedule = Plateau(shape="plateau", lr_max=0.8, factor=0.5, patience=1, lr_end=0.15)
    losses = [2.0, 1.0, 1.0, 0.99995, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4]
    #           better better bad  bad: ↓  better bad  ↓    bad   ↓ (floor)

    lrs = [plateau_lr(schedule, losses[:n]) for n in range(len(losses) + 1)]
    assert lrs == [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2, 0.15, 0.15]


@st.composite
def stepped(draw: st.DrawFn) -> tuple[Any, float]:
    """A schedule that depends on the step alone, and the lowest LR that it may have."""
    epochs, lr_max = draw(st.integers(1, 30)), draw(st.floats(1e-8, 100))
    common: dict[str, Any] = {"epochs": epochs, "lr_max": lr_max}
    low, end = draw(st.floats(0, lr_max)), draw(st.floats(0, lr_max))
    shape = draw(
        st.sampled_from(
            ["one-cycle", "triangular", "triangular2", "exp-range", "cosine", "step", "constant"]
        )
    )
    duration = draw(st.floats(1e-3, 60))
    if shape == "one-cycle":
        peak, anneal = draw(st.floats(1e-6, 0.999)), draw(st.sampled_from(["linear", "cosine"]))
        last = draw(st.sampled_from([end, "lr_min"]))
        schedule = OneCycle(
            **common, peak_epoch=peak * epochs, anneal=anneal, lr_min=low, lr_end=last
        )
        return schedule, low if last == "lr_min" else min(low, end)
    if shape in ("triangular", "triangular2"):
        return Cyclic(**common, shape=shape, cycle_epochs=duration, lr_min=low), low
    if shape == "exp-range":
        schedule = ExpRange(**common, shape=shape, cycle_epochs=duration, lr_min=low, gamma=0.99)
        return schedule, low
    if shape == "cosine":
        return Cosine(**common, shape=shape, lr_end=end), end
    if shape == "step":
        return Step(**common, shape=shape, step_epochs=duration), 0.0
    return Constant(**common, shape=shape), lr_max


@settings(max_examples=300)
@given(
    case=stepped(),
    steps_per_epoch=st.integers(1, 12),
    order=st.randoms(use_true_random=False),
)
def test_no_lr_is_below_the_end_or_above_the_maximum_whatever_is_asked_first(
    case: tuple[Any, float], steps_per_epoch: int, order: random.Random
) -> None:
    schedule, lowest = case
    total = schedule.epochs * steps_per_epoch
    lrs = ours(schedule, steps_per_epoch)

    assert min(lrs) >= lowest >= 0
    assert max(lrs) <= schedule.lr_max * (1 + 1e-12)
    assert lr_at(schedule, total, steps_per_epoch) == lrs[-1]
    assert lr_at(schedule, total + 1000, steps_per_epoch) == lrs[-1]
    assert lr_at(schedule, -1, steps_per_epoch) == lrs[0]
    shuffled = list(range(total))
    order.shuffle(shuffled)
    assert {step: lr_at(schedule, step, steps_per_epoch) for step in shuffled} == dict(
        enumerate(lrs)
    )


@settings(max_examples=100)
@given(
    epochs=st.integers(1, 20),
    share=st.floats(1e-6, 0.999),
    steps_per_epoch=st.integers(1, 12),
    anneal=st.sampled_from(["linear", "cosine"]),
)
def test_the_cycled_momentum_stays_in_its_range_and_stops_at_the_end(
    epochs: int, share: float, steps_per_epoch: int, anneal: Any
) -> None:
    schedule = OneCycle(epochs=epochs, peak_epoch=share * epochs, anneal=anneal, lr_max=1.0)
    total = epochs * steps_per_epoch
    values = [momentum_at(schedule, step, steps_per_epoch) for step in range(total + 3)]

    assert min(values) >= 0.85 - 1e-12
    assert max(values) <= 0.95 + 1e-12
    assert values[total:] == [values[total - 1]] * 3


def test_one_cycle_ends_at_its_end_and_by_default_at_its_start() -> None:
    annihilating = OneCycle(epochs=4, peak_epoch=1, lr_max=1.0, lr_min=0.1, lr_end=0.001)
    plain = OneCycle(epochs=4, peak_epoch=1, lr_max=1.0, lr_min=0.1)

    assert lr_at(annihilating, 39, 10) == pytest.approx(0.001, rel=1e-9)
    assert lr_at(plain, 39, 10) == pytest.approx(0.1, rel=1e-12)
    assert lr_at(plain, 0, 10) == 0.1
    assert lr_at(plain, 9, 10) == 1.0
    assert lr_at(plain, 8, 10) < 1.0 > lr_at(plain, 10, 10)


def test_the_published_one_cycle_that_went_negative_ends_at_zero() -> None:
    schedule = OneCycle(epochs=24, peak_epoch=5, lr_max=0.1, lr_min=0.0204, lr_end=0.0)

    assert min(ours(schedule, 98)) >= 0.0
    assert lr_at(schedule, 24 * 98 - 1, 98) == pytest.approx(0.0, abs=1e-15)


def test_a_training_of_one_step_takes_the_highest_lr() -> None:
    schedule = OneCycle(epochs=1, peak_epoch=0.5, lr_max=1.0, lr_min=0.1)

    assert lr_at(schedule, 0, 1) == 1.0
    assert momentum_at(schedule, 0, 1) == 0.85


def test_an_lr_still_to_be_found_has_no_number() -> None:
    with pytest.raises(AssertionError, match="not resolved"):
        lr_at(OneCycle(), 0, 10)
    with pytest.raises(AssertionError, match="plateau_lr"):
        lr_at(Plateau(shape="plateau", lr_max=0.1), 0, 10)


def test_only_one_cycle_cycles_the_momentum() -> None:
    with pytest.raises(AssertionError):
        momentum_at(Cosine(shape="cosine", lr_max=0.1), 0, 10)
    assert Sgd().cycle_momentum is False


@pytest.mark.parametrize(("lr_end", "epochs"), [(0.0, 8), (0.02, 3)])
def test_linear_is_torchs(lr_end: float, epochs: int) -> None:
    schedule = Linear(shape="linear", epochs=epochs, lr_max=0.24, lr_end=lr_end)
    optimizer, total = sgd(0.24), epochs * 25
    scheduler = lr_scheduler.LinearLR(optimizer, 1.0, lr_end / 0.24, total_iters=total)

    assert ours(schedule, 25) == close(walk(optimizer, scheduler, total))


def test_the_stems_rate_falls_on_a_line_to_nothing_and_stays_there() -> None:
    schedule = Linear(shape="linear", epochs=8, lr_max=0.24, stem_epochs=3.0)
    rates = [stem_lr_at(schedule, step, 25, lr_at(schedule, step, 25)) for step in range(200)]

    assert rates == close([0.24 * max(0.0, 1 - step / 75) for step in range(200)])  # airbench's


def test_without_an_end_of_its_own_the_stem_learns_at_everything_elses_rate() -> None:
    assert stem_lr_at(Constant(shape="constant", lr_max=0.1), 7, 10, 0.03) == 0.03


def test_images_are_small_until_their_epoch_and_then_of_medium_size() -> None:
    small = Constant(shape="constant", lr_max=0.1, small_px=24, small_epochs=1.5)
    assert [px_at(small, step, 4) for step in range(8)] == [24] * 6 + [0] * 2
    both = small.model_copy(update={"medium_px": 28, "medium_epochs": 0.25})
    assert [px_at(both, step, 4) for step in range(8)] == [24] * 6 + [28] + [0]
    medium = Constant(shape="constant", lr_max=0.1, medium_px=28, medium_epochs=1.0)
    assert [px_at(medium, step, 4) for step in range(8)] == [28] * 4 + [0] * 4


def test_a_stem_is_frozen_once_its_rate_is_zero() -> None:
    schedule = Constant(shape="constant", lr_max=0.1, stem_epochs=1.3)
    frozen = [stem_frozen_at(schedule, step, 4) for step in range(8)]
    assert frozen == [stem_lr_at(schedule, step, 4, 0.1) == 0 for step in range(8)]
    assert frozen == [False] * 6 + [True] * 2
    assert not stem_frozen_at(Constant(shape="constant", lr_max=0.1), 99, 4)
