"""Shell commands to paste: repeat a run, test its LR, resume it, write its report."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from resight.data.sources import NAMES
from resight.errors import ResightError
from resight.recipe.catalog import RECIPES, find_recipe
from resight.recipe.overrides import changed
from resight.recipe.recipe import Recipe


def repeat_command(
    path: Path, recipe: Recipe, facts: dict[str, Any], *, deterministic: bool = False
) -> str | None:
    """The shell command that trains the same recipe on the same data as the run at `path`; None for
    images that never were in a file.

    A built-in recipe is given by name with its changes; any other is read from the run folder.
    facts: about the run's data, as in its `resolved.json`; {} before they are known.
    """
    data = _data_words(recipe, facts)
    if data is None:
        return None
    words = ["resight", "train", "--recipe"]
    changes = _changes(recipe) if recipe.name in RECIPES else None
    words += [str(path / "recipe.json")] if changes is None else [recipe.name, *changes]
    named = changes is not None and data == ["--data", recipe.data.source]
    words += [] if named else data
    if deterministic:
        words.append("--deterministic")
    return shlex.join(words)


def find_lr_command(path: Path, recipe: Recipe, facts: dict[str, Any]) -> str | None:
    """The shell command that runs an LR test for the run at `path` on its data; None as in
    `repeat_command`."""
    data = _data_words(recipe, facts)
    words = ["resight", "find-lr", "--recipe", str(path / "recipe.json")]
    return None if data is None else shlex.join([*words, *data])


def balanced_command(path: Path, recipe: Recipe, facts: dict[str, Any]) -> str | None:
    """The shell command that trains as the run at `path` on equally many images of each class; None
    if its classes are balanced already, and as in `repeat_command`."""
    data = _data_words(recipe, facts)
    if data is None or recipe.balances_classes:
        return None
    words = ["resight", "train", "--recipe", str(path / "recipe.json")]
    return shlex.join([*words, *data, "--set", "train.sampling=balanced"])


def resume_command(path: Path, *words: str) -> str:
    """The shell command that resumes the run, or the runs of several seeds, at `path`; words:
    further options."""
    return shlex.join(["resight", "train", "--resume", str(path), *words])


def report_command(path: Path) -> str:
    """The shell command that writes the report of the run at `path`."""
    return shlex.join(["resight", "report", str(path)])


def evaluate_command(path: Path, *words: str) -> str:
    """The shell line that measures the run at `path`; words: further options."""
    return shlex.join(["resight", "evaluate", str(path), *words])


def rewrite_command(path: Path) -> str:
    """The command that writes a run's file of predictions anew."""
    split = path.stem.removeprefix("predictions-")
    words = ["--split", split] if split in ("val", "train") else []
    return evaluate_command(path.parent, *words)


def _data_words(recipe: Recipe, facts: dict[str, Any]) -> list[str] | None:
    """The options that select a run's images; None if no options can."""
    source = facts.get("source", recipe.data.source)
    if source not in NAMES and not Path(source).exists():
        return None
    return ["--data", source, *(["--skip-bad"] if facts.get("bad") else [])]


OPTIONS = {
    "--epochs": "schedule.epochs",
    "--seed": "train.seed",
    "--val": "data.val_fraction",
    "--group": "data.group",
    "--early-stop": "train.early_stop",
    "--batch-size": "train.batch_size",
}


def _changes(wanted: Recipe) -> list[str] | None:
    """The arguments that turn the built-in recipe of that name into `wanted`: dedicated options
    where they exist, `--set` for the rest; None if arguments can't."""
    recipe, words = find_recipe(wanted.name), list[str]()
    try:
        for option, field in OPTIONS.items():
            value = _field(wanted, field)
            if value != _field(recipe, field):
                words += [option, _plain(value)]
                changes = {field: value} if option != "--epochs" else recipe.scaled(value)
                recipe = changed(recipe, changes)
        rest = _differing(recipe, wanted)
        if "data.image_size" in rest:  # which would scale those that are not given
            schedule = wanted.schedule
            sizes = {"small_px": schedule.small_px, "medium_px": schedule.medium_px}
            rest |= {f"schedule.{key}": side for key, side in sizes.items() if side}
        if changed(recipe, rest) != wanted:
            return None
    except ResightError:
        return None
    pairs = [("--set", f"{field}={_plain(value)}") for field, value in rest.items()]
    return words + [word for pair in pairs for word in pair]


def _field(recipe: Recipe, field: str) -> Any:
    section, key = field.split(".")
    return getattr(getattr(recipe, section), key)


def _differing(recipe: Recipe, wanted: Recipe) -> dict[str, Any]:
    """Each field of `wanted` that `recipe` lacks or has with a different value."""
    before = recipe.to_dict()
    return {
        f"{section}.{key}": value
        for section, values in wanted.to_dict().items()
        if section != "name"
        for key, value in values.items()
        if key not in before[section] or before[section][key] != value
    }


def _plain(value: object) -> str:
    """A value as the command line parses it."""
    return value if isinstance(value, str) else json.dumps(value)
