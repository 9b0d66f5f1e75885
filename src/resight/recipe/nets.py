"""The nets by name, and what recipes and the CLI must know of them without importing torch."""

from __future__ import annotations

from typing import Literal

from resight.errors import ResightError, did_you_mean

NormName = Literal["batch", "layer"]

NETS: tuple[str, ...] = ("custom-resnet", "resnet18", "resnet18-gn", "fastnet", "fastnet-deep")
NORMS: tuple[NormName, ...] = ("batch", "layer")

# custom-resnet halves three times and rounds down; ResNet-18's strided convolutions round up.
_SMALLEST_IMAGE_SIZE_PX = {
    "custom-resnet": 8,
    "resnet18": 1,
    "resnet18-gn": 1,
    "fastnet": 9,
    "fastnet-deep": 9,
}


def smallest_image_size(name: str) -> int:
    """The smallest side of a square image, in pixels, that the net can take.

    Raises `ResightError` where no net has this name.
    """
    if name not in NETS:
        raise ResightError(f"net {name!r} is not known{did_you_mean(name, NETS)}")
    return _SMALLEST_IMAGE_SIZE_PX[name]
