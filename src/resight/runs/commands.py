"""Commands to paste: what repeats a run, what tests its LR."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from resight.recipe.catalog import RECIPES, find_recipe
from resight.data.sources import NAMES
from resight.errors import ResightError
from resight.recipe.recipe import Recipe
from resight.runs.run import Run


def repeat_command(run: Run) -> str | None:
    """A shell line that trains the same recipe on the same data; None for images that were never a
    file. A named recipe is named, with what was changed; another is read from the run's folder."""
    recipe, data = run.recipe, _data_words(run)
    if data is None:
        return None
    words = ["resight", "train", "--recipe"]
    changes = _changes(run) if recipe.name in RECIPES else None
    words += [str(run.path / "recipe.json")] if changes is None else [recipe.name, *changes]
    named = changes is not None and data == ["--data", recipe.data.source]
    words += [] if named else data
    if run.environment.get("runtime", {}).get("deterministic"):
        words.append("--deterministic")
    return shlex.join(words)


def find_lr_command(run: Run) -> str | None:
    """A shell line that tests the LR of a run's recipe on its data; None as in `repeat_command`."""
    data = _data_words(run)
    recipe = str(run.path / "recipe.json")
    return None if data is None else shlex.join(["resight", "find-lr", "--recipe", recipe, *data])


def _data_words(run: Run) -> list[str] | None:
    """The options that find a run's images; None where no options do."""
    facts = run.resolved.get("data", {})
    source = facts.get("source", run.recipe.data.source)
    if source not in NAMES and not Path(source).exists():
        return None
    return ["--data", source, *(["--skip-bad"] if facts.get("bad") else [])]


OPTIONS = {
    "--epochs": "schedule.epochs",
    "--seed": "train.seed",
    "--val": "data.val_fraction",
    "--batch-size": "train.batch_size",
}


def _changes(run: Run) -> list[str] | None:
    """The words that make the named recipe the run's: options of their own where there are, `--set`
    for the rest; None where they would not do."""
    wanted = run.recipe
    recipe, words = find_recipe(wanted.name), list[str]()
    try:
        for option, field in OPTIONS.items():
            value = _field(wanted, field)
            if value != _field(recipe, field):
                words += [option, _plain(value)]
                changes = {field: value} if option != "--epochs" else recipe.scaled(value)
                recipe = recipe.with_changes(changes)
        rest = _differing(recipe, wanted)
        if recipe.with_changes(rest) != wanted:
            return None
    except ResightError:
        return None
    pairs = [("--set", f"{field}={_plain(value)}") for field, value in rest.items()]
    return words + [word for pair in pairs for word in pair]


def _field(recipe: Recipe, field: str) -> Any:
    section, key = field.split(".")
    return getattr(getattr(recipe, section), key)


def _differing(recipe: Recipe, wanted: Recipe) -> dict[str, Any]:
    """Each field of `wanted` that `recipe` has not, or otherwise."""
    before = recipe.to_dict()
    return {
        f"{section}.{key}": value
        for section, values in wanted.to_dict().items()
        if section != "name"
        for key, value in values.items()
        if key not in before[section] or before[section][key] != value
    }


def _plain(value: object) -> str:
    """A value as the command line reads it back."""
    return value if isinstance(value, str) else json.dumps(value)
