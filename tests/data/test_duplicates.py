"""Planted copies are found, each with its distance, and different pictures are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resight.data import duplicates
from resight.data.duplicates import Duplicate, describe, find_duplicates, usual_distance
from resight.data.sources import load_data

Images = npt.NDArray[np.uint8]


def pictures(n: int, seed: int = 0, *, size: int = 32, channels: int = 3) -> Images:
    """Pictures of large and small spots, none like another."""
    rng = np.random.default_rng(seed)
    images = np.empty((n, size, size, channels))
    for image in images:
        for channel in range(channels):
            field = np.zeros((size, size))
            for cells in (3, 6, 12):
                noise = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
                field += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) / cells
            image[:, :, channel] = 128 + 110 * field / np.abs(field).max()
    return images.round().astype(np.uint8)


def noisy(images: Images, sigma: float, seed: int = 0) -> Images:
    noise = np.random.default_rng(seed).normal(0, sigma, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def rms(a: Images, b: Images) -> float:
    return float(np.sqrt(((a.astype(float) - b) ** 2).mean()))


def test_an_exact_twin_is_the_first_in_train() -> None:
    train, test = pictures(20), pictures(5, seed=1)
    train[[7, 12]] = test[3]

    assert find_duplicates(train, test) == [Duplicate(3, 7, "exact", 0.0, mirrored=False)]
    assert find_duplicates(train, test, near=False) == find_duplicates(train, test)


def test_different_pictures_are_no_twins() -> None:
    assert find_duplicates(pictures(300), pictures(60, seed=1)) == []


@pytest.mark.parametrize("size", [32, 28, 20, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_noisy_copy_is_near_by_the_difference_of_its_pixels(size: int, channels: int) -> None:
    train = pictures(40, size=size, channels=channels)
    test = pictures(6, seed=1, size=size, channels=channels)
    train[9] = noisy(test[2], 8)
    (found,) = find_duplicates(train, test)

    assert (found.test, found.train, found.kind, found.mirrored) == (2, 9, "near", False)
    assert found.distance == pytest.approx(rms(train[9], test[2]), rel=1e-6)
    assert 0 < found.distance < 10
    assert find_duplicates(train, test, near=False) == []


def test_a_brighter_copy_differs_by_the_grey_levels_it_is_brighter() -> None:
    train, test = pictures(40) // 2 + 20, pictures(6, seed=1) // 2 + 20
    train[9], train[10] = test[2] + 12, test[3] + 50
    (found,) = find_duplicates(train, test)

    # a copy that is too far in its pixels is none, whatever its pattern
    assert (found.test, found.train, found.kind, found.distance) == (2, 9, "near", 12.0)


def test_a_shifted_and_a_smaller_contrast_copy_are_near() -> None:
    train, test = pictures(40), pictures(6, seed=1)
    train[4] = np.roll(test[0], 1, axis=1)
    train[5] = (0.8 * test[1] + 0.2 * 128).astype(np.uint8)
    found = find_duplicates(train, test)

    assert [(pair.test, pair.train, pair.kind) for pair in found] == [
        (0, 4, "near"),
        (1, 5, "near"),
    ]


def test_a_mirrored_copy_is_near_and_said_to_be_mirrored() -> None:
    train, test = pictures(40), pictures(6, seed=1)
    train[9], train[10] = test[2][:, ::-1], noisy(test[3][:, ::-1], 6)
    plain, other = find_duplicates(train, test)

    assert plain == Duplicate(2, 9, "near", 0.0, mirrored=True)
    assert (other.test, other.train, other.kind, other.mirrored) == (3, 10, "near", True)
    assert other.distance == pytest.approx(rms(train[10], test[3][:, ::-1]), rel=1e-6)


def test_a_picture_upside_down_is_another() -> None:
    train, test = pictures(40), pictures(6, seed=1)
    train[9] = test[2][::-1]

    assert find_duplicates(train, test) == []


def test_of_several_twins_the_nearest_is_named() -> None:
    train, test = pictures(40), pictures(6, seed=1)
    train[3], train[8], train[20] = noisy(test[2], 9), noisy(test[2], 3), noisy(test[2], 6)
    (found,) = find_duplicates(train, test)

    assert found.train == 8


def test_plain_colours_are_twins_only_of_the_very_same() -> None:
    train = np.repeat(np.arange(100, 130, dtype=np.uint8), 32 * 32 * 3).reshape(30, 32, 32, 3)
    test = train[[4, 9]].copy()
    test[1] += 40

    assert find_duplicates(train, test) == [Duplicate(0, 4, "exact", 0.0)]


def test_a_speck_of_noise_on_a_plain_colour_is_no_likeness() -> None:
    train = (
        np.full((30, 32, 32, 3), 120, np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None, None]
    )
    test = np.full((1, 32, 32, 3), 130, np.uint8)
    train[:, 5, 7] += 9
    test[:, 5, 7] += 10

    assert find_duplicates(train, test) == []


def test_a_horizon_is_no_likeness() -> None:
    """The same sky over the same sea, each with another ship, among other pictures."""
    scene = np.linspace(200, 60, 32)[None, :, None, None] * np.array([0.7, 0.9, 1.0])
    scenes = np.repeat(scene, 9, axis=0).repeat(32, axis=2)
    for i, image in enumerate(scenes):
        image[4 + i : 8 + i, 20 - 2 * i : 26 - 2 * i] *= 0.6
    views = scenes.astype(np.uint8)
    likeness = np.corrcoef(views.reshape(9, -1))[0, 1:]

    assert likeness.min() > 0.9  # by plain correlation they would be
    assert max(rms(views[0], view) for view in views[1:]) < 40
    assert find_duplicates(np.concatenate([pictures(40), views[1:]]), views[:1]) == []


def test_digits_are_alike_but_no_twins() -> None:
    data = load_data("digits", image_size=8)

    assert find_duplicates(data.train.images, data.test.images) == []


def test_copies_of_every_test_image_do_not_hide_one_another() -> None:
    """As when augmented copies were made first and train and test drawn from them."""
    test = pictures(50, seed=1)
    train = np.concatenate([noisy(test, 6, seed) for seed in range(6)])
    found = find_duplicates(train, test)

    assert [pair.test for pair in found] == list(range(50))
    assert all(pair.train % 50 == pair.test for pair in found)


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = pictures(60), pictures(20, seed=1)
    train[5], train[50] = noisy(test[3], 8), noisy(test[3], 4)
    train[31], train[59] = test[19][:, ::-1], test[0]
    whole = find_duplicates(train, test)
    monkeypatch.setattr(duplicates, "TRAIN_ROWS", 7)
    monkeypatch.setattr(duplicates, "TEST_ROWS", 3)
    monkeypatch.setattr(duplicates, "PIXELS_AT_ONCE", 9000)

    assert [(pair.test, pair.train) for pair in whole] == [(0, 59), (3, 50), (19, 31)]
    assert find_duplicates(train, test) == whole


def test_a_memory_map_serves_and_is_not_written_to(tmp_path: Path) -> None:
    train, test = pictures(20), pictures(4, seed=1)
    train[6] = noisy(test[1], 5)
    np.save(tmp_path / "train.npy", train)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")

    assert find_duplicates(mapped, test) == find_duplicates(train, test)
    np.testing.assert_array_equal(mapped, train)


@pytest.mark.parametrize(("trained", "tested"), [(0, 3), (3, 0), (0, 0)])
def test_without_images_there_are_no_twins(trained: int, tested: int) -> None:
    assert find_duplicates(pictures(trained), pictures(tested, seed=1)) == []


def test_where_all_are_exact_there_is_nothing_left_to_search() -> None:
    images = pictures(12)
    found = find_duplicates(images, images)

    assert found == [Duplicate(i, i, "exact", 0.0) for i in range(12)]


def test_a_few_training_images_are_enough() -> None:
    test = pictures(3, seed=1)

    assert [pair.test for pair in find_duplicates(noisy(test[1:2], 5), test)] == [1]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    planted=st.dictionaries(st.integers(0, 9), st.integers(0, 29), max_size=6),
)
def test_exact_twins_are_those_of_a_plain_search(seed: int, planted: dict[int, int]) -> None:
    train, test = pictures(30, seed, size=8), pictures(10, seed + 5000, size=8)
    for row, twin in planted.items():
        test[row] = train[twin]
    found = find_duplicates(train, test, near=False)

    assert [(pair.test, pair.train) for pair in found] == sorted(planted.items())
    assert all(pair.kind == "exact" for pair in found)


@pytest.mark.parametrize("size", [32, 28, 17, 8])
def test_a_descriptor_is_the_average_by_area_without_rows_and_columns(size: int) -> None:
    images = pictures(3, size=size)
    described = describe(images, np.array([2, 0]))

    assert described.shape == (2, 8, 8, 3)
    assert described.dtype == np.float32
    for ours, image in zip(described, images[[2, 0]], strict=True):
        fine = image.repeat(8, axis=0).repeat(8, axis=1)  # size² to a cell
        cells = fine.reshape(8, size, 8, size, 3).mean((1, 3))
        cells -= cells.mean(0)
        cells -= cells.mean(1, keepdims=True)
        np.testing.assert_allclose(ours, cells / np.linalg.norm(cells), atol=2e-5)


def test_small_images_have_fewer_cells() -> None:
    described = describe(pictures(4, size=5), np.arange(4))

    assert described.shape == (4, 5, 5, 3)
    np.testing.assert_allclose(np.linalg.norm(described.reshape(4, -1), axis=1), 1, rtol=1e-6)


def test_stripes_and_plain_colours_have_no_descriptor() -> None:
    images = np.zeros((2, 16, 16, 1), np.uint8)
    images[1, ::2] = 200

    assert not describe(images, np.arange(2)).any()


def test_the_usual_distance_is_that_to_the_tenth_nearest() -> None:
    train, test = pictures(40), pictures(7, seed=1)
    queries, keys = (describe(x, np.arange(len(x))).reshape(len(x), -1) for x in (test, train))
    tenth = [sorted(1 - keys @ query)[9] for query in queries]

    assert usual_distance(train, test) == pytest.approx(np.median(tenth), rel=1e-5)
    assert usual_distance(train[:9], test) == 1.0
