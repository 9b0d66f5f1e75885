"""`Rates`: LRs and the like of an epoch's steps, one row per step, computed before the first.

A GPU reads its row with its own counter, so a captured step needs nothing from Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resight.engine.optim import group_rates
from resight.engine.state import TrainState
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import lr_at, momentum_at, stem_lr_at
from resight.recipe.settings import Schedule


@dataclass(frozen=True)
class Rates:
    """For each of S steps: lr; stem, the LR of a whitening stem's bias; average, how far averaged
    weights move towards the net's (0: not at all); momenta, cycled momentum or beta1 (None: it is
    constant)."""

    lr: tuple[float, ...]
    stem: tuple[float, ...]
    average: tuple[float, ...]
    momenta: tuple[float, ...] | None

    def __len__(self) -> int:
        return len(self.lr)

    def table(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """float32 (S, G + 1): the LR of each of the optimizer's groups, then `average`."""
        rows = [
            [*group_rates(optimizer, lr, stem), average]
            for lr, stem, average in zip(self.lr, self.stem, self.average, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64).float()


def epoch_rates(
    state: TrainState,
    recipe: Recipe,
    schedule: Schedule,
    *,
    epoch: int,
    steps: int,
    flat: float | None = None,
) -> Rates:
    """The rates of `epoch` (from 0) with `steps` steps; `flat`: the LR of all of them (plateau)."""
    places = range(epoch * steps, (epoch + 1) * steps)
    lrs = [lr_at(schedule, step, steps) if flat is None else flat for step in places]
    stems = [stem_lr_at(schedule, step, steps, lr) for step, lr in zip(places, lrs, strict=True)]
    cycled = recipe.optimizer.cycle_momentum
    return Rates(
        tuple(lrs),
        tuple(stems),
        _weights(state, places, schedule.epochs * steps),
        tuple(momentum_at(schedule, step, steps) for step in places) if cycled else None,
    )


def given_rates(state: TrainState, lrs: Sequence[float], total: int) -> Rates:
    """Rates of an LR test's steps, from `state.step` on, at `lrs`; total: the training's steps."""
    places = range(state.step, state.step + len(lrs))
    return Rates(tuple(lrs), tuple(lrs), _weights(state, places, total), None)


def _weights(state: TrainState, steps: range, total: int) -> tuple[float, ...]:
    average = state.average
    return tuple(average.weight(step, total) if average else 0.0 for step in steps)
