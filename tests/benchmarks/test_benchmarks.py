"""The benchmarks at tiny sizes: their figures follow from the seconds that they measured."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import json
import re
import shlex
import statistics
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import resight
from helpers import ROOT, batches, folder, make_net
from resight.cli.app import app
from resight.data.batches import DeviceSplit
from resight.data.types import Split
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Augment

sys.path.insert(0, str(ROOT / "benchmarks"))

import augment
import cpu_step
import estimate
import executors
import fused_layers
import gpu
import gpu_step
import loaders
import lr_readings
import measuring
import scaling
import serve
import start_up
import threads
import time_to_accuracy
import workload

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
NARROW = ["--set", "model.width=4", "--batch-size", "16", "--rounds", "3"]


def figures(main: Callable[[list[str]], None], argv: list[str], folder: Path) -> dict[str, Any]:
    """What a benchmark writes with `--json`."""
    path = folder / "figures.json"
    main([*argv, "--json", str(path)])
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


def refusal(main: Callable[[list[str]], None], argv: list[str], capsys: Any) -> str:
    """The one line that a benchmark says before it exits with 2."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return str(said)


def assert_spread(spread: dict[str, float], over: list[float], under: list[float]) -> None:
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    assert spread["median"] == pytest.approx(statistics.median(ratios))
    assert spread["low"] == pytest.approx(min(ratios))
    assert spread["high"] == pytest.approx(max(ratios))


def test_turns_go_forth_and_back_and_leave_the_warm_up_out() -> None:
    calls: list[str] = []
    works = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = measuring.take_turns(works, 3)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_median_of_ratios_is_made_round_by_round() -> None:
    spread = measuring.Spread.of_ratios([6.0, 8.0, 9.0], [1.0, 2.0, 9.0])
    assert spread.to_dict() == {"median": 4.0, "low": 1.0, "high": 6.0}
    assert str(spread) == "4 (from 1 to 6)"


def test_whole_numbers_may_have_an_exponent() -> None:
    assert measuring.whole_number("1e5") == 100_000
    for wrong in ("0", "1.5", "-3", "inf"):
        with pytest.raises(measuring.argparse.ArgumentTypeError):
            measuring.whole_number(wrong)


def test_a_file_in_no_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cpu_step.main(["--json", str(tmp_path / "none" / "figures.json")])
    assert stop.value.code == 2
    assert "must be a file in a folder that exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "augment",
        "cpu_step",
        "estimate",
        "executors",
        "fused_layers",
        "gpu",
        "gpu_step",
        "lr_finder",
        "lr_readings",
        "report",
        "scaling",
        "serve",
        "small_sets",
        "start_up",
        "step_memory",
        "threads",
        "time_to_accuracy",
    ],
)
def test_help_says_what_is_measured(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert module.__doc__.splitlines()[0] in said
    assert f"python benchmarks/{name}.py" in said
    assert "--json FILE" in said


def test_each_augmentation_has_its_share_of_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", "custom-resnet", "digits", "--width", "4", "--batch-size", "8"]
    found = figures(augment.main, [*words, "--rounds", "3"], tmp_path)
    assert found["recipes"].keys() == {"custom-resnet", "digits"}
    for one in found["recipes"].values():
        off = one["recipe"]["augment"]
        assert (off["flip"], off["crop_pad_px"], off["cutout_px"]) == ("none", 0, 0)
        seconds = one["seconds"]
        assert seconds.keys() - one["share_of_step"].keys() == {"step", "none"}
        for name, share in one["share_of_step"].items():
            added = [a - b for a, b in zip(seconds[name], seconds["none"], strict=True)]
            assert_spread(share, added, seconds["step"])
            each = one["microseconds_per_image"][name]
            assert each == pytest.approx(1e6 * statistics.median(added) / 8)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("policy strong") for line in lines)


@pytest.mark.parametrize("side", [1, 8, 32, 224])
def test_every_setting_of_an_augmentation_is_measured(side: int) -> None:
    used: set[str] = set()
    for settings in augment.augmentations(side).values():
        Augment.model_validate(settings.model_dump())
        used |= {key for key, value in settings if value not in (0, "none", "zero")}
    assert used == set(Augment.model_fields) or side == 1


