"""Augment a batch of images: pure functions of the images and of drawn numbers.

No generator runs here and no shape depends on the data, so the same numbers give the same images on
any device, and nothing waits for the device.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate


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
    # masked_fill would leave channels-last memory
    return images * ~_inside(images, boxes, size_px, size_px)


def erase(images: Tensor, erased: Tensor) -> Tensor:
    """A rectangle set to zero, which is the channel mean if `images` are normalised.

    images: (B, C, H, W); erased: int64 (B, 4), its upper left corner, height and width.
    """
    return images * ~_inside(images, erased, erased[:, 2:3], erased[:, 3:])


def _inside(images: Tensor, corners: Tensor, height: Tensor | int, width: Tensor | int) -> Tensor:
    """bool (B, 1, H, W): what lies in the rectangle whose upper left corner is `corners` (int64
    (B, 2 or more)); height, width: int64 (B, 1), or the same for all."""
    rows = torch.arange(images.shape[2], device=images.device) - corners[:, :1]
    cols = torch.arange(images.shape[3], device=images.device) - corners[:, 1:2]
    rows, cols = (rows >= 0) & (rows < height), (cols >= 0) & (cols < width)
    return rows[:, None, :, None] & cols[:, None, None, :]


def mix(images: Tensor, partners: Tensor, shares: Tensor, patches: Tensor | None) -> Tensor:
    """`images` with a square of `partners` in each (CutMix), or blended with them (Mixup).

    images, partners: float (B, C, H, W); shares: float32 (B,), the image's part of a blend;
    patches: int64 (B, 3), upper left corner and side of the square; 0 for a blend.
    """
    if patches is None:
        own = shares[:, None, None, None]
        return images * own + partners * (1 - own)
    sides = patches[:, 2:]
    blended = torch.maximum(shares, (sides[:, 0] > 0).to(shares.dtype))
    own = blended[:, None, None, None] * ~_inside(images, patches, sides, sides)
    return images * own + partners * (1 - own)


def turns_of(turns: Tensor, *, rotate_deg: float, scale: float) -> Tensor:
    """Where each pixel is taken from, float32 (B, 2, 3) as in `warp`, if the image is turned about
    its centre and scaled.

    turns: float (B, 2) in [-1, 1]: the share of `rotate_deg`, positive anticlockwise, and the
    exponent of the sides' factor 1 / (1 - `scale`), so that halving is as probable as doubling.
    """
    angles, factors = torch.deg2rad(turns[:, 0] * rotate_deg), (1 - scale) ** turns[:, 1]
    cos, sin = torch.cos(angles) * factors, torch.sin(angles) * factors
    zero = torch.zeros_like(cos)
    rows = (cos, -sin, zero), (sin, cos, zero)
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def chained(first: Tensor, then: Tensor) -> Tensor:
    """Where each pixel is taken from after both, float32 (B, 2, 3) as in `warp`."""
    # no matrix product, which a GPU might round to TF32
    both = (first[:, :, :2, None] * then[:, None]).sum(2)
    return torch.cat([both[:, :, :2], both[:, :, 2:] + first[:, :, 2:]], dim=2)


def warp(images: Tensor, sources: Tensor) -> Tensor:
    """Each pixel taken from another place: bilinear, edges mirrored.

    images: float (B, C, H, W); sources: float (B, 2, 3), the affine map from a pixel's x and y to
    those of its source, in which the image lies from -1 to 1. Returns the same shape, in
    channels-last memory.
    """
    grid = affine_grid(sources, list(images.shape), align_corners=False)
    warped = grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)


GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
U_SCALE, V_SCALE = 0.492, 0.877  # of blue and red less grey, in YUV


def tint(
    images: Tensor, tints: Tensor, *, brightness: float, contrast: float, saturation: float
) -> Tensor:
    """Brightness, contrast and saturation of each image changed, in this order.

    images: float (B, C, H, W) in [0, 1], C = 1 or 3; tints: float (B, 3) in [-1, 1]: the share of
    each setting by which its factor differs from 1. A factor of 0 is black, the mean grey of the
    image, or its grey version. Returns the same shape, clamped to [0, 1] after each.
    """
    # no tensor is made of Python's numbers: a CUDA graph could not record that
    light, contrasts, colours = tints[:, :, None, None, None].unbind(1)
    images = (images * (1 + light * brightness)).clamp(0, 1)
    mean = grey_of(images).mean((1, 2, 3), keepdim=True)
    images = (mean + (images - mean) * (1 + contrasts * contrast)).clamp(0, 1)
    if images.shape[1] != 3:
        return images
    grey = grey_of(images)
    return (grey + (images - grey) * (1 + colours * saturation)).clamp(0, 1)


def turn_hue(images: Tensor, hues: Tensor, *, hue_deg: float) -> Tensor:
    """The colours of each image turned about grey, at the same brightness, in YUV.

    images: float (B, C, H, W) in [0, 1], C = 3 (others are returned as they are); hues: float (B,)
    in [-1, 1], the share of `hue_deg`. Returns the same shape, clamped to [0, 1].
    """
    if images.shape[1] != 3:
        return images
    red, _, blue = torch.split(images, 1, dim=1)
    grey, angles = grey_of(images), torch.deg2rad(hues * hue_deg)[:, None, None, None]
    u, v = (blue - grey) * U_SCALE, (red - grey) * V_SCALE
    cos, sin = angles.cos(), angles.sin()
    red, blue = grey + (u * sin + v * cos) / V_SCALE, grey + (u * cos - v * sin) / U_SCALE
    green = (grey - red * GREY[0] - blue * GREY[2]) / GREY[1]
    turned = torch.cat([red, green, blue], dim=1).clamp(0, 1)
    return turned.contiguous(memory_format=torch.channels_last)


def without_colour(images: Tensor, greys: Tensor) -> Tensor:
    """Those of `images` (B, C, H, W) that `greys` (bool (B,)) says, in grey."""
    return torch.where(greys[:, None, None, None], grey_of(images), images)


def blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Each image under a Gaussian filter; at the edges it is the mean of what lies inside.

    images: float (B, C, H, W); sigmas: float32 (B,), in px; 0 for the image as it is.
    """
    rows, cols = (_gaussian(side, sigmas)[:, None] for side in images.shape[2:])
    blurred = (rows @ images @ cols.mT).contiguous(memory_format=torch.channels_last)
    return torch.where((sigmas > 0)[:, None, None, None], blurred, images)


