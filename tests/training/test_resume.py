"""Interrupted anywhere and resumed is the same, bit for bit, as never interrupted."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import resight
from helpers import TESTS, folder, make_data
from resight.data.types import ImageData
from resight.engine import job
from resight.engine.needs import step_needs
from resight.errors import ResightError, ResightWarning
from resight.progress import Quiet
from resight.recipe.catalog import RECIPES
from resight.runs.checkpoints import Checkpointer
from resight.runs.run import load_run
from resight.training import epochs, resolve
from trainings import (
    Listener,
    StopAt,
    StopInLrTest,
    assert_same_run,
    every_second_time,
    fit,
    images_for,
    interrupt,
    resume,
    tiny,
    unequal,
)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_goes_on_bit_for_bit_after_ctrl_c(name: str, tmp_path: Path) -> None:
    recipe = tiny(name)
    data = images_for(recipe)
    whole = fit(recipe, data, tmp_path / "whole").path
    with pytest.raises(resight.Interrupted) as stopped:
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(5, interrupt))
    assert stopped.value.exit_code == 130
    saved = load_run(tmp_path / "cut").checkpoint()
    assert saved is not None
    assert saved["step"] == 5  # in the middle of the second epoch of 3 steps
    resume(tmp_path / "cut", data)
    assert_same_run(whole, tmp_path / "cut")


AUGMENTED: dict[str, dict[str, Any]] = {
    "turned, tinted": {"rotate_deg": 15.0, "scale": 0.25, "brightness": 0.2, "saturation": 0.3},
    "RandAugment": {"rotate_deg": 15.0, "randaugment": 2, "randaugment_magnitude": 15},
    "TrivialAugment": {"trivialaugment": True},
    "recoloured, blurred, erased": {
        "hue_deg": 20.0,
        "grey": 0.4,
        "blur": 0.5,
        "blur_px": 1.0,
        "erase": 0.5,
        "erase_area": 0.3,
    },
    "mixup": {"mixup": 0.3},
    "cutmix": {"cutmix": 1.0},
    "mixup or cutmix": {"mixup": 0.3, "cutmix": 1.0},
}


@pytest.mark.parametrize("settings", AUGMENTED.values(), ids=AUGMENTED)
def test_augmentation_and_balanced_classes_go_on_bit_for_bit(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    changes = {f"augment.{key}": value for key, value in settings.items()}
    recipe = tiny("custom-resnet", **changes, **{"loss.class_weights": "balanced"})
    data = images_for(recipe)
    whole = fit(recipe, data, tmp_path / "whole").path
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(5, interrupt))
    resume(tmp_path / "cut", data)
    assert_same_run(whole, tmp_path / "cut")


@pytest.mark.parametrize("when", ["each-epoch", "end"])
@pytest.mark.parametrize("average", [{}, {"train.ema": 0.9}], ids=["net", "ema"])
def test_norms_taken_anew_go_on_bit_for_bit(
    when: str, average: dict[str, Any], tmp_path: Path
) -> None:
    anew = {"evaluate.norm": "anew", "evaluate.when": when, **average}
    recipe = tiny("custom-resnet", **anew)
    data = images_for(recipe)
    whole = fit(recipe, data, tmp_path / "whole").path
    running = recipe.with_changes({"evaluate.norm": "running"})
    other = fit(running, data, tmp_path / "other").path
    logits = [load_run(path).predictions.logits for path in (whole, other)]
    assert (logits[0] != logits[1]).any()
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(5, interrupt))
    resume(tmp_path / "cut", data)
    assert_same_run(whole, tmp_path / "cut")


def test_pieces_that_memory_cut_stay_when_there_is_more_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("custom-resnet")
    data = images_for(recipe)
    needed = step_needs(recipe, classes=len(data.classes), channels=3, half=False).nbytes
    monkeypatch.setattr(job, "free_memory", lambda device: 20 * needed)
    whole = fit(recipe, data, tmp_path / "whole").path
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(5, interrupt))
    monkeypatch.setattr(job, "free_memory", lambda device: 10**12)
    before = load_run(tmp_path / "cut").environment["runtime"]
    assert before["micro_batch"] == 11  # of 32: twelve fit
    resume(tmp_path / "cut", data)
    after = load_run(tmp_path / "cut").environment["runtime"]
    assert after["micro_batch"] == 11
    assert after["reasons"]["micro_batch"] == before["reasons"]["micro_batch"]
    assert_same_run(whole, tmp_path / "cut")


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.3, "flip": "alternating"}])
def test_balanced_sampling_goes_on_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    changes = {f"augment.{key}": value for key, value in settings.items()}
    recipe = tiny("custom-resnet", **changes, **{"train.sampling": "balanced"})
    data = unequal(images_for(recipe, n=140))  # 70 of them: 46, 15 and 9
    whole = fit(recipe, data, tmp_path / "whole").path
    uniform = recipe.with_changes({"train.sampling": "uniform"})
    other = fit(uniform, data, tmp_path / "other").path
    assert load_run(whole).metrics[0]["train_loss"] != load_run(other).metrics[0]["train_loss"]
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(5, interrupt))
    resume(tmp_path / "cut", data)
    assert_same_run(whole, tmp_path / "cut")


@pytest.mark.parametrize("step", range(1, 10))
def test_a_stop_at_any_step_loses_nothing(step: int, tmp_path: Path) -> None:
    recipe = tiny("digits", **{"train.ema": 0.9, "augment.flip": "alternating"})
    data = images_for(recipe, val=12)
    whole = fit(recipe, data, tmp_path / "whole").path
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(step, interrupt))
    resume(tmp_path / "cut", data)
    assert_same_run(whole, tmp_path / "cut")


def test_a_resume_says_where_it_runs_and_how_long(tmp_path: Path) -> None:
    recipe, heard = tiny("digits"), Listener()
    data = images_for(recipe)
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(4, interrupt))
    resume(tmp_path / "cut", data, reporter=heard)
    first, device, left = heard.lines[:3]
    assert first.endswith("at step 4 of 9")
    assert ", fp32 (" in device
    assert left.startswith("about ")
    assert left.endswith(" left")
    assert heard.steps[0].seconds_left is not None
    assert load_run(tmp_path / "cut").result["timings"]["cost"] > 0


def test_sigterm_stops_like_ctrl_c_but_exits_143(tmp_path: Path) -> None:
    recipe = tiny("digits")
    term = StopAt(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(resight.Interrupted) as stopped:
        fit(recipe, images_for(recipe), tmp_path / "cut", reporter=term)
    assert stopped.value.exit_code == 143
    assert stopped.value.run == tmp_path / "cut"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_exception_in_the_middle_goes_on_from_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("custom-resnet")
    data = images_for(recipe)
    whole = fit(recipe, data, tmp_path / "whole").path

    def fail() -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(Checkpointer, "due", every_second_time())
    with pytest.raises(MemoryError):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(6, fail))
    saved = load_run(tmp_path / "cut").checkpoint()
    assert saved is not None
    assert 0 < saved["step"] < 6  # the state at the failure itself is not trusted
    resume(tmp_path / "cut", data)
    assert_same_run(whole, tmp_path / "cut")


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from resight.runs.checkpoints import Checkpointer
from trainings import StopAt, every_second_time, fit, images_for, tiny
from pathlib import Path
Checkpointer.due = every_second_time()
recipe = tiny("digits", **{{"data.val_fraction": 0.0}})
die = StopAt({step}, lambda: os.kill(os.getpid(), signal.SIGKILL))
fit(recipe, images_for(recipe), Path({out!r}), reporter=die)
"""


