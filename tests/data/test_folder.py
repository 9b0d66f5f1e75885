"""Folders of images: which layouts are accepted, what is left out, one line for the rest."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resight.data import table
from resight.data.folder import natural_order
from resight.data.sources import load_data
from resight.errors import ResightError


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "the-cache"))
    monkeypatch.setenv("RESIGHT_DATA", str(tmp_path / "the-data"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pets"


def paint(path: Path, seed: int = 0, mode: str = "RGB") -> None:
    """A small image that only its seed and mode decide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (4, 4, 3) if mode == "RGB" else (4, 4)
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(values).save(path, "PNG")


def make(root: Path, *names: str, mode: str = "RGB") -> Path:
    for seed, name in enumerate(names):
        paint(root / name, seed, mode)
    return root


def load(root: Path, **options):
    return load_data(root, image_size=4, **options)


def error_of(root: Path, **options) -> str:
    with pytest.raises(ResightError) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SPLIT = ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png")


def test_train_and_test(root):
    data = load(make(root, *SPLIT, "train/cat/0.png"))
    assert data.name == "pets"
    assert data.source == str(root)
    assert data.classes == ("cat", "dog")
    assert data.train.ids.tolist() == ["train/cat/0.png", "train/cat/1.png", "train/dog/2.png"]
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.train.labels.dtype == np.int64
    assert data.test.ids.tolist() == ["test/cat/3.png", "test/dog/4.png"]
    assert data.test.labels.tolist() == [0, 1]
    assert data.val is None
    assert data.notes == data.bad == ()
    for split in (data.train, data.test):
        for name, image in zip(split.ids, split.images, strict=True):
            assert np.array_equal(image, np.asarray(Image.open(root / name)))
    exact = data.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, exact.mean((0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(data.std, exact.std((0, 1, 2)), atol=1e-12)


@pytest.mark.parametrize("names", [("Train", "TEST"), ("training", "Testing"), ("train", "val")])
def test_split_folders_in_any_case_and_by_other_names(root, names):
    train, test = names
    data = load(make(root, f"{train}/a/1.png", f"{train}/b/2.png", f"{test}/a/3.png"))
    assert data.train.ids.tolist() == [f"{train}/a/1.png", f"{train}/b/2.png"]
    assert data.test.ids.tolist() == [f"{test}/a/3.png"]


@pytest.mark.parametrize("name", ["val", "Valid", "validation"])
def test_val_is_val_beside_test_and_test_without_it(root, name):
    make(root, *SPLIT, f"{name}/cat/5.png", f"{name}/dog/6.png")
    data = load(root)
    assert data.val is not None
    assert data.val.ids.tolist() == [f"{name}/cat/5.png", f"{name}/dog/6.png"]
    assert data.notes == ()
    (root / "test").rename(root.parent / "away")
    data = load(root)
    assert data.val is None
    assert data.test.ids.tolist() == [f"{name}/cat/5.png", f"{name}/dog/6.png"]
    assert data.notes == (f"no test split in {root}: {name}/ is used as the test split",)


def test_two_folders_for_one_split(root):
    make(root, *SPLIT, "val/cat/1.png", "valid/cat/1.png")
    assert "two val splits, val/ and valid/: rename or move one" in error_of(root)


def flat(root: Path, cats: int = 10, dogs: int = 15) -> Path:
    names = [f"cat/{n}.png" for n in range(cats)] + [f"dog/{n}.png" for n in range(dogs)]
    return make(root, *names)


def test_a_folder_a_class_is_split(root):
    data = load(flat(root))
    assert np.bincount(data.train.labels).tolist() == [8, 12]
    assert np.bincount(data.test.labels).tolist() == [2, 3]
    assert len({*data.train.ids, *data.test.ids}) == 25
    assert data.notes == (
        f"no test split in {root}: 20% of each class held out (seed 0), 20 train / 5 test",
    )
    for split in (data.train, data.test):
        for name, image in zip(split.ids, split.images, strict=True):
            assert np.array_equal(image, np.asarray(Image.open(root / name)))


def test_the_split_hangs_on_the_seed_and_not_on_the_file_system(root, tmp_path, monkeypatch):
    first = load(flat(root))
    assert load(root).test.ids.tolist() == first.test.ids.tolist()
    other = load(root, split_seed=1)
    assert other.test.ids.tolist() != first.test.ids.tolist()
    assert "(seed 1)" in other.notes[0]
    assert other.fingerprint != first.fingerprint
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = scandir(path)

        def __enter__(self):
            return reversed(list(self.entries))

        def __exit__(self, *_):
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "another-cache"))
    again = load(root)
    assert again.test.ids.tolist() == first.test.ids.tolist()
    assert again.fingerprint == first.fingerprint


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(root, tmp_path):
    first = load(make(root, *SPLIT))
    assert len(first.fingerprint) == 32
    assert load(make(tmp_path / "else", *SPLIT)).fingerprint == first.fingerprint
    pixels = make(tmp_path / "pixels", *SPLIT)
    paint(pixels / SPLIT[0], 99)
    assert load(pixels).fingerprint != first.fingerprint
    ids = make(tmp_path / "ids", *SPLIT)
    (ids / SPLIT[0]).rename(ids / "train/cat/7.png")
    assert load(ids).fingerprint != first.fingerprint
    classes = make(tmp_path / "classes", *(name.replace("dog", "fox") for name in SPLIT))
    assert load(classes).fingerprint != first.fingerprint


