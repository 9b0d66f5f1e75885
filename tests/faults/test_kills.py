"""Trainings killed at random moments and resumed, again and again: the same bits at the end.

Each is a process of its own, ended by the system's alarm without any cleaning up. The suite kills a
few; RESIGHT_FAULTS_KILLS says how many in all (`make faults`: 1,000). Then several at a time: one
trains, the others are told so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import resight
from helpers import make_data
from resight.errors import ResightError
from resight.progress import Quiet
from resight.recipe.recipe import Recipe
from resight.runs.run import Run, load_run
from trainings import assert_same_run, every_second_time, tiny

KILLS = int(os.environ.get("RESIGHT_FAULTS_KILLS", "15"))
TOGETHER = 4  # processes
REFUSED = 9  # the exit code of one that was told that another trains
LONGEST_S = 60.0  # a training that takes longer hangs

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "validation": {"val": True},
    "averages and an LR test": {"train.ema": 0.9, "schedule.lr_max": "find"},
    "a report": {"report": True},
    "several seeds": {"seeds": 2},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::resight.errors.ResightWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
]


def training(kind: str, out: Path) -> Callable[[], object]:
    """One command: it begins, or goes on with, the training at `out`."""
    settings = dict(KINDS[kind])
    data = make_data(val=12 if settings.pop("val", False) else 0)
    report, seeds = settings.pop("report", False), settings.pop("seeds", None)
    recipe = tiny("digits", **settings).with_epochs(6)
    options: dict[str, Any] = {"precision": "fp32", "report": report, "reporter": Quiet()}

    def run() -> object:
        begun = (out / "seeds.json").is_file() if seeds else Run(out).begun
        place: dict[str, Any] = {"resume": out} if begun else {"out": out}
        wanted: Recipe | None = None if begun else recipe
        if seeds:
            given = {} if begun else {"seeds": seeds}
            return resight.train_seeds(wanted, data, **given, **place, **options)
        return resight.train(wanted, data, **place, **options)

    return run


def begun(command: Callable[[], object], seconds: float) -> int:
    """The number of a process that runs it, and ends after `seconds` wherever it is."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        code = 1
        try:
            code = REFUSED if command() is None else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int | None:
    """The process's exit code; None if it was killed."""
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGALRM
        return None
    return os.WEXITSTATUS(status)


def killed(command: Callable[[], object], seconds: float) -> bool:
    """Run it in a process that ends after `seconds` wherever it is; whether it was ended."""
    code = ended(begun(command, seconds))
    assert code in (None, 0)
    return code is None


def undisturbed(kind: str, folder: Path) -> tuple[Path, float]:
    """The training that nothing stopped, and the seconds that one takes in a process."""
    whole = folder / "whole"
    training(kind, whole)()
    began = time.perf_counter()
    assert not killed(training(kind, folder / "timed"), LONGEST_S)
    return whole, time.perf_counter() - began


def runs_in(out: Path) -> list[Path]:
    return sorted(out.glob("seed-*")) or [out]


@pytest.mark.usefixtures("any_lr_test")
@pytest.mark.parametrize("kind", KINDS)
def test_killed_trainings_end_in_the_same_bits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resight.runs.checkpoints.Checkpointer.due", every_second_time())
    whole, usual = undisturbed(kind, tmp_path)
    kills, number, draws = 0, 0, random.Random(kind)
    while kills < KILLS // len(KINDS):
        out = tmp_path / f"cut-{number}"
        command = training(kind, out)
        for _ in range(4):
            kills += killed(command, draws.uniform(0.002, usual))
        assert not killed(command, LONGEST_S)
        for mine, theirs in zip(runs_in(whole), runs_in(out), strict=True):
            assert_same_run(mine, theirs)
            assert load_run(theirs).diagnosis is not None
            assert not list(theirs.glob(".*.tmp"))
        shutil.rmtree(out)
        number += 1
    print(f"{kind}: {kills} kills in {number} trainings, no difference")


def alone(command: Callable[[], object], beside: Path) -> Callable[[], object]:
    """The command, which ends with None where it is told that another process trains the run, or
    has begun it. Two that hold the run's lock at a time fail: each then takes another lock."""
    usual = Run.lock

    @contextlib.contextmanager
    def lock(run: Run) -> Iterator[None]:
        with usual(run), beside.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def run() -> object:
        Run.lock = lock  # type: ignore[method-assign]  # this process is its own
        try:
            return command()
        except ResightError as error:
            if not re.search("being trained by another|already holds", str(error)):
                raise
            return None

    return run


@pytest.mark.parametrize("kind", ["validation", "averages and an LR test"])
@pytest.mark.usefixtures("any_lr_test")
def test_of_processes_that_train_one_run_at_a_time_one_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resight.runs.checkpoints.Checkpointer.due", every_second_time())
    whole, usual = undisturbed(kind, tmp_path)
    draws, refused = random.Random(kind), 0
    rounds = max(2, KILLS // 10)
    for number in range(rounds):
        out = tmp_path / f"shared-{number}"
        command = alone(training(kind, out), tmp_path / "beside")
        short = draws.uniform(0.1, usual)
        codes = []
        while 0 not in codes:  # a killed one leaves the run to the next
            children = [begun(command, s) for s in (short, *[LONGEST_S] * (TOGETHER - 1))]
            codes = [ended(child) for child in children]
            assert set(codes) <= {None, 0, REFUSED}
            refused += codes.count(REFUSED)
        assert_same_run(whole, out)
        shutil.rmtree(out)
    print(f"{kind}: {rounds} runs, {refused} processes refused, never two at a time")