@pytest.mark.parametrize("step", [1, 5, 9])
def test_kill_9_goes_on_bit_for_bit(step: int, tmp_path: Path) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    whole = fit(recipe, data, tmp_path / "whole").path
    cut = tmp_path / "cut"
    script = KILLED.format(tests=str(TESTS), step=step, out=str(cut))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (cut / ".last.pt.killed.tmp").write_bytes(b"half of a checkpo")
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 99, "torn')  # a line that the crash cut off
    resume(cut, data)
    assert_same_run(whole, cut)
    assert not list(cut.glob(".*.tmp"))


def test_a_stop_during_the_last_evaluation_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    whole = fit(recipe, data, tmp_path / "whole").path
    calls = iter(range(100))
    measure = epochs.measure

    def stop_in_third(job: Any, split: str, stop: Any) -> Any:
        if next(calls) == 2:
            interrupt()
        return measure(job, split, stop)

    monkeypatch.setattr(epochs, "measure", stop_in_third)
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut")
    assert len(load_run(tmp_path / "cut").metrics) == 2
    resume(tmp_path / "cut", data)
    assert_same_run(whole, tmp_path / "cut")


@pytest.mark.usefixtures("any_lr_test")
def test_a_stop_during_the_lr_test_finds_the_same_lr_again(tmp_path: Path) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find", "schedule.lr_min": "find"})
    data = make_data(n=256, n_test=30)
    whole = fit(recipe, data, tmp_path / "whole")

    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopInLrTest())
    assert "found" not in load_run(tmp_path / "cut").resolved
    resume(tmp_path / "cut", data)
    assert load_run(tmp_path / "cut").resolved == whole.resolved
    assert_same_run(whole.path, tmp_path / "cut")


