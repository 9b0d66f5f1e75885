"""The table of nets: what is known about each without building it, and without importing torch.

A new net is a file in `models/` and a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from resight.errors import listed

NormName = Literal["batch", "layer"]


@dataclass(frozen=True)
class Net:
    """build: `module.function` in `resight.models`; it takes the recipe's model settings, classes,
    channels and image_size, and returns a module.

    smallest_px: the smallest side of an image. last_map: the side of the last normalised map for an
    image's side. cam_layers: the modules that Grad-CAM uses, first to last. batch_norm: whether it
    uses batch norm. whitening_stem: whether its first layer is set from the images (`whiten_`).
    any_size: whether its images may be smaller during the first epochs (`small_px`). variants:
    whether it has the settings `model.norm` and `model.conv_bias`. narrowest_on_cpu: the smallest
    `model.width` that can be trained on a CPU.
    """

    build: str
    smallest_px: int
    last_map: Callable[[int], int]
    cam_layers: tuple[str, ...]
    batch_norm: bool = True
    whitening_stem: bool = False
    any_size: bool = True
    variants: bool = False
    narrowest_on_cpu: int = 1

    @property
    def group_norm(self) -> bool:
        """Whether it normalises each image by itself."""
        return not self.batch_norm


RESNET18_LAYERS = ("layer1", "layer2", "layer3", "layer4")
FASTNET_LAYERS = ("group2", "group3")  # not group1: its cells see only 9 pixels
# below 8 channels torch 2.13's weight gradient of a strided 1×1 convolution in channels-last memory
# writes past its end on a CPU, which crashes the process sooner or later
RESNET18_NARROWEST = 8

NETS: dict[str, Net] = {
    "custom-resnet": Net(
        build="custom_resnet.custom_resnet",
        smallest_px=8,  # it halves three times and rounds down
        last_map=lambda px: px // 8,
        cam_layers=("res1", "layer2", "res2"),
        any_size=False,  # its last pool has a fixed size
        variants=True,
    ),
    "resnet18": Net(
        build="resnet18.resnet18",
        smallest_px=1,  # its strided convolutions round up
        last_map=lambda px: -(-px // 8),
        cam_layers=RESNET18_LAYERS,
        narrowest_on_cpu=RESNET18_NARROWEST,
    ),
    "resnet18-gn": Net(
        build="resnet18.resnet18_gn",
        smallest_px=1,
        last_map=lambda px: -(-px // 4),
        cam_layers=RESNET18_LAYERS,
        batch_norm=False,
        narrowest_on_cpu=RESNET18_NARROWEST,
    ),
    "fastnet": Net(
        build="fastnet.fastnet",
        smallest_px=9,
        last_map=lambda px: (px - 1) // 8,
        cam_layers=FASTNET_LAYERS,
        whitening_stem=True,
    ),
    "fastnet-deep": Net(
        build="fastnet.fastnet_deep",
        smallest_px=9,
        last_map=lambda px: (px - 1) // 8,
        cam_layers=FASTNET_LAYERS,
        whitening_stem=True,
    ),
}


def nets_with(fact: str) -> str:
    """The names of the nets for which `fact` (of `Net`) is true: `a, b and c`."""
    return listed(name for name, net in NETS.items() if getattr(net, fact))
