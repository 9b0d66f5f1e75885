"""The recipe that a call asks for; where that is `auto`, it is chosen for the call's images."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resight.data import cifar, sources
from resight.data.headers import read_header
from resight.data.splits import held_count
from resight.data.table import Found
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.recipe.auto import Choice, Images, augmentation, choose, other_sizes, reasons
from resight.recipe.catalog import AUTO
from resight.recipe.overrides import POLICY, SHORT, asked, changed, flattened
from resight.recipe.recipe import Recipe

SAMPLED_FILES = 200  # whose size is read
DIGITS = Images(train=1438, classes=tuple("0123456789"), side_px=8)
CIFAR_PX = 32
MOST_MINUTES = 15.0  # of a training whose epochs were not given
VAL_FRACTION = 0.1  # of train, held out for early stopping
GIVEN = ("image_size", "batch_size")  # other settings are chosen to fit them


def recipe_for(
    recipe: str | Path | Recipe | None,
    data: str | Path | ImageData | None,
    changes: Mapping[str, Any],
    *,
    decoded: ImageData | None = None,
) -> Choice:
    """The recipe that `recipe` and `changes` ask for on `data`, and why it is that, if it was
    chosen: "auto", or None for a folder of images. decoded: `data` as the choice without it had it
    decoded, so that it keeps the image size and counts only what can be read. Raises
    `ResightError`."""
    if recipe is None and _is_folder(data):
        recipe = AUTO
    if recipe != AUTO:
        base, flat = asked(recipe, changes)
        flat = _watched(flat, base.train.early_stop, base.data.val_fraction, data)
        if flat.get(POLICY) == AUTO:
            del flat[POLICY]
            size = _number(flat.get(SHORT["image_size"])) or base.data.image_size
            held = flat.get(SHORT["val"], base.data.val_fraction)
            images = survey(base.data.source if data is None else data, val=held)
            fields = augmentation(images, size).model_dump()
            flat = {f"augment.{key}": value for key, value in fields.items()} | flat
        return Choice(changed(base, flat))
    if data is None:
        raise ResightError(
            "recipe 'auto' is chosen for images: give them with --data; `resight recipes` lists "
            "recipes with data of their own"
        )
    flat = _watched(flattened(changes), 0, 0.0, data)
    given = {key: _number(flat.get(SHORT[key])) for key in GIVEN}
    policy = flat.pop(POLICY, AUTO)
    images = survey(data, val=flat.get(SHORT["val"], 0.0))
    if decoded is not None:
        images = replace(images, train=len(decoded.train))
        given["image_size"] = decoded.image_size
    given["epochs"] = _number(flat.get("epochs"))
    chosen = changed(choose(images, **given, policy=policy), flat)
    others = []
    for px in other_sizes(images, chosen.data.image_size):
        sized: dict[str, int | None] = given | {"image_size": px}
        with contextlib.suppress(ResightError):  # other settings that are given may not fit it
            other = choose(images, **sized, policy=policy)
            others.append(changed(other, flat | {SHORT["image_size"]: px}))
    most = None if flat.keys() & {"epochs", SHORT["epochs"]} else MOST_MINUTES
    return Choice(chosen, reasons(chosen, images), tuple(others), most)


def settled(
    choice: Choice,
    recipe: str | Path | Recipe | None,
    data: str | Path | ImageData | None,
    changes: Mapping[str, Any],
    decoded: ImageData,
) -> Choice:
    """`choice`, or where files were left out because they can't be read, the one for the others."""
    return recipe_for(recipe, data, changes, decoded=decoded) if decoded.bad else choice


def survey(data: str | Path | ImageData, *, val: float = 0.0) -> Images:
    """What can be known of the images without decoding them. val: the fraction of train that is
    held out for validation. Raises `ResightError`."""
    if isinstance(data, ImageData):
        return Images(_kept(len(data.train), val), data.classes, data.image_size)
    if data == "digits":
        return DIGITS
    if data in cifar.VARIANTS:
        classes = 10 if data == "cifar10" else 100
        names = tuple(f"class {number}" for number in range(classes))
        return Images(_kept(50_000, val), names, CIFAR_PX)
    found = sources.find(data)
    if found.counts is None:  # CIFAR's files
        return survey(found.name, val=val)
    return survey_found(found, val=val)


def survey_found(found: Found, *, val: float = 0.0) -> Images:
    """The same of a folder of images, also of one that a training would refuse."""
    assert found.counts is not None, found
    counts = found.counts.get("train", [])
    if "all" in found.counts:
        counts = [n - held_count(n, sources.TEST_FRACTION) for n in found.counts["all"]]
    paths = [f"{found.root}{os.sep}{stamp.path}" for stamp in found.stamps]
    return Images(_kept(sum(counts), val), found.classes, _median_side(paths))


def _watched(
    flat: dict[str, Any], patience: int, held: float, data: str | Path | ImageData | None
) -> dict[str, Any]:
    """`flat` with a validation split for early stopping, where nobody has given one.

    patience, held: the recipe's own early stopping and validation split.
    """
    stops = flat.get(SHORT["early_stop"], patience)
    if not stops or held or SHORT["val"] in flat or _has_val(data):
        return flat
    return flat | {SHORT["val"]: VAL_FRACTION}


def _has_val(data: str | Path | ImageData | None) -> bool:
    """Whether the images have a validation split of their own."""
    if isinstance(data, ImageData):
        return data.val is not None
    if data is None or data in sources.NAMES:
        return False
    return "val" in (sources.find(data).counts or ())


def _number(given: object) -> int | None:
    """`given` if it can be a size: what can't is refused by `changed`, in its own words."""
    return given if isinstance(given, int) and given > 0 else None


def _is_folder(data: str | Path | ImageData | None) -> bool:
    """Whether `data` is a folder of somebody's own images."""
    if data is None or isinstance(data, ImageData) or data in sources.NAMES:
        return False
    path = Path(data).expanduser()
    return path.is_dir() and cifar.find(path) is None


def _kept(train: int, val: float) -> int:
    return train - round(train * val)


def _median_side(paths: Sequence[str]) -> int:
    """The median of the shorter sides, of some files spread over all."""
    step = max(1, len(paths) // SAMPLED_FILES)
    headers = (read_header(path) for path in paths[::step])
    sides = [min(header.width, header.height) for header in headers if header]
    return round(statistics.median(sides)) if sides else CIFAR_PX