def test_flops_count_each_pass_that_is_made() -> None:
    net = make_net("custom-resnet", classes=10)
    prep = 64 * 3 * 9 * 32 * 32  # nothing before it is trained: no gradient of its input
    macs = 379_261_952  # of the docs
    assert workload.training_flop(net, (3, 32, 32)) == 2 * (3 * macs - prep)

    frozen = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 36, 2))
    frozen[0].requires_grad_(False)
    forward, head = 4 * 3 * 9 * 36, 4 * 36 * 2
    assert workload.training_flop(frozen, (3, 8, 8)) == 2 * (forward + 2 * head)


def test_a_product_is_one() -> None:
    product = workload.MatrixProduct(8, "fp32", torch.device("cpu"))
    torch.testing.assert_close(product(), product.left @ product.right)
    assert product.flop == 1024


def test_smaller_images_are_left_out_of_a_step() -> None:
    smaller = {"schedule.small_epochs": 3.0, "schedule.small_px": 24}
    recipe = Recipe().with_changes({"model.net": "resnet18", **smaller})
    full = workload.at_full_size(recipe)
    assert full == Recipe().with_changes({"model.net": "resnet18"})
    assert workload.at_full_size(Recipe()) == Recipe()


def test_cpu_step_follows_from_its_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = figures(cpu_step.main, [*NARROW, "--matrix", "64"], tmp_path)
    seconds, flop = found["seconds"], found["flop_per_step"]
    assert {len(values) for values in seconds.values()} == {3}
    assert_spread(found["ratio"], seconds["plain"], seconds["resight"])
    assert_spread(found["augmentation_share"], seconds["augmentation"], seconds["resight"])
    median = statistics.median(seconds["resight"])
    assert found["images_per_second"]["resight"] == pytest.approx(16 / median)
    assert found["gflop_per_second"]["resight"] == pytest.approx(flop / median / 1e9)
    kinds = {"fp32 product"} | (
        {"bf16 product"} if found["machine"]["precision"] == "bf16" else set()
    )
    assert found["fraction_of_product"].keys() == kinds
    for kind in kinds:
        ours = [flop / value for value in seconds["resight"]]
        assert_spread(
            found["fraction_of_product"][kind], ours, [2 * 64**3 / value for value in seconds[kind]]
        )
    net = make_net("custom-resnet", classes=10, width=4)
    assert flop == 16 * workload.training_flop(net, (3, 32, 32))
    assert f"ratio resight/plain {found['ratio']['median']:.3g}" in capsys.readouterr().out


def test_cpu_epochs_follow_from_their_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice(data: Any, augment: Augment) -> dict[str, Any]:
        return dict.fromkeys(("PIL", "PIL again"), loaders.PilTransform(data, augment))

    monkeypatch.setattr(cpu_step, "transforms", twice)
    argv = [*NARROW, "--epoch-images", "40", "--workers", "0"]
    found = figures(cpu_step.main, argv, tmp_path)
    seconds = dict(found["seconds"])
    ours = seconds.pop("resight")
    assert found["best_plain"] == min(seconds, key=lambda name: statistics.median(seconds[name]))
    assert seconds.keys() == {"PIL, 0 workers", "PIL again, 0 workers"}
    assert_spread(found["ratio"], seconds[found["best_plain"]], ours)
    assert found["images_per_second"]["resight"] == pytest.approx(40 / statistics.median(ours))
    assert f"({found['best_plain']})" in capsys.readouterr().out


def test_an_epoch_is_every_step_of_it() -> None:
    recipe = Recipe().with_changes({"model.width": 4, "train.batch_size": 16})
    runtime = Runtime.choose("cpu", "fp32")
    job = cpu_step.build_job(recipe, workload.random_data(recipe, 40), runtime)
    before = job.state.snapshot()
    total = cpu_step.resight_epoch(job)()
    assert job.state.step == 3
    assert total == pytest.approx(float(job.state.trace.losses.sum()))
    losses = job.state.trace.losses.tolist()
    job.state.restore(before)
    assert [float(loss) for loss in job.steps_at([cpu_step.LR] * 3)] == losses


