"""A training as its user sees it: what it writes, says, refuses, and leaves untouched."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import resight
from helpers import batches, folder, make_data
from jobs import runtime
from resight.comparison.page import write_page
from resight.data.types import ImageData
from resight.diagnosis import record_checks
from resight.diagnosis.diagnose import evidence_of
from resight.engine import step
from resight.engine.job import build_job
from resight.engine.runtime import Runtime
from resight.engine.step import Eager
from resight.errors import ResightError
from resight.look.open_run import OpenRun
from resight.progress import Lines, Quiet
from resight.recipe.schedule import lr_at
from resight.reporting.facts import base_facts
from resight.reporting.live import LiveReport
from resight.runs.checkpoints import Checkpointer
from resight.runs.run import load_run
from resight.training import costs, epochs
from resight.training import train as training
from resight.training.interrupt import Interrupted, StopSignals
from trainings import Listener, StopAt, assert_same_run, fit, images_for, interrupt, resume, tiny


def test_a_small_net_learns_what_can_be_learnt(data: ImageData, out: Path) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": 0.02}).with_epochs(12)
    run = fit(recipe, data, out)
    assert run.result["test_accuracy"] > 0.9
    assert run.predictions.accuracy == run.result["test_accuracy"]
    assert run.metrics[-1]["test_accuracy"] == run.result["test_accuracy"]


def test_a_run_folder_is_whole(data: ImageData, out: Path) -> None:
    run = fit(tiny("digits"), data, out)
    names = {path.name for path in out.iterdir()}
    assert names == {
        ".lock",  # stays: see `files.exclusive`
        ".manifest.lock",
        "manifest.json",
        "recipe.json",
        "resolved.json",
        "environment.json",
        "metrics.jsonl",
        "last.pt",
        "model.safetensors",
        "predictions.npz",
        "result.json",
        "diagnosis.json",
    }
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3]
    assert set(run.metrics[0]) == {
        "epoch",
        "step",
        "lr",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "train_seconds",
        "evaluate_seconds",
        "images_per_second",
    }
    assert run.recipe == tiny("digits")
    assert run.resolved["data"]["fingerprint"] == data.fingerprint
    assert run.result["wall_seconds"] >= run.result["train_seconds"] > 0


def test_the_saved_model_gives_the_saved_predictions(data: ImageData, out: Path) -> None:
    run = fit(tiny("digits"), data, out)
    before = run.predictions.logits
    again = resight.evaluate(run, data, device="cpu", precision="fp32")
    assert np.array_equal(again.logits, before)
    assert (out / "predictions-made.npz").exists()
    assert np.array_equal(run.predictions.logits, before)


def test_train_loss_is_a_mean_over_images(data: ImageData, out: Path) -> None:
    """With LR 0 the weights stand still, so the epoch's loss is that of all images at once."""
    recipe = tiny(
        "custom-resnet",
        **{
            "schedule.lr_max": 1e-30,
            "schedule.lr_min": 0.0,
            "schedule.lr_end": 0.0,
            "optimizer.weight_decay": 0.0,
            "augment.flip": "none",
            "augment.crop_pad_px": 0,
            "augment.cutout_px": 0,
        },
    ).with_epochs(2)
    job = build_job(recipe, data, runtime())
    losses, hits = 0.0, 0
    plan = job.plan(0)
    for index in batches(job, plan):
        images, labels = job.train.augmented(index, plan, recipe.augment)
        with torch.no_grad():
            logits = job.state.model.train()(images)
        losses += float(cross_entropy(logits, labels, reduction="sum"))
        hits += int((logits.argmax(1) == labels).sum())
    row = fit(recipe, data, out).metrics[0]
    assert row["train_loss"] == pytest.approx(losses / 70, rel=1e-5)
    assert row["train_accuracy"] == pytest.approx(hits / 70)


