"""Images shown to a trained net: what it says of them is what was measured; what is no image is
named and left out."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import resight
from helpers import folder, picture
from resight.cli.app import app
from resight.deploy.paths import image_files
from resight.deploy.predict import predict, price_of
from resight.errors import ResightError, ResightWarning
from resight.look.evaluate import evaluate
from resight.progress import Quiet
from resight.runs.answers import Answers
from resight.runs.calibration import fit_temperature
from resight.runs.run import Run
from trainings import tiny

SIZE = (13, 9)  # rows and columns: not square, not the net's


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for k, name in enumerate(("cat", "dog")):
        for split, count in (("train", 20), ("test", 15)):
            for i in range(count):
                picture(
                    root / split / name / f"{i}.png", 1000 * k + 100 * (split == "test") + i, SIZE
                )
    return root


@pytest.fixture(scope="module", params=["crop", "pad"])
def run(
    request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    changes = {"data.fit": request.param, "data.val_fraction": 0.2, "evaluate.tta": "flip"}
    return resight.train(
        tiny("digits", **changes),
        photos,
        out=tmp_path_factory.mktemp("runs") / "run",
        reporter=Quiet(),
        precision="fp32",
        report=False,
    )


def test_what_it_says_of_the_test_images_is_what_was_measured(run: Run, photos: Path) -> None:
    measured = evaluate(run)
    said = predict(run, [photos / "test" / name.split("/", 1)[1] for name in measured.ids.tolist()])

    assert np.array_equal(said.logits, measured.logits)
    assert said.predicted == [said.classes[i] for i in measured.predicted]
    assert run.temperature is not None
    assert (
        said.temperature
        == run.temperature
        == fit_temperature(run.predictions_in("predictions-val.npz"))
    )
    scaled = torch.from_numpy(measured.logits / np.float32(run.temperature))
    assert np.allclose(said.probabilities, scaled.softmax(1).numpy(), atol=1e-6)


def test_many_files_are_shown_in_chunks(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(run, [photos / "test"])
    monkeypatch.setattr("resight.deploy.predict.images_at_once", lambda size, runtime: 1)
    monkeypatch.setattr("resight.deploy.predict.PASSES_PER_CHUNK", 7)
    pieces = predict(run, [photos / "test"])
    assert pieces.ids == whole.ids
    assert np.allclose(pieces.logits, whole.logits, atol=1e-5)


def test_a_picture_may_be_a_path_an_image_an_array_or_a_tensor(run: Run, photos: Path) -> None:
    path = photos / "test" / "cat" / "3.png"
    pixels = np.asarray(Image.open(path))
    rgba = np.concatenate([pixels, np.full((*SIZE, 1), 255, np.uint8)], axis=2)
    expected = run.predict(path)
    assert expected.ids == (str(path),)
    assert len(expected) == 1
    for same in (
        str(path),
        path.open("rb"),
        Image.open(path),
        pixels,
        rgba,
        pixels / 255,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        torch.from_numpy(pixels / 255).permute(2, 0, 1),
        [path],
        pixels[None],
        torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None],
    ):
        assert np.array_equal(run.predict(same).logits, expected.logits), type(same)
    several = run.predict([path, pixels])
    assert several.ids == (str(path), "1")
    grey = run.predict(pixels[..., 0])
    assert np.array_equal(grey.logits, run.predict(pixels[..., :1].repeat(3, axis=2)).logits)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.full((8, 8, 3), 1.5), r"floating-point values must have them in \[0, 1\]"),
        (np.full((8, 8, 3), np.nan), r"in \[0, 1\]"),
        (np.zeros((8, 8, 3), np.int64), "an image of int64 must be uint8"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\) must be \(H, W\) or \(H, W, C\)"),
        (torch.zeros(8, 8, 3), r"shape \(8, 8, 3\) must be \(H, W\) or \(C, H, W\)"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        (b"", "an image is of type bytes: must be a path, an open file"),
        (7, "an image is of type int: must be"),
        (None, "an image is of type NoneType: must be"),
        (io.BytesIO(b"no image"), "an image: not an image"),
        ("nowhere.png", r"nowhere\.png: No such file"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_line(run: Run, picture: object, said: str) -> None:
    with pytest.raises(ResightError, match=said):
        run.predict([picture])  # type: ignore[list-item]


def test_what_cannot_be_read_is_named_and_left_out(run: Run, photos: Path, tmp_path: Path) -> None:
    good, bad, pipe = photos / "test" / "cat" / "0.png", tmp_path / "bad.png", tmp_path / "pipe"
    bad.write_bytes(b"nothing")
    os.mkfifo(pipe)
    answers = predict(run, [bad, good, tmp_path / "gone.png", pipe])
    assert answers.ids == (str(good),)
    assert answers.unreadable == {
        str(bad): "not an image",
        str(tmp_path / "gone.png"): "No such file or directory",
        str(pipe): "not a regular file",
    }
    with pytest.raises(
        ResightError, match=r"none of 1 files could be read.*bad\.png: not an image"
    ):
        predict(run, [bad])
    with pytest.raises(ResightError, match="no image: give files"):
        predict(run, [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResightError, match=r"no image in '.*empty': give files"):
        predict(run, tmp_path / "empty")


def test_one_path_may_be_given_alone(run: Run, photos: Path) -> None:
    path = photos / "test" / "cat" / "0.png"
    assert predict(run, path).ids == predict(run, str(path)).ids == (str(path),)


def test_a_lost_calibration_is_an_error(run: Run, tmp_path: Path, photos: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run.path, copied)
    (copied / "predictions-val.npz").unlink()
    with pytest.raises(ResightError, match=r"predictions-val\.npz is missing: .*--split val"):
        predict(copied, photos)
    (copied / "predictions-val.npz").write_bytes(b"nothing")
    (copied / "manifest.json").unlink()
    with (
        pytest.warns(ResightWarning, match="was removed"),
        pytest.raises(ResightError, match=r"`resight evaluate \S+ --split val` writes it again"),
    ):
        predict(copied, photos)


def test_which_files_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/2.png", "a/10.png", "a/b/1.png", "c.png", "[x].png"):
        picture(tmp_path / name, 1)
    (tmp_path / "a" / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    inside = ["a/10.png", "a/2.png", "a/b/1.png"]  # as the file system's order is sorted
    assert image_files(["a"]) == inside
    assert image_files(["a/*.png", "c.png"]) == ["a/2.png", "a/10.png", "c.png"]
    assert image_files(["a/**"]) == ["a/2.png", "a/10.png", "a/b/1.png", "a/notes.txt"]
    assert image_files(["[x].png"]) == ["[x].png"]
    assert image_files(["c.png", "c.png", "no*.png"]) == ["c.png", "no*.png"]
    assert image_files(["-"], b"c.png\r\n\na\n") == ["c.png", *inside]
    assert image_files(["-"], b"c.png\0a\0") == ["c.png", *inside]  # find -print0
    assert image_files(["-"]) == ["-"]
    assert image_files(["a\0*"]) == ["a\0*"]
    with pytest.raises(ResightError, match="a path is empty"):
        image_files([""])
    with pytest.raises(ResightError, match="no list of file names"):
        image_files(["-"], (tmp_path / "c.png").read_bytes() + b"\xff")


def test_what_a_folder_hides_is_named_and_the_rest_is_there(tmp_path: Path) -> None:
    for name in ("a/1.png", "z/2.png"):
        picture(tmp_path / name, 1)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert image_files([str(tmp_path)]) == [
        str(tmp_path / name) for name in ("a/1.png", "loop.png", "z/2.png")
    ]


def test_a_folder_that_cannot_be_searched_is_named_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.png", "locked/2.png"):
        picture(tmp_path / name, 1)
    scan = os.scandir

    def refusing(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert image_files([str(tmp_path)]) == [str(tmp_path / "a/1.png"), str(tmp_path / "locked")]


def answers() -> Answers:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], dtype=np.float32))
    return Answers(logits, ("a.png", "=b.png"), ("cat", "dog", "owl"), min_confidence=0.5)


def test_answers_below_the_confidence_are_none_of_the_classes() -> None:
    some = answers()
    assert some.predicted == ["cat", None]
    assert some.headline == "2 images: 1 cat, 1 none of these"
    numbers = Answers(some.logits, some.ids, ("7", "8", "9"))
    assert numbers.headline == "2 images: 1 class 7, 1 class 9"
    assert str(some) == "a.png: cat (70.0%)\n=b.png: none of these (40.0%)"
    first, second = some.rows(top=2)
    assert first["id"] == "a.png"
    assert [one["class"] for one in first["top"]] == ["cat", "dog"]
    assert [one["probability"] for one in first["top"]] == pytest.approx([0.7, 0.2])
    assert second["predicted"] is None
    assert [one["class"] for one in second["top"]] == ["owl", "cat"]  # of equal ones the first
    assert second["confidence"] == pytest.approx(0.4)
    assert "none of these" in some._repr_html_()


def test_a_temperature_changes_probabilities_alone() -> None:
    logits = np.array([[2.0, 0.0]], dtype=np.float32)
    cool = Answers(logits, ("a",), ("cat", "dog"), temperature=2.0)
    assert cool.probabilities[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert cool.predicted == ["cat"]


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_a_confidence_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(ResightError, match="min_confidence"):
        Answers(np.zeros((1, 2), np.float32), ("a",), ("cat", "dog"), min_confidence=wrong)
    with pytest.raises(ResightError, match=r"top = 0 must be an integer ≥ 1"):
        answers().rows(0)


def test_rows_are_written_as_csv_and_lines_of_json(tmp_path: Path) -> None:
    answers().to_csv(tmp_path / "rows.csv", top=2)
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == [
        *("id", "predicted", "confidence"),
        *("class_1", "probability_1", "class_2", "probability_2"),
    ]
    assert [row["id"] for row in rows] == ["a.png", "'=b.png"]  # no formula
    assert [row["predicted"] for row in rows] == ["cat", ""]
    assert float(rows[0]["probability_2"]) == pytest.approx(0.2)
    lines = [json.loads(line) for line in answers().json_lines(top=1)]
    assert [line["id"] for line in lines] == ["a.png", "=b.png"]


def test_the_price_of_a_confidence_is_counted_on_the_validation_split(run: Run) -> None:
    predictions = run.predictions_in("predictions-val.npz")
    shares = torch.from_numpy(predictions.logits / np.float32(run.temperature)).softmax(1).numpy()
    limit = float(np.median(shares.max(1)))
    sure = shares.max(1) >= limit
    right = (predictions.predicted == predictions.labels)[sure].mean()
    said = price_of(run, limit)
    assert f"{sure.mean():.1%} of the {len(sure)} validation images get an answer" in said
    assert f"{right:.1%} of these answers are right" in said
    assert "choose a lower one" in price_of(run, 1.0)


def test_maps_are_drawn_over_the_photos_at_their_own_size(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    files = [photos / "test" / name / "0.png" for name in ("cat", "dog")]
    predict(run, files, cam=tmp_path / "new" / "maps")
    assert sorted(file.name for file in (tmp_path / "new" / "maps").iterdir()) == [
        "0-2.jpg",
        "0.jpg",
    ]
    with Image.open(tmp_path / "new" / "maps" / "0.jpg") as image:
        assert image.size == (SIZE[1], SIZE[0])
    before = files[0].read_bytes()
    with pytest.raises(ResightError, match="is not empty, and nothing in it is replaced"):
        predict(run, files, cam=files[0].parent)
    assert files[0].read_bytes() == before


def said(*words: object, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["predict", *map(str, words)], input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_the_verb_prints_a_table(run: Run, photos: Path) -> None:
    code, out, err = said(run.path, photos / "test" / "cat", "gone.png", "--top", 1)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 15 + 1
    assert lines[0].startswith(str(photos / "test" / "cat" / "0.png"))
    assert lines[-1].startswith("15 images: ")
    assert lines[-1].endswith("; 1 could not be read")
    assert err == "not read: gone.png: No such file or directory\n"


def test_the_verb_reads_names_from_standard_input(run: Run, photos: Path) -> None:
    files = [photos / "test" / "dog" / f"{i}.png" for i in (4, 2)]
    assert said(run.path, "-", stdin="")[0] == 2
    closed = f"{shlex.quote(sys.executable)} -m resight predict {shlex.quote(str(run.path))} - <&-"
    done = subprocess.run(closed, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard input is closed")
    code, out, _ = said(run.path, "-", "--json", stdin="\n".join(map(str, files)))
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == list(map(str, files))


def test_the_verb_says_what_a_confidence_costs(run: Run, photos: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    code, out, _ = said(run.path, photos / "test", "--min-confidence", 0.5, "--csv", rows)
    assert code == 0
    assert "at 0.5  " in out
    photo = photos / "test" / "cat" / "0.png"
    code, _, err = said(run.path, photo, "--csv", photo)
    assert code == 2
    assert "does not end in .csv, so it is not replaced" in err
    assert Image.open(photo).size == (SIZE[1], SIZE[0])
    assert len(rows.read_text().splitlines()) == 31
    code, piped, err = said(run.path, photos / "test", "--min-confidence", 0.5, "--csv", "-")
    assert (code, piped) == (0, rows.read_text())
    assert "30 images: " in err
    assert said(run.path, photos, "--csv", "-", "--json")[0] == 2
    assert said(run.path, photos, "--min-confidence", 2)[0] == 2
    code, _, err = said(run.path, "gone.png")
    assert (code, err) == (
        2,
        "error: none of 1 files could be read; the first: gone.png: No such file or directory\n",
    )


def test_unfinished_runs_have_nothing_to_say(run: Run, tmp_path: Path) -> None:
    for name in ("recipe.json", "resolved.json", "environment.json", "manifest.json"):
        (tmp_path / name).write_bytes((run.path / name).read_bytes())
    code, _, err = said(tmp_path, "x.png")
    assert code == 2
    assert "the run has not finished" in err


def test_a_folder_of_photos_in_a_class_is_no_split(tmp_path: Path) -> None:
    assert image_files([str(folder(tmp_path))])[0] == str(tmp_path / "test" / "cat" / "0.png")
