"""How the arguments of a call (`epochs=3`, `optimizer={"weight_decay": 0}`) change a recipe."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resight.errors import ResightError, did_you_mean
from resight.recipe.catalog import find_recipe, is_file
from resight.recipe.recipe import Recipe
from resight.recipe.settings import MAX_BATCH

DEFAULT_RECIPE = "custom-resnet"
POLICY = "augment.policy"

SHORT = {
    "epochs": "schedule.epochs",
    "batch_size": "train.batch_size",
    "lr": "schedule.lr_max",
    "seed": "train.seed",
    "val": "data.val_fraction",
    "image_size": "data.image_size",
    "group": "data.group",
    "early_stop": "train.early_stop",
}


def requested(recipe: str | Path | Recipe | None, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of that name, file or value, `DEFAULT_RECIPE` for None, with `changes` applied.

    Raises `ResightError`.
    """
    return changed(*asked(recipe, changes))


def asked(
    recipe: str | Path | Recipe | None, changes: Mapping[str, Any]
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of that name, file or value, `DEFAULT_RECIPE` for None, and `changes` as in
    `flattened`.

    The settings beside an `augment.policy` in a file are among the changes, unless these have a
    policy themselves: it is for the image size that they ask for. Raises `ResightError`.
    """
    recipe, flat = DEFAULT_RECIPE if recipe is None else recipe, flattened(changes)
    if isinstance(recipe, Recipe) or not is_file(recipe):
        return find_recipe(recipe), flat
    values = Recipe.read(recipe)
    settings = values.get("augment")
    if isinstance(settings, Mapping) and "policy" in settings:
        values = {**values, "augment": {"policy": "none"}}
        if POLICY not in flat:
            flat = {f"augment.{key}": value for key, value in settings.items()} | flat
    return Recipe.parse(values, where=str(recipe)), flat


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """`recipe` with the keyword arguments of a public call applied; None changes nothing.

    The names in `SHORT`, and any field: `optimizer={"weight_decay": 0}` or, if a section's name is
    taken, `**{"data.image_size": 64}`. `epochs` stretches every duration of the schedule that is
    not given itself; another image size scales that of smaller images, another batch size gets the
    pieces for batch norm that are nearest to the recipe's, early stopping or another validation
    split an evaluation after each epoch. `lr` is "find" or a number; the other LRs follow it: see
    `_lr_changes`.
    """
    dotted = flattened(changes)
    epochs, lr = dotted.pop("epochs", None), dotted.pop("lr", None)
    if lr is not None and SHORT["lr"] in dotted:
        raise ResightError(f"lr and {SHORT['lr']} are both given: leave one of them out")
    shape = dotted.get("schedule.shape")
    base = recipe if shape is None else recipe.with_changes({"schedule.shape": shape})
    if epochs is not None:
        dotted = base.scaled(epochs) | dotted
    size = dotted.get("data.image_size")
    for key in ("small_px", "medium_px"):
        if isinstance(size, int) and (side := getattr(recipe.schedule, key)):
            scaled = round(side * size / recipe.data.image_size)
            dotted = {f"schedule.{key}": scaled} | dotted
    batch, piece = dotted.get("train.batch_size"), recipe.train.norm_batch
    if isinstance(batch, int) and 0 < batch <= MAX_BATCH and piece and batch % piece:
        dotted = {"train.norm_batch": _piece_of(batch, piece)} | dotted
    val = dotted.get("data.val_fraction")
    if dotted.get("train.early_stop") or (val and val != recipe.data.val_fraction):
        dotted = {"evaluate.when": "each-epoch"} | dotted
    if lr is not None:
        dotted = _lr_changes(base, lr) | dotted
    return recipe.with_changes(dotted) if dotted else recipe


def flattened(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a public call as dotted fields, without those that are None.

    `epochs` and `lr`, which change more than one field, stay. Raises `ResightError` for an unknown
    name.
    """
    dotted: dict[str, Any] = {}
    sections = [name for name in Recipe.model_fields if name != "name"]
    for key, value in changes.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            dotted.update({f"{key}.{field}": item for field, item in value.items()})
        elif "." in key or key in (*sections, "name", "epochs", "lr"):
            dotted[key] = value
        elif key in SHORT:
            dotted[SHORT[key]] = value
        else:
            raise ResightError(f"unknown setting '{key}'{did_you_mean(key, [*SHORT, *sections])}")
    return dotted


def _piece_of(batch: int, piece: int) -> int:
    """The divisor of `batch` whose ratio to `piece` is nearest to 1; 0 for the whole batch."""
    divisors = (number for number in range(1, batch + 1) if batch % number == 0)
    nearest = min(divisors, key=lambda number: max(number / piece, piece / number))
    return 0 if nearest == batch else nearest


def parse_setting(text: str) -> tuple[str, Any]:
    """`optimizer.weight_decay=0` → `("optimizer.weight_decay", 0)`; a bare word is a string."""
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or ("." not in key and key != "name"):
        raise ResightError(
            f"--set '{text}': write it as section.field=value; epochs, batch size, LR, seed and "
            "val have their own options"
        )
    try:
        return key, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key, value
    except (ValueError, RecursionError):
        raise ResightError(
            f"--set {key}: a number of too many digits, or too many [ inside each other"
        ) from None


def _lr_changes(recipe: Recipe, lr: object) -> dict[str, Any]:
    """lr_max, and the lr_min that follows it.

    A number skips the LR test: a fixed lr_min keeps its ratio to lr_max, one to be found becomes a
    tenth of it. "find" finds lr_min too.
    """
    schedule = recipe.schedule
    lr_min = getattr(schedule, "lr_min", None)
    if lr == "find":
        return {"schedule.lr_max": lr} | ({} if lr_min is None else {"schedule.lr_min": "find"})
    try:
        number = float(lr)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ResightError(f"lr = {lr!r} must be a number > 0 or 'find'") from None
    if lr_min is None:
        return {"schedule.lr_max": number}
    fixed = isinstance(lr_min, float) and isinstance(schedule.lr_max, float)
    ratio = lr_min / schedule.lr_max if fixed else 0.1
    return {"schedule.lr_max": number, "schedule.lr_min": number * ratio}
