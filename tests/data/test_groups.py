"""Images that belong together stay on one side of every split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import make_data, picture
from resight.data.groups import Groups, hold_out
from resight.data.sources import load_data
from resight.data.splits import grouped_split, held_count, with_validation
from resight.data.types import ImageData
from resight.errors import ResightError

PERSON = r"/([a-z]+)-\d"


def found(*ids: str, pattern: str = PERSON) -> Groups:
    return Groups.find(np.array(ids), pattern)


def test_the_first_capturing_group_names_the_group() -> None:
    groups = found("b/zoe-1.png", "a/anna-2.png", "b/anna-11.png", "a/x.png")
    assert groups.names == ("anna", "zoe", "a/x.png")
    assert groups.numbers.tolist() == [1, 0, 0, 2]
    assert groups.alone == ("a/x.png",)
    two = found("a/anna-2.png", "b/ben-2.png", pattern=r"/([a-z]+)-(\d)")
    assert two.names == ("anna", "ben")


def test_without_one_the_whole_match_does() -> None:
    groups = found("b/zoe-1.png", "b/zoe-2.png", "a/anna-2.png", pattern="[a-z]+-")
    assert (groups.names, groups.numbers.tolist()) == (("anna-", "zoe-"), [1, 1, 0])


@pytest.mark.parametrize("pattern", ["nowhere", "(nowhere)?", "(z*)"])
def test_what_names_nothing_leaves_each_image_alone(pattern: str) -> None:
    groups = found("b/1.png", "a/1.png", pattern=pattern)
    assert (groups.names, groups.alone) == (("a/1.png", "b/1.png"),) * 2
    assert groups.numbers.tolist() == [1, 0]


def test_a_group_named_like_an_image_is_not_that_image() -> None:
    groups = found("a", "xa", pattern="x(a)")
    assert groups.numbers.tolist() == [1, 0]


def test_an_invalid_pattern_is_one_line() -> None:
    with pytest.raises(ResightError, match=r"^group = '\(' must be a regular expression: missing"):
        found("a/1.png", pattern="(")


def held_images(sizes: list[int], target: int, seed: int) -> int:
    """Of one class, whose groups have `sizes` images."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return int(hold_out(groups, np.zeros_like(groups), [target], seed).sum())


@pytest.mark.parametrize(
    ("sizes", "target", "possible"),
    [
        ([50, 40, 30, 20, 10], 30, {30}),  # one of them, or two
        ([10] * 10, 20, {20}),
        ([10] * 10, 24, {20}),
        ([10] * 10, 26, {30}),
        ([50, 50], 20, {50}),  # far off, but there is something to measure
        ([90, 10], 20, {10}),
        ([100], 20, {0}),  # kept: the net has to learn it
        ([1, 1], 1, {1}),
    ],
)
def test_a_class_comes_as_near_to_its_share_as_groups_allow(
    sizes: list[int], target: int, possible: set[int]
) -> None:
    assert {held_images(sizes, target, seed) for seed in range(30)} == possible


def test_the_seed_decides_which_groups() -> None:
    groups = np.repeat(np.arange(40), 3)
    labels = np.zeros_like(groups)
    held = [set(groups[hold_out(groups, labels, [24], seed)].tolist()) for seed in range(50)]
    assert all(len(one) == 8 for one in held)
    counts = Counter(number for one in held for number in one)
    assert len(counts) == 40  # each of them sometimes; 10 times on average
    assert max(counts.values()) < 25


def test_which_groups_a_known_seed_holds_out_never_changes() -> None:
    groups, labels = np.repeat(np.arange(12), 2), np.arange(24) // 2 % 3
    held = [sorted(set(groups[hold_out(groups, labels, [2, 2, 2], s)].tolist())) for s in (0, 1)]
    assert held == [[0, 1, 2], [3, 5, 7]]


def test_groups_of_several_classes_serve_all_of_them() -> None:
    """Ten scenes, each with 4 of one class and 1 of another; two of the scenes are a fifth."""
    groups = np.repeat(np.arange(10), 5)
    labels = np.tile([0, 0, 0, 0, 1], 10)
    for seed in range(20):
        held = hold_out(groups, labels, [8, 2], seed)
        assert np.bincount(labels[held]).tolist() == [8, 2]


