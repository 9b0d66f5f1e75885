"""The table of extras agrees with `pyproject.toml`, and a missing library is one line."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from resight import extras
from resight.errors import ResightError
from resight.extras import EXTRAS, Extra, missing, require

ROOT = Path(__file__).parents[1]


def test_each_extra_of_the_package_is_in_the_table_with_its_libraries() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]
    assert set(EXTRAS) == set(wanted) - {"dev"}
    for name, extra in EXTRAS.items():
        packages = [re.match(r"[\w-]+", line)[0].replace("-", "_") for line in wanted[name]]
        assert set(extra.modules) <= set(packages), name


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = Extra(("json", "no_such_a", "no_such_b"), "resight sing")
    monkeypatch.setitem(EXTRAS, "song", extra)
    assert missing("song") == ["no_such_a", "no_such_b"]
    with pytest.raises(ResightError) as caught:
        require("song")
    assert str(caught.value) == (
        "resight sing: no_such_a and no_such_b missing; pip install 'resight[song]'"
    )


def test_what_is_there_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "song", Extra(("colorsys",), "resight sing"))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert missing("song") == []
    assert "colorsys" not in sys.modules
    require("song")
    assert "colorsys" in sys.modules


def test_a_library_that_can_not_be_imported_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_song.py").write_text("raise AttributeError('no attribute x')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(EXTRAS, "song", Extra(("broken_song",), "resight sing"))
    with pytest.raises(ResightError) as caught:
        require("song")
    assert str(caught.value) == (
        "resight sing: broken_song is installed, but can't be imported (AttributeError: no "
        "attribute x); pip install --force-reinstall broken-song"
    )


def test_the_commands_name_the_extra() -> None:
    assert extras.install_command("heic") == "pip install 'resight[heic]'"
