"""`inspect_data`: what is in a folder of images, and what would trouble a training on it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resight.data import cache, cifar, digits, folder, sources
from resight.data.auto import recipe_for, settled, survey_found
from resight.data.download import data_dir
from resight.data.duplicates import Twins, find_twins
from resight.data.headers import read_headers
from resight.data.splits import with_validation
from resight.data.table import FileStamp, Found, Table, decode_table
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.inspection import checks
from resight.inspection.cases import DataFinding
from resight.inspection.result import Inspection
from resight.inspection.seen import Rows, Seen
from resight.inspection.sizes import file_facts
from resight.inspection.thresholds import THRESHOLDS
from resight.progress import Quiet, Reporter
from resight.recipe.auto import Choice, choose
from resight.recipe.overrides import SHORT, requested
from resight.recipe.settings import Data

DIGITS = "digits"
SIZE_UNKNOWN_PX = 64  # at which images are looked at that no recipe can be chosen for


def inspect_data(
    source: str | Path,
    *,
    skip_bad: bool = False,
    reporter: Reporter | None = None,
    **changes: Any,
) -> Inspection:
    """Look at images before a training: their sizes and kinds, unreadable files, copies within and
    across splits, odd images, the recipe that `train` would take.

    source: a folder, 'cifar10', 'cifar100' or 'digits'. changes: as in `train`; those of the images
    decide how they are looked at (`image_size=64`, `val=0.1`, `**{"data.fit": "pad"}`). skip_bad:
    only repeated in the next command: files that can't be read are listed, not refused. Raises
    `ResightError` where there are no images to look at.
    """
    reporter = reporter or Quiet()
    recipe = DIGITS if source == DIGITS else None
    found, refused = _found(source)
    choice = None if refused else recipe_for(recipe, source, changes)
    settings = choice.recipe.data if choice else _without_recipe(found, changes)
    table = _table(source, found, settings, reporter)
    try:
        data = None if refused else _as_trained(source, settings)
    except ResightError as error:
        data, refused = None, str(error)
    paths, headers, others = None, None, []
    if found is not None and found.counts is not None:  # a folder
        paths = [f"{found.root}{os.sep}{stamp.path}" for stamp in found.stamps]
        headers = read_headers(paths, reporter.counting("reading headers"))
        others = _other_files(found)
    seen = Seen(table, _splits(table, data), paths, headers, settings.fit)
    twins, unsearched = _twins(seen, reporter)
    findings = [
        *_refusal(refused),
        *checks.unreadable(seen),
        *checks.copies(seen, twins),
        *checks.light(seen),
        *checks.odd_sizes(seen),
        *checks.unsupported(seen, [path for path in others if isinstance(path, str)]),
        *checks.outside_classes([file.path for file in others if isinstance(file, FileStamp)]),
        *checks.unequal(seen),
        *checks.symbols(table.classes),
    ]
    if choice is not None and data is not None:
        choice = settled(choice, recipe, source, changes, data)
    # of the loading; a finding says those of a kind with more detail
    notes = [note for note in (data.notes if data else ()) if not note.kind]
    return Inspection(
        source=os.fspath(source),
        seen=seen,
        files=file_facts([*seen.readable_headers().values()], seen.image_size),
        findings=tuple(sorted(findings, key=lambda finding: finding.severity != "problem")),
        notes=(*notes, *unsearched),
        recipe=choice.recipe.name if choice else "",
        why=_why(choice) if choice else (),
        next_command=command(
            "data" if refused else "train",
            source,
            recipe,
            changes,
            skip_bad=skip_bad or bool(table.bad),
        ),
    )


def command(
    verb: str,
    source: str | Path,
    recipe: str | None,
    changes: Mapping[str, Any],
    *,
    skip_bad: bool,
) -> str:
    """The shell line of `data` or `train` for `source` with the same options."""
    words = ["resight", verb, *(["--data"] if verb == "train" else []), os.fspath(source)]
    words += ["--recipe", recipe] if recipe else []
    words += ["--skip-bad"] if skip_bad else []
    for key, value in changes.items():
        if value is None:
            continue
        if key in SHORT:
            words += [f"--{key.replace('_', '-')}", str(value)]
        elif isinstance(value, Mapping):
            words += [w for field, v in value.items() for w in ("--set", f"{key}.{field}={v}")]
        else:
            words += ["--set", f"{key}={value}"]
    return shlex.join(words)


def _found(source: str | Path) -> tuple[Found | None, str]:
    """What is at `source`, and why a training would refuse it; None for digits."""
    if source == DIGITS:
        return None, ""
    if source in cifar.VARIANTS:
        return cifar.find_named(cifar.VARIANTS[str(source)], data_dir()), ""
    try:
        return sources.find(source), ""
    except ResightError as error:
        try:
            return sources.find(source, held_out=False), str(error)
        except ResightError:
            raise error from None


def _why(choice: Choice) -> tuple[str, ...]:
    return choice.why or (f"recipe: {choice.recipe.name}",)


def _without_recipe(found: Found | None, changes: Mapping[str, Any]) -> Data:
    """How images are looked at for which no recipe can be chosen."""
    size = {"image_size": SIZE_UNKNOWN_PX}
    if found is not None and found.counts is not None:
        size = {"image_size": choose(survey_found(found)).data.image_size}
    given = {key: value for key, value in changes.items() if value is not None}
    return requested(None, size | given).data


def _table(source: str | Path, found: Found | None, settings: Data, reporter: Reporter) -> Table:
    size = settings.image_size
    if source == DIGITS:
        listing = digits.read(size, None)
        return decode_table(listing, np.zeros(listing.shape, np.uint8))
    if found is None:  # raises: how to get it
        sources.load_data(source, image_size=size)
    assert found is not None
    decoding = reporter.counting("decoding images")
    return cache.fetch(found, image_size=size, channels=None, fit=settings.fit, progress=decoding)


def _splits(table: Table, data: ImageData | None) -> dict[str, Rows]:
    """The readable rows of each split of a training, train first; without `data` of each part of
    the table."""
    if data is None:
        return table.readable()
    splits = {"train": data.train, "val": data.val, "test": data.test}
    rows = {name: split.rows for name, split in splits.items() if split is not None}
    return {name: of for name, of in rows.items() if of is not None}


def _as_trained(source: str | Path, settings: Data) -> ImageData:
    """The images as a training loads them, from the cache."""
    data = sources.load_data(
        source,
        image_size=settings.image_size,
        fit=settings.fit,
        split_seed=settings.split_seed,
        group=settings.group,
        skip_bad=True,
    )
    if settings.val_fraction:
        data = with_validation(data, settings.val_fraction, settings.split_seed, settings.group)
    return data


def _twins(seen: Seen, reporter: Reporter) -> tuple[list[Twins], list[str]]:
    """The pairs of copies, and a note if there are too many images to search them for near ones."""
    most, rows = THRESHOLDS.compared_images, seen.rows
    near = len(rows) <= most
    comparing = reporter.counting("comparing images")
    table = seen.table
    twins = find_twins(table.images, rows, table.digests, near=near, progress=comparing)
    note = f"near duplicates were not searched for: more than {most:,} images"
    return checks.nearest_of_each(seen, twins), [] if near else [note]


def _other_files(found: Found) -> list[FileStamp | str]:
    """All files below the folder that are not among its images."""
    known = {stamp.path for stamp in found.stamps}
    every = folder.every_file(found.root)
    return [file for file in every if isinstance(file, str) or file.path not in known]


def _refusal(why: str) -> list[DataFinding]:
    if not why:
        return []
    return [
        DataFinding(
            name="refused",
            severity="problem",
            title="a training would refuse these images",
            evidence=why,
            threshold="what `resight train` needs",
            advice="the numbers here are of what can be read; fix this first",
        )
    ]