def test_classes_are_in_natural_order(root):
    names = ["class10", "class2", "Class1", "été", "zoo", "日本", "2", "10"]
    data = load(make(root, *(f"{name}/{n}.png" for name in names for n in range(2))))
    assert data.classes == ("2", "10", "Class1", "class2", "class10", "zoo", "été", "日本")
    labels = dict(zip(data.train.ids, data.train.labels, strict=True))
    for name, label in labels.items():
        assert name.startswith(f"{data.classes[label]}/")
    assert natural_order("a1") < natural_order("a01b")


def test_one_class_in_two_unicode_forms_is_one_class(root):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    make(root, f"train/{decomposed}/1.png", "train/tea/2.png")
    make(root, f"test/{composed}/5.png", "test/tea/7.png")
    data = load(root)
    assert data.classes == (decomposed, "tea")
    assert data.test.labels.tolist() == [0, 1]
    assert data.test.ids[0] == f"test/{composed}/5.png"
    assert not any("Unicode" in note for note in data.notes)


def test_two_folders_of_one_split_that_are_one_class_are_named(root):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    make(root, f"train/{decomposed}/1.png", f"train/{composed}/2.png", "train/tea/3.png")
    make(root, f"test/{composed}/5.png", "test/tea/7.png")
    data = load(root)
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.notes[0] == (
        f"in {root} two folders of the same name, written in different Unicode forms, are taken as "
        f"one class: 'train/{composed}'"
    )


@pytest.mark.parametrize(
    "suffix", ["jpg", "JPEG", "Png", "bmp", "GIF", "webp", "tif", "TIFF", "pgm"]
)
def test_suffixes_in_any_case(root, suffix):
    data = load(make(root, *SPLIT, f"train/cat/one.{suffix}"))
    assert f"train/cat/one.{suffix}" in data.train.ids


def test_what_is_no_image_is_left_out_and_counted(root):
    make(root, *SPLIT, "train/cat/.hidden.png", "__MACOSX/cat/1.png", "train/.git/1.png")
    make(root, "train/cat/__MACOSX/1.png")
    for name in ("Thumbs.db", ".DS_Store", "train/cat/thumbs.db", "test/dog/desktop.ini"):
        (root / name).write_bytes(b"")
    data = load(root)
    assert len(data.train) + len(data.test) == 4
    assert data.notes == ()
    for name in ("README.md", "train/labels.csv", "train/cat/notes.txt", "train/loose.png"):
        (root / name).write_bytes(b"")
    why = "ignored: not an image or not in a class folder"
    assert load(root).notes == (f"4 files in {root} {why} (first: train/cat/notes.txt)",)
    make(root, "extra/1.png")
    assert f"folders next to the splits in {root} are ignored: extra" in load(root).notes


def test_subfolders_of_a_class_belong_to_it(root):
    data = load(make(root, *SPLIT, "train/cat/more/even/9.png"))
    assert data.train.ids.tolist()[1] == "train/cat/more/even/9.png"
    assert data.train.labels.tolist() == [0, 0, 1]


def test_links(root, tmp_path):
    make(root, *SPLIT)
    paint(tmp_path / "elsewhere/5.png", 5)
    (root / "train/cat/link.png").symlink_to(tmp_path / "elsewhere/5.png")
    (root / "train/dog/folder").symlink_to(tmp_path / "elsewhere")
    for loop in ("train/cat/self", "train/cat/deep/up"):
        (root / loop).parent.mkdir(exist_ok=True)
        (root / loop).symlink_to(root / "train/cat")
    (root / "train/cat/top").symlink_to(root)
    data = load(root)
    assert data.train.ids.tolist() == [
        "train/cat/1.png",
        "train/cat/link.png",
        "train/dog/2.png",
        "train/dog/folder/5.png",
    ]


