"""`evaluate`: measure a run on a split of its own images or on other images."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import numpy as np

from resight.data.types import ImageData, Split
from resight.errors import ResightError, ResightWarning, did_you_mean
from resight.progress import Quiet, Reporter
from resight.runs.own_images import check_own, load_like, own_images
from resight.runs.predictions import Predictions
from resight.runs.run import Run, load_run

SPLITS = ("test", "val", "train")


def evaluate(
    run: str | Path | Run,
    data: str | Path | ImageData | None = None,
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> Predictions:
    """Measure a finished run on its "test", "val" or "train" split, or on other `data`: its test
    split or, if it has none, all of its images.

    Writes `predictions.npz` into the run folder, for other splits `predictions-val.npz` or
    `predictions-train.npz`; with `data`, `predictions-NAME.npz` next to it. The statistics and
    classes are the run's; the classes of `data` must be among them. "auto" is what the run was
    trained with, if available. Raises `ResightError`.
    """
    reporter = reporter or Quiet()
    run = run if isinstance(run, Run) else load_run(run)
    _check_split(run, split, other_data=data is not None)
    predictor = run.predictor(device=device, precision=precision, calibrated=False)
    image_size, channels = predictor.image_size, predictor.channels
    if isinstance(data, ImageData):
        loaded = data
    elif data is not None and (own := _own_moved(run, data, reporter)) is not None:
        loaded, data = own, None  # its own images, which have moved: its own split of them
    elif data is not None:
        loaded = load_like(
            data,
            run.recipe.data,
            channels=channels,
            held_out=False,
            skip_bad=skip_bad,
            reporter=reporter,
        )
    else:
        loaded = _own_images(run, split, skip_bad=skip_bad, reporter=reporter)
    if (loaded.image_size, loaded.channels) != (image_size, channels):
        raise ResightError(
            f"the images are {loaded.image_size} px with {loaded.channels} channels, but the run "
            f"was trained on {image_size} px with {channels}"
        )
    if data is not None:
        for note in loaded.notes:
            reporter.say(f"note: {note}")
    images = _in_classes_of_run(loaded, split, predictor.classes)
    logits = predictor.logits(images.images)
    predictions = Predictions(logits, images.labels, images.ids, predictor.classes, split)
    try:
        name = _file_name(split, loaded.name if data is not None else None)
        run.write_files({name: predictions.to_bytes()})
    except ResightError as error:  # the predictions are valid anyway
        warnings.warn(str(error), ResightWarning, stacklevel=2)
    return predictions


def _own_moved(run: Run, data: str | Path, reporter: Reporter) -> ImageData | None:
    """The images at `data` as the run's own, split as it did; None if they are others."""
    facts = run.resolved["data"]
    try:
        loaded = own_images(facts, run.recipe.data, at=data, reporter=reporter)
    except ResightError:  # other images need not have what a training needs
        return None
    return loaded if loaded.fingerprint == facts["fingerprint"] else None


def _own_images(run: Run, split: str, *, skip_bad: bool, reporter: Reporter) -> ImageData:
    """The run's own images; for "test" without making the validation split anew."""
    if split != "test":
        return run.images(skip_bad=skip_bad, reporter=reporter)
    facts = run.resolved["data"]
    loaded = own_images(facts, run.recipe.data, skip_bad=skip_bad, reporter=reporter)
    advice = "give them with --data to measure on them anyway"
    check_own(facts, loaded, run=run.path, advice=advice)
    return loaded


def _check_split(run: Run, split: str, *, other_data: bool) -> None:
    if split not in SPLITS:
        raise ResightError(f"unknown split '{split}'{did_you_mean(split, SPLITS)}")
    if other_data and split != "test":
        raise ResightError(
            f"split '{split}' belongs to the run's own images, but other images (--data) are "
            "measured as 'test': omit one of the two"
        )
    if split == "val" and not run.resolved.get("data", {}).get("val"):
        raise ResightError(
            f"{run.path} has no validation split; `resight train --val 0.1` holds one out"
        )


def _file_name(split: str, other: str | None) -> str:
    """The file for predictions on a split of the run's own images or on the data named `other`."""
    if other is None:
        return "predictions.npz" if split == "test" else f"predictions-{split}.npz"
    taken = other in SPLITS  # the name of one of the run's own splits
    return f"predictions-{other}{'-data' if taken else ''}.npz"


def _in_classes_of_run(data: ImageData, part: str, classes: tuple[str, ...]) -> Split:
    """The split with labels that index the run's classes (names compared as NFC)."""
    split: Split = getattr(data, part)
    places = {unicodedata.normalize("NFC", name): i for i, name in enumerate(classes)}
    table = np.array(
        [places.get(unicodedata.normalize("NFC", name), -1) for name in data.classes],
        dtype=np.int64,
    )
    labels = table[split.labels]
    if (labels < 0).any():
        unknown = data.classes[int(split.labels[labels < 0][0])]
        raise ResightError(
            f"{data.source}: class '{unknown}' is not one of the run's classes "
            f"({', '.join(classes)}): name its folder as in the training data"
        )
    return Split(split.images, labels, split.ids)
