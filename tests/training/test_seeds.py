"""Several seeds of a recipe: each the run it is alone, and what follows from them together."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import resight
from helpers import make_data
from resight.cli.app import app
from resight.comparison.rows import RunNumbers
from resight.data.splits import with_validation
from resight.data.types import ImageData
from resight.engine import job
from resight.engine.step import Eager
from resight.errors import ResightError
from resight.files import exclusive
from resight.formats import FORMAT
from resight.progress import Quiet
from resight.recipe.recipe import Recipe
from resight.runs.lr_test import LrTest
from resight.runs.manifest import write_files
from resight.runs.run import Run, load_run
from resight.runs.schemas import written
from resight.runs.seeds import SeedsResult
from resight.training import costs, resolve, seeds, session
from resight.training import train as training
from resight.training.lr_test_plan import LrTestPlan
from trainings import Listener, StopAt, assert_same_run, fit, images_for, interrupt, tiny


@pytest.fixture(autouse=True)
def _nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For steps that are timed or for the disk."""
    monkeypatch.setattr(costs, "measure", lambda job: costs.Cost(0.0, {0: 1e-3}, 1e-3))
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SeedsResult:
    """Two seeds of nine steps each that nothing stopped."""
    recipe = tiny("digits")
    return fit_seeds(recipe, images_for(recipe), tmp_path_factory.mktemp("whole") / "seeds")


def fit_seeds(recipe: Recipe, data: Any, out: Path, **options: Any) -> SeedsResult:
    options = {"reporter": Quiet(), "precision": "fp32", "report": False, "seeds": 2, **options}
    return resight.train_seeds(recipe, data, out=out, **options)


def resume_seeds(out: Path, data: Any, **options: Any) -> SeedsResult:
    return resight.train_seeds(data=data, resume=out, **{"reporter": Quiet(), **options})


def summary(out: Path) -> dict[str, Any]:
    values = json.loads((out / "seeds.json").read_text())
    assert values.pop("format") == FORMAT
    return values  # type: ignore[no-any-return]


def poison(monkeypatch: pytest.MonkeyPatch, seed: int, step: int = 4) -> None:
    """The loss of `seed` becomes nan at `step`."""
    original = Eager.step

    def poisoned(self: Eager, position: int) -> None:
        original(self, position)
        state = self.context.state
        if self.context.recipe.train.seed == seed and state.step == step + 1:
            state.trace.losses[position] = float("nan")

    monkeypatch.setattr(Eager, "step", poisoned)


def test_each_run_is_what_its_seed_alone_gives(data: ImageData, tmp_path: Path) -> None:
    recipe = tiny("digits", **{"train.seed": 3})
    result = fit_seeds(recipe, data, tmp_path / "many")
    assert result.seeds == (3, 4)
    for run, seed in zip(result.runs, (3, 4), strict=True):
        assert run.path == tmp_path / "many" / f"seed-{seed}"
        alone = fit(recipe.with_changes({"train.seed": seed}), data, tmp_path / f"alone-{seed}")
        assert_same_run(alone.path, run.path)
    assert result.accuracies == tuple(run.result["test_accuracy"] for run in result.runs)
    assert result.train_seconds == tuple(run.result["train_seconds"] for run in result.runs)


def test_the_summary_in_the_folder_is_the_results(data: ImageData, out: Path) -> None:
    result = fit_seeds(tiny("digits"), data, out, seeds=3)
    written = summary(out)
    plan = written.pop("plan")
    assert written == result.to_dict()
    assert Recipe.parse(plan["recipe"]) == tiny("digits")
    assert written["test_accuracy"] == {
        "mean": result.mean,
        "std": result.std,
        "mean_95": list(result.interval or ()),
    }
    assert [row["seed"] for row in written["runs"]] == [0, 1, 2]
    assert [row["lr_max"] for row in written["runs"]] == [0.02] * 3
    names = {path.name for path in out.iterdir()}
    kept = {".lock", ".manifest.lock", "manifest.json"}
    assert names == {*kept, "seed-0", "seed-1", "seed-2", "seeds.json"}
    assert math.fsum(result.timings.values()) == pytest.approx(result.wall_seconds, abs=1e-9)
    assert result.timings["steps"] == pytest.approx(math.fsum(result.train_seconds), abs=1e-9)