def test_a_class_in_a_single_group_keeps_that_group_in_train() -> None:
    groups, labels = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 2, 2, 0])
    for seed in range(20):
        held = hold_out(groups, labels, [1, 1, 1], seed)
        assert sorted(set(groups[held].tolist())) in ([1], [2])  # class 1 is in group 0 alone


images = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 11)), min_size=1, max_size=80
)  # label, group


@given(images, st.floats(0.05, 0.5), st.integers(0, 2**70))
def test_no_group_is_divided_and_every_class_is_trained(
    drawn: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    labels, numbers = (np.array(column, dtype=np.int64) for column in zip(*drawn, strict=True))
    keep, held = grouped_split(labels, named(numbers), fraction, seed)
    assert sorted([*keep, *held]) == list(range(len(labels)))
    assert not set(numbers[keep].tolist()) & set(numbers[held].tolist())
    assert set(labels[keep].tolist()) == set(labels.tolist())


@given(images, st.floats(0.05, 0.5), st.integers(0, 2**70))
def test_groups_of_one_class_miss_its_share_by_less_than_a_group(
    drawn: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    labels, numbers = (np.array(column, dtype=np.int64) for column in zip(*drawn, strict=True))
    numbers += 12 * labels
    _, held = grouped_split(labels, named(numbers), fraction, seed)
    for label in np.unique(labels):
        sizes = np.bincount(numbers[labels == label])
        sizes = sizes[sizes > 0]
        out = int((labels[held] == label).sum())
        if len(sizes) == 1:
            assert out == 0
        else:
            assert 0 < out < sizes.sum()
            assert abs(out - held_count(int(sizes.sum()), fraction)) <= sizes.max()


@given(images, st.integers(0, 99), st.randoms())
def test_the_order_of_the_images_changes_nothing(
    drawn: list[tuple[int, int]], seed: int, random: object
) -> None:
    files = [(f"{label}/p{group}-{i}.png", label) for i, (label, group) in enumerate(drawn)]
    shuffled = [*files]
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def out(pairs: list[tuple[str, int]]) -> set[str]:
        ids = np.array([one for one, _ in pairs])
        labels = np.array([label for _, label in pairs], dtype=np.int64)
        return set(ids[grouped_split(labels, Groups.find(ids, r"p\d+"), 0.2, seed)[1]].tolist())

    assert out(files) == out(shuffled)


def named(numbers: np.ndarray) -> Groups:
    return Groups.find(np.array([f"g{number}." for number in numbers]), r"g\d+\.")


PEOPLE = ("anna", "ben", "cleo", "dora", "emil")


def photos(root: Path, split: str = "") -> Path:
    """Two photos of each of five people in each of two classes, and one of nobody."""
    for k, label in enumerate(("cat", "dog")):
        for p, person in enumerate(PEOPLE):
            for i in range(2):
                picture(root / split / label / f"{person}-{i}.png", 100 * k + 10 * p + i)
    picture(root / split / "cat" / "nobody.png", 999)
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "the-cache"))


def load(root: Path, group: str, **options: object) -> ImageData:
    return load_data(root, image_size=8, group=group, **options)  # type: ignore[arg-type]


def people(ids: np.ndarray) -> set[str]:
    return {one.split("/")[-1].split("-")[0] for one in ids.tolist()}


def test_of_a_folder_whole_groups_are_held_out_and_the_note_says_how_many(tmp_path: Path) -> None:
    data = load(photos(tmp_path / "mine"), PERSON)
    assert len(people(data.test.ids)) == 1
    assert not people(data.test.ids) & people(data.train.ids)
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert data.notes[0] == (
        f"no test split in {tmp_path}/mine: 20% of each class held out (seed 0) in whole groups, "
        "17 train / 4 test in 5 / 1 groups"
    )
    assert data.notes[1] == (
        "1 of 21 images are groups of their own, because --group '/([a-z]+)-\\d' is not in their "
        "names (first: cat/nobody.png)"
    )
    again, other = load(tmp_path / "mine", PERSON), load(tmp_path / "mine", PERSON, split_seed=3)
    assert again.fingerprint == data.fingerprint
    assert people(other.test.ids) != people(data.test.ids)
    assert other.fingerprint != data.fingerprint


