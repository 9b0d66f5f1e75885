"""The same training again is the same, bit for bit, or what differs is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import resight
from helpers import make_data
from resight.cli.app import app
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.progress import Quiet
from resight.runs.manifest import MANIFEST
from resight.training.reproduce import compared
from trainings import StopAt, assert_same_run, fit, interrupt, tiny


def edited(run: resight.Run, name: str, **values: object) -> None:
    run.write(name, json.loads((run.path / name).read_text()) | values)


@pytest.mark.usefixtures("any_lr_test")
def test_a_run_is_trained_again_to_the_same_bits(
    data: ImageData, out: Path, tmp_path: Path
) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find", "train.ema": 0.9})
    run = fit(recipe, data, out)
    found = resight.reproduce(run, data, out=tmp_path / "again", reporter=Quiet())
    assert found.identical
    assert found.causes == ()
    assert str(found) == (
        f"{tmp_path / 'again'} is identical to {out}, bit for bit: rows, weights and predictions"
    )
    assert_same_run(out, tmp_path / "again")
    elsewhere = dataclasses.replace(found, causes=("threads 1 → 7",))
    assert str(elsewhere) == f"{found}\nmade no difference: threads 1 → 7"


def test_precision_and_threads_are_the_runs_own(data: ImageData, out: Path, tmp_path: Path) -> None:
    run = fit(tiny("digits"), data, out, precision="bf16")
    torch.set_num_threads(2)
    try:
        found = resight.reproduce(run, data, out=tmp_path / "again", reporter=Quiet())
    finally:
        torch.set_num_threads(1)
    assert found.identical
    again = resight.load_run(tmp_path / "again").environment["runtime"]
    assert (again["precision"], again["threads"]) == ("bf16", 1)


def test_what_differs_is_said_with_what_may_be_the_cause(
    data: ImageData, out: Path, tmp_path: Path
) -> None:
    run = fit(tiny("digits"), data, out)
    other = fit(tiny("digits", **{"train.seed": 1}), data, tmp_path / "other")
    environment = other.environment
    environment["runtime"] |= {"torch": "2.10.0", "threads": 7}
    other.write("environment.json", environment)

    found = compared(run, other)

    before, after = run.predictions, other.predictions
    assert not found.identical
    assert found.first_epoch == 1
    assert found.logits == abs(before.logits - after.logits).max()
    assert found.other_predictions == (before.predicted != after.predicted).sum()
    nets = [side.model().state_dict() for side in (run, other)]
    assert found.weights == max(
        float((nets[0][k].double() - nets[1][k].double()).abs().max()) for k in nets[0]
    )
    assert found.causes == (
        f"torch {torch.__version__} → 2.10.0",
        "threads 1 → 7",
    )
    text = str(found)
    assert "differs from" in text.splitlines()[0]
    assert text.splitlines()[0].endswith(", from epoch 1 on")
    assert f"{found.other_predictions} of 30 images are predicted as another class" in text
    assert max(map(len, text.splitlines()[1:])) <= 80


def test_another_lr_that_was_found_is_named(data: ImageData, out: Path, tmp_path: Path) -> None:
    run = fit(tiny("digits"), data, out)
    other = fit(tiny("digits"), data, tmp_path / "other")
    schedule = other.resolved["schedule"]
    other.write("resolved.json", other.resolved | {"schedule": schedule | {"lr_max": 0.01}})
    other.write("environment.json", other.environment | {"cpu_kernels": "DEFAULT"})
    kernels = torch.backends.cpu.get_cpu_capability()
    assert compared(run, other).causes == (
        f"CPU kernels {kernels} → DEFAULT",
        "lr_max found 0.02 → 0.01",
    )


def test_an_early_stop_elsewhere_is_a_difference(
    data: ImageData, out: Path, tmp_path: Path
) -> None:
    run = fit(tiny("digits"), data, out)
    shorter = fit(tiny("digits"), data, tmp_path / "again")
    (shorter.path / MANIFEST).unlink()
    rows = (shorter.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (shorter.path / "metrics.jsonl").write_text("".join(rows[:2]))
    edited(shorter, "result.json", epochs_trained=2)
    assert compared(run, shorter).first_epoch == 3


def test_a_run_that_has_not_finished_is_refused(data: ImageData, out: Path) -> None:
    with pytest.raises(resight.Interrupted):
        fit(tiny("digits"), data, out, reporter=StopAt(2, interrupt))
    with pytest.raises(ResightError, match="not finished, so there is nothing to reproduce"):
        resight.reproduce(out, data)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    words = ["train", "--recipe", "digits", "--epochs", "1", "--set", "model.width=2"]
    assert runner.invoke(app, [*words, "--no-report", "--out", "a"]).exit_code == 0
    Path("a/last.pt").write_bytes(b"damaged")  # nothing of it is needed
    again = runner.invoke(app, ["reproduce", "a", "--out", "b", "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["identical"] is True
    twice = runner.invoke(app, ["reproduce", "a", "--out", "b"])
    assert twice.exit_code == 2
    assert "already holds a run" in twice.stderr


def test_what_stands_against_it_is_said_before_anything_is_trained(
    data: ImageData, out: Path, tmp_path: Path
) -> None:
    run = fit(tiny("digits"), data, out)
    again = tmp_path / "again"
    with pytest.raises(ResightError, match="71 to train on and 30 to test, not 70 and 30"):
        resight.reproduce(run, make_data(n=71), out=again)
    for name, content in {
        "model.safetensors": None,
        "predictions.npz": b"PK",
        "environment.json": None,
    }.items():
        whole = (out / name).read_bytes()
        (out / name).unlink()
        if content:
            (out / name).write_bytes(content)
        with pytest.raises(ResightError, match=name):
            resight.reproduce(run, data, out=again)
        (out / name).write_bytes(whole)
    assert not again.exists()
