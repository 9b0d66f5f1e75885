"""Images that were begun before they are asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers import folder
from resight.cli.app import app
from resight.data import ahead, cache, sources
from resight.data.ahead import load_ahead, loading
from resight.errors import ResightError
from resight.runs.run import load_run

SETTINGS: dict[str, Any] = {"image_size": 8, "split_seed": 0, "skip_bad": False}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One per call of `load_data`: whether it was in a thread of its own."""
    seen: list[bool] = []
    load = sources.load_data

    def noted(*args: Any, **options: Any) -> Any:
        seen.append(threading.current_thread() is not threading.main_thread())
        return load(*args, **options)

    monkeypatch.setattr(sources, "load_data", noted)
    return seen


def test_who_asks_for_the_same_gets_what_was_begun(tmp_path: Path, loads: list[bool]) -> None:
    root = str(folder(tmp_path / "mine"))
    with loading(root, **SETTINGS):
        first = load_ahead(root, **SETTINGS)
        assert load_ahead(root, **SETTINGS) is first
    assert loads == [True]
    assert load_ahead(root, **SETTINGS).fingerprint == first.fingerprint
    assert loads == [True, False]


@pytest.mark.parametrize(
    "other", [{"image_size": 16}, {"split_seed": 1}, {"group": "[0-9]"}, {"skip_bad": True}]
)
def test_who_asks_for_something_else_gets_that(
    other: dict[str, Any], tmp_path: Path, loads: list[bool]
) -> None:
    root = str(folder(tmp_path / "mine"))
    with loading(root, **SETTINGS):
        assert load_ahead(root, **SETTINGS | other).image_size == other.get("image_size", 8)
    assert sorted(loads) == [False, True]


def test_errors_are_raised_where_the_images_are_asked_for(tmp_path: Path) -> None:
    with loading(tmp_path / "none", **SETTINGS), pytest.raises(ResightError, match="no such file"):
        load_ahead(tmp_path / "none", **SETTINGS)


def test_what_nobody_asks_for_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, stopped = threading.Event(), []

    def endless(*_: Any, progress: Any, **__: Any) -> None:
        begun.set()
        try:
            while True:
                progress(1, 2)
        except BaseException as error:
            stopped.append(error)
            raise

    monkeypatch.setattr(sources, "load_data", endless)
    with loading("anything", **SETTINGS):
        begun.wait()
    assert len(stopped) == 1
    assert ahead._under_way is None


def test_what_progress_raises_stops_it_and_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(*_: Any, progress: Any, **__: Any) -> None:
        while True:
            progress(3, 9)

    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (3, 9)
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "load_data", endless)
    with loading("anything", **SETTINGS), pytest.raises(KeyboardInterrupt):
        load_ahead("anything", progress=interrupt, **SETTINGS)


def test_a_new_entry_is_complete_for_whoever_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second load waits for the first one's entry, however long its disk takes."""
    root, writing = folder(tmp_path / "mine"), threading.Event()
    write = cache._write

    def slow(*args: Any) -> None:
        writing.wait(10)
        write(*args)

    monkeypatch.setattr(cache, "_write", slow)
    first = sources.load_data(root, **SETTINGS)
    assert not list(cache.cache_dir().rglob("meta.json"))
    writing.set()
    monkeypatch.setattr(cache, "decode_table", None)
    assert sources.load_data(root, **SETTINGS).fingerprint == first.fingerprint


def test_a_time_out_of_the_disk_is_an_error_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_disk(*_: Any, **__: Any) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(sources, "load_data", slow_disk)
    with loading("anything", **SETTINGS), pytest.raises(TimeoutError, match="timed out"):
        load_ahead("anything", **SETTINGS)


def test_a_command_takes_the_images_that_it_began(
    tmp_path: Path, loads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "mine", each=40)
    monkeypatch.chdir(tmp_path)
    words = ["--data", "mine", "--set", "model.width=4", "--set", "data.image_size=8"]
    words += ["--set", "augment.crop_pad_px=1", "--set", "augment.cutout_px=0"]
    more = ["--epochs", "1", "--lr", "0.01", "--no-report", "--val", "0.2"]
    for command in (["train", *words, *more], ["find-lr", *words]):
        CliRunner().invoke(app, command, catch_exceptions=False)
        assert loads.pop()
        assert not loads
    assert root.is_dir()


def test_a_command_lists_a_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing the recipe, loading ahead and training all ask for it; the next command asks
    anew."""
    root, listed = folder(tmp_path / "mine", each=20), []
    find = sources.folder.find

    def noted(path: Path, **options: Any) -> Any:
        listed.append(path)
        return find(path, **options)

    monkeypatch.setattr(sources.folder, "find", noted)
    words = ["train", "--data", str(root), "--epochs", "1", "--no-report", "--json"]
    words += ["--set", "model.width=8"]
    trained = []
    for number in (1, 2):
        out = tmp_path / f"run-{number}"
        result = CliRunner().invoke(app, [*words, "--out", str(out)])
        assert result.exit_code == 0, result.output
        assert listed == [root] * number
        trained.append(load_run(out).resolved["data"]["train"])
        (root / "train" / "cat" / f"{number}.png").unlink()
    assert trained == [40, 39]


def test_python_sees_files_that_have_changed(tmp_path: Path) -> None:
    root = folder(tmp_path / "mine")
    with sources.listed_once():
        first = sources.find(root)
        assert sources.find(str(root)) is first
        assert sources.find(root, held_out=False) is not first
    (root / "train" / "cat" / "0.png").unlink()
    assert len(sources.find(root).stamps) == len(first.stamps) - 1
