"""What is found in folders that the tests make: exactly what was put there, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import resight
from helpers import folder, picture, pictures
from odd_folders import SIDE, odd_folder, plain_folder
from resight.data import cache, decode
from resight.data.duplicates import Twins
from resight.data.headers import Header
from resight.data.rows import row_sums
from resight.data.sources import load_data
from resight.data.table import Table
from resight.errors import ResightError
from resight.inspection import inspect as story
from resight.inspection.checks import copies, light, nearest_of_each, odd_sizes
from resight.inspection.inspect import SIZE_UNKNOWN_PX, inspect_data
from resight.inspection.result import Inspection
from resight.inspection.seen import Seen
from resight.inspection.sizes import file_facts
from resight.inspection.thresholds import THRESHOLDS, Thresholds


@pytest.fixture
def without_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "FORMATS", tuple(f for f in decode.FORMATS if f != "HEIF"))


def found(inspection: Inspection) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """The cases of each finding, by its name."""
    return {
        finding.name: [(case.images, case.what) for case in finding.cases]
        for finding in inspection.findings
    }


def severities(inspection: Inspection) -> dict[str, str]:
    return {finding.name: finding.severity for finding in inspection.findings}


def test_nothing_is_found_where_nothing_is_odd(tmp_path: Path) -> None:
    inspection = inspect_data(plain_folder(tmp_path), image_size=SIDE)

    assert inspection.findings == ()
    assert inspection.counts == {"train": [10, 10], "test": [4, 4]}
    assert "nothing odd found" in str(inspection)


@pytest.mark.usefixtures("without_heic")
def test_one_of_everything_is_found_and_nothing_else(tmp_path: Path) -> None:
    inspection = inspect_data(odd_folder(tmp_path / "odd"), image_size=SIDE)
    cases = found(inspection)
    ((dark_id, dark),) = cases.pop("dark")
    ((bright_id, bright),) = cases.pop("bright")
    ((across_near, near), *across_exact) = cases.pop("across-splits")[::-1]

    assert cases == {
        "unreadable": [(("train/cat/empty.jpg",), "not an image")],
        "label-conflict": [
            (("train/cat/2.png", "train/dog/of a cat.png"), "cat and dog; pixel for pixel")
        ],
        "repeated": [(("train/cat/1.png", "train/cat/copy.png"), "pixel for pixel")],
        "unsupported": [
            (("train/cat/phone.heic",), "a HEIC image: needs `pip install 'resight[heic]'`"),
            (("clip.mp4",), ""),
            (("train/cat/notes.txt",), ""),
        ],
        "outside-classes": [(("train/loose.png",), "")],
        "blank": [(("train/cat/blank.png",), "mean 93, sd 0.0")],
        "tiny": [(("train/cat/tiny.png",), "7×6 px")],
        "thin": [(("train/cat/thin.png",), "160×48 px")],
    }
    assert (dark_id, bright_id) == (("train/cat/dark.png",), ("train/cat/bright.png",))
    assert dark.startswith("mean 16, sd ")
    assert bright.startswith("mean 240, sd ")
    leak = (("train/dog/4.png", "test/dog/leak.png"), "train and test; pixel for pixel")
    assert across_exact == [leak]
    assert across_near == ("train/cat/3.png", "test/cat/again.jpg")
    assert near.startswith("train and test; ")
    assert near.endswith(" grey levels apart")
    problems = {"unreadable", "label-conflict", "across-splits", "unsupported"}
    assert {f.name for f in inspection.problems} == problems


@pytest.mark.usefixtures("without_heic")
def test_the_files_are_described(tmp_path: Path) -> None:
    files = inspect_data(odd_folder(tmp_path), image_size=SIDE).files

    assert files is not None
    assert files.count == 28 + 6 + 5 + 2  # plain, in cat, dog and test
    assert (files.width.min, files.width.median, files.width.max) == (7, 48, 160)
    assert (files.height.min, files.height.median, files.height.max) == (6, 48, 64)
    assert files.shapes == {"square": files.count - 3, "portrait": 1, "landscape": 2}
    assert files.outside == (0.0, pytest.approx(1 - 48 / 160))
    assert files.smaller == 1
    assert files.formats == {"PNG": files.count - 4, "JPEG": 3, "GIF": 1}
    assert files.modes["CMYK"] == files.modes["grey, 16 bit"] == 1
    assert (files.turned, files.frames) == (1, 1)


def test_a_bad_file_hides_nothing_and_is_left_out_of_the_next_command(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    fine = inspect_data(root, image_size=8)
    (root / "train" / "cat" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "train" / "cat" / "empty.png").write_bytes(b"")
    inspection = inspect_data(root, image_size=8)

    ids = [case.images[0] for case in inspection.findings[0].cases]
    assert inspection.findings[0].name == "unreadable"
    assert ids == ["train/cat/cut.jpg", "train/cat/empty.png"]
    assert inspection.findings[0].evidence == "2 of 26"
    assert inspection.notes == ()  # the loading's own words for it are not repeated
    assert inspection.counts == fine.counts
    assert inspection.statistics == fine.statistics
    assert fine.next_command == f"resight train --data {root} --image-size 8"
    assert inspection.next_command == f"resight train --data {root} --skip-bad --image-size 8"


def test_no_note_is_hidden_for_its_wording(tmp_path: Path) -> None:
    for k, name in enumerate(("cat", "dog")):
        for i in range(10):
            picture(tmp_path / "left out: blurred" / name / f"{i}.png", 100 * k + i)
    inspection = inspect_data(tmp_path / "left out: blurred", image_size=8)

    assert [note[:13] for note in inspection.notes] == ["no test split"]


def test_auto_is_chosen_for_what_can_be_read(tmp_path: Path) -> None:
    for k, name in enumerate(("cat", "dog")):
        for i in range(250):
            picture(tmp_path / name / f"{i}.png", 1000 * k + i)
    fine = inspect_data(tmp_path, image_size=8)
    for name in ("cat", "dog"):
        for i in range(400):
            (tmp_path / name / f"cut {i}.png").write_bytes(b"\x89PNG")
    inspection = inspect_data(tmp_path, image_size=8)

    assert fine.why[1].startswith("chosen for 400 training images")
    assert [*map(sum, inspection.counts.values())] == [400, 100]
    assert inspection.why == fine.why


@pytest.mark.parametrize("val", [None, 0.25])
def test_the_splits_are_those_of_a_training(tmp_path: Path, val: float | None) -> None:
    for k, name in enumerate(("cat", "dog")):
        for i in range(20):
            picture(tmp_path / name / f"{i}.png", 100 * k + i)
    inspection = inspect_data(tmp_path, image_size=8, val=val)
    data = load_data(tmp_path, image_size=8)

    counts = {"train": [16, 16], "test": [4, 4]}
    assert inspection.counts == (
        counts if val is None else counts | {"train": [12, 12], "val": [4, 4]}
    )
    ids = inspection.seen.table.ids
    assert ids[inspection.seen.splits["test"]].tolist() == data.test.ids.tolist()
    assert inspection.notes[0].startswith(f"no test split in {tmp_path}: 20% of each class held")
    if val is None:
        mean, std = inspection.statistics
        np.testing.assert_array_equal(mean, data.mean)
        np.testing.assert_array_equal(std, data.std)


def test_copies_are_found_in_val_too(tmp_path: Path) -> None:
    root = plain_folder(tmp_path)
    for i, image in enumerate(pictures(3, seed=77, size=SIDE)):
        for name in ("cat", "dog"):
            (root / "val" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image if name == "cat" else image[::-1]).save(
                root / "val" / name / f"{i}.png"
            )
    (root / "val" / "cat" / "1.png").write_bytes((root / "train" / "cat" / "5.png").read_bytes())
    (root / "val" / "dog" / "1.png").write_bytes((root / "test" / "dog" / "2.png").read_bytes())
    inspection = inspect_data(root, image_size=SIDE)

    assert list(inspection.counts) == ["train", "val", "test"]
    assert found(inspection) == {
        "across-splits": [
            (("train/cat/5.png", "val/cat/1.png"), "train and val; pixel for pixel"),
            (("test/dog/2.png", "val/dog/1.png"), "test and val; pixel for pixel"),
        ]
    }


def test_a_leak_is_a_problem_above_its_share(tmp_path: Path) -> None:
    seen = made_seen(train=300, test=200)
    pairs = [Twins(i, 300 + i, "exact", 0.0) for i in range(3)]
    at, above = (next(copies(seen, pairs[:n])).severity for n in (2, 3))

    assert THRESHOLDS.leak_problem == 2 / 200
    assert (at, above) == ("note", "problem")
    near = [Twins(i, 300 + i, "near", 5.0) for i in range(200)]
    assert next(copies(seen, near)).severity == "note"


def made_seen(*, train: int, test: int, labels: Any = None) -> Seen:
    n = train + test
    table = Table(
        images=np.zeros((n, 4, 4, 3), np.uint8),
        labels=np.zeros(n, np.int64) if labels is None else np.asarray(labels),
        ids=np.array([f"{i:03d}" for i in range(n)]),
        digests=np.zeros((n, 16), np.uint8),
        sums=np.zeros((n, 2, 3), np.int64),
        classes=("cat", "dog"),
        parts=(("train", train), ("test", test)),
        bad={},
    )
    splits = {"train": np.arange(train), "test": np.arange(train, n)}
    return Seen(table, splits, None, None, "crop")


def test_of_many_near_twins_the_nearest_of_each_kind_are_kept() -> None:
    seen = made_seen(train=4, test=2, labels=[0, 0, 0, 1, 0, 1])
    twins = [
        Twins(0, 1, "near", 3.0),
        Twins(0, 2, "near", 2.0),
        Twins(1, 2, "near", 4.0),  # 2 is nearer to 0, in the same class and split
        Twins(1, 3, "near", 9.0),  # another class
        Twins(0, 4, "near", 5.0),  # another split: 1 is nearer
        Twins(1, 4, "near", 1.0),
        Twins(1, 5, "near", 7.0),  # both
        Twins(3, 5, "near", 8.0),  # another split
    ]
    kept = [(pair.first, pair.second) for pair in nearest_of_each(seen, twins)]

    assert kept == [(1, 4), (0, 2), (0, 1), (1, 5), (3, 5), (1, 3)]
    names = {finding.name: len(finding.cases) for finding in copies(seen, twins)}
    assert names == {"label-conflict": 2, "across-splits": 4, "repeated": 3}


@settings(max_examples=60)
@given(mean=st.integers(0, 255), spread=st.integers(0, 127), colour=st.integers(0, 60))
def test_an_image_has_at_most_one_word_for_its_light(mean: int, spread: int, colour: int) -> None:
    image = np.full((4, 4, 3), mean, np.int64)
    image[::2] += spread
    image[1::2] -= spread
    image[..., 0] += colour
    pixels = image.clip(0, 255).astype(np.uint8)
    seen = made_seen(train=1, test=0)
    seen.table.sums[:] = row_sums(pixels[None])
    names = [finding.name for finding in light(seen)]

    values = pixels.astype(np.float64)
    expected = []
    if np.sqrt(values.var((0, 1)).mean()) <= 3:
        expected = ["blank"]
    elif values.mean() + 2 * values.std() <= 50:
        expected = ["dark"]
    elif values.mean() - 2 * values.std() >= 205:
        expected = ["bright"]
    assert names == expected


@pytest.mark.parametrize(
    ("width", "height", "names"),
    [
        *((32, 32, []), (16, 16, []), (15, 40, ["tiny"]), (40, 15, ["tiny"])),
        *((119, 40, []), (120, 40, ["thin"]), (40, 120, ["thin"]), (45, 15, ["tiny", "thin"])),
    ],
)
def test_where_tiny_and_thin_begin(width: int, height: int, names: list[str]) -> None:
    seen = made_seen(train=1, test=0)
    header = Header(width, height, "PNG", "RGB", turned=False, frames=False)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    table = Table(**{**vars(seen.table), "images": images})
    at_32 = Seen(table, seen.splits, ["x"], [header], "crop")

    assert [finding.name for finding in odd_sizes(at_32)] == names


def test_the_crop_s_loss_is_the_share_of_the_longer_side() -> None:
    sizes = [(30, 30), (40, 30), (30, 60)]
    headers = [Header(w, h, "PNG", "RGB", turned=False, frames=False) for w, h in sizes]
    facts = file_facts(headers, 31)

    assert facts is not None
    assert facts.outside == (0.25, 0.5)
    assert facts.shapes == {"square": 1, "portrait": 1, "landscape": 1}
    assert facts.smaller == 3
    assert file_facts([], 31) is None


def test_letters_and_digits_are_warned_of(tmp_path: Path) -> None:
    root = folder(tmp_path, classes=("a", "b"))
    (finding,) = (f for f in inspect_data(root).findings if f.name == "symbols")
    assert "--set augment.flip=none" in finding.advice
    assert "`auto`" in finding.advice
    assert "symbols" in severities(inspect_data("digits"))


def test_what_a_training_would_refuse_is_shown_and_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    (root / "train" / "owl").mkdir()
    with pytest.raises(ResightError) as refusal:
        load_data(root, image_size=8)
    inspection = inspect_data(root, image_size=8)

    assert inspection.findings[0].name == "refused"
    assert inspection.findings[0].evidence == str(refusal.value)
    assert inspection.counts["train"] == [6, 6]
    assert inspection.next_command == f"resight data {root} --image-size 8"
    chosen = inspect_data(root)  # at the size that the images would have without the empty folder
    (root / "train" / "owl").rmdir()
    fine = inspect_data(root)
    assert chosen.seen.image_size == fine.seen.image_size != SIZE_UNKNOWN_PX


def test_a_class_whose_files_are_all_bad_is_shown_and_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    for path in (root / "train" / "dog").iterdir():
        path.write_bytes(b"no image")
    inspection = inspect_data(root, image_size=8)

    assert severities(inspection) == {"refused": "problem", "unreadable": "problem"}
    assert inspection.counts == {"train": [6, 0], "test": [6, 6]}
    assert "class 'dog'" in inspection.findings[0].evidence


def test_unequal_classes_are_named(tmp_path: Path) -> None:
    for name, count in (("cat", 20), ("dog", 4)):
        for i in range(count):
            picture(tmp_path / "train" / name / f"{i}.png", 100 * len(name) + 7 * i + count)
            picture(tmp_path / "test" / name / f"{i}.png", 5000 + 11 * i + count)
    (unequal,) = inspect_data(tmp_path, image_size=8).findings
    assert (unequal.name, unequal.severity) == ("unequal-classes", "note")
    assert unequal.evidence == "20 images of 'cat' to train on, 4 of 'dog'"
    (tmp_path / "train" / "cat" / "0.png").unlink()
    assert not inspect_data(tmp_path, image_size=8).findings  # below five times as many


def test_a_mirrored_letter_is_not_a_wrong_label(tmp_path: Path) -> None:
    def letters(names: tuple[str, str]) -> Inspection:
        root = tmp_path / names[0]
        for split in ("train", "test"):
            for i in range(4):
                first = root / split / names[0] / f"{i}.png"
                picture(first, (1000 if split == "test" else 0) + i, (64, 64))
                mirrored = np.ascontiguousarray(np.asarray(Image.open(first))[:, ::-1])
                (root / split / names[1]).mkdir(parents=True, exist_ok=True)
                Image.fromarray(mirrored).save(root / split / names[1] / f"{i}.png")
        return inspect_data(root, image_size=32)

    assert "label-conflict" in severities(letters(("cat", "dog")))
    assert severities(letters(("b", "d"))) == {"symbols": "note"}
    arrows = letters(("left", "right"))
    assert severities(arrows) == {"symbols": "note"}
    assert arrows.findings[0].title == "'left' and 'right' look like mirror images"


def test_groups_are_advised_only_where_the_split_is_drawn(tmp_path: Path) -> None:
    def advice(root: Path) -> str:
        finding = next(f for f in inspect_data(root, image_size=8).findings if "splits" in f.name)
        return finding.advice

    own = folder(tmp_path / "own")
    (own / "test" / "cat" / "0.png").write_bytes((own / "train" / "cat" / "0.png").read_bytes())
    assert "--group" not in advice(own)
    drawn = tmp_path / "drawn"
    for name in ("cat", "dog"):
        for i in range(10):
            picture(drawn / name / f"{i}.png", 100 * len(name) + ord(name[0]))
    assert "--group" in advice(drawn)


def test_where_nothing_can_be_read_that_is_said(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"no image")
    inspection = inspect_data(tmp_path)

    assert severities(inspection) == {"refused": "problem", "unreadable": "problem"}
    assert inspection.statistics == ([], [])
    assert inspection.files is None
    json.dumps(inspection.to_dict(), allow_nan=False)
    assert "2 files can't be read" in str(inspection)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_no_images_at_all_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResightError, match=name):
        inspect_data(tmp_path / name)


def test_cifar_that_is_not_there_is_an_error_that_says_how_to_get_it() -> None:
    with pytest.raises(ResightError, match="resight data cifar10"):
        inspect_data("cifar10")


def test_a_setting_that_there_is_not_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path)
    with pytest.raises(ResightError, match="fit"):
        inspect_data(root, **{"data.fit": "stretch"})


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    decoded = cache.decode_table
    monkeypatch.setattr(cache, "decode_table", lambda *given: (calls.append(1), decoded(*given))[1])
    inspect_data(folder(tmp_path), image_size=8)
    assert len(calls) == 1


def test_too_many_images_are_only_compared_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "THRESHOLDS", Thresholds(compared_images=27))
    root = plain_folder(tmp_path)
    (root / "train" / "cat" / "1.png").write_bytes((root / "train" / "cat" / "2.png").read_bytes())
    Image.open(root / "train" / "dog" / "3.png").save(root / "train" / "dog" / "4.jpg")
    inspection = inspect_data(root, image_size=SIDE)

    assert [len(finding.cases) for finding in inspection.findings] == [1]
    note = "near duplicates were not searched for: more than 27 images"
    assert note in inspection.notes


def test_the_public_name_and_its_json(tmp_path: Path) -> None:
    inspection = resight.inspect_data(plain_folder(tmp_path / "photos"), image_size=SIDE)
    assert isinstance(inspection, resight.Inspection)
    values = json.loads(json.dumps(inspection.to_dict(), allow_nan=False))

    assert list(values) == [
        *("version", "source", "classes", "counts", "image_size", "channels", "fit", "mean"),
        *("std", "files", "findings", "notes", "recipe", "why", "next"),
    ]
    assert list(values["files"]) == [
        *("count", "width", "height", "shapes", "outside", "smaller", "formats", "modes"),
        *("turned", "frames"),
    ]
    assert (values["recipe"], values["image_size"]) == ("auto", SIDE)
    assert values["files"]["width"] == {"min": SIDE, "median": SIDE, "max": SIDE}
    assert len(values["why"]) == 2
    assert inspection._repr_html_().startswith("<pre>")
