"""Which images the report shows, and where in them the net found evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from resight.errors import ResightError
from resight.look.cam import METHODS, CamMaps, Method, grad_cam
from resight.look.open_run import OpenRun
from resight.reporting.photos import Photo, folder_of, photos_of
from resight.runs.predictions import Predictions

MAX_GALLERY_MISTAKES = 2000
MAX_GALLERY_CORRECT = 400  # a sample, for the diagonal of the confusion matrix
CAM_CHUNK, CAM_PIXELS = 250, 250 * 64**2  # images between two progress updates


@dataclass(frozen=True)
class Gallery:
    """rows: int64 (n,), indices into the predictions: mistakes by descending loss, then a sample of
    correct ones; mistakes: how many are mistakes; images: uint8 (n, H, W, C); maps: for the
    predicted and for the true class; no_maps: why there are none. folder: of the images' files, if
    they are in one each; photos: of the first rows, see `photos_of`."""

    predictions: Predictions
    rows: npt.NDArray[np.int64]
    mistakes: int
    images: npt.NDArray[np.uint8]
    maps: CamMaps | None
    no_maps: str | None = None
    folder: Path | None = None
    photos: Sequence[Photo | None] = ()

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        return self.predictions.predicted[self.rows]

    @cached_property
    def true(self) -> npt.NDArray[np.int64]:
        return self.predictions.labels[self.rows]


def select(predictions: Predictions) -> tuple[npt.NDArray[np.int64], int]:
    """The rows that a gallery shows, and how many of them are mistakes."""
    mistakes = predictions.mistakes()[:MAX_GALLERY_MISTAKES]
    per_class = max(1, MAX_GALLERY_CORRECT // len(predictions.classes))
    order = np.argsort(predictions.losses, kind="stable")
    right = order[predictions.predicted[order] == predictions.labels[order]]
    sample = []
    for label in range(len(predictions.classes)):
        own = right[predictions.labels[right] == label]
        if len(own):  # from the most to the least confident
            places = np.linspace(0, len(own) - 1, min(per_class, len(own))).round().astype(int)
            sample.append(own[places])
    chosen = np.concatenate(sample)[:MAX_GALLERY_CORRECT] if sample else np.empty(0, dtype=np.int64)
    return np.concatenate([mistakes, chosen]), len(mistakes)


def collect(
    opened: OpenRun,
    progress: Callable[[int, int], None],
    *,
    layer: str | None = None,
    method: Method = "gradcam",
) -> Gallery | None:
    """The gallery of a run, None if it has not finished or its images are missing.

    layer, method: of the maps, as in `grad_cam`. Raises `ResightError` if a given layer or method
    is not valid.
    """
    predictions, data = opened.predictions, opened.data
    if predictions is None or data is None or opened.model is None:
        return None
    rows, mistakes = select(predictions)
    images = np.ascontiguousarray(data.test.images[rows])
    try:
        maps, reason = _maps(opened, predictions, rows, images, progress, layer, method), None
    except ResightError as error:
        if layer is not None or method not in METHODS:
            raise
        maps, reason = None, str(error)  # for example a net without maps: the gallery omits them
    ids = data.test.ids[rows].tolist()
    folder = folder_of(data.source, ids)
    photos = photos_of(folder, ids, images, opened.run.recipe.data.fit) if folder else []
    return Gallery(predictions, rows, mistakes, images, maps, reason, folder, photos)


def _maps(
    opened: OpenRun,
    predictions: Predictions,
    rows: npt.NDArray[np.int64],
    images: npt.NDArray[np.uint8],
    progress: Callable[[int, int], None],
    layer: str | None,
    method: Method,
) -> CamMaps | None:
    assert opened.model is not None
    pairs = torch.from_numpy(np.stack([predictions.predicted[rows], predictions.labels[rows]], 1))
    parts = []
    size = max(1, min(CAM_CHUNK, CAM_PIXELS // images.shape[1] ** 2))
    for start in range(0, len(rows), size):
        chunk = slice(start, start + size)
        with opened.runtime.autocast():
            part = opened.normalized(images[chunk])
            parts.append(grad_cam(opened.model, part, pairs[chunk], layer, method))
        progress(min(start + size, len(rows)), len(rows))
    if not parts:
        return None
    raw = torch.cat([part.raw for part in parts])
    return CamMaps(raw, pairs, parts[0].layer, parts[0].method)
