"""Max-pool, batch norm and activation as one operation, `pool_norm_act`.

torch keeps an int64 index of each maximum and passes over the maps for each of the three layers,
forward and backward. Here the index is a uint8. Forward, pooling and the statistics share a pass
over x, which need not be kept, and a second pass normalises and activates the pooled map, a quarter
as large. Backward, one pass over that map sums the gradients of each channel and one writes the
gradient of x.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resight.errors import ResightError, ResightWarning
from resight.models.kernels import pool_norm_twin
from resight.models.kernels.pool_norm_twin import Activation, Saved

__all__ = ["Activation", "available", "pool_norm_act"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def pool_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    eps: float,
    activation: Activation,
) -> Tensor:
    """`activation(batch_norm(max_pool2d(x, 2)))` of a training step, in x's dtype.

    x: (N, C, H, W); the others (C,), usually float32. Returns (N, C, ⌊H/2⌋, ⌊W/2⌋): the last row
    and column of an odd size are left out, and their gradient is 0. All arithmetic is float32.
    The maps are normalised by their biased variance; `running_mean` and `running_var` (unbiased)
    move by `momentum` towards this batch's, in place, as `BatchNorm2d`'s do; the caller updates
    `num_batches_tracked`. "gelu" is the exact one, with erf.

    Nothing waits for the device, no shape depends on the data and no sum on the order in which
    programs run: it can be captured in a CUDA graph and is reproducible bit for bit. Uses Triton
    where `available`, else plain PyTorch, which is slower than torch's own three layers.

    Raises `ResightError` if a channel has fewer than two values after pooling.
    """
    values = x.shape[0] * (x.shape[2] // 2) * (x.shape[3] // 2)
    if values < 2:
        raise ResightError(
            f"batch norm after a 2×2 max-pool of {tuple(x.shape)} (N, C, H, W) has {values} value"
            f"{'' if values == 1 else 's'} per channel and needs at least 2; use more or larger "
            "images"
        )
    out: Tensor = _PoolNormAct.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, running_mean, running_var, momentum, eps, activation
    )
    return out


def available(x: Tensor, activation: Activation) -> bool:
    """Whether Triton's kernels accept `x`, (N, C, H, W), and pay off.

    On a CUDA GPU that Triton compiles for, channels-last, in half precision or float32, C a
    multiple of 16: otherwise a thread could not read 16 bytes at a time. The first call for a
    device, dtype, activation and C compares a small pass with the reference (`pool_norm_twin`) and
    warns (`ResightWarning`) if that fails or differs; it must come before a capture. What it
    compiles is what layers of as many channels use.
    """
    return (
        x.is_cuda
        and x.ndim == 4
        and x.dtype in _DTYPES
        and x.shape[1] % 16 == 0
        and x.numel() // x.shape[1] < 2**31  # positions are counted in int32
        and x.is_contiguous(memory_format=torch.channels_last)
        and _works(x.device, x.dtype, activation, x.shape[1])
    )


class _PoolNormAct(torch.autograd.Function):
    """Autocast does not affect it: everything is float32 inside, and x's dtype outside."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        activation: Activation,
    ) -> Tensor:
        ctx.kernels = _kernels() if available(x, activation) else pool_norm_twin
        out: Tensor
        saved: Saved
        out, saved = ctx.kernels.forward(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            momentum=momentum,
            eps=eps,
            activation=activation,
        )
        ctx.save_for_backward(*saved, weight, bias)
        ctx.size, ctx.activation = x.shape[2:], activation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, weight, bias = ctx.saved_tensors
        # The gradients of weight and bias are sums that the gradient of x needs anyway, so they are
        # free; autograd drops those of frozen parameters.
        grads = ctx.kernels.backward(
            grad,
            Saved(*saved),
            weight,
            bias,
            ctx.size,
            activation=ctx.activation,
            needs_x=ctx.needs_input_grad[0],
        )
        return *grads, None, None, None, None, None


def _kernels() -> ModuleType:
    # Triton is slow to import, and not every machine has it.
    from resight.models.kernels import pool_norm_triton

    return pool_norm_triton


@functools.cache
def _works(device: torch.device, dtype: torch.dtype, activation: Activation, channels: int) -> bool:
    """Whether Triton is installed and works: it needs a recent GPU and a C compiler."""
    if importlib.util.find_spec("triton") is None:
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        _kernels().try_out(device, dtype, activation, channels)
    except Exception as error:  # whatever stops it from compiling, torch's layers work
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"Triton's kernels do not work on {device} ({reason[0]}), so max-pool and batch norm "
            "use torch's own layers, which are a little slower; Triton needs a C compiler and the "
            "Python headers",
            ResightWarning,
            stacklevel=3,
        )
        return False
    return True
