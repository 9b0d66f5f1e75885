"""Each file of a run says its format; a newer one is refused in a line, whichever file says it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import resight
from helpers import make_data
from resight.errors import ResightError
from resight.formats import FORMAT, NewerFormat, check_format
from resight.progress import Quiet
from resight.recipe.recipe import Recipe
from resight.runs.manifest import MANIFEST
from resight.runs.predictions import Predictions
from resight.runs.run import Run, load_run
from resight.runs.seeds import read_summary
from resight.training import lr_test_plan
from trainings import fit, tiny

DATA = make_data(val=12)
READ: dict[str, Callable[[Run], Any]] = {
    "recipe.json": lambda run: load_run(run.path),
    "resolved.json": lambda run: run.resolved,
    "environment.json": lambda run: run.environment,
    "result.json": lambda run: run.result,
    "lr_test.json": lambda run: run.lr_test,
    "diagnosis.json": lambda run: run.diagnosis,
    "last.pt": lambda run: run.checkpoint(),
    "best.pt": lambda run: run.load_best(run.model()),
    "model.safetensors": lambda run: run.model(),
    "predictions.npz": lambda run: run.predictions,
    "predictions-val.npz": lambda run: Predictions.load(run.path / "predictions-val.npz"),
    MANIFEST: lambda run: run.resolved,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny("digits", **{"schedule.lr_max": "find"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lr_test_plan, "MAX_SHARE", 100.0)
        return fit(recipe, DATA, tmp_path_factory.mktemp("written") / "run").path


def said(path: Path) -> object:
    """The format that a file of a run says."""
    if path.suffix == ".json":
        return json.loads(path.read_bytes())["format"]
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)["format"]
    if path.suffix == ".npz":
        return int(np.load(path)["format"])
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["resight"])["format"]


def say(path: Path, number: object) -> None:
    """Write the file with another format."""
    if path.suffix == ".json":
        values = json.loads(path.read_bytes())
        path.write_text(json.dumps(values | {"format": number}))
    elif path.suffix == ".pt":
        torch.save(torch.load(path, weights_only=True) | {"format": number}, path)
    elif path.suffix == ".npz":
        arrays = dict(np.load(path))
        np.savez(path, **arrays | {"format": np.array(number)})
    else:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["resight"])
        tensors = safetensors.torch.load_file(path)
        metadata = {"resight": json.dumps(about | {"format": number})}
        safetensors.torch.save_file(tensors, path, metadata=metadata)


def test_each_file_but_the_rows_says_the_format(written: Path) -> None:
    files = {path.name for path in written.iterdir() if not path.name.startswith(".")}
    assert files == {*READ, "metrics.jsonl"}
    assert {name: said(written / name) for name in READ} == dict.fromkeys(READ, FORMAT)


@pytest.mark.filterwarnings("ignore:.*manifest.json was removed")
@pytest.mark.parametrize("name", READ)
def test_a_file_of_a_newer_format_is_refused(name: str, written: Path, tmp_path: Path) -> None:
    run = Run(shutil.copytree(written, tmp_path / "run"))
    READ[name](run)
    if name != MANIFEST:
        (run.path / MANIFEST).unlink()
    say(run.path / name, FORMAT + 1)
    with pytest.raises(NewerFormat) as refused:
        READ[name](Run(run.path))
    where = run.path if name == MANIFEST else run.path / name
    assert str(refused.value) == (
        f"{where}: written by a newer Resight (format {FORMAT + 1}, this one reads up to "
        f"{FORMAT}): update Resight"
    )


def test_what_is_read_is_without_it(written: Path) -> None:
    run = load_run(written)
    saved = run.checkpoint()
    assert saved is not None
    for values in (run.resolved, run.environment, run.result, run.recipe.to_dict(), saved):
        assert "format" not in values


def test_a_runs_recipe_is_a_recipe(written: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(written / "recipe.json", tmp_path / "mine.json"))
    assert Recipe.load(path) == load_run(written).recipe
    say(path, FORMAT + 1)
    with pytest.raises(NewerFormat, match=r"mine\.json: written by a newer Resight"):
        Recipe.load(path)
    values = json.loads(path.read_bytes())
    path.write_text(json.dumps({key: values[key] for key in values if key != "format"}))
    assert Recipe.load(path) == load_run(written).recipe  # as somebody writes it


@pytest.mark.parametrize("found", ["2", 2.0, True, None, -1, [2]])
def test_what_is_no_format_is_refused(found: object) -> None:
    with pytest.raises(ResightError, match=r"^x: its format is no whole number"):
        check_format(found, "x")


def test_a_folder_of_seeds_says_it(tmp_path: Path) -> None:
    options: Any = {"precision": "fp32", "report": False, "reporter": Quiet()}
    out = tmp_path / "seeds"
    resight.train_seeds(tiny("digits").with_epochs(1), DATA, seeds=2, out=out, **options)
    assert said(out / "seeds.json") == FORMAT
    say(out / "seeds.json", FORMAT + 1)
    (out / MANIFEST).unlink()
    with pytest.raises(NewerFormat, match=r"seeds\.json: written by a newer Resight"):
        read_summary(out)


def test_predictions_without_a_format_are_read(written: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(written / "predictions.npz"))
    del arrays["format"]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (tmp_path / "old.npz").write_bytes(buffer.getvalue())
    assert Predictions.load(tmp_path / "old.npz").accuracy == load_run(written).predictions.accuracy
