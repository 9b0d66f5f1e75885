"""Commands at each of whose file operations the disk fails, or the process ends, once.

Afterwards each file is whole, old or new, and the same command or `--resume` goes on to the same
bits. The suite takes a sample of the operations; with RESIGHT_FAULTS=all each is taken, with each
error (`make faults`).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import resight
from helpers import folder, make_data
from injecting import ERRORS, Fault, Killed, injected
from resight.data import cache
from resight.data.sources import load_data
from resight.errors import ResightError
from resight.progress import Quiet
from resight.runs.manifest import MANIFEST, read_file, read_manifest
from resight.runs.run import Run, load_run
from resight.runs.seeds import read_summary, write_summary
from trainings import assert_same_run, every_second_time, fit, tiny

ALL = os.environ.get("RESIGHT_FAULTS") == "all"
SAMPLE = 6  # operations of each kind of training, for kills and for errors; half of them of others
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
    for place in (out, *out.glob("seed-*")):
        for name in read_manifest(place).files:
            path = place / name
            if path.exists():
                read_file(path)
        run = Run(place)
        if run.begun:
            _ = load_run(place).recipe, run.resolved, run.result, run.environment, run.lr_test
            run.checkpoint()


def operations(command: Callable[[Path], None], out: Path) -> list[str]:
    fault = Fault(out)
    with injected(fault):
        command(out)
    return fault.seen


def chosen(count: int, seed: int, sample: int = SAMPLE) -> list[int]:
    every = range(1, count + 1)
    return list(every) if ALL else sorted(random.Random(seed).sample(every, sample))


def faults(folder: Path, operations: list[str]) -> Iterator[Fault]:
    """A fault at each of the operations, of each kind; or a sample of them."""
    print(f"{len(operations)} operations")
    for error in (None, *ERRORS):
        for number in chosen(len(operations), seed=error or 0, sample=1 + (error is None)):
            yield Fault(folder, number, error)


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
    print(f"{count} operations")
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


LOOKS: dict[str, Callable[[Path], object]] = {
    "evaluate again": lambda run: resight.evaluate(run, DATA),
    "evaluate": lambda run: resight.evaluate(run, OTHER),
    "diagnose": lambda run: resight.diagnose(run, DATA),
    "report": lambda run: resight.report(run, DATA, reporter=Quiet()),
}
OTHER = replace(make_data(n_test=9), name="other")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an earlier report, diagnosis and predictions that are not what they will be."""
    out = tmp_path_factory.mktemp("finished") / "run"
    run = fit(tiny("digits", **{"schedule.lr_max": 0.02}), DATA, out)
    resight.report(out, DATA, method="hirescam", reporter=Quiet())
    older = replace(run.predictions, logits=run.predictions.logits + 1)
    run.write_files({"predictions-made.npz": older.to_bytes()})
    run.write("diagnosis.json", {"findings": [], "skipped": ["older"]})
    return out


