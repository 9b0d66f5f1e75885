"""Where a command's seconds went: nothing is counted twice and nothing is left out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import resight
from helpers import make_data
from resight.cli.app import app
from resight.cli.output import print_timings
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.runs.run import Run, load_run
from resight.runs.timings import PARTS, table
from resight.training import announcement, request, resolve, session
from resight.training import train as training
from resight.training.timings import Timings
from trainings import StopAt, fit, images_for, interrupt, resume, tiny


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def moving(self, seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, as if it took this long."""

        def moved(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return work(*args, **kwargs)

        return moved


def sum_without_report(run: Run) -> float:
    parts = run.result["timings"]
    return math.fsum(value for part, value in parts.items() if part != "report")


def test_an_inner_part_is_not_counted_in_the_outer_one() -> None:
    clock = Clock()
    timings = Timings(started=97.0, clock=clock)
    clock.now += 5  # in no part
    with timings("data"):
        clock.now += 10
        with timings("build"):
            clock.now += 20
            with timings("data"):
                clock.now += 40
        clock.now += 80
    clock.now += 160
    with timings("build"):
        clock.now += 320
    assert timings.measured == {"start": 3, "data": 130, "build": 340}
    assert timings.parts(638) == {"start": 3, "data": 130, "build": 340, "rest": 165}


def test_a_part_that_raises_is_counted_and_closed() -> None:
    clock = Clock()
    timings = Timings(started=100.0, clock=clock)

    def fail() -> None:
        clock.now += 7
        raise KeyError

    with pytest.raises(KeyError), timings("data"), timings("build"):
        fail()
    clock.now += 100
    with timings("save"):
        clock.now += 1
    assert timings.measured == {"start": 0, "data": 0, "build": 7, "save": 1}


def test_parts_that_something_else_timed_come_out_of_theirs() -> None:
    timings = Timings(started=100.0, clock=Clock())
    timings.add({"epochs": 10.0})
    timings.add({"steps": 6.0, "evaluate": 3.0}, out_of="epochs")
    timings.add({"steps": 1.0, "rest": 5.0})
    assert timings.measured == {"start": 0, "epochs": 1, "steps": 7, "evaluate": 3, "rest": 5}
    parts = timings.parts(20.0)
    assert list(parts) == ["start", "steps", "evaluate", "epochs", "rest"]
    assert parts["rest"] == 9
    assert sum(parts.values()) == 20


def test_a_part_that_no_table_knows_is_a_mistake() -> None:
    timings = Timings(started=0.0)
    with pytest.raises(AssertionError, match="decode"), timings("decode"):
        pass


def test_the_table_has_seconds_and_shares() -> None:
    timings = Timings(started=95.0, clock=Clock())
    timings.add({"steps": 1200.0})
    first, second, third = table(timings.parts(2410.0))
    assert re.fullmatch(rf"  {re.escape(PARTS['start'])} +5\.00 s +0\.2%", first)
    assert re.fullmatch(rf"  {re.escape(PARTS['steps'])} +1,200\.00 s +49\.8%", second)
    assert re.fullmatch(rf"  {re.escape(PARTS['rest'])} +1,205\.00 s +50\.0%", third)
    assert len({len(line) for line in (first, second, third)}) == 1
    assert table({"steps": 0.0})[0].endswith("0.0%")


@pytest.mark.usefixtures("any_lr_test")
def test_each_second_of_a_training_goes_to_what_took_it(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(session, "Timings", partial(Timings, clock=clock))
    for seconds, module, name in (
        (1, request, "recipe_for"),
        (2, session, "open_data"),
        (4, session, "build_job"),
        (16, resolve, "run_range_test"),
        (32, training, "_watch"),
        (64, training, "measure"),
        (128, training, "model_bytes"),
    ):
        monkeypatch.setattr(module, name, clock.moving(seconds, getattr(module, name)))
    monkeypatch.setattr(announcement, "say", clock.moving(8, announcement.say))
    recipe = tiny("digits", **{"schedule.lr_max": "find"})
    run = fit(recipe, make_data(256, val=12), out, started=clock.now)
    parts = run.result["timings"]
    exact = ("start", "data", "build", "cost", "lr_test", "checks", "evaluate", "save")
    measured = {part: parts[part] for part in exact}
    measured["evaluate"] -= math.fsum(row["evaluate_seconds"] for row in run.metrics)
    assert measured == pytest.approx(
        {
            "start": 0,
            "data": 2,
            "build": 4,
            "cost": 8,
            "lr_test": 16,
            "checks": 32,
            "evaluate": 128,  # val and test
            "save": 128,
        }
    )
    assert parts["steps"] == pytest.approx(run.result["train_seconds"])


def test_the_parts_of_a_run_sum_to_its_wall_seconds(data: ImageData, out: Path) -> None:
    run = fit(tiny("digits"), data, out)
    parts = run.result["timings"]
    assert sum_without_report(run) == pytest.approx(run.result["wall_seconds"], abs=1e-9)
    assert parts["steps"] == pytest.approx(run.result["train_seconds"], abs=1e-9)
    assert "lr_test" not in parts
    assert set(parts) <= set(PARTS)
    assert all(seconds >= 0 for seconds in parts.values())
    assert list(parts)[-1] == "report"
    assert parts["report"] > 0
    assert run.result["resumed_from_step"] is None


def test_a_resumed_run_counts_this_process_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny("digits")
    data = images_for(recipe)
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(5, interrupt))
    saved = load_run(tmp_path / "cut").checkpoint()
    assert saved is not None
    assert saved["epoch_seconds"] > 0  # two steps of the second epoch
    before = saved["epoch_seconds"] + saved["history"][0]["train_seconds"]
    run = resume(tmp_path / "cut", data)
    steps = run.result["timings"]["steps"]
    assert steps == pytest.approx(run.result["train_seconds"] - before, abs=1e-9)
    assert sum_without_report(run) == pytest.approx(run.result["wall_seconds"], abs=1e-9)
    assert run.result["resumed_from_step"] == 5
    print_timings(run.result)
    assert " (this process only, resumed at step 5)\n" in capsys.readouterr().out


def test_a_result_stays_where_its_report_can_not_be_counted(
    data: ImageData, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Run.write

    def full(self: Run, name: str, value: Any) -> None:
        if name == "result.json" and self.finished:
            raise ResightError("no space left on device")
        write(self, name, value)

    monkeypatch.setattr(Run, "write", full)
    run = fit(tiny("digits"), data, out)
    assert "report" not in run.result["timings"]
    assert sum_without_report(run) == pytest.approx(run.result["wall_seconds"], abs=1e-9)


def test_the_command_prints_a_table_that_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "train --recipe digits --set model.width=4 --epochs 1 --lr 0.02 --no-report --timings"
    output = CliRunner().invoke(app, words.split()).output
    told = re.search(r"^where the ([\d.]+) s went\n((?:  .*\n)+)(training as .*)\n\Z", output, re.M)
    total, table, record = told.groups()  # type: ignore[union-attr]
    rows = re.findall(r"^  (.+?) +([\d.]+) s +([\d.]+)%$", table, re.M)
    assert math.fsum(float(seconds) for _, seconds, _ in rows) == pytest.approx(
        float(total), abs=0.01 * len(rows)
    )
    assert math.fsum(float(share) for _, _, share in rows) == pytest.approx(100, abs=len(rows) / 10)
    assert rows[0][0] == PARTS["start"]
    clock, *parts = (float(number) for number in re.findall(r"\d+\.\d+", record))
    assert clock == pytest.approx(math.fsum(parts), abs=0.02)
    run = load_run("runs/digits-1").result
    seconds = [run["whitening_seconds"], run["train_seconds"], run["last_evaluation_seconds"]]
    assert parts == pytest.approx(seconds, abs=0.006)
    quiet = CliRunner().invoke(app, ["train", "--resume", "runs/digits-1", "--timings", "--json"])
    assert json.loads(quiet.stdout)["timings"].keys() >= {"start", "steps", "rest", "report"}
    assert "where the" not in quiet.output


def test_a_result_without_timings_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_timings({"test_accuracy": 0.5})
    assert capsys.readouterr().out == "no timings were recorded\n"