def test_pil_images_without_augmentation_are_the_normalised_ones() -> None:
    recipe = Recipe()
    data = workload.random_data(recipe, 5)
    plain = Augment(crop_pad_px=0, flip="none", cutout_px=0)
    items = loaders.PilImages(data, loaders.PilTransform(data, plain))
    half = torch.full((3,), 0.5)
    split = DeviceSplit.place(data.train, half, half / 2, torch.device("cpu"), resident=True)
    assert len(items) == 5
    for number, image in enumerate(split.plain(0, 5)):
        seen, label = items[number]
        torch.testing.assert_close(seen, image.contiguous())
        assert label == data.train.labels[number]
    pairs = recipe.train.model_copy(update={"batch_size": 2})
    batches = list(loaders.make_loader(data, items.transform, pairs, 0))
    assert [tuple(images.shape) for images, _ in batches] == [(n, 3, 32, 32) for n in (2, 2, 1)]
    shuffled = torch.cat([labels for _, labels in batches])
    assert sorted(shuffled.tolist()) == sorted(data.train.labels.tolist())


@pytest.mark.parametrize(
    ("last_batch", "batch_size", "sizes"),
    [("keep", 16, [16, 16, 8]), ("drop", 16, [16, 16]), ("drop", 64, [40])],
)
def test_both_sides_of_an_epoch_see_as_many_images(
    last_batch: Any, batch_size: int, sizes: list[int]
) -> None:
    changes = {"train.batch_size": batch_size, "train.last_batch": last_batch, "model.width": 4}
    recipe = Recipe().with_changes(changes)
    data = workload.random_data(recipe, 40)
    transform = loaders.PilTransform(data, recipe.augment)
    loader = loaders.make_loader(data, transform, recipe.train, 0)
    assert [len(labels) for _, labels in loader] == sizes
    job = cpu_step.build_job(recipe, data, Runtime.choose("cpu", "fp32"))
    assert [len(index) for index in batches(job, job.plan(0))] == sizes
    assert job.epoch_images() == sum(sizes)


@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_pil_augmentation_is_a_crop_a_flip_and_a_whole_square(fill: Any) -> None:
    recipe = Recipe()
    data = workload.random_data(recipe, 1)
    pixels = data.train.images[0].astype(np.float32)
    mode = "constant" if fill == "zero" else "reflect"
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)), mode=mode)
    corners = itertools.product(range(9), range(9))
    windows = [padded[y : y + 32, x : x + 32] for y, x in corners]
    known = np.stack([*windows, *(window[:, ::-1] for window in windows)])
    transform, places = loaders.PilTransform(data, Augment(crop_fill=fill)), set()
    for _ in range(20):
        image = transform(Image.fromarray(data.train.images[0])).permute(1, 2, 0).numpy()
        back = image * 0.25 * 255 + 0.5 * 255
        kept = image.any(2)
        apart = (np.abs(known - back).max(3) > 0.01) & kept
        matching = np.flatnonzero(~apart.any((1, 2)))
        assert len(matching) == 1
        places.add(int(matching[0]))
        holes = np.argwhere(~kept)
        assert len(holes) == 64
        assert (holes.max(0) - holes.min(0)).tolist() == [7, 7]
    assert len(places) > 10
    assert {place < 81 for place in places} == {True, False}


