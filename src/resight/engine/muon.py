"""Muon: steps of orthogonal matrices for the convolutions, SGD for everything else."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from resight.engine.uncompiled import Uncompiled

_EPS = 1e-7  # keeps norms above 0


def newton_schulz(u: Tensor, steps: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Approximately the orthogonal factor of each matrix of `u` (B, rows, cols), as `dtype`.

    A step is X ← 3.4445 X + (-4.7750 A + 2.0315 A A) X with A = X Xᵀ, from X = U / ‖U‖. Three steps
    bring each singular value above 0.02 ‖U‖ to between 0.68 and 1.21 and leave its vectors
    unchanged. The quintic is Keller Jordan's, https://kellerjordan.github.io/posts/muon.
    """
    norm = torch.linalg.vector_norm(u, dim=(1, 2), keepdim=True, dtype=torch.float32)
    x = (u / (norm + _EPS)).to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT  # so that A is the smaller product
    for _ in range(steps):
        a = torch.bmm(x, x.mT)
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    result: Tensor = x.mT if tall else x
    return result


class Muon(Uncompiled):
    """Groups of kind "muon" (convolutions, fp32) and of kind "sgd" (Nesterov, torch's decay).

    A convolution (out, in, h, w) is a matrix of `out` rows. It is first scaled to the norm √out;
    then M ← momentum · M + G and W ← W - lr · `newton_schulz`(G + momentum · M), all matrices of a
    shape at once. Its group's `weight_decay` is not used.

    The momentum exists from the start, as zeros. `lr` may be a tensor () on the device: a step
    reads nothing back and replaces no persistent tensor, so it can be captured. The split of a net
    between the two is that of airbench94_muon, https://github.com/KellerJordan/cifar10-airbench.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        defaults = {
            "lr": 0.0,
            "momentum": 0.6,
            "weight_decay": 0.0,
            "kind": "muon",
            "newton_schulz_steps": 3,
        }
        super().__init__(groups, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                zeros = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
                self.state[parameter]["momentum_buffer"] = zeros

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Parameters without a gradient stay unchanged."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            momenta = [self.state[p]["momentum_buffer"] for p in parameters]
            if group["kind"] == "muon":
                _muon_step(parameters, gradients, momenta, group)
            else:
                sgd(
                    parameters,
                    gradients,
                    momenta,
                    fused=True,
                    weight_decay=group["weight_decay"],
                    momentum=group["momentum"],
                    lr=group["lr"],
                    dampening=0.0,
                    nesterov=True,
                    maximize=False,
                )


def _muon_step(
    weights: list[Tensor], gradients: list[Tensor], momenta: list[Tensor], group: dict[str, Any]
) -> None:
    _rescale(weights)
    momentum = group["momentum"]
    torch._foreach_mul_(momenta, momentum)
    torch._foreach_add_(momenta, gradients)
    directions = torch._foreach_add(gradients, momenta, alpha=momentum)

    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, weight in enumerate(weights):
        by_shape.setdefault((len(weight), weight[0].numel()), []).append(index)
    order: list[int] = []
    updates: list[Tensor] = []
    for indices in by_shape.values():
        stacked = torch.stack([_as_matrix(directions[i]) for i in indices])
        # fp32 before the LR: a product in bf16 would lose precision
        update = newton_schulz(stacked, group["newton_schulz_steps"]).float() * group["lr"]
        order += indices
        updates += [
            _as_weight(matrix, weights[i]) for i, matrix in zip(indices, update, strict=True)
        ]
    torch._foreach_sub_([weights[i] for i in order], updates)


def _rescale(weights: list[Tensor]) -> None:
    """Scale each to the norm √(its outputs); zeros stay zeros."""
    factors = torch._foreach_norm(weights)
    torch._foreach_clamp_min_(factors, _EPS)
    torch._foreach_reciprocal_(factors)
    torch._foreach_mul_(factors, [math.sqrt(len(weight)) for weight in weights])
    torch._foreach_mul_(weights, factors)


def _as_matrix(weight: Tensor) -> Tensor:
    """(out, in, h, w) to (out, h · w · in): a view where it is channels-last.

    The order of columns does not matter: it comes out of `newton_schulz` as it went in.
    """
    return weight.permute(0, 2, 3, 1).flatten(1)


def _as_weight(matrix: Tensor, like: Tensor) -> Tensor:
    outputs, inputs, height, width = like.shape
    return matrix.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
