"""Stratified splits, exact statistics, and the rules about classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import channel_statistics
from resight.data.rows import row_sums, statistics_of_sums
from resight.data.splits import check_classes, stratified_split, with_validation
from resight.data.types import ImageData, Split
from resight.errors import ResightError

labelled = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(
    lambda values: np.array(values, dtype=np.int64)
)


@given(labelled, st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_split_is_a_partition_with_every_class_on_both_sides(labels, fraction, seed):
    keep, held = stratified_split(labels, fraction, seed)
    assert sorted([*keep, *held]) == list(range(len(labels)))
    assert np.all(np.diff(keep) > 0)
    assert np.all(np.diff(held) > 0)
    for label in np.unique(labels):
        size = int((labels == label).sum())
        out = int((labels[held] == label).sum())
        assert out == 0 if size == 1 else 1 <= out <= size - 1
        assert abs(out - fraction * size) <= 1 or size == 1
    again = stratified_split(labels, fraction, seed)
    assert np.array_equal(again[0], keep)
    assert np.array_equal(again[1], held)


@given(labelled, st.integers(0, 1000))
def test_a_class_is_drawn_alike_whatever_the_other_classes_hold(labels, seed):
    more = np.concatenate([labels, np.full(7, 6)])
    held = stratified_split(labels, 0.3, seed)[1]
    among_more = stratified_split(more, 0.3, seed)[1]
    assert np.array_equal(held, among_more[among_more < len(labels)])


def test_split_of_a_known_seed_never_changes():
    labels = np.array([0, 1] * 10)
    assert stratified_split(labels, 0.2, 0)[1].tolist() == [0, 4, 7, 11]
    assert stratified_split(labels, 0.2, 1)[1].tolist() == [1, 6, 10, 13]


def test_the_seed_decides():
    labels = np.zeros(1000, dtype=np.int64)
    held = [stratified_split(labels, 0.2, seed)[1] for seed in range(3)]
    assert all(len(rows) == 200 for rows in held)
    assert not np.array_equal(held[0], held[1])
    assert not np.array_equal(held[1], held[2])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_split_refuses_a_fraction_outside(fraction):
    with pytest.raises(ResightError, match="between 0 and 1"):
        stratified_split(np.array([0, 0]), fraction, 0)


def test_statistics_are_those_of_float64(rng):
    images = rng.integers(0, 256, (1300, 5, 5, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    exact = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(std, exact.std((0, 1, 2)), rtol=0, atol=1e-12)
    assert mean.dtype == std.dtype == np.float64


def test_statistics_do_not_saturate_as_float32_sums_do():
    images = np.full((20_000, 32, 32, 1), 200, dtype=np.uint8)
    images[::2] = 100
    mean, std = channel_statistics(images)
    assert mean[0] == 150 / 255
    assert std[0] == 50 / 255


def test_a_constant_channel_has_std_one():
    images = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    images[..., 0] = 7
    images[:2, ..., 1] = 255
    mean, std = channel_statistics(images)
    assert mean.tolist() == [7 / 255, 0.5, 0.0]
    assert std.tolist() == [1.0, 0.5, 1.0]


def test_row_sums_add_up_to_the_statistics(rng):
    images = rng.integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    sums = row_sums(images)
    assert sums.shape == (9, 2, 3)
    wide = images.astype(np.int64)
    assert np.array_equal(sums[:, 0], wide.sum((1, 2)))
    assert np.array_equal(sums[:, 1], (wide**2).sum((1, 2)))
    some = np.array([1, 4, 5])
    for ours, theirs in zip(
        statistics_of_sums(sums[some], 16), channel_statistics(images[some]), strict=True
    ):
        assert np.array_equal(ours, theirs)


def test_validation_is_carved_out_of_train(data):
    carved = with_validation(data, 0.2, 3)
    assert carved.val is not None
    assert (len(carved.train), len(carved.val), len(carved.test)) == (32, 8, 4)
    assert np.bincount(carved.val.labels).tolist() == [4, 4]
    ids = [*carved.train.ids, *carved.val.ids]
    assert sorted(ids) == sorted(data.train.ids)
    for split in (carved.train, carved.val):
        for image, label, name in zip(split.images, split.labels, split.ids, strict=True):
            row = int(name.removeprefix("row"))
            assert np.array_equal(image, data.train.images[row])
            assert label == data.train.labels[row]
    mean, std = channel_statistics(carved.train.images)
    assert np.array_equal(carved.mean, mean)
    assert np.array_equal(carved.std, std)
    assert not np.array_equal(carved.mean, data.mean)
    assert carved.fingerprint == data.fingerprint
    assert carved.notes == ("20% of each train class held out as val (seed 3), 32 train / 8 val",)


@pytest.mark.parametrize("fraction", [0.0, 0.51, 1.0, -0.2, float("nan")])
def test_validation_refuses_a_fraction_outside(data, fraction):
    with pytest.raises(ResightError, match=r"--val \(data.val_fraction\) must be in \(0, 0.5\]"):
        with_validation(data, fraction, 0)


def test_validation_refuses_a_second_val_split(data):
    with pytest.raises(ResightError, match="has its own val split: leave out --val"):
        with_validation(with_validation(data, 0.2, 0), 0.2, 0)


def test_validation_refuses_where_no_image_can_be_spared(data):
    lone = Split(data.train.images[:2], data.train.labels[:2], data.train.ids[:2])
    with pytest.raises(ResightError, match="no image to spare for --val"):
        with_validation(image_data(lone, data.test), 0.2, 0)


def test_class_rules():
    check = check_classes
    assert check("D", ["a", "b"], {"train": [1, 1], "test": [1, 1]}) == []
    assert check("D", ["a", "b"], {"all": [1, 1]}) == []
    with pytest.raises(ResightError, match=r"^only one class \('a'\) in D"):
        check("D", ["a"], {"train": [1], "test": [1]})
    with pytest.raises(ResightError, match=r"^no class in D"):
        check("D", [], {"train": [], "test": []})
    with pytest.raises(ResightError, match=r"^class 'b' in D has no images"):
        check("D", ["a", "b"], {"train": [1, 0], "test": [1, 0]})
    with pytest.raises(
        ResightError, match=r"^class 'b' is in the test split of D but not in train"
    ):
        check("D", ["a", "b", "c"], {"train": [1, 0, 1], "test": [1, 1, 0]})
    with pytest.raises(ResightError, match="did you mean 'Cat'"):
        check("D", ["Cat", "cat", "dog"], {"train": [1, 0, 1], "test": [0, 1, 1]})
    with pytest.raises(ResightError, match=r"^the test split of D has no images"):
        check("D", ["a", "b"], {"train": [1, 1], "test": [0, 0]})


def test_a_class_missing_in_test_is_a_note():
    [one] = check_classes("D", ["a", "b"], {"train": [1, 1], "test": [1, 0]})
    assert one == "class 'b' has no images in test: its accuracy there is unknown"
    [two] = check_classes("D", ["a", "b", "c"], {"train": [1, 1, 1], "test": [1, 0, 0]})
    assert two == "2 classes have no images in test ('b', 'c'): their accuracy there is unknown"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def data(rng):
    images = rng.integers(0, 256, (44, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(44) % 2
    ids = np.array([f"row{row}" for row in range(44)])
    return image_data(
        Split(images[:40], labels[:40], ids[:40]), Split(images[40:], labels[40:], ids[40:])
    )


def image_data(train: Split, test: Split) -> ImageData:
    mean, std = channel_statistics(train.images)
    return ImageData("made", "made", ("a", "b"), train, test, mean, std, "fp")
