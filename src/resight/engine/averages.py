"""Averaged weights: a copy of the net that is evaluated in its place.

`weight(step, total_steps)` is how far the next update goes, `update(model, weight)` makes it. The
weight may be a tensor () on the device: an update reads nothing back, so it can be captured.
Constructors copy the current weights, so load them (and whiten a stem) first.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from resight.recipe.settings import Train


def make_averages(model: nn.Module, settings: Train) -> Averages | None:
    """The recipe's averages; None if the net itself is evaluated."""
    if settings.ema:
        return Ema(model, settings.ema)
    return Lookahead(model, settings.lookahead) if settings.lookahead else None


def ema_weight(decay: float, step: int) -> float:
    """The share of the weights after step number `step` (from 0) in the average: 1 - d.

    d warms up as `min(decay, (1 + t) / (10 + t))`, so a short run is not held back by its first
    weights.
    """
    return 1.0 - min(decay, (1 + step) / (10 + step))


class Ema:
    """Averaged weights and float buffers: `average += weight * (model - average)` after each step.

    Integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    def weight(self, step: int, total_steps: int) -> float:
        """`ema_weight`; the total does not matter."""
        return ema_weight(self.decay, step)

    @torch.no_grad()
    def update(self, model: nn.Module, weight: float | Tensor) -> None:
        averages, counts = _tensors(self.model)
        sources, new_counts = _tensors(model)
        _move(averages, sources, weight)
        if counts:
            torch._foreach_copy_(counts, new_counts)


class Lookahead:
    """Every `every` steps the slow weights, float buffers too, move towards the net's, and the
    net's are set to the slow ones: `slow = d slow + (1 - d) net`, `net = slow`. Integer buffers of
    the slow net are set to the net's.

    After t of T steps d = 0.95^every (t/T)³: at first the slow weights follow immediately, at the
    end they average. They lack what the net learned after the last such step. From airbench94,
    https://github.com/KellerJordan/cifar10-airbench; the idea is from Zhang et al. 2019,
    https://arxiv.org/abs/1907.08610.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        assert every > 0, every
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.every = every

    def weight(self, step: int, total_steps: int) -> float:
        """1 - d after step number `step` (from 0); 0.0 if no update is due."""
        done = step + 1
        if done % self.every:
            return 0.0
        return 1.0 - 0.95**self.every * min(done / total_steps, 1.0) ** 3

    @torch.no_grad()
    def update(self, model: nn.Module, weight: float | Tensor) -> None:
        """With a weight of 0 both nets stay unchanged."""
        slow, counts = _tensors(self.model)
        fast, new_counts = _tensors(model)
        if isinstance(weight, Tensor):
            due = weight > 0
            _move(slow, fast, weight)
            _copy_where(due, fast, slow)
            if counts:
                _copy_where(due, counts, new_counts)
        elif weight:
            _move(slow, fast, weight)
            torch._foreach_copy_(fast, slow)
            if counts:
                torch._foreach_copy_(counts, new_counts)


Averages = Ema | Lookahead


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and float buffers; integer buffers (batch norm's counts)."""
    tensors = list(model.state_dict().values())
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    return floats, [tensor for tensor in tensors if not tensor.is_floating_point()]


def _move(averages: list[Tensor], sources: list[Tensor], weight: float | Tensor) -> None:
    """`average += weight * (source - average)`, in few launches either way."""
    if isinstance(weight, Tensor):
        steps = torch._foreach_sub(sources, averages)
        torch._foreach_mul_(steps, weight)
        torch._foreach_add_(averages, steps)
    else:
        torch._foreach_lerp_(averages, sources, weight)


def _copy_where(due: Tensor, targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy if `due`, a tensor: a product with 1 or 0 is exact and needs no branch."""
    chosen = torch._foreach_mul(sources, due.to(targets[0].dtype))
    torch._foreach_mul_(targets, (~due).to(targets[0].dtype))
    torch._foreach_add_(targets, chosen)
