"""A new run's folder: where it may be, and how it is created."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from resight.errors import ResightError
from resight.recipe.recipe import Recipe
from resight.runs.commands import resume_command
from resight.runs.environment import describe_environment
from resight.runs.manifest import LOCK, MANIFEST
from resight.runs.run import BEGUN, Run, holds_seeds
from resight.runs.schemas import written

# what a training leaves that was killed before its folder was a run
LEFT = (MANIFEST, LOCK, ".lock", "environment.json", *BEGUN)


def check_out(out: str | Path | None) -> None:
    """Raise `ResightError` if a run can't be created at `out`, before any costly work is done."""
    if out is None:
        return
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ResightError(f"--out {path} is a file: give a new or empty folder")
    if Run(path).begun or holds_seeds(path):
        what = "the runs of several seeds" if holds_seeds(path) else "a run"
        raise ResightError(
            f"--out {path} already holds {what}: resume with `{resume_command(path)}`, or choose "
            "another folder"
        )
    if path.is_dir() and not all(_left(entry.name) for entry in path.iterdir()):
        raise ResightError(f"--out {path} is not empty: choose another folder")


def _left(name: str) -> bool:
    """Whether a file is one of `LEFT`, or one that was being written."""
    return name in LEFT or (name.startswith(".") and name.endswith(".tmp"))


def begin_run(
    run: Run, recipe: Recipe, *, resolved: dict[str, Any], runtime: dict[str, Any]
) -> None:
    """Write into a new folder all that a resume needs. The caller holds the run's lock: of two
    processes that were given one folder the second is refused.

    The recipe comes last and makes it a run: with a recipe alone nobody would know which images and
    which precision it was for. Raises `ResightError` if the folder can't be written to.
    """
    check_out(run.path)
    run.sweep()
    values: dict[str, dict[str, Any]] = {
        "environment.json": describe_environment(runtime, resolved["data"]["fingerprint"]),
        "resolved.json": resolved,
        "recipe.json": recipe.to_dict(),
    }
    run.write_files({name: written(value) for name, value in values.items()})


def new_folder(out: str | Path | None, name: str) -> Path:
    """`out`, created and empty, or `runs/NAME-1`, `-2` … Raises `ResightError`."""
    try:
        return _next_folder(name) if out is None else _empty_folder(Path(out))
    except OSError as error:
        raise ResightError(
            f"can't write to {error.filename or out}: {error.strerror}; choose another --out"
        ) from None


def _next_folder(name: str) -> Path:
    base = Path("runs")
    base.mkdir(exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"  # a recipe's name may be any text
    number = 1
    while True:
        path = base / f"{name}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _empty_folder(path: Path) -> Path:
    check_out(path)
    path.mkdir(parents=True, exist_ok=True)
    return path
