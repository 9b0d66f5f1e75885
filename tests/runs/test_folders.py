"""The folder of a run: its name, and that nothing in it is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

import resight
from resight.errors import ResightError
from resight.progress import Quiet
from trainings import fit, images_for, tiny


def test_a_recipes_name_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tiny("digits").with_changes({"name": "../../evil"})
    run = fit(recipe, images_for(recipe), None)  # type: ignore[arg-type]
    assert run.path == Path("runs/evil-1")


def test_a_taken_folder_is_said_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ResightError, match="is not empty"):
        resight.train("digits", tmp_path / "nowhere", out=tmp_path, reporter=Quiet())
