"""The learning rate of every step, as a pure function of the step.

Nothing here keeps state: step 0 is the first, and a resumed run gets the same numbers.
Each shape equals torch's scheduler of that kind step by step, but never falls below its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resight.recipe.settings import (
    Constant,
    Cosine,
    Cyclic,
    ExpRange,
    Linear,
    OneCycle,
    Plateau,
    Schedule,
    Step,
)

MAX_POINTS = 400  # per curve
MOMENTUM_RANGE = (0.85, 0.95)  # lowest at the highest LR, as in torch's OneCycleLR


def lr_at(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    """The LR of `step` (from 0; steps after the last one get its LR).

    `schedule` must be resolved: no "find" in it. Not for plateau, which depends on the losses:
    see `plateau_lr`.
    """
    total = schedule.epochs * steps_per_epoch
    step = min(max(step, 0), total - 1)
    lr_max = _number(schedule.lr_max)
    match schedule:
        case OneCycle():
            low = _number(schedule.lr_min)
            end = low if schedule.lr_end == "lr_min" else _number(schedule.lr_end)
            lr = _one_cycle(schedule, step, total, low, lr_max, end)
            return max(lr, min(low, end))
        case Cyclic() | ExpRange():
            return _cyclic(schedule, step, steps_per_epoch, _number(schedule.lr_min), lr_max)
        case Cosine():
            share = (1 + math.cos(math.pi * step / total)) / 2
            return schedule.lr_end + (lr_max - schedule.lr_end) * share
        case Linear():
            return lr_max + (schedule.lr_end - lr_max) * step / total
        case Step():
            size = max(1, round(schedule.step_epochs * steps_per_epoch))
            return float(lr_max * schedule.gamma ** (step // size))
        case Constant():
            return lr_max
        case Plateau():
            raise AssertionError("plateau's LR depends on the losses: use plateau_lr")
    raise AssertionError(schedule)


def stem_lr_at(schedule: Schedule, step: int, steps_per_epoch: int, lr: float) -> float:
    """The LR of a whitening stem's bias at `step`, where everything else has `lr`.

    Falls linearly from `lr_max` to 0 over `stem_epochs`, then stays 0: the stem is frozen, as in
    airbench.
    """
    if not schedule.stem_epochs:
        return lr
    share = step / (schedule.stem_epochs * steps_per_epoch)
    return _number(schedule.lr_max) * max(0.0, 1.0 - share)


def px_at(schedule: Schedule, step: int, steps_per_epoch: int) -> int:
    """The side to which the images of `step` are scaled down; 0: they have their full size."""
    if step < schedule.small_epochs * steps_per_epoch:
        return schedule.small_px
    if step < (schedule.small_epochs + schedule.medium_epochs) * steps_per_epoch:
        return schedule.medium_px
    return 0


def stem_frozen_at(schedule: Schedule, step: int, steps_per_epoch: int) -> bool:
    """Whether a whitening stem has stopped learning by `step`."""
    return bool(schedule.stem_epochs) and step >= schedule.stem_epochs * steps_per_epoch


def momentum_at(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    """The cycled momentum (SGD) or beta1 (Adam) of `step`: high where the LR is low."""
    assert isinstance(schedule, OneCycle), "the recipe allows cycle_momentum with one-cycle only"
    low, high = MOMENTUM_RANGE
    total = schedule.epochs * steps_per_epoch
    return _one_cycle(schedule, min(max(step, 0), total - 1), total, high, low, high)


def epoch_lr(schedule: Schedule, losses: Sequence[float]) -> float | None:
    """The LR of a whole epoch where the schedule follows the losses of the epochs before; None
    where it does not: see `lr_at`."""
    return plateau_lr(schedule, losses) if isinstance(schedule, Plateau) else None


def plateau_lr(schedule: Plateau, losses: Sequence[float]) -> float:
    """The LR of the next epoch after epochs that ended with `losses` (torch's ReduceLROnPlateau).

    A function of the whole history, so nothing has to be stored for a resume.
    """
    lr, best, bad_epochs = _number(schedule.lr_max), math.inf, 0
    for loss in losses:
        if loss < best * (1 - schedule.threshold):
            best, bad_epochs = loss, 0
        else:
            bad_epochs += 1
        if bad_epochs > schedule.patience:
            lr, bad_epochs = max(lr * schedule.factor, schedule.lr_end), 0
    return lr


def lr_points(
    schedule: Schedule, steps_per_epoch: int, metrics: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The LR over the epochs, for a chart: epoch (from 0, fractional) and lr, as lists of at most
    `MAX_POINTS`, and the shape. Plateau's are taken from `metrics`, the rows of the finished
    epochs; None if there are none yet."""
    epochs: list[float]
    if isinstance(schedule, Plateau):
        epochs, lrs = [row["epoch"] for row in metrics], [row["lr"] for row in metrics]
    else:
        total = schedule.epochs * steps_per_epoch
        steps = np.unique(np.linspace(0, total - 1, min(total, MAX_POINTS)).round().astype(int))
        epochs = [round(int(step) / steps_per_epoch, 4) for step in steps]
        lrs = [lr_at(schedule, int(step), steps_per_epoch) for step in steps]
    return {"epoch": epochs, "lr": lrs, "shape": schedule.shape} if epochs else None


def _one_cycle(
    schedule: OneCycle, step: int, total: int, start: float, peak: float, end: float
) -> float:
    # torch's OneCycleLR counts the peak and the end as separate steps, so subtract 1
    peak_step = max(schedule.peak_epoch / schedule.epochs * total - 1, 0.0)
    if step <= peak_step:
        share = step / peak_step if peak_step else 1.0
        return _anneal(schedule.anneal, start, peak, share)
    return _anneal(schedule.anneal, peak, end, (step - peak_step) / (total - 1 - peak_step))


def _anneal(kind: str, start: float, end: float, share: float) -> float:
    if kind == "cosine":
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
    return start + (end - start) * share


def _cyclic(
    schedule: Cyclic | ExpRange, step: int, steps_per_epoch: int, low: float, high: float
) -> float:
    half = max(1, round(schedule.cycle_epochs * steps_per_epoch / 2))
    cycle, position = divmod(step, 2 * half)
    height = 1 - abs(position / half - 1)
    if isinstance(schedule, ExpRange):
        scale = schedule.gamma**step
    else:
        scale = 0.5**cycle if schedule.shape == "triangular2" else 1.0
    return float(low + (high - low) * height * scale)


def _number(value: float | str) -> float:
    assert isinstance(value, int | float), f"schedule is not resolved: {value!r}"
    return float(value)
