"""Logits of a batch, with test-time augmentation; on a GPU as one replayed graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from resight.data.augment import normalize
from resight.data.batches import DeviceSplit
from resight.engine.graphs import CudaGraphs, Graphs
from resight.engine.runtime import Runtime
from resight.errors import ResightWarning, first_line

Views = Literal["none", "flip", "flip-shift"]
Tta = Literal[Views, "flip-shift-unsure"]
UNSURE = 0.6  # probability of the most probable class of one view, below which six are seen
SHIFT_PX = 1
EVAL_PIXELS_CPU = 250 * 32**2  # so that a layer fits the caches
EVAL_PIXELS_CUDA = 2000 * 32**2
# forward passes per image; on average, if every fourth image is unsure
VIEWS: dict[Tta, float] = {"none": 1, "flip": 2, "flip-shift": 6, "flip-shift-unsure": 2.5}


def logits_of(model: nn.Module, images: Tensor, tta: Views) -> Tensor:
    """Logits float32 (B, K) of normalised images (B, C, H, W).

    "flip": the mean over an image and its mirror image. "flip-shift": half of that, plus a quarter
    each of the same for the image shifted by one pixel up-left and down-right, with reflected edges
    (as in airbench).
    """
    return mean_of([model(view).float() for view in views_of(images, tta)])


def views_of(images: Tensor, tta: Views) -> Iterator[Tensor]:
    """What `logits_of` shows to the net: 1, 2 or 6 times (B, C, H, W), in the order that `mean_of`
    takes."""
    yield images
    if tta == "none":
        return
    yield images.flip(3)
    if tta == "flip":
        return
    padded = pad(images, (SHIFT_PX,) * 4, mode="reflect")
    height, width = images.shape[2:]
    for start in (0, 2 * SHIFT_PX):
        moved = padded[:, :, start : start + height, start : start + width]
        yield moved
        yield moved.flip(3)


def mean_of(logits: Sequence[Tensor]) -> Tensor:
    """The logits (B, K) of an image from those of its views."""
    if len(logits) == 1:
        return logits[0]
    pairs = zip(logits[::2], logits[1::2], strict=True)
    both = [(plain + mirrored) / 2 for plain, mirrored in pairs]
    if len(both) == 1:
        return both[0]
    return both[0] / 2 + both[1] / 4 + both[2] / 4


def eager(
    model: nn.Module, split: DeviceSplit, runtime: Runtime, tta: Views
) -> Callable[[int, int], Tensor]:
    """Logits of images [start, stop) of `split`, computed eagerly."""

    def forward(start: int, stop: int) -> Tensor:
        images = split.plain(start, stop)
        with runtime.autocast():
            return logits_of(model, images, tta)

    return forward


def images_at_once(image_size: int, runtime: Runtime) -> int:
    """The most images of `image_size` px per pass that suit the device."""
    pixels = EVAL_PIXELS_CPU if runtime.on_cpu else EVAL_PIXELS_CUDA
    return max(1, pixels // image_size**2)


@torch.no_grad()
def predict(
    model: nn.Module,
    split: DeviceSplit,
    runtime: Runtime,
    *,
    tta: Tta = "none",
    between: Callable[[], None] = lambda: None,
    forwards: Forwards | None = None,
    batch: int | None = None,
) -> Tensor:
    """Logits of every image of `split` in its order: float32 (N, K) on the CPU; `tta` as in
    `logits_of`. The model's mode is restored.

    "flip-shift-unsure": one view of each image, and the six of "flip-shift" instead where its most
    probable class has less than 0.6. What an image gets does not depend on the others.

    `between` is called before each batch; what it raises ends the pass. forwards: recorded passes
    to replay. batch: images per pass; by default as many as suit the device.
    """

    def passes(images: DeviceSplit, views: Views, recorded: Forwards | None) -> Tensor:
        forward = recorded.of(model, images, views) if recorded else None
        forward = forward or eager(model, images, runtime, views)
        chunks = []
        for start in range(0, len(images), at_once):
            between()
            chunks.append(forward(start, min(start + at_once, len(images))))
        return torch.cat(chunks).cpu()

    was_training = model.training
    model.eval()
    most = images_at_once(split.image_size, runtime)
    at_once = max(1, min(batch or most, most, len(split)))
    try:
        if tta != "flip-shift-unsure":
            return passes(split, tta, forwards)
        logits = passes(split, "none", forwards)
        unsure = (logits.softmax(1).amax(1) < UNSURE).nonzero().flatten()
        for rows in torch.split(unsure, at_once) if len(unsure) else ():
            # never as many again: a recording would serve only once
            logits[rows] = passes(split.at(rows), "flip-shift", None)
        return logits
    finally:
        model.train(was_training)


class Forwards:
    """Passes that are recorded once for each model, split and batch size, and replayed.

    Models must be in eval mode when first used, their tensors must stay in place, and splits must
    be on the device. A recording keeps both alive. If recording fails, execution is eager.
    """

    def __init__(self, runtime: Runtime, graphs: Graphs | None = None) -> None:
        """graphs: CUDA's own by default."""
        self._runtime = runtime
        self._graphs = graphs or CudaGraphs(runtime.device)
        self._kept: dict[tuple[int, int, int, Views], _Recorded] = {}
        self._refused = False

    def of(self, model: nn.Module, split: DeviceSplit, tta: Views) -> Callable[[int, int], Tensor]:
        """Like `eager`, by replay."""
        plain = eager(model, split, self._runtime, tta)

        def forward(start: int, stop: int) -> Tensor:
            if self._refused:
                return plain(start, stop)
            key = (id(model), id(split), stop - start, tta)
            try:
                if key not in self._kept:
                    self._kept[key] = _Recorded(
                        model, split, self._runtime, tta, stop - start, self._graphs
                    )
            except RuntimeError as error:  # also out of memory, which `plain` will then report
                self._refuse(error)
                return plain(start, stop)
            return self._kept[key](start)

        return forward

    def _refuse(self, error: RuntimeError) -> None:
        self._refused = True
        self._kept.clear()  # and free their memory
        warnings.warn(
            f"the evaluation could not be captured as a CUDA graph ({first_line(error)}): falling "
            "back to eager execution, same results",
            ResightWarning,
            stacklevel=2,
        )


class _Recorded:
    """One recorded pass over `images` consecutive images, from any start."""

    def __init__(
        self,
        model: nn.Module,
        split: DeviceSplit,
        runtime: Runtime,
        tta: Views,
        images: int,
        graphs: Graphs,
    ) -> None:
        self._held = (model, split)  # so that no other object takes their ids
        places = torch.arange(images, device=split.device)
        self._start = torch.zeros(1, dtype=torch.int64, device=split.device)
        self._logits = torch.empty(0)

        def body() -> None:
            pixels = split.images.index_select(0, self._start + places)
            with runtime.autocast():
                logits = logits_of(model, normalize(pixels, split.mean, split.std), tta)
            if not len(self._logits):
                self._logits = torch.empty_like(logits)
            self._logits.copy_(logits)

        graphs.warm_up(body)
        self._replay = graphs.record(body)

    def __call__(self, start: int) -> Tensor:
        self._start.fill_(start)
        self._replay()
        return self._logits.clone()
