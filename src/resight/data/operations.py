"""RandAugment and TrivialAugment: operations of drawn kind and strength on each image of a batch.

E. Cubuk et al., "RandAugment", 2019; S. Müller and F. Hutter, "TrivialAugment", 2021. Each of 14
operations is equally probable. Those that move pixels are one resampling with mirrored edges, where
the papers fill with black or grey. Those on values are computed for the whole batch, and each image
takes its own, so that no shape depends on what was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from resight.data.augment import grey_of
from resight.recipe.settings import Augment

OPERATIONS = (
    "identity",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "rotate",
    "brightness",
    "contrast",
    "saturation",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)


@dataclass(frozen=True)
class Ranges:
    """What a strength of 1 means. shear: a side's length by which the opposite one is shifted;
    translate: in sides, but at most `translate_px`; colour: a factor's difference from 1;
    posterize_bits: those that are lost, of 8."""

    shear: float
    translate: float
    translate_px: float
    rotate_deg: float
    colour: float
    posterize_bits: int


RANDAUGMENT = Ranges(0.3, 150 / 331, float("inf"), 30.0, 0.9, 4)
TRIVIALAUGMENT = Ranges(0.99, 1.0, 32.0, 135.0, 0.99, 6)  # the paper's wide ones


def ranges_of(settings: Augment) -> Ranges:
    return TRIVIALAUGMENT if settings.trivialaugment else RANDAUGMENT


def moves(kinds: Tensor, strengths: Tensor, ranges: Ranges, side_px: int) -> Tensor:
    """Where each pixel is taken from after an operation, float32 (B, 2, 3) as in `warp`; that of
    the identity for operations on values.

    kinds: int64 (B,), places in `OPERATIONS`; strengths: float32 (B,) in [-1, 1].
    """

    def where(name: str) -> Tensor:
        return strengths * (kinds == OPERATIONS.index(name))

    angles = torch.deg2rad(where("rotate") * ranges.rotate_deg)
    shift = 2 * min(ranges.translate, ranges.translate_px / side_px)  # a side is from -1 to 1
    cos, sin = angles.cos(), angles.sin()
    rows = (
        (cos, where("shear-x") * ranges.shear - sin, where("translate-x") * shift),
        (where("shear-y") * ranges.shear + sin, cos, where("translate-y") * shift),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def change_values(images: Tensor, kinds: Tensor, strengths: Tensor, ranges: Ranges) -> Tensor:
    """`images` after an operation each; as they are for operations that move pixels.

    images: float (B, C, H, W) in [0, 1]; kinds, strengths: as in `moves`, where the sign counts for
    brightness, contrast, saturation and sharpness only. Returns the same shape, in channels-last
    memory.
    """

    def chosen(*names: str) -> Tensor:
        takes = [kinds == OPERATIONS.index(name) for name in names]
        return torch.stack(takes).any(0)[:, None, None, None]

    signed = strengths[:, None, None, None]
    size, levels, grey = signed.abs(), (images * 255).round(), grey_of(images)
    # at a factor of 0 the image is black, of its mean grey, grey, or smooth
    zero = grey.mean((1, 2, 3), keepdim=True) * chosen("contrast")
    zero = zero + grey * chosen("saturation") + smooth(images) * chosen("sharpness")
    blended = (zero + (images - zero) * (1 + signed * ranges.colour)).clamp(0, 1)
    names = ("brightness", "contrast", "saturation", "sharpness")
    result = torch.where(chosen(*names), blended, images)
    lost = (size * ranges.posterize_bits).round().exp2()
    for name, changed in (
        ("posterize", (levels / lost).floor() * lost),
        ("solarize", levels + (levels >= 256 * (1 - size)) * (255 - 2 * levels)),
        ("autocontrast", autocontrast(levels)),
        ("equalize", equalize(levels)),
    ):
        result = torch.where(chosen(name), changed / 255, result)
    return result.contiguous(memory_format=torch.channels_last)


def smooth(images: Tensor) -> Tensor:
    """Each pixel averaged with its neighbours, itself with a weight of 5 (Pillow's SMOOTH); those
    at the edges stay."""
    if min(images.shape[2:]) < 3:
        return images
    # several times as fast as avg_pool2d
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    all_nine = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    return images + pad((all_nine - 9 * images[:, :, 1:-1, 1:-1]) / 13, (1, 1, 1, 1))


def autocontrast(levels: Tensor) -> Tensor:
    """Each channel stretched from 0 to 255; one of a single value stays. levels: float (B, C, H, W)
    of whole numbers in [0, 255]."""
    flat = levels.flatten(2).contiguous()  # channels-last would take thrice as long
    low, high = flat.amin(2)[..., None, None], flat.amax(2)[..., None, None]
    varied = high > low
    scale = torch.where(varied, 255 / (high - low).clamp(min=1), torch.ones_like(low))
    return (levels - low * varied) * scale


def equalize(levels: Tensor) -> Tensor:
    """Each channel's values spread evenly by its histogram, as Pillow does it. levels: float (B, C,
    H, W) of whole numbers in [0, 255]."""
    values = levels.long().flatten(2)
    empty = torch.zeros((*values.shape[:2], 256), dtype=torch.int64, device=values.device)
    counts = empty.scatter_add(2, values, torch.ones_like(values))
    highest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - highest) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=values.device))
    return table.gather(2, values).view(levels.shape).to(levels.dtype)
