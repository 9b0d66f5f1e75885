"""Crop, flip, cutout, normalisation and scale against per-pixel references in numpy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

from resight.data.augment import (
    blur,
    crop_flip,
    cutout,
    erase,
    mix,
    normalize,
    shrink,
    tint,
    turn_hue,
    turns_of,
    unit,
    warp,
    without_colour,
)
from resight.data.batches import DeviceSplit
from resight.data.plan import EpochPlan
from resight.data.types import Split
from resight.recipe.settings import Augment

Pixels = npt.NDArray[np.uint8]


def make_images(n: int, height: int, width: int, channels: int, seed: int = 0) -> Pixels:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 256, (n, height, width, channels), dtype=np.uint8)  # no black: the fill


def naive_crop_flip(
    images: Pixels,
    index: list[int],
    shifts: npt.NDArray[np.int64] | None,
    flips: npt.NDArray[np.bool_] | None,
    pad: int,
    fill: str,
) -> Pixels:
    """Pad, cut out, mirror: one pixel after the other."""
    _, height, width, channels = images.shape
    result = np.zeros((len(index), height, width, channels), np.uint8)
    for b, image in enumerate(index):
        top, left = (pad, pad) if shifts is None else shifts[b]
        for row in range(height):
            for col in range(width):
                y, x = int(top) + row - pad, int(left) + col - pad
                if fill == "reflect":
                    y = -y if y < 0 else 2 * (height - 1) - y if y >= height else y
                    x = -x if x < 0 else 2 * (width - 1) - x if x >= width else x
                mirrored = flips is not None and flips[b]
                place = width - 1 - col if mirrored else col
                if 0 <= y < height and 0 <= x < width:
                    result[b, row, place] = images[image, y, x]
    return result


@settings(max_examples=120)
@given(
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    channels=st.sampled_from([1, 3, 4]),
    pad=st.integers(1, 2),
    fill=st.sampled_from(["zero", "reflect"]),
    shifted=st.booleans(),
    flipped=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_crop_and_flip_are_those_of_a_loop_over_pixels(
    height: int,
    width: int,
    channels: int,
    pad: int,
    fill: Any,
    shifted: bool,
    flipped: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    images = make_images(4, height, width, channels, seed)
    index = rng.integers(0, 4, 6)
    shifts = rng.integers(0, 2 * pad + 1, (6, 2)) if shifted else None
    flips = rng.random(6) < 0.5 if flipped else None
    result = crop_flip(
        torch.from_numpy(images),
        torch.from_numpy(index),
        None if shifts is None else torch.from_numpy(shifts),
        None if flips is None else torch.from_numpy(flips),
        pad_px=pad,
        fill=fill,
    )

    assert result.dtype == torch.uint8
    expected = naive_crop_flip(images, index.tolist(), shifts, flips, pad, fill)
    np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize(("fill", "mode"), [("zero", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("pad", [1, 4, 7])
def test_every_shift_is_a_window_of_numpys_pad(fill: Any, mode: Any, pad: int) -> None:
    image = make_images(1, 8, 8, 3)
    padded = np.pad(image[0], ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    shifts = [(row, col) for row in range(2 * pad + 1) for col in range(2 * pad + 1)]
    result = crop_flip(
        torch.from_numpy(image),
        torch.zeros(len(shifts), dtype=torch.int64),
        torch.tensor(shifts),
        None,
        pad_px=pad,
        fill=fill,
    )

    expected = np.stack([padded[row : row + 8, col : col + 8] for row, col in shifts])
    np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize("fill", ["zero", "reflect"])
@pytest.mark.parametrize("size", [7, 8])
def test_a_shift_by_the_padding_is_the_image_as_it_was(fill: Any, size: int) -> None:
    images = torch.from_numpy(make_images(5, size, size, 3))
    index = torch.tensor([4, 0, 2])
    shifts, flips = torch.full((3, 2), 3), torch.zeros(3, dtype=torch.bool)

    assert torch.equal(crop_flip(images, index, shifts, flips, pad_px=3, fill=fill), images[index])
    assert torch.equal(crop_flip(images, index, None, flips, pad_px=3, fill=fill), images[index])
    assert torch.equal(crop_flip(images, index, None, None, pad_px=0, fill=fill), images[index])


def test_a_flip_mirrors_left_and_right() -> None:
    images = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3, 1)
    flips = torch.tensor([True, False])
    result = crop_flip(images, torch.tensor([0, 0]), None, flips, pad_px=0, fill="zero")

    assert result[..., 0].tolist() == [[[2, 1, 0], [5, 4, 3]], [[0, 1, 2], [3, 4, 5]]]


def test_the_images_themselves_are_left_alone() -> None:
    images = torch.from_numpy(make_images(4, 8, 8, 3))
    before = images.clone()
    shifts, flips = torch.zeros(4, 2, dtype=torch.int64), torch.ones(4, dtype=torch.bool)
    crop_flip(images, torch.arange(4), shifts, flips, pad_px=2, fill="zero")[:] = 0
    floats = images.float().permute(0, 3, 1, 2)
    cutout(floats, torch.zeros(4, 2, dtype=torch.int64), size_px=4)

    assert torch.equal(images, before)
    assert torch.equal(floats, before.float().permute(0, 3, 1, 2))


@settings(max_examples=60)
@given(
    height=st.integers(1, 11),
    extra=st.integers(0, 3),
    data=st.data(),
    channels=st.sampled_from([1, 3]),
)
def test_cutout_zeroes_one_whole_square_and_nothing_else(
    height: int, extra: int, data: st.DataObject, channels: int
) -> None:
    width = height + extra
    size = data.draw(st.integers(1, height))
    top = data.draw(st.integers(0, height - size))
    left = data.draw(st.integers(0, width - size))
    images = torch.rand(2, channels, height, width) + 1
    boxes = torch.tensor([[top, left], [0, width - size]])
    result = cutout(images, boxes, size_px=size)

    expected = images.clone()
    expected[0, :, top : top + size, left : left + size] = 0
    expected[1, :, :size, width - size :] = 0
    assert torch.equal(result, expected)


@pytest.mark.parametrize("size_px", [1, 2, 3, 7, 8, 9, 31, 32])
def test_the_area_cut_is_exact_wherever_the_box_was_drawn(size_px: int) -> None:
    boxes = EpochPlan.draw(200, 32, Augment(cutout_px=size_px), seed=0, epoch=0).boxes
    assert boxes is not None
    result = cutout(torch.ones(200, 1, 32, 32), boxes, size_px=size_px)

    assert (result == 0).sum((1, 2, 3)).tolist() == [size_px * size_px] * 200


def test_no_pixel_is_spared_by_the_boxes_and_all_corners_are_reached() -> None:
    n = 20_000
    boxes = EpochPlan.draw(n, 8, Augment(cutout_px=3), seed=1, epoch=0).boxes
    assert boxes is not None
    cut = (cutout(torch.ones(n, 1, 8, 8), boxes, size_px=3) == 0).sum((0, 1)).numpy()
    # of the 6 positions along an axis, so many cover a pixel
    covering = np.array([1, 2, 3, 3, 3, 3, 2, 1])
    expected = n * np.outer(covering, covering) / 36

    assert np.abs(cut / expected - 1).max() < 0.15
    top_left = np.bincount((boxes[:, 0] * 6 + boxes[:, 1]).numpy(), minlength=36)
    assert stats.chisquare(top_left).pvalue > 0.001


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_normalisation_is_the_formula_in_float64(channels: int) -> None:
    images = make_images(6, 8, 8, channels)
    images[0], images[1] = 0, 255
    rng = np.random.default_rng(1)
    mean, std = rng.uniform(0.3, 0.6, channels), rng.uniform(0.2, 0.3, channels)
    result = normalize(
        torch.from_numpy(images),
        torch.from_numpy(mean.astype(np.float32)),
        torch.from_numpy(std.astype(np.float32)),
    )

    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert result.dtype == torch.float32
    assert result.shape == (6, channels, 8, 8)
    assert result.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-6)


def device_split(pixels: Pixels, *, resident: bool = True) -> tuple[DeviceSplit, np.ndarray]:
    n = len(pixels)
    floats = pixels.reshape(-1, pixels.shape[3]) / 255
    mean, std = floats.mean(0), floats.std(0)
    split = Split(pixels, np.arange(n), np.array([str(i) for i in range(n)]))
    placed = DeviceSplit.place(
        split,
        torch.from_numpy(mean.astype(np.float32)),
        torch.from_numpy(std.astype(np.float32)),
        torch.device("cpu"),
        resident=resident,
    )
    return placed, np.stack([mean, std])


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_a_batch_is_cropped_flipped_normalised_and_only_then_cut(fill: Any, resident: bool) -> None:
    pixels = make_images(12, 8, 8, 3)
    placed, (mean, std) = device_split(pixels, resident=resident)
    settings_ = Augment(crop_pad_px=2, crop_fill=fill, flip="random", cutout_px=3)
    plan = EpochPlan.draw(12, 8, settings_, seed=3, epoch=1)
    assert plan.shifts is not None
    assert plan.flips is not None
    assert plan.boxes is not None
    index = plan.order[3:9]
    images, labels = placed.augmented(index, plan, settings_)

    # the numbers of an image are those at its own place, whatever its place in the batch
    expected = naive_crop_flip(
        pixels, index.tolist(), plan.shifts[index].numpy(), plan.flips[index].numpy(), 2, fill
    )
    expected = ((expected / 255 - mean) / std).transpose(0, 3, 1, 2)
    for b, image in enumerate(index.tolist()):
        top, left = plan.boxes[image].tolist()
        expected[b, :, top : top + 3, left : left + 3] = 0.0
    assert labels.tolist() == index.tolist()
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(images.numpy(), expected, rtol=0, atol=2e-6)
    cut = (images == 0).all(1).sum((1, 2))
    assert cut.tolist() == [9] * 6


def test_an_image_is_the_same_in_any_batch() -> None:
    placed, _ = device_split(make_images(20, 8, 8, 3))
    settings_ = Augment(crop_pad_px=2, flip="random", cutout_px=3)
    plan = EpochPlan.draw(20, 8, settings_, seed=0, epoch=0)
    together, _ = placed.augmented(plan.order, plan, settings_)
    alone = [placed.augmented(plan.order[i : i + 1], plan, settings_)[0] for i in range(20)]

    assert torch.equal(together, torch.cat(alone))


def test_augmentation_moves_no_global_generator() -> None:
    placed, _ = device_split(make_images(20, 8, 8, 3))
    plan = EpochPlan.draw(20, 8, Augment(crop_pad_px=2, cutout_px=3), seed=0, epoch=0)
    before = torch.get_rng_state()
    placed.augmented(plan.order, plan, Augment(crop_pad_px=2, cutout_px=3))

    assert torch.equal(torch.get_rng_state(), before)


def turn(images: torch.Tensor, turns: torch.Tensor, **settings_: float) -> torch.Tensor:
    return warp(images, turns_of(turns, **settings_))


@pytest.mark.parametrize(
    ("turned", "rotate_deg", "scale"),
    [
        ((1.0, 0.0), 30, 0.0),  # anticlockwise
        ((-0.5, 0.0), 90, 0.0),
        ((0.0, 1.0), 0, 0.25),  # larger by a third
        ((0.0, -1.0), 0, 0.25),  # smaller: 3/4
        ((0.3, 0.6), 180, 0.4),
        ((1.0, 1.0), 0, 0.0),
    ],
)
def test_a_turn_is_scipys(turned: tuple[float, float], rotate_deg: float, scale: float) -> None:
    images = torch.rand(2, 3, 13, 13, generator=torch.Generator().manual_seed(1))
    turns = torch.tensor([(0.0, 0.0), turned])
    result = turn(images, turns, rotate_deg=rotate_deg, scale=scale)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result[0], images[0], rtol=0, atol=1e-5)

    angle, factor = np.deg2rad(turned[0] * rotate_deg), (1 - scale) ** turned[1]
    # where (row, column) of the result is taken from; rows point down
    back = factor * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array([6.0, 6.0])
    for channel, mine in zip(images[1].numpy(), result[1].numpy(), strict=True):
        expected = ndimage.affine_transform(
            channel.astype(np.float64), back, centre - back @ centre, order=1, mode="reflect"
        )
        np.testing.assert_allclose(mine, expected, atol=1e-5)


def test_a_quarter_turn_is_numpys() -> None:
    images = torch.rand(1, 1, 6, 6)
    result = turn(images, torch.tensor([[1.0, 0.0]]), rotate_deg=90, scale=0.0)
    np.testing.assert_allclose(result[0, 0].numpy(), np.rot90(images[0, 0].numpy()), atol=1e-6)


@pytest.mark.parametrize("share", [-1.0, -0.4, 0.0, 0.7])
@pytest.mark.parametrize(
    ("setting", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_a_tint_is_pillows(setting: str, enhance: Any, share: float) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, setting: 0.8}
    tints = torch.full((1, 3), share)
    result = tint(unit(torch.from_numpy(pixels)), tints, **strengths)
    expected = np.asarray(enhance(Image.fromarray(pixels[0])).enhance(1 + 0.8 * share))
    mine = 255 * result[0].permute(1, 2, 0).numpy()
    assert np.abs(mine - expected).max() <= 2  # Pillow rounds grey values and results


def test_grey_images_are_tinted_without_saturation() -> None:
    images = torch.rand(2, 1, 5, 5)
    result = tint(images, torch.ones(2, 3), brightness=0.0, contrast=0.0, saturation=1.0)
    torch.testing.assert_close(result, images)


TO_YIQ = np.array(  # FCC, 1953
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
)


@pytest.mark.parametrize("degrees", [-150.0, 0.0, 40.0, 180.0])
def test_a_hue_turns_in_the_plane_of_i_and_q(degrees: float) -> None:
    images = 0.4 + 0.2 * torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    hues = torch.tensor([degrees / 180, 0.0])
    result = turn_hue(images, hues, hue_deg=180.0)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result[1], images[1])

    angle = np.deg2rad(degrees)
    turned = np.eye(3)
    turned[1:, 1:] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    matrix = np.linalg.inv(TO_YIQ) @ turned @ TO_YIQ
    expected = np.einsum("ij,jhw->ihw", matrix, images[0].double().numpy())
    np.testing.assert_allclose(result[0].numpy(), expected.clip(0, 1), atol=2e-3)


def test_grey_images_are_pillows_and_the_others_stay() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    images = unit(torch.from_numpy(pixels))
    result = without_colour(images, torch.tensor([True, False]))
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result[1], images[1])
    expected = np.asarray(Image.fromarray(pixels[0]).convert("L"))
    for channel in result[0]:
        assert np.abs(255 * channel.numpy() - expected).max() <= 0.51
        assert torch.equal(channel, result[0, 0])


@pytest.mark.parametrize("shape", [(12, 12), (1, 1), (2, 7)])
def test_a_blur_is_scipys_divided_by_the_weight_inside(shape: tuple[int, int]) -> None:
    drawn = torch.rand(5, 3, *shape, generator=torch.Generator().manual_seed(1))
    images = drawn.contiguous(memory_format=torch.channels_last)
    sigmas = torch.tensor([0.0, 0.4, 1.0, 2.5, 30.0])
    result = blur(images, sigmas)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result[0], images[0])

    def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
        return ndimage.gaussian_filter(values, sigma, mode="constant", truncate=20)

    for image, mine, sigma in zip(images[1:], result[1:], sigmas[1:].tolist(), strict=True):
        for channel, found in zip(image.double().numpy(), mine.numpy(), strict=True):
            expected = smooth(channel, sigma) / smooth(np.ones(shape), sigma)
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_rectangle_is_erased_and_nothing_else() -> None:
    images = torch.rand(3, 3, 6, 8) + 1
    result = erase(images, torch.tensor([[1, 2, 4, 5], [0, 0, 6, 8], [3, 3, 0, 0]]))
    expected = images.clone()
    expected[0, :, 1:5, 2:7] = 0
    expected[1] = 0
    assert torch.equal(result, expected)


@pytest.mark.parametrize("resident", [True, False])
def test_a_batch_is_recoloured_blurred_and_then_erased(resident: bool) -> None:
    pixels = make_images(12, 8, 8, 3)
    placed, (mean, std) = device_split(pixels, resident=resident)
    some = {"hue_deg": 30, "grey": 0.5, "blur": 0.5, "blur_px": 1, "erase": 0.5, "erase_area": 0.2}
    settings_ = Augment(crop_pad_px=0, flip="none", cutout_px=0, **some)
    plan = EpochPlan.draw(12, 8, settings_, seed=3, epoch=1)
    index = plan.order[3:9]
    images, _ = placed.augmented(index, plan, settings_)
    assert plan.hues is not None
    assert plan.greys is not None
    assert plan.blurs is not None
    assert plan.erased is not None
    values = turn_hue(unit(torch.from_numpy(pixels[index.numpy()])), plan.hues[index], hue_deg=30)
    values = blur(without_colour(values, plan.greys[index]), plan.blurs[index])
    normalized = (values.permute(0, 2, 3, 1).numpy() - mean) / std
    expected = erase(torch.from_numpy(normalized).permute(0, 3, 1, 2), plan.erased[index])
    assert 0 < int((images == 0).all(1).sum()) < 6 * 64
    np.testing.assert_allclose(images.numpy(), expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("resident", [True, False])
def test_a_batch_is_turned_and_tinted_before_it_is_cut(resident: bool) -> None:
    pixels = make_images(12, 8, 8, 3)
    placed, (mean, std) = device_split(pixels, resident=resident)
    settings_ = Augment(
        crop_pad_px=0, flip="none", rotate_deg=20, scale=0.2, brightness=0.5, cutout_px=3
    )
    plan = EpochPlan.draw(12, 8, settings_, seed=3, epoch=1)
    index = plan.order[3:9]
    images, _ = placed.augmented(index, plan, settings_)
    assert plan.turns is not None
    assert plan.tints is not None
    assert plan.boxes is not None
    values = turn(
        unit(torch.from_numpy(pixels[index.numpy()])), plan.turns[index], rotate_deg=20, scale=0.2
    )
    values = tint(values, plan.tints[index], brightness=0.5, contrast=0.0, saturation=0.0)
    expected = (values.permute(0, 2, 3, 1).numpy() - mean) / std
    cut = (images == 0).all(1).numpy()
    assert cut.sum((1, 2)).tolist() == [9] * 6
    np.testing.assert_allclose(
        images.permute(0, 2, 3, 1).numpy()[~cut], expected[~cut], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_is_the_formula(share: float) -> None:
    images, partners = torch.randn(2, 3, 3, 5, 5).unbind()
    shares = torch.tensor([share, 0.5, 1.0])
    result = mix(images, partners, shares, None)
    for b in range(3):
        expected = shares[b] * images[b] + (1 - shares[b]) * partners[b]
        torch.testing.assert_close(result[b], expected)
    assert torch.equal(result[2], images[2])


@settings(max_examples=60)
@given(height=st.integers(1, 9), extra=st.integers(0, 3), data=st.data())
def test_cutmix_is_a_square_of_the_partner(height: int, extra: int, data: st.DataObject) -> None:
    width = height + extra
    side = data.draw(st.integers(1, height))
    top = data.draw(st.integers(0, height - side))
    left = data.draw(st.integers(0, width - side))
    drawn = torch.randn(2, 3, 3, height, width)
    images, partners = (part.contiguous(memory_format=torch.channels_last) for part in drawn)
    patches = torch.tensor([[top, left, side], [0, 0, 0], [0, 0, 0]])
    shares = torch.tensor([1 - side**2 / (height * width), 1.0, 0.25])
    result = mix(images, partners, shares, patches)

    expected = images.clone()
    expected[0, :, top : top + side, left : left + side] = partners[
        0, :, top : top + side, left : left + side
    ]
    expected[2] = 0.25 * images[2] + 0.75 * partners[2]
    assert torch.equal(result, expected)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("mixed", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1, "cutmix": 1}])
def test_what_an_image_is_mixed_with_is_augmented_by_its_own_numbers(
    mixed: dict[str, float], resident: bool
) -> None:
    placed, _ = device_split(make_images(12, 8, 8, 3), resident=resident)
    settings_ = Augment(crop_pad_px=2, flip="random", cutout_px=3, **mixed)
    plan = EpochPlan.draw(12, 8, settings_, seed=3, epoch=1)
    index = plan.order[3:9]
    images, labels = placed.augmented(index, plan, settings_)
    assert plan.partners is not None
    assert plan.shares is not None
    assert labels.tolist() == index.tolist()
    alone, _ = placed.augmented(torch.arange(12), plan.unmixed(), settings_)
    for image, own in zip(images, index.tolist(), strict=True):
        first, second = alone[own], alone[plan.partners[own]]
        if plan.patches is None or plan.patches[own, 2] == 0:
            expected = plan.shares[own] * first + (1 - plan.shares[own]) * second
            torch.testing.assert_close(image, expected)
        else:
            top, left, side = plan.patches[own].tolist()
            first[:, top : top + side, left : left + side] = second[
                :, top : top + side, left : left + side
            ]
            assert torch.equal(image, first)
            alone, _ = placed.augmented(torch.arange(12), plan.unmixed(), settings_)


@pytest.mark.parametrize("resident", [True, False])
def test_repeated_images_are_augmented_each_by_numbers_of_its_own(resident: bool) -> None:
    """As if the epoch's images lay there one by one, as often as they come up."""
    pixels = make_images(12, 8, 8, 3)
    settings_ = Augment(
        crop_pad_px=2, flip="random", rotate_deg=20, contrast=0.3, cutout_px=3, mixup=0.4
    )
    chosen = torch.tensor([3, 3, 3, 0, 7, 7, 1, 3, 11, 0, 2, 3])
    plan = EpochPlan.draw(12, 8, settings_, seed=3, epoch=1, images=chosen)
    placed, _ = device_split(pixels, resident=resident)
    images, labels = placed.augmented(plan.order[2:9], plan, settings_)

    there = dataclasses.replace(placed, images=placed.images[chosen], labels=chosen)
    alike = dataclasses.replace(plan, images=None)
    expected, of = there.augmented(plan.order[2:9], alike, settings_)
    assert torch.equal(images, expected)
    assert labels.tolist() == of.tolist() == chosen[plan.order[2:9]].tolist()
    threes = placed.augmented(torch.tensor([0, 1, 2]), plan.unmixed(), settings_)[0]
    assert not torch.equal(threes[0], threes[1])
    assert not torch.equal(threes[1], threes[2])


