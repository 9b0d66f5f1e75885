"""Batch norm's statistics for evaluation, taken anew at the weights of the moment."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from resight.data.batches import DeviceSplit
from resight.engine.forward import images_at_once
from resight.engine.runtime import Runtime

MAX_IMAGES = 5000  # more make no difference
MIN_BATCH = 32  # of fewer, large images the variance between images would be missed


@torch.no_grad()
def renew_norms(
    model: nn.Module,
    split: DeviceSplit,
    runtime: Runtime,
    order: Tensor,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Set the running statistics of `model` to those of the first 5,000 images in `order` (int64
    (N,), on the CPU), not augmented: the means over equal batches of as many as suit the device,
    but 32 or more.

    Running statistics of the last steps are of augmented images, of few, and of weights that have
    moved since. order: has to mix the classes, since a batch has statistics of its own. Nothing
    else of the model changes. `between` is called before each batch; what it raises ends the pass.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    rows = order[:MAX_IMAGES]
    if len(rows) < 2 or not norms:
        return
    momenta = [norm.momentum for norm in norms]
    counts = [_count(norm).clone() for norm in norms]
    was_training = model.training
    model.train()
    try:
        most = max(MIN_BATCH, images_at_once(split.image_size, runtime))
        batches = torch.tensor_split(rows, -(-len(rows) // most))
        for done, batch in enumerate(batches):
            between()
            for norm in norms:
                norm.momentum = 1 / (done + 1)
            with runtime.autocast():
                model(split.at(batch).plain(0, len(batch)))
    finally:
        model.train(was_training)
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            _count(norm).copy_(count)


def _count(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.num_batches_tracked is not None
    return norm.num_batches_tracked
