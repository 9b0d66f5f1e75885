"""One forward pass over a split: the logits from which everything else follows.

`predict` is the pass, `evaluate` the verb: a run measured on a split of its own or on other images;
`reload_data` finds the run's own again.
"""

from __future__ import annotations

import functools
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resight.data.batches import DeviceSplit
from resight.data.sources import load_data
from resight.data.splits import with_validation
from resight.data.types import ImageData, Split
from resight.engine.forward import Forwards, Tta, eager
from resight.engine.runtime import Runtime
from resight.errors import ResightError, ResightWarning, did_you_mean
from resight.progress import Quiet, Reporter
from resight.runs.predictions import Predictions
from resight.runs.run import Run, load_run
from resight.runs.weights import load_model, read_about
from resight.training.resume import same_runtime

EVAL_PIXELS_CPU = 250 * 32**2  # what the caches hold of a layer
EVAL_PIXELS_CUDA = 2000 * 32**2
SPLITS = ("test", "val", "train")


@torch.no_grad()
def predict(
    model: nn.Module,
    split: DeviceSplit,
    runtime: Runtime,
    *,
    tta: Tta = "none",
    between: Callable[[], None] = lambda: None,
    forwards: Forwards | None = None,
) -> Tensor:
    """Logits of every image of `split` in its order: float32 (N, K) on the CPU; `tta` as in
    `forward.logits_of`. The model's mode is restored.

    `between` is called before each batch; what it raises ends the pass. forwards: recorded passes
    to replay.
    """
    was_training = model.training
    model.eval()
    forward = forwards.of(model, split, tta) if forwards else eager(model, split, runtime, tta)
    pixels = EVAL_PIXELS_CPU if runtime.on_cpu else EVAL_PIXELS_CUDA
    batch = max(1, min(pixels // split.images.shape[1] ** 2, len(split)))
    try:
        chunks = []
        for start in range(0, len(split), batch):
            between()
            chunks.append(forward(start, min(start + batch, len(split))))
        return torch.cat(chunks).cpu()
    finally:
        model.train(was_training)


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
    split or, without one, all of its images.

    Writes `predictions.npz` into the run folder, for another split `predictions-val.npz` or
    `predictions-train.npz`; with `data` `predictions-NAME.npz`, beside it. The statistics and
    classes are the run's; the classes of `data` must be among them. "auto" is what the run was
    trained with, where it is there. Raises `ResightError`.
    """
    reporter = reporter or Quiet()
    run = run if isinstance(run, Run) else load_run(run)
    path = run.path / "model.safetensors"
    _check_split(run, split, other_data=data is not None)
    about, model = read_about(path), load_model(path)
    if isinstance(data, ImageData):
        loaded = data
    elif data is not None:
        loaded = _load(run, data, about, reporter, held_out=False, skip_bad=skip_bad)
    elif split == "test":
        loaded = _own_images(run, about, reporter, skip_bad=skip_bad)
        _check_own(run, loaded, "name them with --data to measure on them all the same")
    else:
        loaded = reload_data(run, skip_bad=skip_bad, reporter=reporter)
    if (loaded.image_size, loaded.channels) != (about["image_size"], about["channels"]):
        raise ResightError(
            f"the images are {loaded.image_size} px with {loaded.channels} channels, and the run's "
            f"{about['image_size']} px with {about['channels']}"
        )
    if data is not None:
        for note in loaded.notes:
            reporter.say(f"note: {note}")
    images = _in_classes_of_run(loaded, split, tuple(about["classes"]))
    runtime = same_runtime(run, device, precision, deterministic=False)
    runtime.apply()
    placed = DeviceSplit.place(
        images,
        torch.tensor(about["mean"], dtype=torch.float32),
        torch.tensor(about["std"], dtype=torch.float32),
        runtime.device,
        resident=runtime.fits(images.images.nbytes),
    )
    logits = predict(model.to(runtime.device), placed, runtime, tta=about["tta"])
    predictions = Predictions(
        logits.numpy(), images.labels, images.ids, tuple(about["classes"]), split
    )
    try:
        predictions.save(run.path / _file_name(split, loaded.name if data is not None else None))
    except ResightError as error:  # the figures are there all the same
        warnings.warn(str(error), ResightWarning, stacklevel=2)
    return predictions


def reload_data(
    run: Run,
    *,
    data: str | Path | ImageData | None = None,
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> ImageData:
    """The images that `run` is trained on, finished or not, with its validation split.

    data: where they lie now, or they themselves, where they are no longer where they were. Raises
    `ResightError`, for other images too (by their fingerprint).
    """
    facts, wanted = run.resolved.get("data"), run.recipe.data
    if facts is None:
        raise ResightError(f"{run.path}: its training has not begun, so it has no images yet")
    if not isinstance(data, ImageData):
        about = {"image_size": wanted.image_size, "channels": facts["channels"]}
        data = _own_images(run, about, reporter or Quiet(), at=data, skip_bad=skip_bad)
    _check_own(run, data, "put those back or give the folder that holds them with --data")
    if wanted.val_fraction and data.val is None:
        data = with_validation(data, wanted.val_fraction, wanted.split_seed)
    return data


def _own_images(
    run: Run,
    about: dict[str, Any],
    reporter: Reporter,
    *,
    at: str | Path | None = None,
    skip_bad: bool,
) -> ImageData:
    """The images at the run's own source, or `at` another place, split as the source says."""
    facts = run.resolved["data"]
    source, skip_bad = facts["source"] if at is None else at, skip_bad or bool(facts["bad"])
    try:
        return _load(run, source, about, reporter, held_out=True, skip_bad=skip_bad)
    except ResightError as error:
        if at is not None:
            raise
        raise ResightError(f"{error} (if the images have moved: --data)") from None


def _check_own(run: Run, data: ImageData, advice: str) -> None:
    if data.fingerprint != run.resolved["data"]["fingerprint"]:
        raise ResightError(
            f"{run.path}: the images at {data.source} are not those of the training "
            f"(another fingerprint); {advice}"
        )


def _load(
    run: Run,
    source: str | Path,
    about: dict[str, Any],
    reporter: Reporter,
    *,
    held_out: bool,
    skip_bad: bool,
) -> ImageData:
    load = functools.partial(
        load_data,
        source,
        image_size=about["image_size"],
        split_seed=run.recipe.data.split_seed,
        skip_bad=skip_bad,
        held_out=held_out,
        progress=reporter.counting("decoding images"),
    )
    loaded = load()  # as the training loaded it, so that the decoded cache serves
    return loaded if loaded.channels == about["channels"] else load(channels=about["channels"])


def _check_split(run: Run, split: str, *, other_data: bool) -> None:
    if split not in SPLITS:
        raise ResightError(f"split '{split}'{did_you_mean(split, SPLITS)}")
    if other_data and split != "test":
        raise ResightError(
            f"split '{split}' is of the run's own images; other images (--data) are measured as "
            "'test': leave out one of the two"
        )
    if split == "val" and not run.resolved.get("data", {}).get("val"):
        raise ResightError(
            f"{run.path} has no validation split; `resight train --val 0.1` holds one out"
        )


def _file_name(split: str, other: str | None) -> str:
    """Where predictions go: of a split of the run's own images, or of the data named `other`."""
    if other is None:
        return "predictions.npz" if split == "test" else f"predictions-{split}.npz"
    taken = other in SPLITS  # as the run's own splits are called
    return f"predictions-{other}{'-data' if taken else ''}.npz"


def _in_classes_of_run(data: ImageData, part: str, classes: tuple[str, ...]) -> Split:
    """The split with labels that count in the run's classes (names compared as NFC)."""
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
            f"{data.source}: class '{unknown}' is none of the run's ({', '.join(classes)}): "
            "name its folder as in the training data"
        )
    return Split(split.images, labels, split.ids)