def test_the_images_are_decoded_once(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def load(source: str, **options: Any) -> ImageData:
        loads.append(source)
        return data

    monkeypatch.setattr(job, "load_ahead", load)
    recipe = tiny("digits", **{"data.val_fraction": 0.2})
    result = fit_seeds(recipe, None, out)
    assert loads == ["digits"]
    assert result.n == 2
    held = with_validation(data, 0.2, 0).val
    assert held is not None
    assert [run.resolved["data"]["val"] for run in result.runs] == [len(held)] * 2


@pytest.mark.usefixtures("any_lr_test")
def test_the_lr_is_found_for_each_seed(data: ImageData, out: Path) -> None:
    recipe = tiny("digits", **{"schedule.lr_max": "find"})
    result = fit_seeds(recipe, make_data(256), out)
    found = [run.resolved["found"]["lr_max"] for run in result.runs]
    assert [row["lr_max"] for row in summary(out)["runs"]] == found
    assert all(run.lr_test is not None for run in result.runs)


def test_minutes_give_every_seed_the_same_epochs(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    costs_of_a_step = iter([0.5, 0.1, 0.1, 0.1])  # a second look at the clock says otherwise
    monkeypatch.setattr(
        costs, "measure", lambda job: costs.Cost(0.0, {0: next(costs_of_a_step)}, 0.0)
    )
    recipe = tiny("digits").with_epochs(24)
    result = fit_seeds(recipe, data, out, minutes=1.2, reporter=listener)  # 35 s an epoch
    assert [run.recipe.schedule.epochs for run in result.runs] == [2, 2]
    assert [len(run.metrics) for run in result.runs] == [2, 2]
    assert sum("on made: 70 train" in line for line in listener.lines) == 1


def test_the_first_seed_alone_gets_its_report(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    train = seeds.train

    def note(*args: Any, report: bool, **options: Any) -> resight.Run:
        asked.append(report)
        return train(*args, report=False, **options)

    monkeypatch.setattr(seeds, "train", note)
    fit_seeds(tiny("digits"), data, out, report=True, seeds=3)
    assert asked == [True, False, False]


@pytest.mark.parametrize("step", [4, 9, 13])
def test_what_ctrl_c_cut_goes_on_bit_for_bit(step: int, whole: SeedsResult, tmp_path: Path) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    cut = tmp_path / "cut"
    with pytest.raises(resight.Interrupted) as stopped:
        fit_seeds(recipe, data, cut, reporter=StopAt(step, interrupt))
    assert stopped.value.run == cut
    assert stopped.value.exit_code == 130
    done = int(step > 9)
    assert str(stopped.value) == (
        f"stopped at seed {done} with {done} of 2 seeds done; "
        f"resume with: resight train --resume {cut}"
    )
    assert summary(cut)["n"] == done
    kept = {path: path.read_bytes() for path in (cut / "seed-0").iterdir()} if done else {}
    result = resume_seeds(cut, data)
    assert result.resumed
    assert result.accuracies == whole.accuracies
    for run in whole.runs:
        assert_same_run(run.path, cut / run.path.name)
    assert {path: path.read_bytes() for path in kept} == kept


def test_seeds_that_are_done_are_left_as_they_are(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fit_seeds(tiny("digits"), data, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(session, "open_data", None)  # the images are not even looked at
    listener = Listener()
    again = resume_seeds(out, data, reporter=listener)
    assert again == result
    assert listener.lines == [f"{out} is already finished: nothing to do"]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_seed_that_blows_up_is_named_and_the_others_are_trained(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, seed=1)
    listener = Listener()
    result = fit_seeds(tiny("digits"), data, out, seeds=3, reporter=listener)
    assert [run.path.name for run in result.runs] == ["seed-0", "seed-2"]
    assert result.n == len(result.accuracies) == 2
    assert list(result.failures) == [1]
    assert "the loss became nan at step 4 (epoch 2)" in result.failures[1]
    assert result.headline.endswith("; 1 of 3 failed: seed 1")
    assert "(n=2; " in result.headline
    assert re.search(r"^ +1  the loss became nan", str(result), re.MULTILINE)
    assert any(line.startswith("seed 1 failed: the loss became nan") for line in listener.lines)
    assert summary(out)["failed"] == [{"seed": 1, "message": result.failures[1]}]
    monkeypatch.setattr(seeds, "train", None)  # it would only fail again
    assert resume_seeds(out, data) == result


def test_a_failure_counts_even_where_the_process_died_of_it(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, seed=0)
    train = seeds.train

    def die(*args: Any, **options: Any) -> resight.Run:
        try:
            return train(*args, **options)
        except ResightError:
            raise MemoryError from None

    monkeypatch.setattr(seeds, "train", die)
    with pytest.raises(MemoryError):
        fit_seeds(tiny("digits"), data, out)
    assert summary(out)["failed"] == []
    monkeypatch.undo()
    result = resume_seeds(out, data)
    assert list(result.failures) == [0]
    assert result.n == 1


def test_a_last_run_counts_even_where_the_process_died_after_it(data: ImageData, out: Path) -> None:
    result = fit_seeds(tiny("digits"), data, out)
    whole = summary(out)
    told = {**whole, "n": 1, "runs": whole["runs"][:1]}
    write_files(out, {"seeds.json": written(told)})
    assert resume_seeds(out, data).accuracies == result.accuracies
    assert summary(out) == whole


def test_two_processes_do_not_train_the_same_seeds(data: ImageData, out: Path) -> None:
    with pytest.raises(resight.Interrupted):
        fit_seeds(tiny("digits"), data, out, reporter=StopAt(2, interrupt))
    with exclusive(out / ".lock"), pytest.raises(ResightError, match="by another process"):
        resume_seeds(out, data)


@pytest.mark.usefixtures("any_lr_test")
def test_a_seed_whose_curve_shows_nothing_gets_the_usual_lr(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = resolve.run_range_test

    def flat(of: job.Job, plan: LrTestPlan, **options: Any) -> LrTest:
        curve = test(of, plan, **options)
        rises = 10 + np.arange(len(curve.lrs), dtype=np.float64)
        return replace(curve, losses=rises) if of.recipe.train.seed == 0 else curve

    monkeypatch.setattr(resolve, "run_range_test", flat)
    listener = Listener()
    recipe = tiny("digits", **{"schedule.lr_max": "find", "schedule.lr_min": "find"})
    result = fit_seeds(recipe, make_data(256), out, reporter=listener)
    assert (result.n, result.failures) == (2, {})
    usual, found = (run.resolved["found"] for run in result.runs)
    assert usual == {"lr_max": 0.003, "lr_min": pytest.approx(0.003 / 25)}
    assert found["lr_max"] != 0.003
    assert [line for line in listener.lines if line.startswith("no LR found")] == [
        "no LR found (the LR test's loss never falls below 1.1, the chance level): using what is "
        "usual for adam: lr_max 0.003 · lr_min 0.00012"
    ]
    assert [RunNumbers.of(run, "").lr_usual for run in result.runs] == [True, False]
    assert [RunNumbers.of(run, "").lr_found for run in result.runs] == [False, True]


def test_what_the_user_can_mend_ends_all_and_says_how_to_go_on(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise ResightError("can't write last.pt: no space left")

    monkeypatch.setattr(seeds, "train", full)
    with pytest.raises(ResightError, match=r"seed 0: can't write .* resight train --resume "):
        fit_seeds(tiny("digits"), data, out)
    monkeypatch.undo()
    assert resume_seeds(out, data).n == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, r"seeds = 0 must be an integer from 1 to 10,000"),
        ({"seeds": -3}, r"seeds = -3 must be"),
        ({"seeds": 2.5}, r"seeds = 2\.5 must be"),
        ({"seed": 2**63 - 1}, r"train\.seed"),
        ({"minutes": 1e-6}, r"minutes = 1e-06 is too short"),
        ({"minutes": -1}, r"minutes = -1 must be a number above 0"),
        ({"device": "gpu"}, r"device = 'gpu' must be"),
        ({"live": True}, r"unknown setting 'live'"),
    ],
)
def test_bad_words_leave_nothing_behind(
    options: dict[str, Any], message: str, data: ImageData, out: Path
) -> None:
    with pytest.raises(ResightError, match=message) as raised:
        fit_seeds(tiny("digits"), data, out, **options)
    assert "\n" not in str(raised.value)
    assert not out.exists()


def test_resume_takes_what_was_begun_and_nothing_else(data: ImageData, out: Path) -> None:
    with pytest.raises(resight.Interrupted):
        fit_seeds(tiny("digits"), data, out, reporter=StopAt(2, interrupt))
    for options, message in (
        ({"seeds": 3}, "seeds: 2 → 3"),
        ({"epochs": 4}, "schedule.epochs: 3 → 4"),
        ({"seed": 1}, "train.seed: 0 → 1"),
        ({"minutes": 2.0}, "keeps its own --minutes"),
        ({"data": make_data(80)}, "are not the ones it was trained on"),
    ):
        with pytest.raises(ResightError, match=message):
            resume_seeds(out, **{"data": data, **options})
    with pytest.raises(ResightError, match=r"no data 'memory'.*if the images have moved: --data"):
        resume_seeds(out, None)
    with pytest.raises(ResightError, match=r"has no seeds\.json, so it does not hold"):
        resume_seeds(out / "seed-0", data)
    assert resume_seeds(out, data, seeds=2).n == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"plan": {"seeds": 3}, "failed": []}'])
def test_a_damaged_summary_is_said_in_a_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "seeds.json").write_text(content)
    with pytest.raises(ResightError, match=r"seeds\.json is not as Resight writes it: ") as raised:
        resume_seeds(tmp_path, None)
    assert "\n" not in str(raised.value)


def test_the_folder_of_seeds_is_no_run_and_no_place_for_one(data: ImageData, out: Path) -> None:
    result = fit_seeds(tiny("digits"), data, out, seeds=1)
    with pytest.raises(ResightError, match="of several seeds and is not itself a run"):
        load_run(out)
    for call in (fit, fit_seeds):
        with pytest.raises(ResightError, match=r"already holds the runs of several seeds: .*esume"):
            call(tiny("digits"), data, out)
    with pytest.raises(ResightError, match=r"seed-0 already holds a run"):
        fit_seeds(tiny("digits"), data, result.runs[0].path)


def test_the_runs_compare(data: ImageData, out: Path) -> None:
    result = fit_seeds(tiny("digits"), data, out)
    compared = resight.compare(sorted(out.glob("seed-*")))
    assert compared.differences == {"train.seed": (0, 1)}
    assert [row.test_accuracy for row in compared.numbers] == list(result.accuracies)


SMALL = ["--recipe", "digits", "--set", "model.width=4", "--epochs", "1", "--lr", "0.02"]


def test_the_command_trains_seeds_and_prints_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    done = runner.invoke(
        app, ["train", *SMALL, "--no-report", "--seeds", "2", "--seed", "7", "--timings"]
    )
    assert done.exit_code == 0, done.output
    parent = Path("runs/digits-seeds-1")
    values = summary(parent)
    mean, std = values["test_accuracy"]["mean"], values["test_accuracy"]["std"]
    line = f"\ntest accuracy {mean:.2%} ± {std:.2%} (n=2; 95% CI of the mean: "
    assert line in done.output
    for row in values["runs"]:
        assert re.search(rf"^ +{row['seed']} +{row['test_accuracy']:.2%} ", done.output, re.M)
    seconds = values["train_seconds"]
    assert f"\ntrain seconds {seconds['mean']:.2f} ± {seconds['std']:.2f}\n" in done.output
    assert f"\nnext    resight compare {parent}/seed-*, or resight report {parent}/seed-7\n" in (
        done.output
    )
    assert f"\nwhere the {values['wall_seconds']:,.2f} s went\n" in done.output
    assert [row["seed"] for row in values["runs"]] == [7, 8]
    again = runner.invoke(app, ["train", "--resume", str(parent), "--json"])
    del values["plan"]
    assert json.loads(again.stdout) == values
    assert again.exit_code == 0


def test_the_command_fails_where_a_seed_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    poison(monkeypatch, seed=1)
    done = CliRunner().invoke(app, ["train", *SMALL, "--no-report", "--seeds", "2", "--json"])
    assert done.exit_code == 2
    assert [row["seed"] for row in json.loads(done.stdout)["failed"]] == [1]


def test_a_stop_in_the_look_into_a_run_keeps_it(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "examine", lambda opened: interrupt())
    with pytest.raises(resight.Interrupted, match="stopped at seed 0 with 1 of 2 seeds done; "):
        fit_seeds(tiny("digits"), data, out)
    monkeypatch.undo()
    assert resume_seeds(out, data).n == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 0", "error: seeds = 0 must be an integer from 1 to 10,000"),
        ("--seeds 2 --live", "error: --live shows a single run; leave out --live or --seeds"),
        ("--seeds 2 --resume nowhere", "error: nowhere has no seeds.json"),
    ],
)
def test_bad_options_are_a_line_and_exit_2(words: str, message: str) -> None:
    done = CliRunner().invoke(app, ["train", "--recipe", "digits", *words.split()])
    assert done.exit_code == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_the_report_of_the_first_seed_is_not_expected_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, usual, listener = [0.0], seeds._train_one, Listener()

    def slow(run: Run, *arguments: Any) -> None:
        usual(run, *arguments)
        now[0] += 1000
        if run.path.name == "seed-0":
            result = run.result
            result["timings"]["report"] = 700.0
            run.write("result.json", result)

    monkeypatch.setattr(seeds, "_train_one", slow)
    monkeypatch.setattr(seeds.time, "perf_counter", lambda: now[0])
    recipe = tiny("digits")
    fit_seeds(recipe, images_for(recipe), tmp_path / "seeds", reporter=listener)
    assert [line for line in listener.lines if "in total" in line and "seed 1" in line] == [
        f"seed 1 (2 of 2): {tmp_path / 'seeds' / 'seed-1'}, about 5 min left in total"
    ]
