"""custom-resnet: David Page's DavidNet with a bias in its head and a configurable logit scale."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from resight.models.blocks import (
    Fusable,
    ResidualBlock,
    conv3x3,
    norm_layer,
    pool_norm_activation,
)
from resight.recipe.nets import NormName
from resight.recipe.settings import Model


class CustomResNet(nn.Module):
    """`(N, channels, H, W)` to logits `(N, classes)`, with H = W = `image_size` of at least 8 px.

    prep → layer1 + res1 → layer2 → layer3 + res2 → pool → head, of 1, 2, 4 and 8 times `width`
    channels; each layer halves the map and rounds down, and the pool covers all of the last one.

    `conv_bias` is the complete variant of one write-up: a bias on the four convolutions outside the
    residual blocks, and ReLU before the norm in prep. `norm="layer"` turns the residual blocks'
    norms into `GroupNorm(1, C)`; the others stay batch norms.

    From https://github.com/davidcpage/cifar10-fast: 6,573,130 parameters for CIFAR-10, and
    6,574,090 with `conv_bias`.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        image_size: int,
        width: int,
        norm: NormName,
        conv_bias: bool,
        logit_scale: float,
    ) -> None:
        super().__init__()
        self.prep = _prep(channels, width, conv_bias=conv_bias)
        self.layer1 = PooledLayer(width, 2 * width, conv_bias=conv_bias)
        self.res1 = ResidualBlock(2 * width, norm)
        self.layer2 = PooledLayer(2 * width, 4 * width, conv_bias=conv_bias)
        self.layer3 = PooledLayer(4 * width, 8 * width, conv_bias=conv_bias)
        self.res2 = ResidualBlock(8 * width, norm)
        # Fixed size, not adaptive: adaptive pools have no deterministic backward pass on CUDA.
        self.pool = nn.MaxPool2d(image_size // 8)
        self.head = nn.Linear(8 * width, classes)
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.prep(x))
        x = self.layer2(self.res1(x))
        x = self.res2(self.layer3(x))
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits * self.logit_scale if self.logit_scale != 1.0 else logits


def custom_resnet(settings: Model, *, classes: int, channels: int, image_size: int) -> CustomResNet:
    """The net with the given settings."""
    return CustomResNet(
        classes=classes,
        channels=channels,
        image_size=image_size,
        width=settings.width,
        norm=settings.norm,
        conv_bias=settings.conv_bias,
        logit_scale=settings.logit_scale,
    )


def _prep(in_channels: int, out_channels: int, *, conv_bias: bool) -> nn.Sequential:
    conv = ("conv", conv3x3(in_channels, out_channels, bias=conv_bias))
    norm = ("norm", norm_layer("batch", out_channels))
    relu = ("relu", nn.ReLU())
    order = (conv, relu, norm) if conv_bias else (conv, norm, relu)
    return nn.Sequential(OrderedDict[str, nn.Module](order))


class PooledLayer(Fusable, nn.Sequential):
    """conv → pool → norm → ReLU: `(N, in, H, W)` to `(N, out, ⌊H/2⌋, ⌊W/2⌋)`.

    A Sequential, so that it has no row of its own in a summary.
    """

    def __init__(self, in_channels: int, out_channels: int, *, conv_bias: bool) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels, bias=conv_bias)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.fuses(x, "relu"):
            return pool_norm_activation(x, self.norm, "relu")
        out: Tensor = self.relu(self.norm(self.pool(x)))
        return out