def test_a_mixed_image_is_the_same_in_any_batch() -> None:
    placed, _ = device_split(make_images(20, 8, 8, 3))
    settings_ = Augment(crop_pad_px=2, flip="random", cutout_px=3, mixup=0.5, cutmix=1.0)
    plan = EpochPlan.draw(20, 8, settings_, seed=0, epoch=0)
    together, _ = placed.augmented(plan.order, plan, settings_)
    alone = [placed.augmented(plan.order[i : i + 1], plan, settings_)[0] for i in range(20)]

    assert torch.equal(together, torch.cat(alone))


def test_switched_off_augmentation_is_the_plain_image() -> None:
    placed, _ = device_split(make_images(6, 8, 8, 3))
    off = Augment(crop_pad_px=0, flip="none", cutout_px=0)
    plan = EpochPlan.draw(6, 8, off, seed=0, epoch=0)
    images, _ = placed.augmented(torch.arange(6), plan, off)

    assert torch.equal(images, placed.plain(0, 6))


def triangle_filter(image: np.ndarray, size: int) -> np.ndarray:
    """Each axis in turn: what lies within one new pixel's width, weighed by its nearness."""
    for axis in (0, 1):
        old = image.shape[axis]
        scale = old / size
        centres = (np.arange(size) + 0.5) * scale
        nearness = 1 - np.abs(np.arange(old) + 0.5 - centres[:, None]) / scale
        weights = nearness.clip(min=0)
        weights /= weights.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image


