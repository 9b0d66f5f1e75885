"""Max-pool, batch norm and activation in plain PyTorch, with the same choices as the kernels.

The reference that the kernels are compared with. It runs anywhere; it saves no time.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Activation = Literal["relu", "gelu"]


class Saved(NamedTuple):
    """What the forward pass keeps for the backward pass; not x, which is four times as large."""

    pooled: Tensor  # (N, C, ⌊H/2⌋, ⌊W/2⌋), x's dtype
    places: Tensor  # uint8, same shape: 0 to 3, row-major, where in its window the maximum was
    stats: Tensor  # (2, C), float32 or wider: mean and 1 / √(variance + eps)


class Gradients(NamedTuple):
    x: Tensor | None
    weight: Tensor
    bias: Tensor


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    eps: float,
    activation: Activation,
) -> tuple[Tensor, Saved]:
    """The activated map and what the backward pass needs; moves the running statistics."""
    corners = _corners(_wide(x))
    pooled = functools.reduce(torch.maximum, corners)
    # Of equal values the first counts, so the loop runs from the last to the first.
    places = torch.full_like(pooled, 3, dtype=torch.uint8)
    for place in (2, 1, 0):
        places.masked_fill_(corners[place] == pooled, place)

    variance, mean = torch.var_mean(pooled, (0, 2, 3), correction=0)
    stats = torch.stack((mean, torch.rsqrt(variance + eps)))
    count = pooled.numel() // pooled.shape[1]
    unbiased = variance * (count / (count - 1))
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_(unbiased.to(running_var.dtype), momentum)

    z = torch.addcmul(_row(bias), _standardised(pooled, stats), _row(weight))
    out = torch.where(z <= 0, 0, z) if activation == "relu" else z * _normal_cdf(z)
    return out.to(x.dtype), Saved(pooled.to(x.dtype), places, stats)


def backward(
    grad: Tensor,
    saved: Saved,
    weight: Tensor,
    bias: Tensor,
    size: tuple[int, int],
    *,
    activation: Activation,
    needs_x: bool,
) -> Gradients:
    """The gradients of x, whose maps had `size` (H, W), of weight and of bias."""
    xhat = _standardised(_wide(saved.pooled), saved.stats)
    z = torch.addcmul(_row(bias), xhat, _row(weight))
    if activation == "relu":
        grad_z = torch.where(z <= 0, 0, _wide(grad))
    else:
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        grad_z = _wide(grad) * (_normal_cdf(z) + z * density)
    grad_bias = grad_z.sum((0, 2, 3))
    grad_weight = (grad_z * xhat).sum((0, 2, 3))
    grads = grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)
    if not needs_x:
        return Gradients(None, *grads)

    count = xhat.numel() // xhat.shape[1]
    grad_xhat = grad_z - _row(grad_bias / count) - xhat * _row(grad_weight / count)
    grad_pooled = _row(weight) * _row(saved.stats[1]) * grad_xhat
    grad_x = saved.pooled.new_zeros((*saved.pooled.shape[:2], *size))
    grad_x = grad_x.contiguous(memory_format=torch.channels_last)
    for place, corner in enumerate(_corners(grad_x)):
        corner.copy_(torch.where(saved.places == place, grad_pooled, 0))
    return Gradients(grad_x, *grads)


def _corners(x: Tensor) -> list[Tensor]:
    """Views of the four places of each 2×2 window, row-major, each `(N, C, ⌊H/2⌋, ⌊W/2⌋)`."""
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    return [x[:, :, row:height:2, col:width:2] for row in (0, 1) for col in (0, 1)]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _row(values: Tensor) -> Tensor:
    return _wide(values)[:, None, None]


def _standardised(pooled: Tensor, stats: Tensor) -> Tensor:
    return (pooled - _row(stats[0])) * _row(stats[1])


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
