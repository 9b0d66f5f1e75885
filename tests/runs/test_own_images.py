"""Which of a run's images differ, as far as that is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import make_data
from resight.data.types import ImageData, Split, data_facts
from resight.errors import ResightError
from resight.runs.own_images import check_own
from run_folders import make_run

LATER, EARLIER = 4e9, 0.0  # seconds since 1970, of a run in 2026


def said(data: ImageData, run: Path) -> str:
    facts = data_facts(data) | {"fingerprint": "f" * 32}
    with pytest.raises(ResightError) as refused:
        check_own(facts, data, run=run, advice="restore them")
    return str(refused.value).partition("not ffffffffffff")[2]


@pytest.fixture
def data(tmp_path: Path) -> ImageData:
    """Images in files below `tmp_path`."""
    made = make_data()
    for split in (made.train, made.test):
        for name in split.ids.tolist():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    return dataclasses.replace(made, source=str(tmp_path))


def written(times: dict[Path, float], patch: pytest.MonkeyPatch) -> None:
    """Files changed at other times; those that are not named long ago."""
    exact = Path.stat

    def stat(self: Path, **options: Any) -> Any:
        found = exact(self, **options)
        if self.suffix in (".json", ".npz"):
            return found
        return SimpleNamespace(st_ctime=times.get(self, EARLIER), st_mode=found.st_mode)

    patch.setattr(Path, "stat", stat)


def test_files_that_were_written_since_are_named(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", finished=False).path
    names = [*data.train.ids[:4].tolist(), *data.test.ids[:1].tolist()]
    written(dict.fromkeys([tmp_path / name for name in names[:2]], LATER), monkeypatch)
    first, second = sorted(names[:2])
    assert said(data, run) == f"; written since: '{first}', '{second}'); restore them"
    written(dict.fromkeys([tmp_path / name for name in names], LATER), monkeypatch)
    assert said(data, run).endswith(", … (5 in all)); restore them")
    everything = [*data.train.ids.tolist(), *data.test.ids.tolist()]
    written(dict.fromkeys([tmp_path / name for name in everything], LATER), monkeypatch)
    assert said(data, run) == "); restore them"  # a copy says nothing


def test_test_images_that_are_gone_are_named(data: ImageData, tmp_path: Path) -> None:
    ids = data.test.ids.tolist()
    run = make_run(tmp_path / "run", "c" * len(ids), ids=ids).path
    elsewhere = dataclasses.replace(data, source="nowhere")
    assert said(elsewhere, run) == "); restore them"
    fewer = data.test.ids.copy()
    fewer[0] = "x"
    kept = Split(data.test.images, data.test.labels, fewer)
    renamed = dataclasses.replace(elsewhere, test=kept)
    assert said(renamed, run) == f"; gone: '{ids[0]}'); restore them"


def test_a_run_that_says_no_time_names_none(data: ImageData, tmp_path: Path) -> None:
    assert said(data, tmp_path / "no run") == "); restore them"
