"""Max-pool, batch norm and activation in one: inputs of a step, and what a step makes of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MOMENTUM, EPS = 0.3, 1e-3
Case = dict[str, Any]


def make_case(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    activation: str = "relu",
    *,
    seed: int = 0,
    integers: bool = False,
) -> Case:
    """Inputs of a step. Integers: few values, so that windows are full of ties."""
    g = torch.Generator().manual_seed(seed)
    n, c, h, w = shape
    x = torch.randint(-2, 3, shape, generator=g) if integers else torch.randn(shape, generator=g)
    wide = torch.promote_types(dtype, torch.float32)
    return {
        "x": (x + 1).to(dtype).contiguous(memory_format=torch.channels_last),
        "grad": torch.randn((n, c, h // 2, w // 2), generator=g).to(dtype),
        "weight": torch.randn(c, generator=g, dtype=wide),
        "bias": torch.randn(c, generator=g, dtype=wide),
        "running_mean": torch.randn(c, generator=g, dtype=wide),
        "running_var": torch.rand(c, generator=g, dtype=wide) + 0.5,
        "activation": activation,
    }


def two_passes(kernels: Any, case: Case) -> dict[str, Tensor]:
    """Likewise by an implementation itself, with what it saves for the way back."""
    mean, var = case["running_mean"].clone(), case["running_var"].clone()
    how = {"momentum": MOMENTUM, "eps": EPS, "activation": case["activation"]}
    out, saved = kernels.forward(case["x"], case["weight"], case["bias"], mean, var, **how)
    grads = kernels.backward(
        case["grad"],
        saved,
        case["weight"],
        case["bias"],
        tuple(case["x"].shape[2:]),
        activation=case["activation"],
        needs_x=True,
    )
    grads = {f"grad_{k}": v for k, v in grads._asdict().items()}
    return {"out": out, **saved._asdict(), **grads, "running_mean": mean, "running_var": var}
