"""Crop, flip, cutout and scale a batch: pure functions of the images and of drawn numbers.

No generator runs here and no shape depends on the data, so the same numbers give the same images on
any device, and nothing waits for the device.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def crop_flip(
    images: Tensor,
    index: Tensor,
    shifts: Tensor | None,
    flips: Tensor | None,
    *,
    pad_px: int,
    fill: Literal["zero", "reflect"],
) -> Tensor:
    """`images[index]`, each padded, cropped back at its shift, then mirrored, in one gather.

    images: uint8 (N, H, W, C); index: int64 (B,); shifts: int64 (B, 2) in [0, 2·pad_px], rows
    and columns by which the window moves over the padded image (`pad_px`: the image unchanged);
    flips: bool (B,). Returns uint8 (B, H, W, C). "zero" pads with black, as torchvision's
    RandomCrop does; "reflect" mirrors without repeating the edge.
    """
    if shifts is None and flips is None:
        return images[index]
    height, width = images.shape[1:3]
    device = index.device
    rows = torch.arange(height, device=device).expand(len(index), height)
    cols = torch.arange(width, device=device).expand(len(index), width)
    if flips is not None:
        cols = torch.where(flips[:, None], width - 1 - cols, cols)
    if shifts is None:
        return images[index[:, None, None], rows[:, :, None], cols[:, None, :]]
    rows = rows + shifts[:, :1] - pad_px
    cols = cols + shifts[:, 1:] - pad_px
    if fill == "reflect":
        rows, cols = _reflect(rows, height), _reflect(cols, width)
        return images[index[:, None, None], rows[:, :, None], cols[:, None, :]]
    inside_rows, inside_cols = (rows >= 0) & (rows < height), (cols >= 0) & (cols < width)
    inside = inside_rows[:, :, None, None] & inside_cols[:, None, :, None]
    rows, cols = rows.clamp(0, height - 1), cols.clamp(0, width - 1)
    window = images[index[:, None, None], rows[:, :, None], cols[:, None, :]]
    return window * inside


def cutout(images: Tensor, boxes: Tensor, *, size_px: int) -> Tensor:
    """A square of `size_px` set to zero, which is the channel mean if `images` are normalised.

    images: (B, C, H, W); boxes: int64 (B, 2), the upper left corner, in [0, H - size_px]: the
    square is always whole, so its area is exact for odd and even sizes.
    """
    rows = torch.arange(images.shape[2], device=images.device) - boxes[:, :1]
    cols = torch.arange(images.shape[3], device=images.device) - boxes[:, 1:]
    cut_rows, cut_cols = (rows >= 0) & (rows < size_px), (cols >= 0) & (cols < size_px)
    cut = cut_rows[:, None, :, None] & cut_cols[:, None, None, :]
    return images * ~cut  # masked_fill would leave channels-last memory


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (B, H, W, C) → float32 (B, C, H, W) in channels-last memory, `(x / 255 - mean) / std`.

    mean, std: float32 (C,), of x / 255.
    """
    scale, shift = 1.0 / (255.0 * std), -mean / std
    return torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2)


def shrink(images: Tensor, size_px: int) -> Tensor:
    """float (B, C, H, W) scaled down to (B, C, size_px, size_px): bilinear, antialiased."""
    size = (size_px, size_px)
    small = interpolate(images, size=size, mode="bilinear", antialias=True)
    return small.contiguous(memory_format=torch.channels_last)


def _reflect(position: Tensor, size: int) -> Tensor:
    position = position.abs()
    return (size - 1) - ((size - 1) - position).abs()
