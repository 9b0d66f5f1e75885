"""Optimizers of a recipe with their parameter groups, and averaged weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from resight.schedule import MOMENTUM_RANGE
from resight.settings import Adam, Optimizer, Sgd


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """torch's own optimizer, fused, with its state made at once: zeros.

    State that exists from the start makes a snapshot complete at any step. The LR is 0 until a step
    sets it. `decay = "weights"`: parameters of one dimension (biases, norms) get no weight decay.
    """
    groups = _groups(model, settings)
    optimizer: torch.optim.Optimizer
    if isinstance(settings, Sgd):
        momentum = settings.momentum
        if settings.cycle_momentum and not momentum:
            momentum = MOMENTUM_RANGE[0]  # never 0 in the cycle, and at 0 torch makes no state
        optimizer = torch.optim.SGD(
            groups, lr=0.0, momentum=momentum, nesterov=settings.nesterov, fused=True
        )
    else:
        assert isinstance(settings, Adam)
        kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
        betas = (settings.beta1, settings.beta2)
        optimizer = kind(groups, lr=0.0, betas=betas, eps=settings.eps, fused=True)
    _make_state(optimizer)
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    """The LR of the next step, and its momentum or beta1 where that is cycled."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


class Ema:
    """Averaged weights and float buffers: `average += (1 - d) (model - average)` after each step.

    The decay warms up as `min(decay, (1 + t) / (10 + t))`, so a short run is not held back by its
    first weights. Integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in `model` after its step number `step` (from 0)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        averages, sources = self.model.state_dict(), model.state_dict()
        for key, average in averages.items():
            if average.is_floating_point():
                average.lerp_(sources[key], weight)
            else:
                average.copy_(sources[key])


def _groups(model: nn.Module, settings: Optimizer) -> list[dict[str, object]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.decay == "all":
        return [{"params": parameters, "weight_decay": settings.weight_decay}]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [(decayed, settings.weight_decay), (plain, 0.0)]
    return [{"params": p, "weight_decay": decay} for p, decay in groups if p]


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer allocate with a step of LR 0, then zero what it allocated."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()