def _gaussian(side: int, sigmas: Tensor) -> Tensor:
    """float32 (B, side, side): the weights of all pixels along an axis (last) for each of them."""
    place = torch.arange(side, device=sigmas.device)
    distance = (place - place[:, None]) / sigmas.clamp(min=0.01)[:, None, None]
    return (-0.5 * distance.square()).softmax(2)


def grey_of(images: Tensor) -> Tensor:
    """(B, 1, H, W) of colour images; others as they are."""
    if images.shape[1] != 3:
        return images
    red, green, blue = torch.split(images, 1, dim=1)
    return red * GREY[0] + green * GREY[1] + blue * GREY[2]


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (B, H, W, C) → float32 (B, C, H, W) in channels-last memory, `(x / 255 - mean) / std`.

    mean, std: float32 (C,), of x / 255.
    """
    scale, shift = 1.0 / (255.0 * std), -mean / std
    return torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2)


def unit(images: Tensor) -> Tensor:
    """uint8 (B, H, W, C) → float32 (B, C, H, W) in channels-last memory, in [0, 1]."""
    return images.float().div_(255).permute(0, 3, 1, 2)


def shrink(images: Tensor, size_px: int) -> Tensor:
    """float (B, C, H, W) scaled down to (B, C, size_px, size_px): bilinear, antialiased."""
    size = (size_px, size_px)
    small = interpolate(images, size=size, mode="bilinear", antialias=True)
    return small.contiguous(memory_format=torch.channels_last)


def _reflect(position: Tensor, size: int) -> Tensor:
    position = position.abs()
    return (size - 1) - ((size - 1) - position).abs()
