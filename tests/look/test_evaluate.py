"""A run measured again: on its own splits, the very images of the training, and on other images."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resight
from helpers import folder, make_data, picture
from resight.data.sources import load_data
from resight.data.splits import with_validation
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.look.evaluate import evaluate
from resight.progress import Quiet
from resight.runs.predictions import Predictions
from resight.runs.run import Run, load_run
from trainings import Listener, StopAt, fit, images_for, interrupt, tiny


def trained(data: str | Path | ImageData, out: Path, **changes: Any) -> Run:
    recipe = tiny("digits", **changes)
    return resight.train(recipe, data, out=out, reporter=Quiet(), precision="fp32", report=False)


@pytest.fixture(scope="module")
def with_val(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the digits with a fifth of train held out by a seed of its own."""
    out = tmp_path_factory.mktemp("runs") / "run"
    small = {"model.width": 4, "train.batch_size": 128}
    return trained("digits", out, **{"data.val_fraction": 0.2, "data.split_seed": 5, **small})


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return with_validation(load_data("digits", image_size=8, split_seed=5), 0.2, 5)


def refused(run: Run, data: str | Path | ImageData | None = None, **options: Any) -> str:
    with pytest.raises(ResightError) as caught:
        evaluate(run, data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_val_is_what_the_training_held_out(with_val: Run, digits: ImageData) -> None:
    measured = evaluate(with_val, split="val")
    best = max(row["val_accuracy"] for row in with_val.metrics)

    assert digits.val is not None
    assert measured.split == "val"
    assert measured.ids.tolist() == digits.val.ids.tolist()
    assert measured.labels.tolist() == digits.val.labels.tolist()
    assert measured.accuracy == best
    saved = Predictions.load(with_val.path / "predictions-val.npz")
    assert saved.split == "val"
    np.testing.assert_array_equal(saved.logits, measured.logits)


def test_train_is_the_rest_of_it(with_val: Run, digits: ImageData) -> None:
    test_before = (with_val.path / "predictions.npz").read_bytes()
    measured = evaluate(with_val, split="train")

    assert measured.split == "train"
    assert measured.ids.tolist() == digits.train.ids.tolist()
    assert len(measured) == with_val.resolved["data"]["train"]
    saved = Predictions.load(with_val.path / "predictions-train.npz")
    np.testing.assert_array_equal(saved.logits, measured.logits)
    assert (with_val.path / "predictions.npz").read_bytes() == test_before


def test_test_is_what_is_measured_unless_asked(with_val: Run) -> None:
    before = with_val.predictions
    measured = evaluate(with_val)

    assert measured.split == with_val.predictions.split == "test"
    np.testing.assert_array_equal(measured.logits, before.logits)
    np.testing.assert_array_equal(evaluate(with_val, split="test").logits, before.logits)


def test_each_split_is_measured_by_the_statistics_of_the_run(
    with_val: Run, digits: ImageData
) -> None:
    assert digits.train.images.mean() != load_data("digits", image_size=8).train.images.mean()
    np.testing.assert_allclose(with_val.resolved["data"]["mean"], digits.mean, rtol=1e-12)
    np.testing.assert_allclose(with_val.images().mean, digits.mean, rtol=1e-12)


def test_a_validation_folder_of_the_data_is_val(tmp_path: Path) -> None:
    images = folder(tmp_path / "mine", each=20)
    for k, name in enumerate(("cat", "dog")):
        for i in range(4):
            picture(images / "val" / name / f"{i}.png", 5000 + 100 * k + i)
    run = trained(images, tmp_path / "run")
    measured = evaluate(run, split="val")

    assert len(measured) == 8
    assert all(name.startswith("val/") for name in measured.ids.tolist())
    assert measured.accuracy == max(row["val_accuracy"] for row in run.metrics)


def test_without_a_validation_split_it_is_said_how_to_get_one(tmp_path: Path) -> None:
    run = trained(folder(tmp_path / "mine", each=20), tmp_path / "run")

    assert "no validation split" in refused(run, split="val")
    assert "--val 0.1" in refused(run, split="val")
    assert not (run.path / "predictions-val.npz").exists()
    assert len(evaluate(run, split="train")) == 40


@pytest.mark.parametrize("split", ["val", "train"])
def test_other_images_are_measured_as_test_only(
    split: str, with_val: Run, digits: ImageData, tmp_path: Path
) -> None:
    for data in (digits, "digits", tmp_path):
        assert "omit one of the two" in refused(with_val, data, split=split)


@pytest.mark.parametrize(("split", "hint"), [("tests", "did you mean 'test'"), ("dev", "known: ")])
def test_an_unknown_split_gets_the_nearest(split: str, hint: str, with_val: Run) -> None:
    assert hint in refused(with_val, split=split)


def test_other_images_named_val_are_not_taken_for_the_split(tmp_path: Path) -> None:
    run = trained(folder(tmp_path / "mine", each=20), tmp_path / "run")
    shutil.copytree(tmp_path / "mine" / "test", tmp_path / "other" / "val")
    shutil.copytree(tmp_path / "mine" / "test", tmp_path / "other" / "more")
    evaluate(run, tmp_path / "other" / "val")
    evaluate(run, tmp_path / "other" / "more")

    assert not (run.path / "predictions-val.npz").exists()
    assert Predictions.load(run.path / "predictions-val-data.npz").split == "test"
    assert (run.path / "predictions-more.npz").is_file()


def test_reloaded_images_are_those_of_the_training(with_val: Run, digits: ImageData) -> None:
    loaded = with_val.images()

    assert loaded.val is not None
    assert digits.val is not None
    for ours, theirs in (
        (loaded.train, digits.train),
        (loaded.val, digits.val),
        (loaded.test, digits.test),
    ):
        assert ours.ids.tolist() == theirs.ids.tolist()
        np.testing.assert_array_equal(ours.images, theirs.images)
    assert loaded.fingerprint == with_val.resolved["data"]["fingerprint"]


def test_images_in_memory_are_taken_split_or_not(with_val: Run, digits: ImageData) -> None:
    whole = load_data("digits", image_size=8, split_seed=5)

    assert with_val.images(digits) is digits
    again = with_val.images(whole)
    assert again.val is not None
    assert again.val.ids.tolist() == digits.val.ids.tolist()  # type: ignore[union-attr]


def test_images_that_have_moved_are_found_where_they_are_said_to_be(tmp_path: Path) -> None:
    run = trained(folder(tmp_path / "mine", each=20), tmp_path / "run")
    shutil.move(tmp_path / "mine", tmp_path / "moved")

    with pytest.raises(ResightError, match="have moved"):
        run.images()
    moved = run.images(tmp_path / "moved")
    assert (len(moved.train), len(moved.test)) == (40, 40)


def test_other_images_than_those_of_the_training_are_refused(with_val: Run, tmp_path: Path) -> None:
    run = trained(folder(tmp_path / "mine", each=20), tmp_path / "run")
    picture(tmp_path / "mine" / "train" / "cat" / "0.png", 9999)
    for call in (Run.images, lambda run: evaluate(run, split="train")):
        with pytest.raises(
            ResightError, match=r"not the ones it was trained on.*restore them"
        ) as caught:
            call(run)
        assert "\n" not in str(caught.value)
    with pytest.raises(ResightError, match="to measure on them anyway"):
        evaluate(run)
    with pytest.raises(ResightError, match="not the ones it was trained on"):
        with_val.images(tmp_path / "mine")


def test_images_of_an_unfinished_run_are_reloaded_too(tmp_path: Path) -> None:
    images = folder(tmp_path / "mine", each=20)
    options = {"reporter": StopAt(1, interrupt), "out": tmp_path / "cut"}
    with pytest.raises(resight.Interrupted):
        resight.train(tiny("digits", **{"data.val_fraction": 0.1}), images, **options)
    loaded = load_run(tmp_path / "cut").images()

    assert (len(loaded.train), len(loaded.val or ()), len(loaded.test)) == (36, 4, 40)


def test_a_run_that_has_not_begun_has_no_images(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write("recipe.json", tiny("digits").to_dict())

    with pytest.raises(ResightError, match="not started"):
        run.images()


def test_images_in_memory_of_another_kind_are_refused(tmp_path: Path) -> None:
    recipe = tiny("digits")
    grey = images_for(recipe, channels=1)
    run = trained(grey, tmp_path / "run")

    assert run.images(grey) is grey
    with pytest.raises(ResightError, match="not the ones it was trained on"):
        run.images(make_data(size=8, channels=3))


def test_labels_of_a_split_follow_the_names_of_the_classes(tmp_path: Path) -> None:
    """A folder's name can be spelt in two ways that look the same."""
    images = folder(tmp_path / "mine", (unicodedata.normalize("NFC", "é"), "z"), each=20)
    run = trained(images, tmp_path / "run")

    assert evaluate(run, split="train").labels.tolist() == [0] * 20 + [1] * 20


def test_other_images_without_a_split_are_all_measured_and_that_is_said(tmp_path: Path) -> None:
    images = folder(tmp_path / "mine", each=20)
    run = resight.train(
        tiny("digits"), images, out=tmp_path / "run", reporter=Quiet(), report=False
    )
    for i in range(25):
        picture(tmp_path / "other" / "cat" / f"{i}.png", 7000 + i)
    listener = Listener()
    measured = resight.evaluate(run, tmp_path / "other", reporter=listener)
    assert len(measured) == 25  # one of the run's classes alone is enough
    note = f"note: no test split in {tmp_path / 'other'}: all 25 images are evaluated"
    assert note in listener.lines


def test_evaluate_keeps_to_the_precision_of_the_run(tmp_path: Path) -> None:
    images = folder(tmp_path / "mine", each=20)
    options = {"out": tmp_path / "run", "reporter": Quiet()}
    run = resight.train(tiny("digits"), images, precision="fp32", report=False, **options)
    before = run.predictions.logits
    assert np.array_equal(resight.evaluate(run).logits, before)


def test_evaluate_finds_classes_by_name(data: ImageData, out: Path) -> None:
    run = fit(tiny("digits"), data, out)
    reordered = ImageData(
        **{
            **data.__dict__,
            "classes": ("class 2", "class 0", "class 1"),
            "test": type(data.test)(
                data.test.images, np.array([1, 2, 0])[data.test.labels], data.test.ids
            ),
        }
    )
    assert resight.evaluate(run, reordered, precision="fp32").accuracy == run.predictions.accuracy
    unknown = ImageData(**{**data.__dict__, "classes": ("class 0", "class 1", "whale")})
    with pytest.raises(ResightError, match="class 'whale' is not one of the run's classes"):
        resight.evaluate(run, unknown)