def test_a_broken_link_is_unreadable(root):
    make(root, *SPLIT)
    (root / "train/cat/gone.png").symlink_to(root / "nowhere.png")
    assert "1 of 5 images" in error_of(root)
    assert "train/cat/gone.png (No such file or directory)" in error_of(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_hang(root):
    make(root, *SPLIT)
    os.mkfifo(root / "train/cat/pipe.png")
    [note] = load(root).notes
    assert note.startswith(f"1 file in {root} ignored")
    assert note.endswith("(first: train/cat/pipe.png)")


def test_all_grey_is_one_channel_and_one_colour_image_makes_three(root):
    make(root, *SPLIT, mode="L")
    data = load(root)
    assert data.channels == 1
    assert data.mean.shape == data.std.shape == (1,)
    forced = load(root, channels=3)
    assert np.array_equal(forced.train.images, np.repeat(data.train.images, 3, axis=3))
    paint(root / "test/dog/9.png", 9)
    assert load(root).channels == 3
    assert load(root, channels=1).channels == 1


def test_resized_to_the_size_asked_for(root):
    data = load_data(make(root, *SPLIT), image_size=10)
    assert data.image_size == 10
    assert data.train.images.shape == (2, 10, 10, 3)


def test_an_empty_class_folder(root):
    make(root, *SPLIT)
    (root / "train/emu").mkdir()
    assert error_of(root) == (
        f"class 'emu' in {root} has no images: put images into its folder or remove it"
    )
    flat(root.parent / "flat")
    (root.parent / "flat/emu").mkdir()
    assert "class 'emu' in" in error_of(root.parent / "flat")


def test_classes_that_only_one_split_has(root):
    make(root, *SPLIT, "test/emu/1.png")
    assert "class 'emu' is in the test split" in error_of(root)
    make(root, "train/emu/7.png", "train/fox/8.png")
    assert load(root).notes == ("class 'fox' has no images in test: its accuracy there is unknown",)
    make(root, "val/Cat/9.png")
    assert "class 'Cat' is in the val split" in error_of(root)
    assert "did you mean 'cat'?" in error_of(root)


def test_one_class_is_no_task(root):
    make(root, "cat/1.png", "cat/2.png")
    assert error_of(root).startswith(f"only one class ('cat') in {root}")


def test_single_images_leave_nothing_to_test(root):
    make(root, "cat/1.png", "dog/2.png")
    assert error_of(root) == (
        f"no image in {root} to spare for a test split: no class has more than one; add images, "
        "or put others into test/ beside train/"
    )


def test_a_class_of_one_image_stays_in_train(root):
    make(flat(root), "emu/1.png")
    data = load(root)
    assert data.classes == ("cat", "dog", "emu")
    assert np.bincount(data.train.labels).tolist() == [8, 12, 1]
    assert "class 'emu' has no images in test: its accuracy there is unknown" in data.notes


def test_splits_without_class_folders(root):
    make(root, "train/1.png", "train/2.png", "test/cat/3.png")
    assert error_of(root).startswith(f"{root}/train has no class sub-folders")
    other = make(root.parent / "other", "train/cat/1.png", "train/dog/2.png", "test/3.png")
    message = error_of(other)
    assert message.startswith(f"{other}/test has no class sub-folders")
    assert message.endswith(f"or give {other}/train to hold out 20% of it for test")
    (other / "test/3.png").unlink()
    (other / "test/cat").mkdir()
    assert error_of(other).startswith(f"the test split of {other} has no images")


def test_one_level_too_deep(root):
    inner = make(root / "archive-main", *SPLIT)
    assert error_of(root) == f"{root} contains only archive-main: did you mean {inner}?"
    (inner / "test").rename(root.parent / "away")
    assert error_of(root).endswith(f"did you mean {inner}/train?")
    assert error_of(inner).endswith(f"did you mean {inner}/train?")
    assert len(load(make(inner / "train", "cat/5.png", "dog/6.png")).train) == 2


def test_train_without_test_beside_other_folders(root):
    make(root, "train/cat/1.png", "train/dog/2.png", "masks/1.png")
    message = error_of(root)
    assert message.startswith(f"{root} has train/ with class folders but no test/ or val/ next")
    assert f"or give {root}/train itself" in message


def test_a_class_may_be_called_train(root):
    data = load(make(root, *(f"{name}/{n}.png" for name in ("train", "bus") for n in range(2))))
    assert data.classes == ("bus", "train")


def test_neither_layout(root):
    root.mkdir()
    assert error_of(root).startswith(f"{root} contains nothing: expected one sub-folder of images")
    for n in range(7):
        paint(root / f"{n}.png", n)
    assert "contains 0.png, 1.png, 2.png, 3.png, 4.png, … (7 in all): expected" in error_of(root)
    (root / "texts").mkdir()
    (root / "texts/a.txt").write_text("a")
    (root / "tables").mkdir()
    assert "expected one sub-folder of images per class, train/ and test/" in error_of(root)


def spoil(root: Path, count: int) -> Path:
    make(root, *SPLIT)
    for n in range(count):
        (root / f"train/cat/bad{n:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


def test_unreadable_files_are_named_whatever_thread_finds_them(root, monkeypatch):
    monkeypatch.setattr(table, "ROWS_PER_TASK", 2)
    flat(root)
    for name in ("cat/3.png", "dog/2.png", "dog/8.png"):
        (root / name).write_bytes(b"no")
    names = "cat/3.png (not an image), dog/2.png (not an image), dog/8.png (not an image)"
    assert f"3 of 25 images in {root} can't be read: {names}; replace" in error_of(root)


def test_unreadable_files_are_named(root):
    message = error_of(spoil(root, 12))
    assert message.startswith(f"12 of 16 images in {root} can't be read: train/cat/bad00.png (")
    assert "bad09.png" in message
    assert "bad10.png" not in message
    assert "and 2 more; replace or remove them, or leave them out with --skip-bad" in message


@pytest.mark.parametrize("in_between", [False, True])
def test_unreadable_files_can_be_left_out(root, in_between):
    spoil(root, 2)
    whole = load(make(root.parent / "whole", *SPLIT))
    if in_between:
        make(root, *SPLIT, "train/cat/z.png")
    data = load(root, skip_bad=True)
    assert data.bad == ("train/cat/bad00.png", "train/cat/bad01.png")
    assert data.notes[0].startswith("2 unreadable files left out: train/cat/bad00.png (")
    assert not set(data.bad) & set(data.train.ids)
    for name, image in zip(data.train.ids, data.train.images, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(root / name)))
    if not in_between:
        assert data.fingerprint == whole.fingerprint
        assert np.array_equal(data.mean, whole.mean)
    error_of(root)
    assert load(root, skip_bad=True).bad == data.bad


def test_a_class_whose_files_are_all_unreadable(root):
    make(root, *SPLIT, "train/emu/1.png")
    (root / "train/emu/1.png").write_bytes(b"no")
    assert error_of(root, skip_bad=True).startswith(
        f"no image of class 'emu' in {root} can be read ("
    )


def test_skip_bad_in_a_folder_without_test_split(root):
    flat(root)
    (root / "cat/3.png").write_bytes(b"no")
    data = load(root, skip_bad=True)
    assert len(data.train) + len(data.test) == 24
    assert np.bincount(data.test.labels).tolist() == [2, 3]
    for split in (data.train, data.test):
        for name, image in zip(split.ids, split.images, strict=True):
            assert np.array_equal(image, np.asarray(Image.open(root / name)))


def test_images_in_train_and_test_are_noted(root):
    make(root, *SPLIT)
    paint(root / "test/dog/same.png", 0)
    assert load(root).notes == (
        "1 test image is also in train, pixel for pixel, which inflates the test accuracy "
        "(first: test/dog/same.png = train/cat/1.png)",
    )
    paint(root / "train/cat/9.png", 0)
    assert load(root).notes[0].endswith("(first: test/dog/same.png = train/cat/1.png)")
    paint(root / "test/cat/again.png", 1)
    paint(root / "val/cat/once.png", 1)
    notes = load(root).notes
    assert notes[-2].startswith("2 test images are also in train")
    assert "(first: test/cat/again.png = train/dog/2.png)" in notes[-2]
    assert notes[-1].startswith("1 val image is also in train")


def test_a_file_name_that_is_no_unicode(root):
    make(root, *SPLIT)
    odd = os.fsdecode(b"\xff\xfe.png")
    try:
        paint(root / "train/cat" / odd, 5)
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    folder = root / "train/cat"
    (folder / odd.replace("png", "txt")).touch()  # no image: ignored as any other
    why = "its name is not valid UTF-8: rename it"
    assert f"1 of 5 images in {root} can't be read: train/cat/\\udcff\\udcfe.png ({why}); " in (
        error_of(root)
    )
    kept = load(root, skip_bad=True)
    assert kept.bad == (f"train/cat/{odd}",)
    assert kept.train.ids.tolist() == ["train/cat/1.png", "train/dog/2.png"]
    assert f"1 unreadable file left out: train/cat/{odd} ({why})" in kept.notes
    (folder / odd).rename(folder / "even.png")
    (root / "test/cat").rename(root / "test" / os.fsdecode(b"c\xe4t"))
    assert error_of(root) == (
        f"{root}/test contains 'c\\udce4t', which is not valid UTF-8: rename it"
    )


def measure(root: Path, **options):
    return load(root, held_out=False, **options)


def test_a_folder_a_class_is_measured_whole(root):
    make(flat(root), "cat/same.png")  # the same pixels as cat/0.png
    data = measure(root)
    assert data.train is data.test
    assert np.bincount(data.test.labels).tolist() == [11, 15]
    assert data.notes == (f"no test split in {root}: all 26 images are evaluated",)
    exact = data.test.images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, exact.mean((0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(data.std, exact.std((0, 1, 2)), atol=1e-12)


def test_measured_with_files_that_cannot_be_read(root):
    flat(root)
    (root / "cat/3.png").write_bytes(b"no")
    assert "1 of 25 images" in error_of(root, held_out=False)
    data = measure(root, skip_bad=True)
    assert len(data.test) == 24
    assert data.train is data.test
    assert data.bad == ("cat/3.png",)
    assert data.notes[1] == f"no test split in {root}: all 24 images are evaluated"
    only = make(root.parent / "only", "cat/1.png")
    (only / "cat/1.png").write_bytes(b"no")
    assert error_of(only, held_out=False, skip_bad=True) == (
        f"{only} has no images to evaluate: put images into its class folders"
    )


def test_one_class_and_empty_class_folders_can_be_measured(root):
    make(root, "cat/1.png")
    (root / "emu").mkdir()
    data = measure(root)
    assert data.classes == ("cat",)
    assert data.test.ids.tolist() == data.train.ids.tolist() == ["cat/1.png"]
    (root / "emu").rmdir()
    assert error_of(root).startswith(f"only one class ('cat') in {root}")


def test_a_test_split_is_measured_as_it_is(root):
    data = load(make(root, *SPLIT))
    other = measure(root)
    assert other.test.ids.tolist() == data.test.ids.tolist()
    assert other.train.ids.tolist() == data.train.ids.tolist()
    assert other.fingerprint == data.fingerprint
    assert other.notes == ()
    paint(root / "test/dog/same.png", 0)
    assert measure(root).notes == load(root).notes != ()


def test_classes_that_train_lacks_can_be_measured(root):
    make(root, *SPLIT, "test/emu/1.png", "train/fox/2.png", "val/gnu/9.png")
    (root / "train/emu").mkdir()
    (root / "train/yak").mkdir()
    data = measure(root)
    assert data.classes == ("cat", "dog", "emu", "fox", "gnu")
    assert data.test.labels.tolist() == [0, 1, 2]
    assert data.notes[0].startswith("2 classes have no images in test ('fox', 'gnu')")
    assert "class 'emu' is in the test split" in error_of(root)


def test_an_empty_train_or_val_does_not_stop_a_measurement(root):
    make(root, "test/cat/1.png", "test/dog/1.png")
    (root / "train").mkdir()
    (root / "val/cat").mkdir(parents=True)
    data = measure(root)
    assert data.train is data.test
    assert len(data.test) == 2
    assert data.val is None
    assert data.notes == ()


def test_a_test_split_that_cannot_be_measured(root):
    make(root, "train/cat/1.png", "train/dog/2.png", "test/1.png")
    assert error_of(root, held_out=False) == (
        f"{root}/test has no class sub-folders, so its images have no labels: put the images of "
        "each class into a sub-folder of its own"
    )
    (root / "test/cat").mkdir()
    assert error_of(root, held_out=False) == (
        f"the test split of {root} has no images: put images into its class folders"
    )
    lone = make(root.parent / "lone", "test/cat/1.png", "masks/1.png")
    assert error_of(lone, held_out=False).endswith(f"or give {lone}/test itself")


def test_a_folder_that_cannot_be_read(root, monkeypatch):
    make(root, *SPLIT)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert error_of(root) == f"{root} can't be read: Permission denied"
