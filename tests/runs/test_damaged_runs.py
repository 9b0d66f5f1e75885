"""Run folders with damaged, edited or swapped files: each is named in one line, none is used."""

from __future__ import annotations

import json
import random
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import resight
from damaging import refusals
from helpers import make_data
from resight.errors import ResightError, ResightWarning
from resight.runs.manifest import MANIFEST
from resight.runs.run import load_run
from trainings import StopAt, assert_same_run, fit, interrupt, resume, tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*manifest.json was removed")

DATA = make_data(val=12)
WRITTEN = ("model.safetensors", "predictions.npz", "metrics.jsonl")
JSON = ["recipe.json", "resolved.json", "environment.json", "result.json", "diagnosis.json"]
CONTENTS = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[1]",
    "a number": b"3",
    "null": b"null",
    "no keys": b"{}",
    "no UTF-8": b"\xff\xfe",
    "deep": b"[" * 5000 + b"]" * 5000,
    "5,000 digits": b'{"format": ' + b"9" * 5000 + b"}",
    "NaN": b'{"lr_max": NaN}',
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    return fit(tiny("digits", **{"train.early_stop": 9}), DATA, out).path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(resight.Interrupted):
        fit(tiny("digits"), DATA, out, reporter=StopAt(5, interrupt))
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("listed", [True, False])
def test_a_damaged_file_is_named(
    name: str, content: bytes, copied: Path, finished: Path, *, listed: bool
) -> None:
    (copied / name).write_bytes(content)
    if not listed:  # as in a run of an older version
        (copied / MANIFEST).unlink()
    said = refusals(copied, finished, DATA)
    assert said
    assert all(str(copied / name) in line or "manifest" in line for line in said), said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is empty"),
        ('{"a"', "it is not JSON from line 1, column 5 on"),
        ("[1]", "it must be a table"),
        ("[" * 99_999, "its brackets are too deep inside each other"),
        ('{"lr_max": NaN}', "NaN is not a finite number"),
        ("{}", "run is missing"),
        ('{"run": "a", "recipe": 3}', "recipe = 3 must be text"),
        ('{"run": "a", "recipe": "b", "data": "c", "seed": 1.5}', "seed = 1.5 must be an integer"),
        (
            '{"run": "a", "recipe": "b", "data": "c", "seed": 1, "epochs": 0}',
            "epochs = 0 must be ≥ 1",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_plain_words(
    content: str, said: str, copied: Path
) -> None:
    (copied / MANIFEST).unlink()
    (copied / "result.json").write_text(content)
    with pytest.raises(ResightError) as refused:
        _ = load_run(copied).result
    assert str(refused.value) == (
        f"{copied / 'result.json'} is not as Resight writes it: {said}; restore it or start a new "
        "run"
    )


@pytest.mark.parametrize(
    "name",
    ["recipe.json", "resolved.json", "environment.json", "last.pt", "metrics.jsonl", "result.json"],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_folder_in_place_of_an_unfinished_runs_file_is_named(
    name: str, stopped: Path, tmp_path: Path, *, listed: bool
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    if not listed:
        (run / MANIFEST).unlink()
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    with pytest.raises(ResightError, match=f"{run / name}: .* folder.*move it away"):
        resume(run, DATA)


@pytest.mark.parametrize("name", ["metrics.jsonl", "model.safetensors", "predictions.npz"])
@pytest.mark.parametrize("content", [b"", b"{}\n", b"PK\x03\x04", b"\0" * 999])
def test_other_content_is_named(name: str, content: bytes, copied: Path, finished: Path) -> None:
    (copied / MANIFEST).unlink()
    (copied / name).write_bytes(content)
    said = refusals(copied, finished, DATA)
    assert said
    assert all(str(copied / name) in line for line in said), said


@pytest.mark.parametrize("name", ["model.safetensors", "predictions.npz", "recipe.json"])
def test_a_file_of_another_run_is_refused(
    name: str, copied: Path, finished: Path, tmp_path: Path
) -> None:
    other = fit(tiny("digits", **{"train.seed": 1}), DATA, tmp_path / "other").path
    shutil.copy(other / name, copied / name)
    said = refusals(copied, finished, DATA)
    assert any(f"{name} is not what the run wrote" in line for line in said)


def test_lost_metrics_are_written_by_the_command_that_is_named(copied: Path) -> None:
    path = copied / "metrics.jsonl"
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(ResightError) as refused:
        _ = load_run(copied).metrics
    assert str(refused.value) == (
        f"{path} is missing: restore it, or write it with `resight train --resume {copied}`"
    )
    resume(copied, DATA)
    assert path.read_bytes() == kept


def test_rows_that_are_cut_short_or_no_epochs_are_refused(copied: Path) -> None:
    (copied / MANIFEST).unlink()
    path = copied / "metrics.jsonl"
    first, second, third = path.read_text().splitlines(keepends=True)
    for lines, words in {
        first + second: "2 of 3 epochs",
        first + third + second: "row 2 is of epoch 3",
        first + "{}\n" + third: "line 2 is not as Resight writes it: epoch is missing; restore it",
        first
        + second.replace('"lr": ', '"lr": -')
        + third: "line 2 is not as Resight writes it: lr = -",
    }.items():
        path.write_text(lines)
        with pytest.raises(ResightError) as refused:
            _ = load_run(copied).metrics
        assert words in str(refused.value)


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A checkpoint with other content and right checksums, in a run without a manifest."""
    (path.parent / MANIFEST).unlink(missing_ok=True)
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "step far beyond the end": lambda saved: saved.update(step=10**9),
    "step before the epochs done": lambda saved: saved.update(step=1),
    "step of another kind": lambda saved: saved.update(step="12"),
    "no model": lambda saved: saved.pop("model"),
    "no optimizer": lambda saved: saved.update(optimizer=None),
    "fewer groups": lambda saved: saved["optimizer"]["param_groups"].pop(),
    "a group's value of another kind": lambda saved: saved["optimizer"]["param_groups"][0].update(
        weight_decay="much"
    ),
    "no state of a parameter": lambda saved: saved["optimizer"]["state"].pop(0),
    "a number in place of a weight": lambda saved: saved["model"].update(
        {next(iter(saved["model"])): torch.tensor(1.0)}
    ),
    "a weight of another shape": lambda saved: saved["model"].update(
        {next(iter(saved["model"])): torch.zeros(3, 3)}
    ),
    "a weight too many": lambda saved: saved["model"].update(extra=torch.zeros(1)),
    "another trace": lambda saved: saved["trace"].update(losses=torch.zeros(1)),
    "rows of no epochs": lambda saved: saved.update(history=[3]),
    "a row without loss": lambda saved: saved["history"][0].pop("train_loss"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_checkpoint_of_another_training_is_refused(
    change: Callable[[dict[str, Any]], None], stopped: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    rewritten(run / "last.pt", change)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ResightError, match=r"last\.pt: "):
        resume(run, DATA)
    assert all((run / name).read_bytes() == content for name, content in before.items())


@pytest.mark.parametrize("listed", [True, False])
def test_each_flipped_bit_of_a_checkpoints_tensors_is_noticed(
    stopped: Path, tmp_path: Path, *, listed: bool
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    if not listed:  # torch's archives hold checksums, too
        (run / MANIFEST).unlink()
    whole = (run / "last.pt").read_bytes()
    with zipfile.ZipFile(run / "last.pt") as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    for place in np.random.default_rng(0).integers(100, largest.file_size - 100, 25).tolist():
        flipped = bytearray(whole)
        flipped[largest.header_offset + 200 + place] ^= 16
        (run / "last.pt").write_bytes(bytes(flipped))
        with pytest.raises(ResightError, match=r"last\.pt.* (is not what|damaged)"):
            resume(run, DATA)


READ: dict[str, Callable[[Path], object]] = {
    "last.pt": lambda path: load_run(path).checkpoint(),
    "model.safetensors": lambda path: load_run(path).model(),
    "predictions.npz": lambda path: load_run(path).predictions,
    "recipe.json": lambda path: load_run(path).recipe,
    "metrics.jsonl": lambda path: load_run(path).metrics,
}


@pytest.mark.parametrize("name", READ)
def test_a_flipped_bit_is_never_used(name: str, copied: Path) -> None:
    content, draws = (copied / name).read_bytes(), random.Random(name)
    for bit in draws.sample(range(8 * len(content)), 25):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (copied / name).write_bytes(flipped)
        with pytest.raises(ResightError, match=f"{name} is not what the run wrote .same size"):
            READ[name](copied)
    (copied / name).write_bytes(content)
    READ[name](copied)


def test_the_net_of_another_run_is_refused_by_all_that_use_it(
    copied: Path, finished: Path, tmp_path: Path
) -> None:
    """Also where a manifest that would tell was removed."""
    (copied / MANIFEST).unlink()
    other = fit(tiny("digits", **{"model.width": 12}), DATA, tmp_path / "other").path
    shutil.copy(other / "model.safetensors", copied / "model.safetensors")
    said = refusals(copied, finished, DATA)
    assert len(said) >= 4
    assert set(said) == {
        f"{copied / 'model.safetensors'}: not the net of this run (different architecture): "
        "restore the run's own"
    }


@pytest.mark.parametrize("name", ["environment.json", "metrics.jsonl", MANIFEST])
def test_a_file_larger_than_the_memory_is_refused_unread(
    name: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (copied / name).open("r+b") as file:
        file.truncate(6 << 40)  # nothing of it is on the disk
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: path.name == name or read(path))
    with pytest.raises(ResightError, match=f"{name}.*(6,597,069,766,656 bytes|larger than)"):
        _ = load_run(copied).environment, load_run(copied).metrics


def test_what_a_finished_run_lacks_is_not_put_down_to_its_not_having_finished(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    assert resight.diagnose(copied, DATA).skipped == (
        "the net: model.safetensors of the finished run is missing; "
        f"`resight train --resume {copied}` writes it again",
    )


def test_a_model_of_another_net_is_refused(copied: Path) -> None:
    (copied / MANIFEST).unlink()
    path = copied / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    first = next(key for key, value in tensors.items() if value.ndim)
    for other, about in (
        ({**tensors, first: tensors[first][:1]}, {}),
        ({key: value for key, value in tensors.items() if key != first}, {}),
        (tensors, {"classes": ["a", "a"]}),
        (tensors, {"model": {"net": "no such"}}),
        (tensors, {"image_size": 0}),
        (tensors, {"std": [0.0]}),
    ):
        said = json.dumps({**json.loads(metadata["resight"]), **about})
        safetensors.torch.save_file(other, path, metadata={"resight": said})
        with pytest.raises(
            ResightError,
            match=r"model\.safetensors(: not a Resight model| is not as|: not the net of)",
        ):
            load_run(copied).model()


@pytest.mark.parametrize("report", [False, True])
def test_a_training_killed_after_its_result_gets_its_diagnosis_and_report(
    report: bool, copied: Path
) -> None:
    (copied / "diagnosis.json").unlink()
    before = (copied / "model.safetensors").read_bytes()
    run = resume(copied, DATA, report=report)
    assert run.diagnosis is not None
    assert (copied / "report" / "index.html").is_file() is report
    assert (copied / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_missing_of_a_finished_run_is_written_again(
    name: str, finished: Path, copied: Path
) -> None:
    (copied / name).unlink()
    run = resume(copied, DATA)
    assert_same_run(finished, run.path)
    assert run.complete


@pytest.mark.parametrize(
    "name", ["last.pt", "model.safetensors", "predictions.npz", "metrics.jsonl"]
)
def test_resuming_a_finished_run_looks_at_all_of_its_files(name: str, copied: Path) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(bytes(content))
    with pytest.raises(ResightError, match=f"{name} is not what the run wrote .same size, "):
        resume(copied, DATA)


@pytest.mark.parametrize("name", ["diagnosis.json", "recipe.json", "last.pt"])
def test_a_folder_in_the_place_of_a_file_is_named(name: str, copied: Path) -> None:
    (copied / name).unlink()
    (copied / name).mkdir()
    with pytest.raises(ResightError) as refused:
        resume(copied, DATA)
    said = f"{copied / name}: a folder is in the place of the run's file; move it away, and "
    assert str(refused.value).startswith(said)
    (copied / name).rmdir()
    if name == "diagnosis.json":
        assert resume(copied, DATA).diagnosis is not None


def test_a_removed_manifest_is_said_once(finished: Path, copied: Path) -> None:
    (copied / MANIFEST).unlink()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            load_run(copied)
            resight.evaluate(copied, DATA)  # writes a manifest without the other files
    assert [str(warning.message) for warning in said] == [
        f"{copied}: its manifest.json was removed, so files that it listed are used as they are, "
        "unchecked"
    ]
    other = Path(shutil.copytree(copied, copied.parent / "other"))
    assert (other / MANIFEST).is_file()
    with pytest.warns(ResightWarning, match="its manifest.json was removed"):
        load_run(other)
    load_run(finished)  # no warning, which would fail the test


def test_a_part_of_a_run_that_is_missing_is_named(copied: Path) -> None:
    (copied / "resolved.json").unlink()
    with pytest.raises(ResightError, match=r"resolved\.json is missing: restore it"):
        load_run(copied)