def test_without_a_pattern_the_split_is_the_one_it_always_was(tmp_path: Path) -> None:
    data = load(photos(tmp_path / "mine"), "")
    assert data.test.ids.tolist() == [
        "cat/anna-0.png",
        "cat/ben-0.png",
        "dog/ben-1.png",
        "dog/cleo-1.png",
    ]
    val = with_validation(data, 0.2, 0).val
    assert val is not None
    assert val.ids.tolist() == [
        "cat/anna-1.png",
        "cat/cleo-0.png",
        "dog/cleo-0.png",
        "dog/dora-1.png",
    ]
    assert data.notes[0].endswith("held out (seed 0), 17 train / 4 test")


def test_the_validation_split_is_of_whole_groups_too(tmp_path: Path) -> None:
    data = with_validation(load(photos(tmp_path / "mine"), PERSON), 0.25, 0, PERSON)
    assert data.val is not None
    sides = [people(split.ids) for split in (data.train, data.val, data.test)]
    assert [len(side) for side in sides] == [4, 1, 1]
    assert len(set.union(*sides)) == 6
    assert data.notes[-1] == (
        "25% of each train class held out as val (seed 0) in whole groups, 13 train / 4 val in "
        "4 / 1 groups"
    )


def test_groups_on_both_sides_of_a_folders_own_split_are_named(tmp_path: Path) -> None:
    photos(tmp_path / "mine", "train")
    for label in ("cat", "dog"):
        picture(tmp_path / "mine" / "test" / label / "zoe-1.png", 7)
    apart = load(tmp_path / "mine", PERSON)
    assert [note for note in apart.notes if "group" in note] == [
        "1 of 23 images are groups of their own, because --group '/([a-z]+)-\\d' is not in their "
        "names (first: train/cat/nobody.png)"
    ]
    picture(tmp_path / "mine" / "test" / "cat" / "ben-7.png", 8)
    assert load(tmp_path / "mine", PERSON).notes[-1] == (
        "1 group has images both in train and in test, which inflates the test accuracy "
        "(first: 'ben')"
    )
    picture(tmp_path / "mine" / "test" / "dog" / "anna-7.png", 9)
    both = load(tmp_path / "mine", PERSON)
    assert both.notes[-1] == (
        "2 groups have images both in train and in test, which inflates the test accuracy "
        "(first: 'anna')"
    )
    assert (len(both.train), len(both.test)) == (21, 4)  # the folder's own split stays


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "group = '(' must be a regular expression: missing )"),
        ("png", "--group png puts all images in {mine} into one group, 'png': choose a pattern"),
        ("zebra", "--group zebra is in no name of an image in {mine}, such as 'cat/anna-0.png'"),
        (
            "^[a-z]+",
            "no group to spare for test: by --group '^[a-z]+' every class in {mine} is in a single "
            "group, such as 'cat'; choose",
        ),
    ],
)
def test_a_pattern_that_says_nothing_is_one_line(pattern: str, said: str, tmp_path: Path) -> None:
    mine = photos(tmp_path / "mine")
    with pytest.raises(ResightError) as caught:
        load(mine, pattern)
    assert str(caught.value).startswith(said.format(mine=mine))
    assert "\n" not in str(caught.value)


def test_no_group_to_spare_for_validation() -> None:
    data = make_data(12, classes=2)  # ids 1-00000 …: the even ones are of class 0
    with pytest.raises(ResightError, match=r"^no group to spare for --val: by --group 1 every"):
        with_validation(data, 0.2, 0, "1")


def test_images_that_are_only_measured_are_not_grouped(tmp_path: Path) -> None:
    data = load(photos(tmp_path / "mine"), "zebra", held_out=False)
    assert len(data.test) == 21
