"""Images decoded in processes: the same table as in threads, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import TESTS, picture
from resight.data import cache, table, workers
from resight.data.sources import load_data
from resight.data.workers import WorkerLost, Workers
from resight.errors import ResightError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, offset in (("train", 0), ("test", 50)):
        for k, name in enumerate(("a", "b")):
            for i in range(20):
                picture(tmp_path / "data" / split / name / f"{i}.png", offset + 100 * k + i)
    return tmp_path / "data"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Workers]:
    """The pools of workers that were started; any number of files and one core will do."""
    seen: list[Workers] = []
    enter = Workers.__enter__

    def noted(self: Workers) -> Workers:
        seen.append(self)
        return enter(self)

    monkeypatch.setattr(Workers, "__enter__", noted)
    monkeypatch.setattr(table, "MIN_ROWS_FOR_PROCESSES", 1)
    monkeypatch.setattr(table, "ROWS_PER_TASK", 7)
    monkeypatch.setattr(table, "cores", lambda most: min(2, most))
    return seen


def in_threads(root: Path, monkeypatch: pytest.MonkeyPatch, cache_at: Path) -> Any:
    with monkeypatch.context() as here:
        here.setattr(table, "MIN_ROWS_FOR_PROCESSES", 10**9)
        here.setenv("RESIGHT_CACHE", str(cache_at))
        return load_data(root, image_size=8)


def gone(pool: Workers) -> bool:
    return all(worker.returncode is not None for worker in pool._all)


def test_processes_make_the_table_that_threads_make(
    root: Path, started: list[Workers], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = load_data(root, image_size=8)
    assert len(started) == 1
    assert len(started[0]._all) == 2
    assert gone(started[0])
    theirs = in_threads(root, monkeypatch, tmp_path / "other")
    assert len(started) == 1
    assert mine.fingerprint == theirs.fingerprint
    assert np.array_equal(mine.train.images, theirs.train.images)
    assert np.array_equal(mine.test.images, theirs.test.images)
    assert mine.mean.tolist() == theirs.mean.tolist()
    cache.settle()
    assert load_data(root, image_size=8).fingerprint == mine.fingerprint
    assert len(started) == 1  # from the cache


def test_unreadable_files_are_named_as_in_threads(root: Path, started: list[Workers]) -> None:
    (root / "train/a/2.png").write_bytes(b"no image")
    with pytest.raises(ResightError, match=r"1 of 80 images .* train/a/2.png \(not an image\)"):
        load_data(root, image_size=8)
    assert len(started) == 1


@pytest.mark.parametrize("command", ["import sys; sys.exit(3)", "print('nonsense', flush=True)"])
def test_workers_that_fail_are_done_without(
    command: str,
    root: Path,
    started: list[Workers],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(workers, "CODE", command)
    mine = load_data(root, image_size=8)
    assert mine.fingerprint == in_threads(root, monkeypatch, tmp_path / "other").fingerprint
    assert gone(started[0])


def test_a_machine_that_starts_no_process_decodes_here(
    root: Path, started: list[Workers], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    mine = load_data(root, image_size=8)
    assert mine.fingerprint == in_threads(root, monkeypatch, tmp_path / "other").fingerprint
    assert started[0]._all == []


def test_a_killed_worker_costs_nothing_but_its_help(root: Path, tmp_path: Path) -> None:
    images = np.lib.format.open_memmap(
        tmp_path / "images.npy", mode="w+", dtype=np.uint8, shape=(3, 8, 8, 3)
    )
    paths = [str(root / "train/a" / f"{i}.png") for i in range(3)]
    with Workers(tmp_path / "images.npy", 1) as pool:
        done = pool.decode(paths, 0, "crop")
        assert done.bad == {}
        assert np.array_equal(done.sums[:, 0], images.astype(np.int64).sum((1, 2)))
        pool._all[0].kill()
        pool._all[0].wait()
        with pytest.raises(WorkerLost):
            pool.decode(paths, 0, "crop")
        with pytest.raises(WorkerLost):  # none is left
            pool.decode(paths, 0, "crop")


def test_an_interrupt_ends_them(root: Path, started: list[Workers]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_data(root, image_size=8, progress=interrupt)
    assert gone(started[0])
    cache.settle()
    assert list(cache.cache_dir().rglob("images.npy")) == []


def test_a_script_without_a_main_guard_may_load_images(root: Path) -> None:
    """And a module of the current folder that is named like one of Python's is not imported."""
    (root.parent / "json.py").write_text("raise SystemExit('imported')\n")
    script = root.parent / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(TESTS)!r}]; sys.path.remove({str(root.parent)!r})\n"
        "from resight.data import table\n"
        "table.MIN_ROWS_FOR_PROCESSES = 1\n"
        "table.cores = lambda most: 2\n"
        "from resight.data.workers import Workers\n"
        "from resight.data.sources import load_data\n"
        "kept = []\n"
        "decode = Workers.decode\n"
        "Workers.decode = lambda *words: kept.append(decode(*words)) or kept[-1]\n"
        f"print(len(load_data({str(root)!r}, image_size=8).train))\n"
        "print(sum(len(decoded.sums) for decoded in kept))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=root.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["40", "80"]