@pytest.mark.usefixtures("any_lr_test")
def test_a_found_lr_is_not_found_again_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find", "schedule.lr_min": "find"})
    data = make_data(n=256, n_test=30)
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(2, interrupt))
    found = load_run(tmp_path / "cut").resolved["found"]
    monkeypatch.setattr(resolve, "run_range_test", None)
    assert resume(tmp_path / "cut", data).resolved["found"] == found


def test_another_recipe_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(2, interrupt))
    with pytest.raises(ResightError, match=r"train\.batch_size: 32 → 16"):
        resume(tmp_path / "cut", data, batch_size=16)
    with pytest.raises(ResightError, match=r"schedule\.epochs: 3 → 5"):
        resume(tmp_path / "cut", data, epochs=5)
    with pytest.raises(ResightError, match="the request differs"):
        resight.train("resnet18", data, resume=tmp_path / "cut", reporter=Quiet())


def test_other_images_are_refused_with_what_differs(tmp_path: Path) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(2, interrupt))
    other: dict[str, ImageData] = {
        "71 to train on and 30 to test, not 70 and 30": make_data(n=71),
        "as many, but some were replaced, changed or renamed: fingerprint 000000000000, not ": (
            dataclasses.replace(data, fingerprint="0" * 32)
        ),
        "other classes: 'class 1', 'x' only in one of the two": (
            dataclasses.replace(data, classes=("class 0", "x", "class 2"), fingerprint="0" * 32)
        ),
    }
    for words, images in other.items():
        with pytest.raises(ResightError, match=words):
            resume(tmp_path / "cut", images)


def test_an_image_that_can_no_longer_be_read_is_to_be_put_back(tmp_path: Path) -> None:
    data = folder(tmp_path / "photos")
    with pytest.raises(resight.Interrupted):
        fit(tiny("digits"), data, tmp_path / "cut", reporter=StopAt(2, interrupt))
    first = sorted(data.rglob("*.png"))[0]
    first.write_bytes(b"no image")
    with pytest.raises(ResightError) as refused:
        resume(tmp_path / "cut", None)
    assert str(refused.value).endswith(
        "(not an image); put back what the run was trained on (if the images have moved: --data)"
    )


def test_another_runtime_is_warned_of(tmp_path: Path) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(2, interrupt))
    with pytest.warns(ResightWarning, match="precision: fp32 → bf16"):
        resume(tmp_path / "cut", data, precision="bf16")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    fit(recipe, data, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    resume(tmp_path / "run", data)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


@pytest.mark.usefixtures("any_lr_test")
def test_a_run_stopped_in_the_lr_test_goes_on_with_its_own_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = folder(tmp_path / "mine", ("cat", "dog", "eel"), each=40)
    recipe = tiny("digits", **{"schedule.lr_max": "find"})
    with pytest.raises(resight.Interrupted):
        resight.train(recipe, images, out=tmp_path / "cut", reporter=StopInLrTest())
    monkeypatch.setattr(
        resolve, "_find", lambda *_: ({"lr_max": 0.01}, False)
    )  # noise teaches no LR
    run = resight.train(resume=tmp_path / "cut", reporter=Quiet(), report=False)
    assert run.resolved["data"]["classes"] == ["cat", "dog", "eel"]
    assert run.predictions.classes == ("cat", "dog", "eel")


def test_a_run_that_is_being_trained_is_not_resumed_by_another(tmp_path: Path) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(2, interrupt))
    lock, refused = load_run(tmp_path / "cut").lock(), "is being trained by another process"
    with lock, pytest.raises(ResightError, match=refused):
        resight.train(resume=tmp_path / "cut", data=data, reporter=Quiet(), report=False)
    resight.train(resume=tmp_path / "cut", data=data, reporter=Quiet(), report=False)


def test_a_resume_of_a_run_that_stopped_by_itself_says_so(tmp_path: Path) -> None:
    recipe, heard = tiny("digits").with_changes({"schedule.lr_max": 1e9}), Listener()
    data = images_for(recipe)
    with pytest.raises(ResightError, match="the loss became") as stopped:
        fit(recipe, data, tmp_path / "run")
    with pytest.raises(ResightError, match="the loss became"):
        resume(tmp_path / "run", data, reporter=heard)
    line = f"it stopped by itself, and will most likely do so again: {stopped.value}"
    assert heard.lines.count(line) == 1
