"""Trained nets without a training: random weights, and statistics of batch norms that differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from helpers import make_net
from resight.engine.forward import Tta
from resight.engine.runtime import Runtime
from resight.runs.predictor import Predictor


def predictor(
    net: str,
    *,
    channels: int = 3,
    px: int = 16,
    tta: Tta = "none",
    classes: int = 3,
    temperature: float = 1.0,
    **settings: Any,
) -> Predictor:
    """In fp32 on the CPU. The logits are such that some images are sure and some are not."""
    torch.manual_seed(0)
    model = make_net(
        net, classes=classes, channels=channels, image_size=px, width=8, **settings
    ).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return Predictor(
        model=model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        classes=tuple(f"class {i}" for i in range(classes)),
        channels=channels,
        image_size=px,
        fit="crop",
        mean=torch.linspace(0.3, 0.5, channels),
        std=torch.linspace(0.2, 0.3, channels),
        tta=tta,
        runtime=Runtime.choose("cpu", "fp32"),
        temperature=temperature,
    )