def contents(run: Path) -> dict[str, bytes]:
    """All that is there to be read, but for the manifest, which also has what was there before."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name[0] != "."]
    return {str(p.relative_to(run)): p.read_bytes() for p in files if p.name != MANIFEST}


@pytest.mark.parametrize("command", LOOKS)
def test_after_a_fault_a_finished_run_is_as_before_or_after(
    command: str, finished: Path, tmp_path: Path
) -> None:
    place, look, old = tmp_path / "run", LOOKS[command], contents(finished)
    shutil.copytree(finished, place)
    seen = operations(look, place)  # type: ignore[arg-type]
    new = contents(place)
    assert new.keys() >= old.keys()
    assert new != old
    for fault in faults(place, seen):
        shutil.rmtree(place)
        shutil.copytree(finished, place)
        with injected(fault), contextlib.suppress(Killed, ResightError):
            look(place)
        assert fault.happened
        now, at = contents(place), fault.seen[fault.at - 1]
        assert now.keys() >= old.keys(), at
        assert all(now[name] in (old.get(name), new[name]) for name in now), at
        check_whole(place)
        if fault.error is not None:
            assert not [*place.rglob(".*.tmp")], at
        look(place)
        assert contents(place) == new, at


@pytest.mark.parametrize("damaged", [False, True])
def test_after_a_fault_in_the_cache_the_same_images_are_loaded(
    damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """damaged: there is an entry that has to be removed first."""
    folder(tmp_path / "images")
    place, before = tmp_path / "cache", tmp_path / "before"
    monkeypatch.setenv("RESIGHT_CACHE", str(place))

    def load(_: Path) -> list[object]:
        cache._publishing.clear()  # as in another process
        data = load_data(tmp_path / "images", image_size=8)
        cache.settle()
        return [data.fingerprint, data.train.images.tolist(), data.test.ids.tolist()]

    place.mkdir()
    if damaged:
        load(place)
        for labels in place.rglob("labels.npy"):
            labels.write_bytes(b"damaged")
    shutil.copytree(place, before)
    seen, known = operations(load, place), load(place)  # type: ignore[arg-type]
    for fault in faults(place, seen):
        shutil.rmtree(place)
        shutil.copytree(before, place)
        with injected(fault):
            try:
                assert load(place) == known
            except Killed:
                assert fault.error is None
            finally:
                cache.settle()
        assert fault.happened
        at = fault.seen[fault.at - 1]
        assert load(place) == known, at
        (entry,) = (place / "decoded").glob("[!.]*")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert cache.load(entry) is not None, at
        begun = [*place.rglob(f"{cache.BEGUN}*")]
        assert not begun or fault.error is None or "rmtree" in at, at
        with monkeypatch.context() as later:
            later.setattr(cache, "STALE_SECONDS", -1)
            shutil.rmtree(entry)
            assert load(place) == known, at
        assert not [*place.rglob(f"{cache.BEGUN}*")], at


def test_after_a_fault_a_folder_of_seeds_is_whole(tmp_path: Path) -> None:
    """Seeds that have all finished, in a folder that was killed before it said so."""
    before, place = tmp_path / "before", tmp_path / "seeds"
    train_seeds(before)
    plan, done, _ = read_summary(before)
    write_summary(before, plan, replace(done, runs=(), accuracies=(), train_seconds=()))
    shutil.copytree(before, place)

    def again(out: Path) -> None:
        resight.train_seeds(resume=out, data=DATA, reporter=Quiet(), report=False)

    seen = operations(again, place)
    assert seen
    for fault in faults(place, seen):
        shutil.rmtree(place)
        shutil.copytree(before, place)
        with injected(fault), contextlib.suppress(Killed, ResightError):
            again(place)
        assert fault.happened
        check_whole(place)
        again(place)
        _, result, told = read_summary(place)
        assert told
        assert result.accuracies == done.accuracies
        assert not [*place.rglob(".*.tmp")], fault.seen[fault.at - 1]


@dataclass
class Swap(Fault):
    """At operation `at`, or at the next that opens no file, the folder moves away, and `other`
    takes its place."""

    other: Path = Path()
    done: bool = False

    def happen(self, name: str) -> None:
        if not self.done and not self.seen[-1].startswith("open"):
            self.done = True
            self.folder.rename(self.folder.with_name("moved"))
            shutil.copytree(self.other, self.folder)


def message_of(command: Callable[[Path], None], out: Path) -> str:
    """Of the `ResightError` that it ends with; "" if there is none."""
    try:
        command(out)
    except ResightError as error:
        return str(error)
    return ""


def test_whenever_another_run_takes_the_place_of_one_that_trains_it_is_not_written_to(
    finished: Path, tmp_path: Path
) -> None:
    """But for the instant between the look at the folder and the opening of a file in it."""

    def train(out: Path) -> None:
        fit(RECIPE, DATA, out)

    whole = tmp_path / "whole"
    seen = operations(train, whole)
    held = next(number for number, name in enumerate(seen) if "metrics.jsonl" in name)
    every = range(held + 1, len(seen) + 1)
    print(f"{len(every)} operations")
    theirs = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    for number in every if ALL else random.Random(0).sample(every, 6):
        out = tmp_path / f"swapped-{number}"
        moved = out.with_name("moved")
        with injected(Swap(out, number, other=finished)):
            said = message_of(train, out)
        if said:
            assert "the run's folder was moved, replaced or deleted while it trained" in said
        else:  # only the diagnosis was left to do, of which a warning told
            assert load_run(moved).finished
        for path, content in theirs.items():
            assert (out / path.relative_to(finished)).read_bytes() == content, (
                seen[number - 1],
                path.name,
            )
        go_on(moved, train)
        assert_same_run(whole, moved)
        shutil.rmtree(moved)
        shutil.rmtree(out)
