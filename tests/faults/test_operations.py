"""A training at each of whose file operations the disk fails, or the process ends, once.

Afterwards each file is whole, old or new, and the same command or `--resume` goes on to the same
bits. The suite takes a sample of the operations; with RESIGHT_FAULTS=all each is taken, with each
error (`make faults`).
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import resight
from helpers import make_data
from injecting import ERRORS, Fault, Killed, injected
from resight.errors import ResightError
from resight.progress import Quiet
from resight.runs.manifest import read_file, read_manifest
from resight.runs.run import Run, load_run
from resight.runs.seeds import read_summary
from trainings import assert_same_run, every_second_time, tiny

ALL = os.environ.get("RESIGHT_FAULTS") == "all"
SAMPLE = 6  # operations of each kind of training, for kills and for errors
DATA = make_data(val=12)
RECIPE = tiny("digits", **{"schedule.lr_max": "find", "train.ema": 0.9})

pytestmark = pytest.mark.filterwarnings("ignore::resight.errors.ResightWarning")


def train(out: Path) -> None:
    resight.train(RECIPE, DATA, out=out, precision="fp32", reporter=Quiet())


def train_seeds(out: Path) -> None:
    options = {"precision": "fp32", "report": False, "reporter": Quiet()}
    resight.train_seeds(RECIPE, DATA, seeds=2, out=out, **options)


def go_on(out: Path, command: Callable[[Path], None]) -> None:
    """As a person does: the same command, or what its error says."""
    several = (out / "seeds.json").is_file()
    if several or Run(out).begun:
        resume = resight.train_seeds if several else resight.train
        resume(resume=out, data=DATA, reporter=Quiet(), report=not several)  # type: ignore[operator]
    else:
        command(out)


def runs_in(out: Path) -> list[Path]:
    return [out] if (out / "recipe.json").is_file() else [out / "seed-0", out / "seed-1"]


def check_whole(out: Path) -> None:
    """No half-written file: what the manifest lists is read, and all else can be."""
    for folder in (out, *out.glob("seed-*")):
        for name in read_manifest(folder).files:
            path = folder / name
            if path.exists():
                read_file(path)
        run = Run(folder)
        if run.begun:
            _ = load_run(folder).recipe, run.resolved, run.result, run.environment, run.lr_test
            run.checkpoint()


def operations(command: Callable[[Path], None], out: Path) -> list[str]:
    fault = Fault(out)
    with injected(fault):
        command(out)
    return fault.seen


def chosen(count: int, seed: int) -> list[int]:
    every = range(1, count + 1)
    return list(every) if ALL else sorted(random.Random(seed).sample(every, SAMPLE))


@pytest.fixture(autouse=True)
def checkpoints_are_often_due(monkeypatch: pytest.MonkeyPatch, any_lr_test: None) -> None:
    monkeypatch.setattr("resight.runs.checkpoints.Checkpointer.due", every_second_time())


@pytest.mark.parametrize("command", [train, train_seeds])
@pytest.mark.parametrize("error", [None, *ERRORS] if ALL else [None])
def test_after_a_fault_at_any_operation_the_next_command_ends_in_the_same_bits(
    command: Callable[[Path], None], error: int | None, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    count = len(operations(command, whole))
    assert count > 60
    for number in chosen(count, seed=error or 0):
        kind = error if ALL else random.Random(number).choice([None, *ERRORS])
        out = tmp_path / f"cut-{number}"
        fault = Fault(out, number, kind)
        ended = ResightError if kind else Killed
        with injected(fault), contextlib.suppress(KeyboardInterrupt, ended):
            command(out)
        assert fault.happened
        check_whole(out)
        go_on(out, command)
        for mine, theirs in zip(runs_in(whole), runs_in(out), strict=True):
            assert_same_run(mine, theirs)
            assert load_run(theirs).diagnosis is not None, fault.seen[number - 1]
        if command is train:
            assert (out / "report" / "index.html").is_file(), fault.seen[number - 1]
        else:
            assert read_summary(out)[1].complete
        assert not [*out.rglob(".*.tmp")], fault.seen[number - 1]
