"""Faults that were found by using Resight as a stranger would, each once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import resight
from helpers import folder, make_data, picture
from resight.cli.app import app
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from resight.files import exclusive
from resight.progress import Lines, Quiet
from resight.recipe.overrides import changed
from resight.recipe.recipe import Recipe
from resight.runs.checkpoints import write_checkpoint
from resight.runs.run import load_run
from resight.training import train as training
from trainings import StopAt, fit, images_for, interrupt, tiny

runner = CliRunner()


class StopInLrTest(Quiet):
    def counting(self, what: str) -> Any:
        return lambda done, total: interrupt() if what == "LR test" and done == 9 else None


def test_a_run_stopped_in_the_lr_test_goes_on_with_its_own_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = folder(tmp_path / "mine", ("cat", "dog", "eel"), each=40)
    recipe = tiny("digits", **{"schedule.lr_max": "find"})
    with pytest.raises(resight.Interrupted):
        resight.train(recipe, images, out=tmp_path / "cut", reporter=StopInLrTest())
    monkeypatch.setattr(training, "_find", lambda *_: {"lr_max": 0.01})  # noise teaches no LR
    run = resight.train(resume=tmp_path / "cut", reporter=Quiet(), report=False)
    assert run.resolved["data"]["classes"] == ["cat", "dog", "eel"]
    assert run.predictions.classes == ("cat", "dog", "eel")


def test_other_images_without_a_split_are_all_measured_and_that_is_said(tmp_path: Path) -> None:
    images = folder(tmp_path / "mine", each=20)
    run = resight.train(
        tiny("digits"), images, out=tmp_path / "run", reporter=Quiet(), report=False
    )
    for i in range(25):
        picture(tmp_path / "other" / "cat" / f"{i}.png", 7000 + i)
    said: list[str] = []

    class Listener(Quiet):
        def say(self, line: str) -> None:
            said.append(line)

    measured = resight.evaluate(run, tmp_path / "other", reporter=Listener())
    assert len(measured) == 25  # one of the run's classes alone is enough
    assert any("no test split: all 25" in line for line in said)


def test_evaluate_keeps_to_the_precision_of_the_run(tmp_path: Path) -> None:
    images = folder(tmp_path / "mine", each=20)
    options = {"out": tmp_path / "run", "reporter": Quiet()}
    run = resight.train(tiny("digits"), images, precision="fp32", report=False, **options)
    before = run.predictions.logits
    assert np.array_equal(resight.evaluate(run).logits, before)


def test_a_fixed_lr_min_above_the_found_lr_is_refused(tmp_path: Path) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find", "schedule.lr_min": 5.0})
    with pytest.raises(ResightError, match=r"schedule\.lr_min = 5 must be at most"):
        fit(recipe, make_data(256), tmp_path / "run")


def test_only_what_was_found_is_called_found(tmp_path: Path) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find", "schedule.lr_min": 1e-5})
    run = fit(recipe, make_data(256), tmp_path / "run")
    assert set(run.resolved["found"]) == {"lr_max"}
    assert run.resolved["schedule"]["lr_min"] == 1e-5


def test_a_run_that_is_being_trained_is_not_resumed_by_another(tmp_path: Path) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(2, interrupt))
    lock, refused = load_run(tmp_path / "cut").lock(), "is being trained by another process"
    with lock, pytest.raises(ResightError, match=refused):
        resight.train(resume=tmp_path / "cut", data=data, reporter=Quiet(), report=False)
    assert not (tmp_path / "cut" / ".lock").exists()
    resight.train(resume=tmp_path / "cut", data=data, reporter=Quiet(), report=False)


def test_an_error_inside_the_lock_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine") as caught, exclusive(tmp_path / ".lock"):
        raise OSError(errno.EIO, "mine")
    assert not isinstance(caught.value, ResightError)


def test_a_full_disk_is_one_line_and_the_old_checkpoint_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "last.pt", {"w": torch.ones(2)})
    before = (tmp_path / "last.pt").read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResightError, match=r"can't write .*last\.pt: No space left"):
        write_checkpoint(tmp_path / "last.pt", {"w": torch.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_listener_that_leaves_does_not_end_the_training(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "resight", "train", "--recipe", "digits"]
    command += ["--epochs", "2", "--lr", "0.02", "--out", "run", "--set", "model.width=4"]
    command += ["--no-report"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 0, error
    assert error == b""
    assert load_run(tmp_path / "run").finished


def test_lines_fall_silent_when_nobody_listens() -> None:
    read, write = os.pipe()
    os.close(read)
    lines = Lines(os.fdopen(write, "w", buffering=1))
    lines.say("a")
    lines.say("b")


def test_ctrl_c_ends_the_decoding(tmp_path: Path) -> None:
    images = folder(tmp_path / "mine", each=200)
    seen = []

    class StopDecoding(Quiet):
        def counting(self, what: str) -> Any:
            def show(done: int, total: int) -> None:
                seen.append(done)
                if len(seen) == 1:
                    os.kill(os.getpid(), signal.SIGINT)

            return show

    with pytest.raises(resight.Interrupted, match="nothing was written") as stopped:
        resight.train(tiny("digits"), images, out=tmp_path / "run", reporter=StopDecoding())
    assert stopped.value.run is None
    assert max(seen) < 800
    assert not (tmp_path / "run").exists()


def test_a_given_duration_is_not_scaled_by_epochs() -> None:
    schedule = changed(Recipe(), {"epochs": 3, "schedule.peak_epoch": 1.0}).schedule
    assert (schedule.epochs, schedule.peak_epoch) == (3, 1.0)
    later = changed(Recipe(), {"epochs": 40, "schedule": {"peak_epoch": 30.0}}).schedule
    assert (later.epochs, later.peak_epoch) == (40, 30.0)


@pytest.mark.parametrize("shape", ["cosine", "step", "constant", "plateau", "triangular"])
def test_lr_goes_with_every_shape(shape: str) -> None:
    schedule = changed(Recipe(), {"lr": 0.01, "schedule.shape": shape}).schedule
    assert (schedule.shape, schedule.lr_max) == (shape, 0.01)


def test_a_fixed_lr_min_goes_along_with_lr() -> None:
    recipe = resight.find_recipe("custom-resnet-d")  # 0.0204 up to 0.1
    assert changed(recipe, {"lr": 0.01}).schedule.lr_min == pytest.approx(0.00204)
    assert changed(recipe, {"lr": "find"}).schedule.lr_min == "find"
    assert changed(recipe, {"lr": 0.01, "schedule.lr_min": 0.005}).schedule.lr_min == 0.005


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "epochs=3"], "options of their own"),
        (["--minutes", "nan"], "must be a number above 0"),
        (["--minutes", "-1"], "must be a number above 0"),
        (["--batch-size", "1", "--lr", "0.1"], "a batch of one image"),
    ],
)
def test_slips_of_the_command_line_are_one_line(arguments: list[str], said: str) -> None:
    result = runner.invoke(app, ["train", "--recipe", "digits", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_word_that_is_no_setting_gets_the_nearest() -> None:
    with pytest.raises(ResightError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        changed(Recipe(), {"epoch": 3})


def test_images_of_another_size_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ResightError, match=r"of 12 px .* set data\.image_size = 12"):
        fit(tiny("digits"), make_data(size=12), tmp_path / "run")


def test_a_last_batch_of_one_image_is_fine_on_a_map_that_is_larger(tmp_path: Path) -> None:
    recipe = tiny("digits", **{"data.image_size": 16})
    assert fit(recipe, make_data(65, size=16), tmp_path / "run").finished


def test_switches_of_one_run_do_not_reach_the_next(tmp_path: Path) -> None:
    Runtime.choose("cpu", "fp32", deterministic=True).apply()
    assert torch.are_deterministic_algorithms_enabled()
    Runtime.choose("cpu", "fp32").apply()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_recipes_name_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tiny("digits").with_changes({"name": "../../evil"})
    run = fit(recipe, images_for(recipe), None)  # type: ignore[arg-type]
    assert run.path == Path("runs/evil-1")


def test_a_taken_folder_is_said_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ResightError, match="is not empty"):
        resight.train("digits", tmp_path / "nowhere", out=tmp_path, reporter=Quiet())


def test_a_bar_that_the_encoding_lacks_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resight", "data", "digits"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert b"8?8?1" in done.stdout