@NO_GPU
@pytest.mark.parametrize("module", [gpu_step, fused_layers])
def test_without_a_gpu_it_says_so(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(module.main, [], capsys)
    assert "torch finds no CUDA GPU; use --device cpu" in said


def test_gpu_step_follows_from_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = gpu_step.make_jobs

    def two(recipe: Recipe, data: Any, runtime: Runtime) -> dict[str, Any]:
        return {**make(recipe, data, runtime), "another": make(recipe, data, runtime)["eager"]}

    monkeypatch.setattr(gpu_step, "make_jobs", two)
    argv = [*NARROW, "--device", "cpu", "--images", "40", "--matrix", "32"]
    found = figures(gpu_step.main, argv, tmp_path)
    seconds, flop = found["seconds"], found["flop_per_epoch"]
    net = make_net("custom-resnet", classes=10, width=4)
    assert flop == 40 * workload.training_flop(net, (3, 32, 32))
    assert found["steps"] == 3
    peak = [gpu_step.PRODUCTS * 2 * 32**3 / value for value in seconds["bf16 product"]]
    for name in ("eager", "another"):
        row, median = found["executors"][name], statistics.median(seconds[name])
        assert_spread(row["ratio_to_eager"], seconds["eager"], seconds[name])
        assert_spread(row["fraction_of_product"], [flop / s for s in seconds[name]], peak)
        assert row["ms_per_step"] == pytest.approx(1000 * median / 3)
        assert row["training_seconds"] == pytest.approx(24 * median)
        assert row["tflop_per_second"] == pytest.approx(flop / median / 1e12)


def test_fused_layers_are_torchs_three(tmp_path: Path) -> None:
    x = torch.randn(2, 16, 8, 8)
    norms = [nn.BatchNorm2d(16) for _ in range(2)]
    fused, apart = fused_layers.fused(x, norms[0]), fused_layers.apart(x, norms[1])
    torch.testing.assert_close(fused, apart)
    torch.testing.assert_close(norms[0].running_var, norms[1].running_var)

    argv = ["--device", "cpu", "--batch-size", "2", "--width", "8", "--dtype", "fp32"]
    found = figures(fused_layers.main, [*argv, "--rounds", "2", "--repeats", "1"], tmp_path)
    shapes = [[2, 16, 32, 32], [2, 32, 16, 16], [2, 64, 8, 8]]
    assert [layer["shape"] for layer in found["layers"]] == shapes
    for layer in found["layers"]:
        assert_spread(layer["ratio"], layer["seconds"]["torch"], layer["seconds"]["fused"])
    total = sum(statistics.median(layer["seconds"]["fused"]) for layer in found["layers"])
    assert found["total_ms"]["fused"] == pytest.approx(1000 * total)
    assert found["ratio"] == pytest.approx(found["total_ms"]["torch"] / found["total_ms"]["fused"])


def test_a_layers_seconds_are_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = {"fused": [2.0, 4.0, 6.0], "torch": [8.0, 8.0, 6.0]}
    monkeypatch.setattr(fused_layers, "take_turns", lambda works, rounds: turns)
    found = fused_layers.measure(torch.randn(2, 16, 4, 4), repeats=2, rounds=3)
    assert found["ms"] == {"fused": 2000.0, "torch": 4000.0}
    assert found["ratio"] == {"median": 2.0, "low": 1.0, "high": 4.0}
    x, pooled = 2 * 16 * 4 * 4, 2 * 16 * 2 * 2
    assert found["fused_bytes_per_second"] == (2 * 4 * x + 2 * 4 * pooled + 2 * pooled) / 2


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


PEER = python("print('acc 10'); print('took 0.25 s'); print('acc 9{seed}.5 %')")
PEER_OPTIONS = ["--peer-accuracy", r"acc ([\d.]+)", "--peer-seconds", "took (.*) s"]


def test_a_real_training_beside_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = time_to_accuracy.timed

    def here(words: list[str], **options: Any) -> tuple[float, str]:
        """The training in this process, to save the seconds of importing torch."""
        if words[1:3] != ["-m", "resight"]:
            found: tuple[float, str] = timed(words, **options)
            return found
        done = CliRunner().invoke(app, words[3:])
        assert done.exit_code == 0, done.output
        return 100.0, done.stdout

    monkeypatch.setattr(time_to_accuracy, "timed", here)
    argv = ["--recipe", "digits", "--n", "1", "--fresh-cache", "--target", "0.9"]
    argv += ["--options", "--epochs 1 --lr 0.01 --set model.width=4 --device cpu"]
    found = figures(time_to_accuracy.main, [*argv, "--peer", PEER, *PEER_OPTIONS], tmp_path)
    ours, peer = found["resight"], found["peer"]
    (training,) = ours["trainings"]
    assert 0 <= training["accuracy"] == ours["accuracy_mean"] <= 1
    assert 0 < training["train_seconds"] < sum(training["parts"].values())
    assert peer["accuracy_mean"] == pytest.approx(0.905)
    assert peer["train_seconds"]["median"] == 0.25
    assert peer["share_at_target"] == 1.0
    assert found["ratio"]["train_seconds"] == pytest.approx(training["train_seconds"] / 0.25)
    wall = 100 / peer["wall_seconds"]["median"]
    assert found["ratio"]["wall_seconds"] == pytest.approx(wall)
    assert "n = 1, nothing cached" in capsys.readouterr().out


def test_the_command_is_resights_own() -> None:
    words = [sys.executable, "-m", "resight", "--version"]
    seconds, said = time_to_accuracy.timed(words, fresh_cache=False)
    assert said.startswith("resight ")
    assert seconds > 0


def fake_training(seconds: list[float], accuracies: list[float]) -> Any:
    def train(options: Any, seed: int) -> Any:
        return time_to_accuracy.Training(seconds[seed], accuracies[seed], seconds[seed] / 2, "here")

    return train


def test_trainings_are_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = fake_training([3.0, 1.0, 2.0], [0.9, 0.92, 0.91])
    monkeypatch.setattr(time_to_accuracy, "our_training", ours)
    found = figures(time_to_accuracy.main, ["--n", "3", "--target", "0.91"], tmp_path)
    assert found["resight"]["accuracy_mean"] == pytest.approx(0.91)
    assert found["resight"]["accuracy_std"] == pytest.approx(0.01)
    assert found["resight"]["share_at_target"] == pytest.approx(2 / 3)
    assert found["resight"]["wall_seconds"] == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert found["resight"]["train_seconds"]["median"] == 1.0
    assert "peer" not in found
    assert "ratio" not in found


def test_seeds_and_sides_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = fake_training([1.0, 1.0], [0.5, 0.5])
    monkeypatch.setattr(time_to_accuracy, "our_training", ours)
    argv = ["--n", "2", "--peer", PEER, *PEER_OPTIONS]
    found = figures(time_to_accuracy.main, argv, tmp_path)
    order = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert order == ["resight, seed 0", "peer, seed 0", "peer, seed 1", "resight, seed 1"]
    assert [t["accuracy"] for t in found["peer"]["trainings"]] == pytest.approx([0.905, 0.915])


def test_a_fresh_cache_is_an_empty_one_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", "mine")
    code = (
        "import os; print(os.environ['RESIGHT_CACHE'], os.path.exists(os.environ['RESIGHT_CACHE']))"
    )
    words = [sys.executable, "-c", code]
    assert time_to_accuracy.timed(words, fresh_cache=False)[1].split() == ["mine", "False"]
    first, second = (time_to_accuracy.timed(words, fresh_cache=True)[1].split() for _ in range(2))
    assert first[1] == second[1] == "False"
    assert len({"mine", first[0], second[0]}) == 3


@pytest.mark.parametrize(
    ("peer", "pattern", "said"),
    [
        (python("raise SystemExit('no data here')"), "(.*)", "exit 1: no data here"),
        ("no-such-program", "(.*)", "no-such-program: No such file or directory"),
        (python("print('nothing of it')"), "acc (.*)", "(its last line: nothing of it)"),
        (python("print('acc none')"), "acc (.*)", "'acc none', which is not a number"),
    ],
)
def test_a_peer_that_fails_is_named(
    peer: str,
    pattern: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(time_to_accuracy, "our_training", fake_training([1.0], [0.5]))
    with pytest.raises(SystemExit) as stop:
        time_to_accuracy.main(["--n", "1", "--peer", peer, "--peer-accuracy", pattern])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_start_up_follows_from_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = resight.train("digits", out=tmp_path / "a", epochs=1, lr=0.01, report=False, device="cpu")
    code = f"import shutil, sys; shutil.copytree({str(run.path)!r}, sys.argv[-1])"
    words = [sys.executable, "-c", "pass"]
    monkeypatch.setattr(start_up, "COMMANDS", {"import torch": words, "resight --help": words})
    monkeypatch.setattr(start_up, "TRAIN", [sys.executable, "-c", code])
    found = figures(start_up.main, ["--n", "2"], tmp_path)
    result = run.result
    assert found["medians"]["train digits, to the result"] == result["wall_seconds"]
    before = found["medians"]["train digits, to the first step"]
    parts = result["timings"]
    assert before == pytest.approx(
        result["wall_seconds"] - parts["steps"] - parts["evaluate"] - parts["save"]
    )
    assert 0 < before < result["wall_seconds"] - result["train_seconds"]
    torch_seconds = found["seconds"]["import torch"]
    assert found["over_import_torch"].keys() == found["seconds"].keys()
    for name, seconds in found["seconds"].items():
        assert len(seconds) == 2
        assert_spread(found["over_import_torch"][name], seconds, torch_seconds)
        assert found["medians"][name] == pytest.approx(statistics.median(seconds))
    assert "resight --help" in capsys.readouterr().out


def test_the_training_that_warms_up_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(1)

    def training(runs: list[dict[str, Any]], more: list[str]) -> Callable[[], None]:
        facts = {"result": 1.0, "parts": {}, "runtime": {}, "python": "3"}
        return lambda: runs.append({"before": next(numbers), **facts})

    monkeypatch.setattr(start_up, "training", training)
    monkeypatch.setattr(start_up, "COMMANDS", {"import torch": [sys.executable, "-c", "pass"]})
    assert start_up.measure(2)["seconds"]["train digits, to the first step"] == [2, 3]


def test_start_up_measures_commands_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"import torch", "import resight", "resight --help"} <= start_up.COMMANDS.keys()
    start_up.command(start_up.COMMANDS["resight --version"])()
    with pytest.raises(ResightError, match="exit 1: gone"):
        start_up.command([sys.executable, "-c", "raise SystemExit('gone')"])()


@pytest.mark.parametrize("mapped", [False, True])
def test_scaling_follows_from_its_seconds(
    mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "MIN_SECONDS", 0.002)
    argv = ["--min", "60", "--max", "600", "--rounds", "2"] + ["--mapped"] * mapped
    found = figures(scaling.main, argv, tmp_path)["works"]
    for work in found.values():
        small, large = work["sizes"]
        assert (small["images"], large["images"]) == (60, 600)
        assert_spread(work["ratio"], large["ns_per_image"], small["ns_per_image"])
        assert small["ns_per_image_median"] == statistics.median(small["ns_per_image"])
        ratio = large["bytes_per_image"] / small["bytes_per_image"]
        assert work["bytes_ratio"] == pytest.approx(ratio)
    held = {name: work["sizes"][1]["bytes_per_image"] for name, work in found.items()}
    assert held["drawing a plan"] == 8 + 16 + 1 + 16  # order, shifts, flips, boxes
    assert held["placing a split"] == pytest.approx(32 * 32 * 3 + 8, rel=0.01)
    assert held["augmenting"] == 4 * 32 * 32 * 3 + 8


def test_an_images_cost_is_that_of_the_images_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"10": [4e-6, 6e-6, 8e-6], "100": [8e-5, 6e-5, 4e-5]}
    monkeypatch.setattr(scaling, "take_turns", lambda works, rounds: seconds)
    monkeypatch.setattr(scaling, "seconds_of", lambda work: scaling.MIN_SECONDS / 2)
    works = {n: scaling.Timed(lambda n=n: (np.zeros(n, np.uint8),), n // 5, n) for n in (10, 100)}
    found = scaling.measure(works, rounds=3)
    small, large = found["sizes"]  # each worked on twice, but for the memory of the largest
    assert small["ns_per_image"] == pytest.approx([1000.0, 1500.0, 2000.0])
    assert large["ns_per_image"] == pytest.approx([4000.0, 3000.0, 2000.0])
    assert found["ratio"] == pytest.approx({"median": 2.0, "low": 1.0, "high": 4.0})
    assert (small["bytes_per_image"], large["bytes_per_image"]) == (1.0, 1.0)


def test_an_epoch_is_sampled_from_its_first_batch_to_its_last() -> None:
    split = workload.random_split(scaling.BATCH * 40 + 7, size=1)
    split = Split(np.zeros((len(split), 32, 32, 3), np.uint8), split.labels, split.ids)
    work = scaling.augmenting(split)
    assert work.images == 15 * scaling.BATCH + 7
    assert work.kept == 7
    assert len(work.run()[1]) == 7


def test_scaling_refuses_what_can_not_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(scaling.main, ["--max", "5000"], capsys)
    assert "--max 5000 must be at least ten times --min 1000" in said
    monkeypatch.setattr(scaling, "free_memory", lambda device: 10**9)
    said = refusal(scaling.main, ["--max", "1e6"], capsys)
    assert "--max 1000000 needs 6.4 GB of memory and 1.0 GB are free" in said


def test_the_lr_finder_is_compared_on_adam_only(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch_lr_finder")
    lr_finder = importlib.import_module("lr_finder")
    said = refusal(lr_finder.main, ["--set", "optimizer.name=sgd"], capsys)
    assert "give --set optimizer.name=adam" in said


def test_an_estimate_is_held_against_what_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timings = {"start": 5.0, "cost": 0.5, "lr_test": 2.0, "steps": 7.0, "evaluate": 1.0}
    seconds = iter([8.0, 12.0, 11.0])
    monkeypatch.setattr(
        estimate, "trained", lambda case: {"timings": timings, "estimated_seconds": next(seconds)}
    )
    found = figures(estimate.main, ["--recipe digits", "--n", "3", "--busy"], tmp_path)
    assert [one["took"] for one in found["--recipe digits"]] == [10.0] * 3
    errors = [one["error"] for one in found["--recipe digits"]]
    assert errors == pytest.approx([-0.2, 0.2, 0.1])
    said = capsys.readouterr().out
    assert "beside a busy process, n = 3" in said
    assert re.search(r"--recipe digits +11.0 +10.0 +0.5 +10 \(from -20 to 20\)", said)


def test_an_estimate_of_a_real_training(tmp_path: Path) -> None:
    found = figures(estimate.main, ["--recipe digits --epochs 1 --lr 0.01"], tmp_path)
    (one,) = found["--recipe digits --epochs 1 --lr 0.01"]
    assert min(one["estimated"], one["took"], one["cost"]) > 0


def test_lrs_either_side_of_the_reading_are_trained(tmp_path: Path, capsys: Any) -> None:
    """On digits as a folder, so small that the LR test has too few images: the middle is given."""
    root = folder(tmp_path / "mine", ("cat", "dog"), each=8)
    words = ["--data", str(root), "--epochs", "1", "--middle", "0.02", "--each-side", "1"]
    small = {"model.width": 8, "data.image_size": 8, "train.batch_size": 8}
    small |= {"augment.crop_pad_px": 1, "augment.cutout_px": 0}
    words += [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    found = figures(lr_readings.main, words, tmp_path)
    assert found["accuracies"].keys() == {"0.01", "0.02", "0.04"}
    assert all(0 <= accuracy <= 1 for accuracy in found["accuracies"].values())
    assert "LR max" in capsys.readouterr().out


def test_a_served_run_is_asked_by_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "digits", "--epochs", "1", "--set", "model.width=4", "--no-report"]
    CliRunner().invoke(app, ["train", *words, "--lr", "0.02", "--out", str(tmp_path / "run")])
    argv = [str(tmp_path / "run"), "--clients", "1", "3", "--seconds", "0.1"]
    found = figures(serve.main, argv, tmp_path)
    assert [(one["clients"], one["what"]) for one in found["loads"]] == [
        (clients, what) for clients in (1, 3) for what in ("the server", "the net alone")
    ]
    for one in found["loads"]:
        assert one["n"] >= 1
        assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert one["per_second"] > 0
    assert "3  the net alone" in capsys.readouterr().out


def test_a_load_s_figures_follow_from_its_seconds() -> None:
    load = serve.Load([0.1, 0.2, 0.3, 0.4], wall=2.0, images=8)
    assert load.to_dict() == pytest.approx(
        {"per_second": 16.0, "p50_ms": 250.0, "p99_ms": 397.0, "n": 4}
    )


def test_clients_ask_until_the_time_is_over_and_stop_at_an_error() -> None:
    """Against a server that answers the third request of a connection with an error."""

    async def answering(reader: Any, writer: Any) -> None:
        for status in ("200 OK", "200 OK", "503 Busy"):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(5) == b"image"
            body = b'{"error":"full"}'
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 16\r\n\r\n".encode() + body)

    async def ask(seconds: float) -> serve.Load:
        async with await asyncio.start_server(answering, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await serve.asked(port, b"image", 2, seconds)

    with pytest.raises(ResightError, match="the server answers full"):
        asyncio.run(ask(60))
    assert len(asyncio.run(ask(0)).seconds) == 0


def test_executors_are_compared_step_by_step(tmp_path: Path) -> None:
    """Eager with eager, where there is no GPU: to the bit."""
    case = "custom-resnet model.width=4 train.batch_size=16 precision=fp32"
    argv = ["--device", "cpu", "--cases", case, "--steps", "6", "--images", "70"]
    found = figures(executors.main, argv, tmp_path)[case]
    assert (found["loss_difference"], found["logit_difference"]) == (0.0, 0.0)
    assert found["executor"] == "eager"
    assert found["last_loss"] > 0
    losses, _ = executors.losses_of(executors.job_of(case, "cpu", eager=True, images=70), 6)
    assert losses[-1] == found["last_loss"]
    assert len(set(losses.tolist())) == 6  # of two epochs, the first one with four full batches


@NO_GPU
@pytest.mark.parametrize("benchmark", [executors, gpu_step])
def test_what_needs_a_gpu_says_so(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "torch finds no CUDA GPU" in refusal(benchmark.main, [], capsys)


def test_all_gpu_benchmarks_run_in_turn_until_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {
        "one": {"good": "measuring.py", "bad": "gpu_step.py --recipe nope --device cpu"},
        "two": {"never": "measuring.py"},
    }
    parts["one"] = {"a module": "-m keyword", **parts["one"]}
    monkeypatch.setattr(gpu, "commands", lambda *_: parts)
    table = tmp_path / "table.json"
    with pytest.raises(SystemExit):
        gpu.main(["--folder", str(tmp_path / "all"), "--json", str(table)])
    done = json.loads(table.read_text(encoding="utf-8"))["done"]
    assert [(name, last) for name, _, last in done if name != "bad"] == [
        ("a module", "it printed nothing"),
        ("good", "it printed nothing"),
        ("never", "not run"),
    ]
    assert done[2][2].startswith("bad: exit 2: error: recipe 'nope'")
    assert (tmp_path / "all" / "bad.txt").read_text(encoding="utf-8").startswith("error: ")
    assert "error: bad: exit 2" in capsys.readouterr().err


def test_the_gpu_list_names_commands_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--list", "--data", "a folder", "--n", "4"])
    tests, *lines = capsys.readouterr().out.splitlines()
    assert tests.startswith("tests: -m pytest")
    assert all(Path(word).is_dir() for word in shlex.split(tests)[-2:])
    for line in lines:
        file, *words = shlex.split(line.split(": ", 1)[1])
        help_ = StringIO()
        with pytest.raises(SystemExit), contextlib.redirect_stdout(help_):
            importlib.import_module(file.removesuffix(".py")).main(["--help"])
        for word in words:
            assert not word.startswith("--") or " " in word or word in help_.getvalue()
    assert any("--data 'a folder'" in line and "--n 2" in line for line in lines)
    assert "--parts nope: must be one of tests, kernels" in refusal(
        gpu.main, ["--parts", "nope"], capsys
    )


def test_the_gain_of_a_second_thread_is_measured_idle_and_busy(tmp_path: Path) -> None:
    case = "digits model.width=4 train.batch_size=8"
    torch.set_num_threads(2)
    try:
        argv = ["--cases", case, "--rounds", "1", "--burst", "0.01"]
        found = figures(threads.main, argv, tmp_path)[case]
    finally:
        torch.set_num_threads(1)
    assert found["gflop"] == pytest.approx(0.0046, rel=0.2)
    for kind in ("idle", "busy"):
        rates = found[kind]
        assert found[f"{kind}_gain"]["median"] == pytest.approx(rates["2"] / rates["1"])
