"""A recipe's optimizer, its parameter groups, and the LR of each group.

In addition to torch's own keys a group has `lr_scale`, its LR divided by the recipe's, and `stem`:
whether it is the bias of a whitening stem, whose LR may have its own schedule. The first group's LR
is the recipe's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resight.engine import muon, uncompiled
from resight.recipe.schedule import MOMENTUM_RANGE
from resight.recipe.settings import Adam, Muon, Optimizer, Sgd


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """torch's own optimizer, fused, or `muon.Muon`; its state created now, as zeros.

    State that exists from the start makes a snapshot complete at any step. The LR is 0 until a step
    sets it. Which parameters are in which group: `_split`.
    """
    groups = _groups(model, settings)
    if isinstance(settings, Muon):
        return muon.Muon(groups)
    optimizer: torch.optim.Optimizer
    if isinstance(settings, Sgd):
        momentum = settings.momentum
        if settings.cycle_momentum and not momentum:
            momentum = MOMENTUM_RANGE[0]  # never 0 in the cycle, and at 0 torch creates no state
        optimizer = uncompiled.SGD(
            groups, lr=0.0, momentum=momentum, nesterov=settings.nesterov, fused=True
        )
    else:
        assert isinstance(settings, Adam)
        kind = uncompiled.Adam if settings.name == "adam" else uncompiled.AdamW
        betas = (settings.beta1, settings.beta2)
        optimizer = kind(groups, lr=0.0, betas=betas, eps=settings.eps, fused=True)
    _make_state(optimizer)
    return optimizer


def group_rates(
    optimizer: torch.optim.Optimizer, lr: float, stem_lr: float | None = None
) -> list[float]:
    """The LR of each group where the recipe's is `lr`, and the stem's `stem_lr` (None: `lr`)."""
    return [
        (stem_lr if group["stem"] and stem_lr is not None else lr) * group["lr_scale"]
        for group in optimizer.param_groups
    ]


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Sequence[float], momentum: float | None
) -> None:
    """Set the groups' LRs for the next step, and momentum or beta1 if that is cycled.

    An LR that is a tensor is filled in place.
    """
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
        if momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def use_tensor_rates(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Turn each group's LR into a tensor () float32 on `device`, so that a step can be captured."""
    for group in optimizer.param_groups:
        group["lr"] = torch.full((), float(group["lr"]), dtype=torch.float32, device=device)
        if "capturable" in group:
            group["capturable"] = True
            # or torch warns of the steps before the capture, which prepare it
            optimizer._warned_capturable_if_run_uncaptured = True
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].to(device)


@torch.no_grad()
def set_tensor_rates(optimizer: torch.optim.Optimizer, rates: Tensor) -> None:
    """Copy `rates` (groups,), a row of a table on the device, into the LRs, without waiting.

    Only after `use_tensor_rates`.
    """
    lrs = [group["lr"] for group in optimizer.param_groups]
    assert rates.shape == (len(lrs),), rates.shape
    torch._foreach_copy_(lrs, list(rates.unbind()))


def _groups(model: nn.Module, settings: Optimizer) -> list[dict[str, Any]]:
    """The parts that are not empty. A scaled part's decay is divided by its scale, so that
    LR · decay is the recipe's; `decay = "weights"`: no decay for parameters of one dimension."""
    groups = []
    for parameters, scale, keys in _split(model, settings):
        if not parameters:
            continue
        decayed = settings.decay == "all" or parameters[0].ndim > 1
        decay = settings.weight_decay / scale if decayed else 0.0
        group = {"params": parameters, "weight_decay": decay, "lr_scale": scale, "stem": False}
        groups.append(group | keys)
    return groups


Group = tuple[list[nn.Parameter], float, dict[str, Any]]  # parameters, LR scale, further keys


def _split(model: nn.Module, settings: Optimizer) -> list[Group]:
    """The trainable parameters in parts: always in this order, each parameter once.

    Muon: 4-D weights, other weights, 1-D parameters, the stem's; all but the first use SGD.
    SGD and Adam: weights together with 1-D parameters (in two parts if `decay = "weights"`); the
    norms' biases if they have their own LR; the stem's. The stem is the module named `whiten`.
    """
    stem = _trained(getattr(model, "whiten", None))
    stem_ids = {id(p) for p in stem}
    rest = [p for p in _trained(model) if id(p) not in stem_ids]
    if isinstance(settings, Muon):
        sgd = {"kind": "sgd", "momentum": settings.sgd_momentum}
        own = {
            "kind": "muon",
            "momentum": settings.momentum,
            "newton_schulz_steps": settings.newton_schulz_steps,
            "weight_decay": 0.0,
        }
        bias_scale = settings.bias_lr_scale
        convolutions = [p for p in rest if p.ndim == 4]
        assert convolutions, "Muon is for nets with convolutions"
        return [
            (convolutions, 1.0, own),
            ([p for p in rest if p.ndim > 1 and p.ndim != 4], settings.head_lr_scale, sgd),
            ([p for p in rest if p.ndim <= 1], bias_scale, sgd),
            (stem, bias_scale, sgd | {"stem": True}),
        ]

    scale = settings.bias_lr_scale if isinstance(settings, Sgd) else 1.0
    biases = _norm_biases(model) if scale != 1.0 else []
    bias_ids = {id(p) for p in biases}
    rest = [p for p in rest if id(p) not in bias_ids]
    parts: list[Group] = [(rest, 1.0, {})]
    if settings.decay == "weights":
        weights, others = [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim <= 1]
        parts = [(weights, 1.0, {}), (others, 1.0, {})]
    return [*parts, (biases, scale, {}), (stem, 1.0, {"stem": True})]


def _trained(module: nn.Module | None) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad] if module is not None else []


def _norm_biases(model: nn.Module) -> list[nn.Parameter]:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    return [m.bias for m in norms if m.bias is not None and m.bias.requires_grad]


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer allocate its state in a step with LR 0, then zero it."""
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
