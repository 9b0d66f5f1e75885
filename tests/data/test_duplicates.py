"""Planted copies are found, each with its distance, and different pictures are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import pictures
from resight.data import duplicates
from resight.data.duplicates import (
    Duplicate,
    Twins,
    describe,
    find_duplicates,
    find_twins,
    usual_distance,
)
from resight.data.rows import row_digests
from resight.data.sources import load_data

Images = npt.NDArray[np.uint8]


def twins_of(images: Images, *, near: bool = True) -> list[Twins]:
    return find_twins(images, np.arange(len(images)), row_digests(images), near=near)


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


@settings(max_examples=25)
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


def test_exact_twins_are_paired_with_the_first_of_them() -> None:
    images = pictures(20)
    images[[12, 17]] = images[3]

    exact = [Twins(3, 12, "exact", 0.0), Twins(3, 17, "exact", 0.0)]
    assert twins_of(images, near=False) == exact
    assert twins_of(images) == exact


def test_rows_that_are_left_out_have_no_twin() -> None:
    images = pictures(20)
    images[[12, 17]] = images[3]
    rows = np.delete(np.arange(20), 3)

    found = find_twins(images, rows, row_digests(images))
    assert found == [Twins(12, 17, "exact", 0.0)]
    assert find_twins(images, rows[:0], row_digests(images)) == []


def test_near_twins_are_found_with_their_distance_and_when_mirrored() -> None:
    images = pictures(60)
    images[40] = noisy(images[2], 8)
    images[41] = noisy(images[5][:, ::-1], 6)
    images[42] = images[7][::-1]  # upside down: another picture
    plain, mirrored = twins_of(images)

    assert (plain.first, plain.second, plain.kind, plain.mirrored) == (2, 40, "near", False)
    assert plain.distance == pytest.approx(rms(images[2], images[40]), rel=1e-6)
    assert (mirrored.first, mirrored.second, mirrored.mirrored) == (5, 41, True)
    assert mirrored.distance == pytest.approx(rms(images[5], images[41][:, ::-1]), rel=1e-6)


@settings(max_examples=25)
@given(
    n=st.integers(2, 90),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_twins_are_those_of_a_search_over_all_pairs(
    n: int, channels: int, seed: int, data: st.DataObject
) -> None:
    images = pictures(n, seed, size=16, channels=channels)
    for k in range(data.draw(st.integers(0, n // 2))):
        source, target = data.draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        copy = noisy(images[source], data.draw(st.sampled_from([0.0, 4.0, 12.0, 25.0])), seed=k)
        images[target] = copy[:, ::-1] if data.draw(st.booleans()) else copy
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(duplicates, "FIRST_ROWS", 16)
        patched.setattr(duplicates, "SECOND_ROWS", 24)
        found = twins_of(images)
    near = [pair for pair in found if pair.kind == "near"]

    assert {(pair.first, pair.second) for pair in near} == all_near_pairs(images)
    for pair in near:
        other = images[pair.second]
        other = other[:, ::-1] if pair.mirrored else other
        assert pair.distance == pytest.approx(rms(images[pair.first], other), rel=1e-5)


def all_near_pairs(images: Images) -> set[tuple[int, int]]:
    """By definition, one pair after the other; no image has more than 16."""
    _, firsts = np.unique(row_digests(images), axis=0, return_index=True)
    rows = np.sort(firsts)
    flat = describe(images, rows).reshape(len(rows), -1).astype(np.float64)
    mirrored = describe(images[:, :, ::-1], rows).reshape(len(rows), -1).astype(np.float64)
    usual = 1.0
    if len(rows) > duplicates.USUAL_RANK:
        ranked = np.sort(flat @ flat.T, axis=1)[:, -duplicates.USUAL_RANK - 1]
        usual = 1 - float(np.median(ranked))
    least = 1 - min(1 - duplicates.MIN_COSINE, usual**2 / 2)
    return {
        (int(rows[i]), int(rows[j]))
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        for view, other in ((flat, images[rows[j]]), (mirrored, images[rows[j]][:, ::-1]))
        if flat[i] @ view[j] >= least and rms(images[rows[i]], other) <= duplicates.MAX_DISTANCE
    }


def test_where_all_images_are_alike_hardly_any_is_a_near_twin() -> None:
    digits = load_data("digits", image_size=8).train
    near = [pair for pair in twins_of(digits.images) if pair.kind == "near"]
    assert [(pair.first, pair.second) for pair in near] == [(771, 809)]


def test_the_search_for_twins_tells_its_progress() -> None:
    told: list[tuple[int, int]] = []
    images = pictures(30)
    find_twins(images, np.arange(30), row_digests(images), progress=lambda *done: told.append(done))
    assert told == [(30, 30)]
