"""RandAugment's and TrivialAugment's operations against Pillow's, and what is drawn of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage, stats

from resight.data.augment import chained, turns_of, unit, warp
from resight.data.batches import DeviceSplit
from resight.data.operations import (
    OPERATIONS,
    RANDAUGMENT,
    TRIVIALAUGMENT,
    Ranges,
    change_values,
    equalize,
    moves,
    ranges_of,
)
from resight.data.plan import EpochPlan
from resight.data.types import Split
from resight.recipe.settings import Augment

Pixels = npt.NDArray[np.uint8]
RANGES = pytest.mark.parametrize(
    "ranges", [RANDAUGMENT, TRIVIALAUGMENT], ids=["RandAugment", "TrivialAugment"]
)
STRENGTHS = pytest.mark.parametrize("strength", [-1.0, -0.3, 0.0, 0.3, 1.0])


def kinds_of(*names: str) -> torch.Tensor:
    return torch.tensor([OPERATIONS.index(name) for name in names])


def photo(seed: int = 0, side: int = 24, channels: int = 3) -> Pixels:
    """Smooth and dull: no channel reaches from 0 to 255."""
    drawn = np.random.default_rng(seed).normal(size=(side, side, channels))
    waves = ndimage.gaussian_filter(drawn, (2, 2, 0))
    return (110 + 45 * waves / waves.std()).clip(20, 220).astype(np.uint8)


def by_pillow(image: Image.Image, name: str, strength: float, ranges: Ranges) -> Image.Image:
    factor, size = 1 + ranges.colour * strength, abs(strength)
    enhanced: dict[str, Callable[..., Any]] = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhanced:
        made: Image.Image = enhanced[name](image).enhance(factor)
        return made
    return {
        "posterize": lambda: ImageOps.posterize(image, 8 - round(size * ranges.posterize_bits)),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - size)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }.get(name, lambda: image)()


@RANGES
@STRENGTHS
@pytest.mark.parametrize("name", OPERATIONS)
def test_values_are_changed_as_pillow_changes_them(
    name: str, strength: float, ranges: Ranges
) -> None:
    pixels = photo()
    images, strengths = unit(torch.from_numpy(pixels[None])), torch.tensor([strength])
    result = change_values(images, kinds_of(name), strengths, ranges)
    assert result.is_contiguous(memory_format=torch.channels_last)
    expected = np.asarray(by_pillow(Image.fromarray(pixels), name, strength, ranges), np.float64)
    off = np.abs(255 * result[0].permute(1, 2, 0).double().numpy() - expected)
    # Pillow rounds grey values, then results
    assert off.max() <= (1e-3 if name in ("posterize", "solarize", "equalize") else 2)
    moved = name in ("identity", "rotate") or name.startswith(("shear", "translate"))
    assert torch.equal(result, images) or not moved


def test_each_image_of_a_batch_has_its_own_operation() -> None:
    pixels = np.stack([photo(seed) for seed in range(len(OPERATIONS))])
    images, kinds = unit(torch.from_numpy(pixels)), torch.randperm(len(OPERATIONS))
    strengths = torch.rand(len(kinds)) * 2 - 1
    together = change_values(images, kinds, strengths, TRIVIALAUGMENT)
    for i in range(len(kinds)):
        one = slice(i, i + 1)
        alone = change_values(images[one], kinds[one], strengths[one], TRIVIALAUGMENT)
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-6)


@settings(max_examples=60)
@given(side=st.integers(1, 40), levels=st.integers(1, 256), low=st.integers(0, 255), data=st.data())
def test_equalize_is_pillows_for_any_histogram(
    side: int, levels: int, low: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    high = min(low + levels, 256)
    pixels = rng.integers(low, high, (side, side, 3), dtype=np.uint8)
    pixels[..., 1] = low
    result = equalize(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    expected = np.asarray(ImageOps.equalize(Image.fromarray(pixels)))
    np.testing.assert_array_equal(result[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "sharpness", "contrast"])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_of_one_colour_or_tiny_images_nothing_breaks(name: str, side: int) -> None:
    images = torch.full((1, 3, side, side), 0.4)
    result = change_values(images, kinds_of(name), torch.ones(1), RANDAUGMENT)
    assert (255 * (result - images)).abs().max() <= 1.0


def test_grey_images_stay_grey() -> None:
    images = unit(torch.from_numpy(np.stack([photo(channels=1)] * len(OPERATIONS))))
    kinds = torch.arange(len(OPERATIONS))
    result = change_values(images, kinds, torch.full((len(kinds),), 0.7), RANDAUGMENT)
    assert result.shape == images.shape
    torch.testing.assert_close(result[OPERATIONS.index("saturation")], images[0], rtol=0, atol=1e-6)


def source(name: str, strength: float, ranges: Ranges, side: int) -> npt.NDArray[np.float64]:
    """2 × 3: the x and y, in px from the centre, from which those of the result are taken."""
    angle = np.deg2rad(ranges.rotate_deg * strength)
    shift = strength * min(ranges.translate * side, ranges.translate_px)
    shear = ranges.shear * strength
    return {
        "rotate": np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]]),
        "shear-x": np.array([[1, shear, 0], [0, 1, 0]]),
        "shear-y": np.array([[1, 0, 0], [shear, 1, 0]]),
        "translate-x": np.array([[1, 0, shift], [0, 1, 0]]),
        "translate-y": np.array([[1, 0, 0], [0, 1, shift]]),
    }.get(name, np.eye(2, 3))


@RANGES
@STRENGTHS
@pytest.mark.parametrize("side", [24, 40])
@pytest.mark.parametrize("name", OPERATIONS)
def test_pixels_are_moved_as_pillow_moves_them(
    name: str, strength: float, ranges: Ranges, side: int
) -> None:
    pixels = photo(side=side)
    images = unit(torch.from_numpy(pixels[None]))
    where = moves(kinds_of(name), torch.tensor([strength]), ranges, side)
    moved = warp(images, where)[0].permute(1, 2, 0).numpy()

    about_centre = source(name, strength, ranges, side)
    centre = np.array([side / 2, side / 2])  # Pillow's origin is the corner of the first pixel
    offset = centre + about_centre[:, 2] - about_centre[:, :2] @ centre
    matrix = np.column_stack([about_centre[:, :2], offset]).flatten().tolist()

    def transformed(image: Image.Image) -> Image.Image:
        how = (Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return image.transform(image.size, *how)

    expected = np.asarray(transformed(Image.fromarray(pixels)))
    inside = np.asarray(transformed(Image.new("L", (side, side), 255))) == 255
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    places = np.stack([x, y, np.ones_like(x)], axis=-1) @ about_centre.T
    inside &= (np.abs(places) < side / 2 - 1).all(-1)  # Pillow's edges are no mirrors
    assert inside.sum() > (0 if abs(strength) < 1 else -1)
    assert np.abs(255 * moved - expected)[inside].max(initial=0) <= 1.01  # Pillow truncates

    # rows before columns, and mirrored edges
    back = about_centre[::-1, 1::-1]
    middle = np.array([(side - 1) / 2] * 2)
    shifted = middle + about_centre[::-1, 2] - back @ middle
    for channel in range(3):
        whole = ndimage.affine_transform(
            pixels[..., channel] / 255, back, shifted, order=1, mode="reflect"
        )
        np.testing.assert_allclose(moved[..., channel], whole, atol=1e-4)


def test_a_turn_is_positive_where_pillows_is() -> None:
    pixels = photo()
    where = moves(kinds_of("rotate"), torch.ones(1), RANDAUGMENT, 24)
    moved = 255 * warp(unit(torch.from_numpy(pixels[None])), where)[0].permute(1, 2, 0).numpy()
    expected = np.asarray(Image.fromarray(pixels).rotate(30, Image.Resampling.BILINEAR))
    assert np.abs(moved - expected)[8:16, 8:16].max() <= 1


def test_what_is_chained_is_done_one_after_the_other_in_one_resampling() -> None:
    images = torch.rand(1, 3, 8, 8)
    quarter = turns_of(torch.tensor([[1.0, 0.0]]), rotate_deg=90, scale=0.0)
    right = dataclasses.replace(RANDAUGMENT, translate=0.25)
    shift = moves(kinds_of("translate-x"), torch.tensor([1.0]), right, 8)
    for first, then in ((quarter, shift), (shift, quarter)):
        together = warp(images, chained(first, then))
        torch.testing.assert_close(together, warp(warp(images, first), then), atol=1e-5, rtol=0)


def draw(n: int, **changes: Any) -> EpochPlan:
    return EpochPlan.draw(n, 32, Augment(**changes), seed=1, epoch=2)


def test_kinds_are_uniform_and_strengths_are_of_the_magnitude() -> None:
    plan = draw(20_000, randaugment=2, randaugment_magnitude=9)
    assert plan.operations is not None
    assert plan.strengths is not None
    assert plan.operations.shape == plan.strengths.shape == (20_000, 2)
    pairs = (plan.operations[:, 0] * 14 + plan.operations[:, 1]).numpy()
    assert stats.chisquare(np.bincount(pairs, minlength=196)).pvalue > 0.001
    assert plan.strengths.abs().unique().tolist() == [np.float32(0.3)]
    up = (plan.strengths > 0).numpy()
    assert stats.binomtest(int(up.sum()), up.size).pvalue > 0.001
    assert stats.binomtest(int((up[:, 0] == up[:, 1]).sum()), len(up)).pvalue > 0.001


def test_trivialaugment_is_one_operation_of_any_strength() -> None:
    plan = draw(20_000, trivialaugment=True)
    assert plan.operations is not None
    assert plan.strengths is not None
    assert plan.operations.shape == (20_000, 1)
    assert stats.chisquare(np.bincount(plan.operations[:, 0].numpy())).pvalue > 0.001
    assert stats.kstest(plan.strengths[:, 0].numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.001
    assert ranges_of(Augment(trivialaugment=True)) == TRIVIALAUGMENT
    assert ranges_of(Augment()) == RANDAUGMENT


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(
    "chosen", [{"randaugment": 3, "randaugment_magnitude": 20}, {"trivialaugment": True}]
)
def test_a_batch_is_moved_once_and_then_changed_in_turn(
    chosen: dict[str, Any], resident: bool
) -> None:
    augment = Augment(crop_pad_px=0, flip="none", cutout_px=0, rotate_deg=20, **chosen)
    pixels = np.stack([photo(seed, 12) for seed in range(40)])
    split = Split(pixels, np.arange(40), np.arange(40).astype(np.str_))
    zeros, cpu = torch.zeros(3), torch.device("cpu")
    placed = DeviceSplit.place(split, zeros, zeros + 1, cpu, resident=resident)
    plan = EpochPlan.draw(40, 12, augment, seed=1, epoch=2)
    index = plan.order[:32]
    images, _ = placed.augmented(index, plan, augment)
    assert plan.turns is not None
    assert plan.operations is not None
    assert plan.strengths is not None

    ranges, where = ranges_of(augment), turns_of(plan.turns[index], rotate_deg=20, scale=0.0)
    columns = [
        (plan.operations[index, i], plan.strengths[index, i])
        for i in range(plan.operations.shape[1])
    ]
    for kinds, strengths in columns:
        where = chained(where, moves(kinds, strengths, ranges, 12))
    expected = warp(unit(torch.from_numpy(pixels[index.numpy()])), where)
    for kinds, strengths in columns:
        expected = change_values(expected, kinds, strengths, ranges)
    assert torch.equal(images, expected)