def test_the_rates_of_the_steps_are_the_schedules(data: ImageData, out: Path) -> None:
    listener = Listener()
    recipe = tiny("digits", **{"schedule.lr_end": 0.0})
    fit(recipe, data, out, reporter=listener)
    assert [info.lr for info in listener.steps] == [lr_at(recipe.schedule, i, 3) for i in range(9)]
    assert [row["lr"] for row in listener.rows] == [lr_at(recipe.schedule, i, 3) for i in (2, 5, 8)]


def test_plateau_cuts_the_lr_after_epochs_without_a_fall(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(
        "plateau", **{"schedule.patience": 0, "schedule.factor": 0.5, "schedule.threshold": 0.9}
    )
    rows = fit(recipe, data, out).metrics
    assert [row["lr"] for row in rows] == [0.02, 0.02, 0.01]


def test_validation_selects_and_test_does_not(out: Path) -> None:
    data = make_data(n_test=31, val=24)
    listener = Listener()
    run = fit(tiny("digits").with_epochs(6), data, out, reporter=listener)
    assert all("test_loss" not in row for row in run.metrics)
    best = max(row["val_accuracy"] for row in run.metrics)
    job = build_job(run.recipe, data, runtime())
    job.state.model.load_state_dict(run.model().state_dict())
    assert epochs.measure(job, "val", StopSignals()).accuracy == best
    assert run.result["weights"] == "best validation epoch"
    assert len(run.predictions) == 31
    assert (out / "best.pt").exists()


@pytest.mark.usefixtures("any_lr_test")
def test_training_leaves_every_global_generator_alone(data: ImageData, out: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    fit(tiny("digits", **{"schedule.lr_max": "find"}), make_data(256), out)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_same_seed_gives_the_same_run_and_another_does_not(
    data: ImageData, tmp_path: Path
) -> None:
    one, two = (fit(tiny("digits"), data, tmp_path / name) for name in "ab")
    other = fit(tiny("digits", **{"train.seed": 1}), data, tmp_path / "c")
    assert np.array_equal(one.predictions.logits, two.predictions.logits)
    assert not np.array_equal(one.predictions.logits, other.predictions.logits)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpointer, "due", lambda self: True)
    recipe = tiny("custom-resnet-d", **{"schedule.lr_max": 1e38, "schedule.lr_min": 0.001})
    with pytest.raises(epochs.NonFiniteLoss) as stopped:
        fit(recipe, data, out)
    message = str(stopped.value)
    assert "at step " in message
    assert "LR " in message
    assert "\n" not in message
    saved = load_run(out).checkpoint()
    assert saved is not None
    for value in saved["model"].values():
        assert torch.isfinite(value.float()).all()
    assert not (out / "result.json").exists()


def test_the_step_and_lr_of_a_bad_loss_are_named_exactly(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("digits")
    original = Eager.step

    def poisoned(self: Eager, position: int) -> None:
        original(self, position)
        if self.context.state.step == 5:
            self.context.state.trace.losses[position] = float("nan")

    monkeypatch.setattr(Eager, "step", poisoned)
    monkeypatch.setattr(costs, "measure", lambda job: costs.Cost(0.0, {0: 1e-3}, 1e-3))
    with pytest.raises(epochs.NonFiniteLoss) as stopped:
        fit(recipe, data, out)
    lr = lr_at(recipe.schedule, 4, 3)
    assert f"the loss became nan at step 4 (epoch 2) at LR {lr:.3g}" in str(stopped.value)


def test_what_is_said_before_the_start(data: ImageData, out: Path) -> None:
    listener = Listener()
    fit(tiny("digits"), data, out, reporter=listener)
    text = "\n".join(listener.lines)
    assert "digits on made: 70 train / 30 test, 3 classes, 8×8 px" in text
    assert "peak at epoch 0.75" in text
    assert "3 epochs of 3 steps, about " in text
    assert "images/s" in text


def test_streamed_images_train_as_resident_ones_do(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tiny("custom-resnet"), data, tmp_path / "a")
    monkeypatch.setattr(Runtime, "fits", lambda self, nbytes: False)
    listener = Listener()
    streamed = fit(tiny("custom-resnet"), data, tmp_path / "b", reporter=listener)
    assert np.array_equal(whole.predictions.logits, streamed.predictions.logits)
    assert any("streamed" in line for line in listener.lines)


def test_channels_classes_and_sizes_of_other_images(tmp_path: Path) -> None:
    data = make_data(channels=1, classes=5, size=12)
    run = fit(tiny("digits", **{"data.image_size": 12}), data, tmp_path / "grey")
    assert run.predictions.logits.shape == (30, 5)


def test_bf16_trains_too(data: ImageData, out: Path) -> None:
    run = fit(tiny("digits"), data, out, precision="bf16")
    assert run.result["precision"] == "bf16"
    assert np.isfinite(run.predictions.logits).all()


AT_THE_END = {"evaluate.when": "end", "evaluate.tta": "flip"}
MEASURED = ("test_loss", "test_accuracy", "val_loss", "val_accuracy", "evaluate_seconds")


@pytest.mark.parametrize("val", [0, 24])
def test_measured_at_the_end_only_the_last_epoch_has_an_accuracy(val: int, out: Path) -> None:
    """And everything that looks at a run does without the others."""
    data, said = make_data(val=val), io.StringIO()
    recipe = tiny("digits", **AT_THE_END)
    run = fit(recipe, data, out, report=True, reporter=Lines(said))

    *before, last = run.metrics
    assert len(before) == 2
    assert not any(key in row for row in before for key in MEASURED)
    split = "val" if val else "test"
    assert {key for key in MEASURED if key in last} == {
        f"{split}_loss",
        f"{split}_accuracy",
        "evaluate_seconds",
    }
    assert run.diagnosis is not None
    assert (out / "report" / "index.html").is_file()
    readme = (out / "report" / "README.md").read_text("utf-8")
    assert f"{split} loss" in readme
    assert f"{last[f'{split}_accuracy']:.2%}" in readme
    lines = [line for line in said.getvalue().splitlines() if line.startswith("epoch ")]
    assert [f"{split} loss" in line for line in lines] == [False, False, True]
    assert run.result["test_accuracy"] == run.predictions.accuracy
    if val:
        assert run.result["weights"] == "last epoch"  # nothing was there to choose from
        assert (out / "predictions-val.npz").is_file()
    else:
        assert run.result["test_accuracy"] == last["test_accuracy"]


def test_measured_at_the_end_a_training_is_the_same_but_for_the_rows(
    data: ImageData, tmp_path: Path
) -> None:
    each = fit(tiny("digits", **{"evaluate.tta": "flip"}), data, tmp_path / "each")
    end = fit(tiny("digits", **AT_THE_END), data, tmp_path / "end")
    assert np.array_equal(each.predictions.logits, end.predictions.logits)
    assert each.metrics[-1]["test_loss"] == end.metrics[-1]["test_loss"]
    compared = resight.compare([each, end])
    page = write_page(compared, tmp_path / "compared.html")
    assert page.is_file()
    assert "| end" in compared.to_markdown()


def test_a_run_that_measures_at_the_end_can_be_looked_at_before(data: ImageData, out: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Looking(Quiet):
        def epoch(self, row: dict[str, Any], epochs: int) -> None:
            live = LiveReport(load_run(out), Quiet())
            seen.append(json.loads(json.dumps(live.facts())))

    run = fit(tiny("digits", **AT_THE_END), data, out, reporter=Looking())
    assert [len(facts["metrics"]) for facts in seen] == [1, 2, 3]
    assert base_facts(run)["metrics"] == seen[-1]["metrics"]

    evidence = evidence_of(OpenRun(run, data, runtime()))
    now = dataclasses.replace(evidence, metrics=run.metrics[:2], finished=False, judged_from=0)
    assert now.settled
    assert list(record_checks.gap(now)) == list(record_checks.improving(evidence)) == []


@pytest.mark.parametrize("stop", [2, 4, 9])
@pytest.mark.parametrize("val", [0, 24])
def test_a_run_that_measures_at_the_end_goes_on_bit_for_bit(
    val: int, stop: int, tmp_path: Path
) -> None:
    data, recipe = make_data(val=val), tiny("digits", **AT_THE_END)
    whole = fit(recipe, data, tmp_path / "whole", announce=False)
    with pytest.raises(Interrupted):
        fit(recipe, data, tmp_path / "cut", announce=False, reporter=StopAt(stop, interrupt))
    resume(tmp_path / "cut", data)
    assert_same_run(tmp_path / "cut", whole.path)


def test_a_failed_run_that_measures_at_the_end_gets_its_report(out: Path, data: ImageData) -> None:
    recipe = tiny("custom-resnet-d", **AT_THE_END, **{"schedule.lr_max": 1e38})
    with pytest.raises(epochs.NonFiniteLoss):
        fit(recipe.with_epochs(12), data, out, report=True)
    run = load_run(out)
    assert run.diagnosis is not None
    assert [finding.name for finding in run.diagnosis.findings][:1] == ["diverged"]
    assert (out / "report" / "index.html").is_file()


def test_everything_fast_at_once(tmp_path: Path) -> None:
    """Muon, whitened stem, its own LR, lookahead, pieces, small images at first, views, the end."""
    recipe = tiny(
        "fast",
        **{
            "train.lookahead": 2,
            "train.norm_batch": 16,
            "schedule.small_px": 9,
            "schedule.small_epochs": 1.5,
            "schedule.lr_max": 0.24,
        },
    ).with_epochs(10)
    data = images_for(recipe)
    run = fit(recipe, data, tmp_path / "whole", report=True)
    assert run.metrics[-1]["train_loss"] < 0.85 * run.metrics[0]["train_loss"]
    assert run.result["test_accuracy"] > 0.75
    again = resight.evaluate(run, data, device="cpu", precision="fp32")
    assert np.array_equal(again.logits, run.predictions.logits)
    with pytest.raises(Interrupted):
        fit(recipe, data, tmp_path / "cut", announce=False, reporter=StopAt(5, interrupt))
    resume(tmp_path / "cut", data)
    assert_same_run(tmp_path / "cut", run.path)


@pytest.mark.usefixtures("any_lr_test")
def test_a_fixed_lr_min_above_the_found_lr_is_refused(tmp_path: Path) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find", "schedule.lr_min": 5.0})
    with pytest.raises(ResightError, match=r"schedule\.lr_min = 5 must be at most"):
        fit(recipe, make_data(256), tmp_path / "run")


@pytest.mark.usefixtures("any_lr_test")
def test_only_what_was_found_is_called_found(tmp_path: Path) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find", "schedule.lr_min": 1e-5})
    run = fit(recipe, make_data(256), tmp_path / "run")
    assert set(run.resolved["found"]) == {"lr_max"}
    assert run.resolved["schedule"]["lr_min"] == 1e-5


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


class BrokenAtTheEnd(Quiet):
    """A terminal that is gone when the bar is to be closed."""

    def close(self) -> None:
        raise OSError("gone")


def test_the_lock_is_released_where_the_reporter_fails(data: ImageData, out: Path) -> None:
    with pytest.raises(OSError, match="gone") as caught:
        fit(tiny("digits"), data, out, reporter=BrokenAtTheEnd())
    with load_run(out).lock():  # nobody holds it any longer
        assert caught.tb  # whose frames are alive: no garbage collection has released it


@pytest.mark.parametrize("left", [(), ("resolved.json",), ("recipe.json",)])
def test_a_training_killed_before_its_folder_was_a_run_is_begun_again(
    left: tuple[str, ...], data: ImageData, out: Path, tmp_path: Path
) -> None:
    whole = fit(tiny("digits"), data, out)
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in (*left, ".lock", "manifest.json"):
        (cut / name).write_bytes((out / name).read_bytes())
    (cut / ".recipe.json.x7f.tmp").write_bytes(b"{")
    with pytest.raises(ResightError, match=r"cut has no (recipe|resolved)\.json, so it is not"):
        resight.train(resume=cut, data=data)
    assert fit(tiny("digits"), data, cut).resolved == whole.resolved
    assert (cut / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert not list(cut.glob("*.tmp"))
    with pytest.raises(ResightError, match="already holds a run"):
        fit(tiny("digits"), data, cut)


@pytest.mark.parametrize("report", [False, True])
def test_the_result_is_said_before_anybody_looks_into_it(
    report: bool, data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, said = Listener(), list[str]()
    examine = training.examine

    def noted(opened: Any) -> Any:
        said.extend(listener.lines)
        return examine(opened)

    monkeypatch.setattr(training, "examine", noted)
    run = fit(tiny("digits"), data, out, report=report, reporter=listener)
    assert said[-3:-1] == [run.predictions.headline, run.predictions.beside_accuracy]
    assert said[-1].startswith("trained in ")
    assert said[-1].endswith("from start to result")


@pytest.mark.parametrize(
    ("error", "changes", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), {}, "size 12, or"),
        (MemoryError(), {"train.batch_size": 10}, "use --batch-size 5, or a smaller --image-size"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            ),
            {"train.norm_batch": 12, "train.last_batch": "drop"},
            "use --set train.norm_batch=6, or",
        ),
    ],
)
def test_a_step_without_memory_is_one_line_with_what_is_smaller(
    error: Exception,
    changes: dict[str, Any],
    advice: str,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learn, calls = step.learn, iter(range(99))

    def failing(*arguments: Any) -> Any:
        if next(calls) == 4:
            raise error
        return learn(*arguments)

    monkeypatch.setattr(step, "learn", failing)
    recipe = tiny("digits", **{"train.batch_size": 24, **changes})
    with pytest.raises(ResightError, match=r"^out of memory in step 4 on ") as refused:
        fit(recipe, make_data(), out, announce=False)
    assert advice in str(refused.value)
    assert load_run(out).checkpoint() is not None


def test_another_error_of_torch_is_no_lack_of_memory(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(step, "learn", failing)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(tiny("digits"), make_data(), out, announce=False)


def test_auto_trains_what_is_chosen_for_the_images_that_can_be_read(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", each=8)
    for number in range(400):
        (photos / "train" / "cat" / f"cut {number}.png").write_bytes(b"no image")
    said = Listener()
    small = {"image_size": 16, "epochs": 1, "lr": 0.01, "model": {"width": 2}, "report": False}
    run = resight.train(
        None, photos, out=tmp_path / "run", skip_bad=True, reporter=said, precision="fp32", **small
    )
    assert run.recipe.train.batch_size == 16  # 32 for 416
    assert any(line.startswith("chosen for 16 training images") for line in said.lines)


def test_a_users_own_torch_keeps_its_threads(
    out: Path, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small steps run on one thread, and so does the net wherever it is used; nothing else does."""
    used: list[int] = []

    def counted(self: torch.nn.Module, *inputs: Any, **keywords: Any) -> Any:
        if len(inputs[0]) > 2:  # not to count layers or a step's operations
            used.append(torch.get_num_threads())
        return call(self, *inputs, **keywords)

    call = torch.nn.Module.__call__
    monkeypatch.setattr(torch.nn.Module, "__call__", counted)
    torch.set_num_threads(2)
    try:
        resight.find_lr(tiny("digits"), data, reporter=Quiet())
        run = fit(tiny("digits"), data, out)
        for look in (
            lambda: resight.evaluate(run, data),
            lambda: run.predict(data.test.images[:3]),
            lambda: resight.report(run, data, reporter=Quiet()),
            lambda: resight.diagnose(run, data),
        ):
            assert torch.get_num_threads() == 2
            look()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(used) == {1}
