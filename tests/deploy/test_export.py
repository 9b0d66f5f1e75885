"""`export`: what it writes is checked, goes where it may, and answers as the run does."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
import yaml
from onnx import numpy_helper
from typer.testing import CliRunner

import resight
from deploying import predictor
from helpers import make_data, pictures
from resight.cli.app import app
from resight.comparison.pairs import PairTest
from resight.data.types import ImageData
from resight.deploy import export as module
from resight.deploy import int8, portable
from resight.deploy.export import export
from resight.deploy.hub import config_bytes
from resight.deploy.int8 import EVERYONE, calibration_images, good_enough, paired, quantised
from resight.deploy.onnx_graph import facts, metadata, onnx_model
from resight.deploy.onnx_session import Session
from resight.deploy.portable import load_predictor
from resight.engine.forward import UNSURE
from resight.errors import ResightError
from resight.intervals import exact_p
from resight.runs.manifest import check_files
from resight.runs.run import MODEL, Run, load_run
from trainings import Listener, fit, resume, tiny

CLASSES = ("a cat", '<b>"dog"</b>\u202e', "🦉: owl")


@pytest.fixture(scope="module")
def images() -> ImageData:
    made = make_data(size=8, channels=1, val=20)
    return dataclasses.replace(made, classes=CLASSES)


@pytest.fixture(scope="module")
def finished(images: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """In a folder of its own, which no test writes to."""
    changes = {"data.fit": "pad", "evaluate.tta": "flip"}
    return fit(tiny("digits", **changes), images, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    return load_run(shutil.copytree(finished.path, tmp_path / "run"))


def test_an_onnx_file_is_checked_on_the_whole_test_split(run: Run, images: ImageData) -> None:
    written = export(run, "onnx", data=images)
    assert written.path == run.path / "export" / "model.onnx"
    assert written.files == (written.path,)
    assert written.check is not None
    assert written.check.images == len(images.test)
    assert written.check.difference < 1e-5
    said = written.check.predictions
    assert said is not None
    np.testing.assert_allclose(said.logits, run.predictions.logits, atol=1e-4)  # fp32, flip
    session = Session(written.path.read_bytes())
    np.testing.assert_array_equal(session(images.test.images), said.logits)
    about = metadata(onnx.load(written.path))
    assert about["classes"] == list(CLASSES)
    assert (about["fit"], about["tta"], about["weights"]) == ("pad", "flip", "fp32")
    assert about["temperature"] == run.temperature
    text = str(written)
    assert "checked  all 30 test images: the fp32 net's class, logits within" in text
    low, high = said.accuracy_interval
    assert f"{said.accuracy:.2%} (95% CI: {low:.2%} to {high:.2%}, 30 images)" in text
    assert (
        f"the run recorded {run.predictions.accuracy:.2%}, in fp32: another class for 0 of" in text
    )
    assert "opset 18, fp32; images uint8 (N, 8, 8, 1); TTA flip" in text
    assert max(map(len, text.splitlines()[1:])) <= 80


def test_exports_leave_the_run_as_it_was(run: Run, images: ImageData) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for _ in range(2):  # the second replaces the first
        export(run, "safetensors")
    assert {path: path.read_bytes() for path in before} == before
    check_files(run.path)
    resume(run.path, images)
    assert load_run(run.path).predictions.accuracy == run.predictions.accuracy
    assert (run.path / "export" / MODEL).is_file()


def test_a_file_that_differs_is_not_kept(
    run: Run, images: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = predictor("custom-resnet", channels=1, px=8)
    monkeypatch.setattr(module, "onnx_model", lambda *rest: onnx_model(other, {}))
    with pytest.raises(ResightError, match="not what the net is, so it was not kept"):
        export(run, "onnx", data=images)
    assert not (run.path / "export").exists()


def test_missing_images_are_said_and_random_ones_checked(run: Run) -> None:
    written = export(run, "onnx")  # their source was memory
    assert written.check is not None
    assert (written.check.images, written.check.predictions) == (64, None)
    text = " ".join(str(written).split())
    assert "checked 64 random images only: the fp32 net's class, logits within" in text
    assert "not the run's test images: " in text
    assert f"'{run.resolved['data']['source']}'" in text
    with pytest.raises(ResightError, match="8 bits are calibrated on the run's training images"):
        export(run, "onnx", int8=True)
    with pytest.raises(ResightError, match="no such"):
        export(run, "onnx", data="no such place")


def test_safetensors_hold_the_same_tensors_and_all_that_they_need(
    run: Run, images: ImageData
) -> None:
    written = export(run, "safetensors")
    mine = safetensors.numpy.load(written.path.read_bytes())
    theirs = safetensors.numpy.load((run.path / MODEL).read_bytes())
    assert mine.keys() == theirs.keys()
    assert all((mine[key] == theirs[key]).all() for key in mine)
    assert_loads_alike(run, written.path, images)
    with pytest.raises(ResightError, match="does not say how photos become squares"):
        load_predictor(run.path / MODEL)


def assert_loads_alike(run: Run, path: Path, images: ImageData) -> None:
    """Bit for bit, from wherever it lies."""
    away = path.rename(run.path.parent / "elsewhere")
    ours, theirs = run.predictor(), load_predictor(away, precision="fp32")
    logits = theirs.logits(images.test.images)
    np.testing.assert_array_equal(logits, ours.logits(images.test.images))
    np.testing.assert_array_equal(logits, run.predictions.logits)
    assert (theirs.fit, theirs.temperature) == ("pad", run.temperature)
    assert theirs.temperature != 1
    assert theirs.classes == CLASSES
    again = load_predictor(run.path).logits(images.test.images)
    np.testing.assert_array_equal(again, logits)


def test_a_hub_folder_loads_back_and_its_card_is_filled_in(run: Run, images: ImageData) -> None:
    written = export(run, "hub-folder", data=images, licence="cc-by-4.0")
    names = {str(file.relative_to(written.path)) for file in written.files}
    assert names == {"README.md", "config.json", MODEL, "onnx/model.onnx"}
    card = (written.path / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["license"] == "cc-by-4.0"
    assert values["library_name"] == "resight"
    assert values["pipeline_tag"] == "image-classification"
    (entry,) = values["model-index"]
    (result,) = entry["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"name": "made", "type": "made", "split": "test"}
    measured = round(run.predictions.accuracy, 6)
    assert result["metrics"] == [{"name": "Accuracy", "type": "accuracy", "value": measured}]
    low, high = run.predictions.accuracy_interval
    assert f"{run.predictions.accuracy:.2%} (95% CI: {low:.2%} to {high:.2%}, 30 images)" in text
    assert "70 images to train on, 20 for validation, 30 to test" in text
    assert "between grey borders, in grey" in text
    assert f"fitted on validation images ({run.temperature:.3g})" in text
    assert "resight.load_predictor" in text
    assert written.check is not None
    assert written.check.predictions is not None
    assert f"`onnx/model.onnx` (test accuracy {written.check.predictions.accuracy:.2%})" in text
    assert "<b>" not in text
    assert "\u202e" not in text
    assert "More information needed" not in text
    config = json.loads((written.path / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {str(i): name for i, name in enumerate(CLASSES)}
    assert config["recipe"] == run.recipe.with_changes({"data.source": "made"}).to_dict()
    for file in written.files:
        assert str(run.path).encode() not in file.read_bytes()
    assert_loads_alike(run, written.path, images)


def test_without_onnx_a_hub_folder_says_so_and_keeps_no_older_file(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run.path / "export" / "hub" / "onnx" / "model.onnx"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of an older export")
    monkeypatch.setattr("resight.extras.find_spec", lambda name: None)
    text = str(export(run, "hub-folder"))
    assert "without onnx/, which needs `pip install 'resight[onnx]'`" in text
    assert "licence is unknown" in text
    assert not old.exists()
    with pytest.raises(ResightError, match=r"onnxscript and onnxruntime missing; pip install"):
        export(run, "onnx")


def test_a_config_says_what_the_onnx_file_says(run: Run) -> None:
    ours = predictor("fastnet", temperature=1.5)
    config = json.loads(config_bytes(facts(ours), run.recipe, "pets"))
    assert {key: config[key] for key in facts(ours)} == facts(ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onxx"}, "to = 'onxx'; did you mean 'onnx'"),
        ({"to": "safetensors", "int8": True}, "--int8 is of ONNX files"),
        ({"to": "hub-folder", "licence": "my own!"}, "one of the Hub's identifiers"),
        ({"to": "onnx", "licence": "mit"}, "of a model card, which only --to hub-folder writes"),
        ({"to": "safetensors", "out": "no/such/file"}, "there is no folder no/such"),
    ],
)
def test_what_is_asked_for_must_make_sense(run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ResightError, match=message):
        export(run, **options)


def test_nothing_of_somebody_else_is_replaced(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("mine")
    linked, folder, full = tmp_path / "link", tmp_path / "folder", tmp_path / "full"
    linked.symlink_to(tmp_path / "nowhere")
    folder.mkdir()
    (full / "inside").mkdir(parents=True)
    for place in (own, linked, folder):
        with pytest.raises(ResightError, match="is there already: remove it, or choose another"):
            export(run, "safetensors", place)
    with pytest.raises(ResightError, match="is there already"):
        export(run, "hub-folder", full)
    own.rename(tmp_path / "new-int8.onnx")
    with pytest.raises(ResightError, match=r"new-int8\.onnx is there already"):
        export(run, "onnx", tmp_path / "new.onnx", int8=True)
    own = own.with_name("new-int8.onnx")
    assert own.read_text() == "mine"
    (run.path / "export").symlink_to(folder)
    with pytest.raises(ResightError, match="export is a link, and export follows none"):
        export(run, "safetensors")
    assert not [*folder.iterdir()]
    (run.path / "export").unlink()
    (run.path / "export" / "hub").mkdir(parents=True)
    (run.path / "export" / "hub" / "config.json").symlink_to(own)
    with pytest.raises(ResightError, match=r"config\.json is a link"):
        export(run, "hub-folder")
    assert own.read_text() == "mine"
    assert export(run, "safetensors", tmp_path / "new").files == (tmp_path / "new",)


def test_unfinished_and_damaged_runs_are_refused(run: Run) -> None:
    weights = run.path / MODEL
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ResightError, match="is not what the run wrote"):
        export(run, "safetensors")
    (run.path / "result.json").unlink()
    done = CliRunner().invoke(app, ["export", str(run.path), "--to", "safetensors"])
    assert done.exit_code == 2
    assert "has not finished, so there is no net to export: resume it with" in done.output
    assert len(done.output.splitlines()) == 1


def test_the_command_prints_what_it_wrote(run: Run) -> None:
    done = CliRunner().invoke(app, ["export", str(run.path), "--to", "safetensors"])
    assert done.exit_code == 0, done.output
    path = run.path / "export" / MODEL
    assert done.output.splitlines()[0].startswith(f"wrote    {path}, ")
    assert f'resight.load_predictor("{path}")' in done.output


def test_8_bits_are_kept_where_they_lose_nothing_that_matters() -> None:
    def pair(only_a: int, only_b: int, images: int) -> PairTest:
        p = exact_p(only_a, only_b)
        return PairTest("float", "int8", images, only_a, only_b, 0, p, p)

    assert good_enough(pair(3, 1, 1000))  # 0.2 points
    assert not good_enough(pair(4, 1, 1000))  # 0.3
    assert not good_enough(pair(12, 1, 10000))  # 0.11, but p = 0.003
    assert good_enough(pair(1, 12, 1000))  # better
    labels = np.array([0, 1, 1, 0, 1])
    plain = np.eye(3, dtype=np.float32)[[0, 1, 0, 2, 2]]
    small = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
    found = paired(labels, plain, small)
    assert (found.only_a, found.only_b, found.both_wrong, found.images) == (1, 1, 1, 5)
    assert (found.p, found.p_holm) == (1, 1)


@pytest.mark.parametrize("logit_scale", [1.5, UNSURE, EVERYONE])
def test_the_8_bit_file_has_seven_bits_per_channel_and_both_ways(logit_scale: float) -> None:
    ours = predictor("fastnet", tta="flip-shift-unsure", logit_scale=logit_scale, px=9)
    model = onnx_model(ours, {})
    images = pictures(24, size=9)
    before = model.SerializeToString()
    small = onnx.load_from_string(quantised(model, images, 10))
    assert model.SerializeToString() == before
    tensors = {one.name: numpy_helper.to_array(one) for one in small.graph.initializer}
    (threshold,) = [node.input[1] for node in small.graph.node if node.op_type == "Less"]
    assert tensors[threshold] == np.float32(UNSURE)
    used = {name for node in small.graph.node for name in node.input}
    assert not tensors.keys() - used
    weights = [value for value in tensors.values() if value.dtype == np.int8 and value.ndim == 4]
    assert weights
    assert all(np.abs(value).max() <= 64 for value in weights)
    per_channel = [n for n in small.graph.node if n.op_type == "DequantizeLinear"]
    assert any(tensors[node.input[1]].ndim == 1 for node in per_channel)
    ranges = [value for name, value in tensors.items() if name.endswith("_scale")]
    assert all(np.isfinite(value).all() and (value > 0).all() for value in ranges)
    assert metadata(small) == {**metadata(model), "weights": "int8"}
    np.testing.assert_allclose(
        Session(small.SerializeToString())(images), ours.logits(images), atol=0.2
    )


def test_8_bits_are_calibrated_on_training_images_and_measured_on_test(
    run: Run, images: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def spy(model: Any, some: Any, at_once: int) -> bytes:
        seen.append(some)
        return quantised(model, some, at_once)

    monkeypatch.setattr(int8, "quantised", spy)
    listener = Listener()
    written = export(run, "onnx", data=images, keep_int8=True, reporter=listener)
    assert written.int8 is not None
    assert written.int8.kept
    assert written.files[1] == run.path / "export" / "model-int8.onnx"
    np.testing.assert_array_equal(seen[0], images.train.images)
    said = Session(written.files[1].read_bytes())(images.test.images)
    assert written.int8.accuracies[1] == (said.argmax(1) == images.test.labels).mean()
    assert written.int8.test.images == 30
    assert "calibrating 8 bits on 70 training images" in listener.lines
    text = str(written)
    assert str(written.int8.test) in " ".join(text.split())
    assert "images/s, float" in text


def test_many_training_images_are_thinned_evenly() -> None:
    images = np.arange(1000, dtype=np.uint16)[:, None, None, None]
    rows = calibration_images(images)[:, 0, 0, 0]  # type: ignore[arg-type]
    assert len(rows) == 256
    assert (rows[0], rows[-1]) == (0, 999)
    assert set(np.diff(rows)) == {3, 4}
    assert portable.load_predictor is resight.load_predictor
