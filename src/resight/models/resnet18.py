"""ResNet-18 for small images: a 3×3 stem of stride 1 and no pool before the stages."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from resight.models.blocks import BasicBlock, conv3x3, norm_layer
from resight.recipe.nets import NormName
from resight.recipe.settings import Model


class ResNet18(nn.Module):
    """`(N, channels, H, W)` to logits `(N, classes)`, for any H and W.

    stem → layer1 … layer4, of 1, 2, 4 and 8 times `width` channels and two `BasicBlock`s each →
    mean over the map → head. From He et al. 2015, https://arxiv.org/abs/1512.03385, in the CIFAR
    form of https://github.com/kuangliu/pytorch-cifar: 11,173,962 parameters for CIFAR-10.

    `stem_relu_module` says whether the stem's ReLU is a module, with a row in the summary, or a
    function; it makes no difference to what the net computes.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        width: int,
        norm: NormName,
        strides: tuple[int, int, int, int],
        stem_relu_module: bool,
        logit_scale: float,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("conv", conv3x3(channels, width))
        self.stem.add_module("norm", norm_layer(norm, width))
        if stem_relu_module:
            self.stem.add_module("relu", nn.ReLU())
        self.stem_relu_module = stem_relu_module
        self.layer1 = _stage(width, width, strides[0], norm)
        self.layer2 = _stage(width, 2 * width, strides[1], norm)
        self.layer3 = _stage(2 * width, 4 * width, strides[2], norm)
        self.layer4 = _stage(4 * width, 8 * width, strides[3], norm)
        self.head = nn.Linear(8 * width, classes)
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if not self.stem_relu_module:
            x = F.relu(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits * self.logit_scale if self.logit_scale != 1.0 else logits


def _stage(in_channels: int, out_channels: int, stride: int, norm: NormName) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride, norm),
        BasicBlock(out_channels, out_channels, 1, norm),
    )


def resnet18(settings: Model, *, classes: int, channels: int, image_size: int) -> ResNet18:
    """The net with batch norm; strides 1, 2, 2, 2, so 32 px end in a 4×4 map."""
    return ResNet18(
        classes=classes,
        channels=channels,
        width=settings.width,
        norm="batch",
        strides=(1, 2, 2, 2),
        stem_relu_module=True,
        logit_scale=settings.logit_scale,
    )


def resnet18_gn(settings: Model, *, classes: int, channels: int, image_size: int) -> ResNet18:
    """The net with `GroupNorm(1, C)` throughout; strides 1, 2, 2, 1, so 32 px end in an 8×8 map."""
    return ResNet18(
        classes=classes,
        channels=channels,
        width=settings.width,
        norm="layer",
        strides=(1, 2, 2, 1),
        stem_relu_module=False,
        logit_scale=settings.logit_scale,
    )
