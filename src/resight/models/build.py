"""`build_net`: a net by its name in the table of `recipe/nets.py`."""

from __future__ import annotations

import importlib

from torch import nn

from resight.errors import ResightError
from resight.recipe.nets import NETS
from resight.recipe.settings import Model


def build_net(
    settings: Model, *, classes: int, channels: int = 3, image_size: int = 32
) -> nn.Module:
    """A net with torch's default initialisation, drawn from torch's global CPU generator.

    It maps float images `(N, channels, image_size, image_size)` to logits `(N, classes)`. Raises
    `ResightError` for a value that the net does not support.
    """
    net = NETS[settings.net]
    _check_at_least("classes", classes, 2, "the number of classes to distinguish")
    _check_at_least("channels", channels, 1, "1 for grey images, 3 for colour")
    smallest = f"pixels; the smallest side that {settings.net} accepts"
    _check_at_least("image_size", image_size, net.smallest_px, smallest)
    module, function = net.build.split(".")
    build = getattr(importlib.import_module(f"resight.models.{module}"), function)
    built = build(settings, classes=classes, channels=channels, image_size=image_size)
    assert isinstance(built, nn.Module)
    built.__dict__["cam_layers"] = net.cam_layers  # which `look.cam_layers` asks of any module
    return built


def _check_at_least(field: str, value: int, smallest: int, hint: str) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < smallest:
        raise ResightError(f"{field} = {value!r} must be an integer ≥ {smallest} ({hint})")
