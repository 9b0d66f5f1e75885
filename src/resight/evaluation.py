"""One forward pass over a split: the logits from which everything else follows.

`predict` is the pass, `evaluate` the verb: a run measured on its own test split or on other images.
"""

from __future__ import annotations

import functools
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from resight.data.batches import DeviceSplit
from resight.data.sources import load_data
from resight.data.types import ImageData, Split
from resight.errors import ResightError, ResightWarning
from resight.predictions import Predictions
from resight.progress import Quiet, Reporter
from resight.resume import same_runtime
from resight.run import Run, load_run
from resight.runtime import Runtime
from resight.weights import load_model, read_about

EVAL_BATCH = 500


@torch.no_grad()
def predict(
    model: nn.Module,
    split: DeviceSplit,
    runtime: Runtime,
    *,
    tta: Literal["none", "flip"] = "none",
    between: Callable[[], None] = lambda: None,
) -> Tensor:
    """Logits of every image of `split` in its order: float32 (N, K) on the CPU.

    With tta "flip" the mean of the logits of an image and its mirror. The model's mode is restored.
    `between` is called before each batch; what it raises ends the pass.
    """
    was_training = model.training
    model.eval()
    try:
        chunks = []
        for start in range(0, len(split), EVAL_BATCH):
            between()
            images = split.plain(start, min(start + EVAL_BATCH, len(split)))
            with runtime.autocast():
                logits = model(images).float()
                if tta == "flip":
                    logits = (logits + model(images.flip(3)).float()) / 2
            chunks.append(logits)
        return torch.cat(chunks).cpu()
    finally:
        model.train(was_training)


def evaluate(
    run: str | Path | Run,
    data: str | Path | ImageData | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> Predictions:
    """Measure a finished run on its test split, or on other `data`: its test split or, without
    one, all of its images.

    Writes `predictions.npz` into the run folder; with `data` `predictions-NAME.npz`, beside it. The
    statistics and classes are the run's; the classes of `data` must be among them. "auto" is what
    the run was trained with, where it is there. Raises `ResightError`.
    """
    reporter = reporter or Quiet()
    run = run if isinstance(run, Run) else load_run(run)
    path = run.path / "model.safetensors"
    about, model = read_about(path), load_model(path)
    facts = run.resolved["data"]
    if isinstance(data, ImageData):
        loaded = data
    else:
        loaded = _load(run, data, about, reporter, skip_bad=skip_bad)
    if data is None and loaded.fingerprint != facts["fingerprint"]:
        raise ResightError(
            f"{run.path}: the images at {loaded.source} are not those of the training "
            "(another fingerprint); name them with --data to measure on them all the same"
        )
    if (loaded.image_size, loaded.channels) != (about["image_size"], about["channels"]):
        raise ResightError(
            f"the images are {loaded.image_size} px with {loaded.channels} channels, and the run's "
            f"{about['image_size']} px with {about['channels']}"
        )
    if data is not None:
        for note in loaded.notes:
            reporter.say(f"note: {note}")
    test = _in_classes_of_run(loaded, tuple(about["classes"]))
    runtime = same_runtime(run, device, precision, deterministic=False)
    runtime.apply()
    split = DeviceSplit.place(
        test,
        torch.tensor(about["mean"], dtype=torch.float32),
        torch.tensor(about["std"], dtype=torch.float32),
        runtime.device,
        resident=runtime.fits(test.images.nbytes),
    )
    logits = predict(model.to(runtime.device), split, runtime, tta=about["tta"])
    predictions = Predictions(logits.numpy(), test.labels, test.ids, tuple(about["classes"]))
    name = "predictions.npz" if data is None else f"predictions-{loaded.name}.npz"
    try:
        predictions.save(run.path / name)
    except ResightError as error:  # the figures are there all the same
        warnings.warn(str(error), ResightWarning, stacklevel=2)
    return predictions


def _load(
    run: Run, data: str | Path | None, about: dict[str, Any], reporter: Reporter, *, skip_bad: bool
) -> ImageData:
    facts = run.resolved["data"]
    load = functools.partial(
        load_data,
        facts["source"] if data is None else data,
        image_size=about["image_size"],
        split_seed=run.recipe.data.split_seed,
        skip_bad=skip_bad or (data is None and bool(facts["bad"])),
        held_out=data is None,
        progress=reporter.counting("decoding images"),
    )
    try:
        loaded = load()  # as the training loaded it, so that the decoded cache serves
    except ResightError as error:
        if data is not None:
            raise
        raise ResightError(f"{error} (if the images have moved: --data)") from None
    return loaded if loaded.channels == about["channels"] else load(channels=about["channels"])


def _in_classes_of_run(data: ImageData, classes: tuple[str, ...]) -> Split:
    """The test split with labels that count in the run's classes (names compared as NFC)."""
    places = {unicodedata.normalize("NFC", name): i for i, name in enumerate(classes)}
    table = np.array(
        [places.get(unicodedata.normalize("NFC", name), -1) for name in data.classes],
        dtype=np.int64,
    )
    labels = table[data.test.labels]
    if (labels < 0).any():
        unknown = data.classes[int(data.test.labels[labels < 0][0])]
        raise ResightError(
            f"{data.source}: class '{unknown}' is none of the run's ({', '.join(classes)}): "
            "name its folder as in the training data"
        )
    return Split(data.test.images, labels, data.test.ids)
