"""One forward pass over a split: the logits from which everything else follows.

`predict` is the pass, `evaluate` the verb: a run measured on its own test split or on other images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from resight.data.batches import DeviceSplit
from resight.data.sources import load_data
from resight.data.types import ImageData, Split
from resight.errors import ResightError
from resight.predictions import Predictions
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
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Measure a finished run on its test split, or on the test split of other `data`.

    Writes `predictions.npz` into the run folder; with `data` `predictions-NAME.npz`, beside it. The
    statistics and classes are the run's; the classes of `data` must be among them. Raises
    `ResightError`.
    """
    run = run if isinstance(run, Run) else load_run(run)
    path = run.path / "model.safetensors"
    about, model = read_about(path), load_model(path)
    facts = run.resolved["data"]
    if isinstance(data, ImageData):
        loaded = data
    else:
        source: str | Path = data if data is not None else facts["source"]
        load = functools.partial(
            load_data,
            source,
            image_size=about["image_size"],
            split_seed=run.recipe.data.split_seed,
            skip_bad=skip_bad or bool(facts["bad"]),
            progress=progress,
        )
        loaded = load()  # as the training loaded it, so that the decoded cache serves
        if loaded.channels != about["channels"]:
            loaded = load(channels=about["channels"])
    if data is None and loaded.fingerprint != facts["fingerprint"]:
        raise ResightError(
            f"{run.path}: the images at {loaded.source} are not those of the training "
            "(another fingerprint); name them with --data to measure on them all the same"
        )
    test = _in_classes_of_run(loaded, tuple(about["classes"]))
    runtime = Runtime.choose(device, precision)
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
    predictions.save(run.path / name)
    return predictions


def _in_classes_of_run(data: ImageData, classes: tuple[str, ...]) -> Split:
    """The test split with labels that count in the run's classes."""
    unknown = [name for name in data.classes if name not in classes]
    if unknown:
        raise ResightError(
            f"{data.source}: class '{unknown[0]}' is none of the run's ({', '.join(classes)}): "
            "name its folder as in the training data"
        )
    table = np.array([classes.index(name) for name in data.classes], dtype=np.int64)
    return Split(data.test.images, table[data.test.labels], data.test.ids)
