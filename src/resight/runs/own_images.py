"""A run's own images, loaded again: same place, same split, checked by fingerprint."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from resight.data.sources import UnreadableImages, load_data
from resight.data.splits import with_validation
from resight.data.types import ImageData
from resight.errors import ResightError, shortened
from resight.progress import Quiet, Reporter
from resight.recipe.settings import Data
from resight.runs.manifest import read_file
from resight.runs.predictions import Predictions
from resight.runs.schemas import Environment, parsed

NAMED = 3  # images of those that differ
MOVED = "(if the images have moved: --data)"


def reload_data(
    facts: Mapping[str, Any] | None,
    settings: Data,
    *,
    run: Path,
    data: str | Path | ImageData | None = None,
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> ImageData:
    """The images that a run is trained on, finished or not, with its validation split.

    facts: what the run recorded about them (`data_facts`); None if its training has not begun.
    settings: its recipe's. data: where they are now, or the images themselves, if they have moved.
    Raises `ResightError`, also if the images are different ones (by their fingerprint).
    """
    if facts is None:
        raise ResightError(f"{run}: its training has not started, so it has no images yet")
    if not isinstance(data, ImageData):
        data = own_images(facts, settings, at=data, skip_bad=skip_bad, reporter=reporter or Quiet())
    check_own(
        facts,
        data,
        run=run,
        advice="restore them, or give the folder that holds them with --data",
    )
    if settings.val_fraction and data.val is None:
        data = with_validation(data, settings.val_fraction, settings.split_seed, settings.group)
    return data


def own_images(
    facts: Mapping[str, Any],
    settings: Data,
    *,
    at: str | Path | None = None,
    skip_bad: bool = False,
    reporter: Reporter,
) -> ImageData:
    """The images at the run's own source, or at `at`, split as the source defines, without the
    validation split. They may have changed: see `check_own`."""
    source, skip_bad = facts["source"] if at is None else at, skip_bad or bool(facts["bad"])
    try:
        return load_like(
            source, settings, channels=facts["channels"], skip_bad=skip_bad, reporter=reporter
        )
    except ResightError as error:
        if at is not None:
            raise
        raise not_found_again(error) from None


def not_found_again(error: ResightError) -> ResightError:
    """Of images that a run was trained on: where they may be; leaving some out is no way on."""
    what = error.what if isinstance(error, UnreadableImages) else str(error)
    advice = "; put back what the run was trained on" if what != str(error) else ""
    return ResightError(f"{what}{advice} {MOVED}")


def load_like(
    source: str | Path,
    settings: Data,
    *,
    channels: int,
    held_out: bool = True,
    skip_bad: bool = False,
    reporter: Reporter,
) -> ImageData:
    """Images loaded as a training with `settings` loads them, with `channels` channels."""
    load = functools.partial(
        load_data,
        source,
        image_size=settings.image_size,
        fit=settings.fit,
        split_seed=settings.split_seed,
        group=settings.group,
        skip_bad=skip_bad,
        held_out=held_out,
        progress=reporter.counting("decoding images"),
    )
    loaded = load()  # as the training did, so that the cache of decoded images is used
    return loaded if loaded.channels == channels else load(channels=channels)


def check_own(facts: Mapping[str, Any], data: ImageData, *, run: Path, advice: str) -> None:
    """Raise `ResightError` if `data` are not the images that the run was trained on."""
    mine, theirs = facts["fingerprint"], data.fingerprint
    if theirs != mine:
        raise ResightError(
            f"{run}: the images at {data.source} are not the ones it was trained on "
            f"({_difference(facts, data)}{_named(run, data)}); {advice}"
        )


def _difference(facts: Mapping[str, Any], data: ImageData) -> str:
    """How images differ from those of a run, as far as what it recorded of them shows."""
    held = len(data.val) if data.val is not None else 0
    now = (len(data.train) + held, len(data.test))
    then = (facts.get("train", 0) + facts.get("val", 0), facts.get("test", 0))
    if other := {*data.classes} ^ {*facts.get("classes", data.classes)}:
        return f"other classes: {shortened(sorted(other))} only in one of the two"
    if now != then and "train" in facts:
        return f"{now[0]:,} to train on and {now[1]:,} to test, not {then[0]:,} and {then[1]:,}"
    return (
        "as many, but some were replaced, changed or renamed: fingerprint "
        f"{data.fingerprint[:12]}, not {facts['fingerprint'][:12]}"
    )


def _named(run: Path, data: ImageData) -> str:
    """Which images differ, as far as that can be known without their old pixels: those of the test
    split that are gone, and the files that were written since the run read its images."""
    splits = [split for split in (data.train, data.test, data.val) if split is not None]
    now = {name for split in splits for name in split.ids.tolist()}
    gone: list[str] = []
    with contextlib.suppress(ResightError):  # not measured yet
        gone = [
            name
            for name in Predictions.load(run / "predictions.npz").ids.tolist()
            if name not in now
        ]
    newer = _changed_since_read(run, Path(data.source), sorted(now))
    words = {"gone": gone, "written since": newer}
    return "".join(f"; {word}: {shortened(ids, NAMED)}" for word, ids in words.items() if ids)


def _changed_since_read(run: Path, root: Path, ids: list[str]) -> list[str]:
    """The files below `root` that changed after the run last read them; none if most of them did,
    as in a copy, or if they are no files."""
    try:
        path = run / "environment.json"
        started = parsed(Environment, read_file(path), path)["started"]
        since = datetime.strptime(started, "%Y-%m-%dT%H:%M:%S%z").timestamp()
        changed = [name for name in ids if (root / name).stat().st_ctime > since]
    except (OSError, ValueError):
        return []
    return changed if 2 * len(changed) < len(ids) else []
