"""Max-pool, batch norm and activation in Triton: three kernel launches in each direction."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resight.models.kernels import pool_norm_kernels as kernels
from resight.models.kernels import pool_norm_twin
from resight.models.kernels.pool_norm_twin import Activation, Gradients, Saved

_MAX_BLOCK_CHANNELS = 128
# A thread has 16 bytes of each map and no more: with more, the bytes of `places` would be split
# among threads differently from the map's values, and combining the two would take barriers.
_WARPS = 4
_BLOCK_BYTES = 32 * _WARPS * 16
# The most programs of a pass that sums: several per multiprocessor of a large GPU. A fixed number,
# not the device's, so that sums are split the same way everywhere.
_PARTS = 1024
# The kernels that combine parts hold all parts of a few channels at once: 32 bytes of a row.
_PART_CHANNELS = 8
_FUSE = {"enable_fp_fusion": True}  # a · b + c in one operation; Triton warns if it is not set


class _Plan(NamedTuple):
    """How the `(windows, channels)` of a pooled map are split among programs."""

    windows: int
    channels: int
    value_bytes: int

    @property
    def block_channels(self) -> int:
        return min(_MAX_BLOCK_CHANNELS, 1 << (self.channels - 1).bit_length())

    @property
    def block_windows(self) -> int:
        return _BLOCK_BYTES // self.value_bytes // self.block_channels

    @property
    def channel_blocks(self) -> int:
        return _ceil_div(self.channels, self.block_channels)

    @property
    def window_blocks(self) -> int:
        return _ceil_div(self.windows, self.block_windows)

    @property
    def tiles(self) -> int:
        """Blocks of windows that a program that sums processes, one after the other."""
        return _ceil_div(self.window_blocks, max(1, _PARTS // self.channel_blocks))

    @property
    def parts(self) -> int:
        """Programs that sum, per block of channels."""
        return _ceil_div(self.window_blocks, self.tiles)

    @property
    def options(self) -> dict[str, int | bool]:
        return {
            "BLOCK_WINDOWS": self.block_windows,
            "BLOCK_CHANNELS": self.block_channels,
            "num_warps": _WARPS,
            **_FUSE,
        }


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
    """Like `pool_norm_twin.forward`; x in channels-last memory."""
    images, channels, height, width = x.shape
    pooled = _map(x, images, channels, height // 2, width // 2)
    places = torch.empty_like(pooled, dtype=torch.uint8)
    out = torch.empty_like(pooled)
    plan = _Plan(pooled.numel() // channels, channels, x.element_size())
    parts = x.new_empty((2, plan.parts, channels), dtype=torch.float32)
    stats = x.new_empty((2, channels), dtype=torch.float32)

    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernels.pool[(plan.parts * plan.channel_blocks,)](
            *(x, pooled, places, parts),
            *(plan.windows, plan.tiles, height, width, channels),
            **plan.options,
        )
        _by_channels(
            kernels.statistics,
            channels,
            *(parts, running_mean, running_var, stats),
            *(plan.windows, plan.tiles * plan.block_windows, channels, momentum, eps),
        )
        kernels.norm_act[(plan.window_blocks * plan.channel_blocks,)](
            *(pooled, out, stats, weight, bias, plan.windows, channels),
            ACTIVATION=activation,
            **plan.options,
        )
    return out, Saved(pooled, places, stats)


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
    """Like `pool_norm_twin.backward`."""
    pooled, places, stats = saved
    images, channels = pooled.shape[:2]
    height, width = size
    grad = grad.contiguous(memory_format=torch.channels_last)
    plan = _Plan(pooled.numel() // channels, channels, pooled.element_size())
    parts = grad.new_empty((2, plan.parts, channels), dtype=torch.float32)
    total = grad.new_empty((2, channels), dtype=torch.float32)

    with torch.cuda.device_of(grad):  # type: ignore[no-untyped-call]
        kernels.grad_parts[(plan.parts * plan.channel_blocks,)](
            *(grad, pooled, stats, weight, bias, parts, plan.windows, plan.tiles, channels),
            ACTIVATION=activation,
            **plan.options,
        )
        _by_channels(kernels.sums, channels, parts, total, plan.parts, channels)
        grads = total[0].to(weight.dtype), total[1].to(bias.dtype)
        if not needs_x:
            return Gradients(None, *grads)

        grad_x = _map(pooled, images, channels, height, width)
        # Cells: the windows, and the rests of some at the edge of an odd size.
        cells = plan._replace(windows=images * _ceil_div(height, 2) * _ceil_div(width, 2))
        kernels.grad_input[(cells.window_blocks * cells.channel_blocks,)](
            *(grad, pooled, places, stats, weight, bias, total, grad_x),
            *(cells.windows, plan.windows, height, width, channels),
            ACTIVATION=activation,
            **cells.options,
        )
    return Gradients(grad_x, *grads)


def try_out(
    device: torch.device, dtype: torch.dtype, activation: Activation, channels: int
) -> None:
    """Run both passes on random maps and compare with the reference; raises if they differ."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn((4, channels, 7, 6), generator=generator).to(device)
    x = drawn.to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = (drawn[:2, :, 0, 0] + 2).unbind()
    grad = x[:, :, :3, :3].contiguous(memory_format=torch.channels_last)
    results = []
    for passes in (pool_norm_twin, sys.modules[__name__]):
        running = torch.zeros(channels, device=device), torch.ones(channels, device=device)
        out, saved = passes.forward(
            x, weight, bias, *running, momentum=0.1, eps=1e-5, activation=activation
        )
        gradients = passes.backward(
            grad, saved, weight, bias, x.shape[2:], activation=activation, needs_x=True
        )
        results.append((out, *running, *gradients))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got.float(), expected.float(), rtol=1e-2, atol=1e-2)


def _by_channels(kernel: Any, channels: int, *arguments: Any) -> None:
    """Launch a kernel that combines parts."""
    kernel[(_ceil_div(channels, _PART_CHANNELS),)](
        *arguments, BLOCK_PARTS=_PARTS, BLOCK_CHANNELS=_PART_CHANNELS, num_warps=8, **_FUSE
    )


def _map(like: Tensor, images: int, channels: int, height: int, width: int) -> Tensor:
    return torch.empty(
        (images, channels, height, width),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def _ceil_div(size: int, block: int) -> int:
    return -(-size // block)