@pytest.mark.parametrize(("old", "size"), [(32, 24), (12, 9), (9, 8), (32, 16), (7, 2), (5, 1)])
def test_smaller_images_are_a_triangle_filters(old: int, size: int) -> None:
    images = torch.randn(2, 3, old, old, generator=torch.Generator().manual_seed(old))
    small = shrink(images.contiguous(memory_format=torch.channels_last), size)
    assert small.shape == (2, 3, size, size)
    assert small.is_contiguous(memory_format=torch.channels_last)
    for image, mine in zip(images.numpy().astype(np.float64), small.numpy(), strict=True):
        for channel, found in zip(image, mine, strict=True):
            np.testing.assert_allclose(found, triangle_filter(channel, size), atol=1e-5)


def test_smaller_images_are_pillows() -> None:
    pixels = np.random.default_rng(4).normal(size=(32, 32)).astype(np.float32)
    expected = Image.fromarray(pixels).resize((20, 20), Image.Resampling.BILINEAR)
    small = shrink(torch.from_numpy(pixels)[None, None], 20)[0, 0]
    np.testing.assert_allclose(small.numpy(), np.asarray(expected), atol=1e-5)


@settings(max_examples=40)
@given(old=st.integers(2, 40), share=st.floats(0.05, 0.99), level=st.floats(-3, 3))
def test_a_smaller_image_of_one_colour_is_of_that_colour(
    old: int, share: float, level: float
) -> None:
    size = max(1, round(old * share))
    small = shrink(torch.full((1, 3, old, old), level), size)
    assert torch.allclose(small, torch.full((1, 3, size, size), level), atol=1e-5)
