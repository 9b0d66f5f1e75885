"""The training images that a net takes for the nearest to an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resight.data.types import ImageData
from resight.runs.predictor import Predictor
from resight.serving.batcher import Batcher

MAX_IMAGES = 5000  # compared with, evenly spaced: 10 MB and some 20 s of a small net on two cores
AT_ONCE = 32  # between which requests have their turn

Features = npt.NDArray[np.float32]


def features(predictor: Predictor, images: npt.NDArray[np.uint8]) -> Features:
    """float32 (N, F) at unit length: what the head, the last linear layer of the net, gets of
    images uint8 (N, H, W, C)."""
    heads = [module for module in predictor.model.modules() if isinstance(module, nn.Linear)]
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[:] = [inputs[0].detach().flatten(1).float().cpu()]

    hook = heads[-1].register_forward_pre_hook(note)
    try:
        with torch.no_grad(), predictor.runtime.autocast():
            predictor.model(predictor.normalized(images))
    finally:
        hook.remove()
    return np.asarray(nn.functional.normalize(seen[0]).numpy(), dtype=np.float32)


class Neighbours:
    """Features of at most 5,000 training images, computed by a batcher while it serves.

    rows: int64 (n,), which of the training images.
    """

    def __init__(self, predictor: Predictor, data: ImageData) -> None:
        self._predictor, self.data = predictor, data
        total = len(data.train)
        self.rows = np.linspace(0, total - 1, min(total, MAX_IMAGES), dtype=np.int64)
        self._parts: list[Features] = []
        self._known = 0  # images

    @property
    def ready(self) -> bool:
        return self._known == len(self.rows)

    def learn(self, batcher: Batcher) -> None:
        """Compute all features, in pieces that the batcher does in their turn."""

        def piece() -> None:
            rows = self.rows[self._known : self._known + AT_ONCE]
            self._parts.append(features(self._predictor, self.data.train.images[rows]))
            self._known += len(rows)
            if not self.ready:
                batcher.work(piece)

        batcher.work(piece)

    def nearest(self, feature: Features, most: int) -> tuple[npt.NDArray[np.int64], Features]:
        """Rows of the training images whose features have the largest cosines with `feature` (F,),
        and these cosines, falling. Once `ready`."""
        cosines = np.concatenate([part @ feature for part in self._parts])
        order = np.argsort(-cosines, kind="stable")[:most]
        return self.rows[order], cosines[order]
