"""The parts the nets share: norms, 3×3 convolutions and the two kinds of residual block.

No ReLU is in place. That would save no memory in training (a norm's backward pass needs its
input, not its output), and it would overwrite what a hook on the previous layer has seen.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from resight.models.kernels.pool_norm import Activation, available, pool_norm_act
from resight.recipe.nets import NormName


def norm_layer(norm: NormName, channels: int) -> nn.Module:
    """Batch norm, or `GroupNorm(1, channels)`: mean and variance per image, scale per channel.

    The write-ups call `GroupNorm(1, C)` layer norm. Both have `2 * channels` parameters.
    """
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(1, channels)


def conv3x3(
    in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A 3×3 convolution padded by 1: `(N, in, H, W)` to `(N, out, ⌈H/stride⌉, ⌈W/stride⌉)`."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)


class Fusable(nn.Module):
    """A module whose pool, batch norm and activation can be one operation in training.

    The three stay separate modules, which evaluation, Grad-CAM and summaries run one by one.
    """

    fused: bool = False  # see `fuse`

    def fuses(self, x: Tensor, activation: Activation) -> bool:
        """Whether this pass runs them as one operation."""
        return self.fused and self.training and available(x, activation)


def fuse(model: nn.Module, *, fused: bool) -> None:
    """Let the net's pools, norms and activations run as one operation if `kernels` supports it."""
    for module in model.modules():
        if isinstance(module, Fusable):
            module.fused = fused


def pool_norm_activation(x: Tensor, norm: nn.BatchNorm2d, activation: Activation) -> Tensor:
    """A training step of a 2×2 max-pool, `norm` and the activation on `x`, as one operation."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    return pool_norm_act(
        x,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        momentum=norm.momentum,
        eps=norm.eps,
        activation=activation,
    )


class ResidualBlock(nn.Module):
    """`x + relu(norm(conv(relu(norm(conv(x))))))`, `(N, C, H, W)` to the same; no ReLU on the sum.

    From David Page's DavidNet (https://github.com/davidcpage/cifar10-fast).
    """

    def __init__(self, channels: int, norm: NormName) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.norm1 = norm_layer(norm, channels)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(channels, channels)
        self.norm2 = norm_layer(norm, channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        out: Tensor = x + self.relu2(self.norm2(self.conv2(y)))
        return out


class BasicBlock(nn.Module):
    """`relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`; the first convolution has the stride.

    `(N, in, H, W)` to `(N, out, ⌈H/stride⌉, ⌈W/stride⌉)`. The shortcut is `x` itself where the
    shape stays, else a strided 1×1 convolution and a norm. From He et al. 2015,
    https://arxiv.org/abs/1512.03385, in the form of https://github.com/kuangliu/pytorch-cifar.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: NormName) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride=stride)
        self.norm1 = norm_layer(norm, out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.norm2 = norm_layer(norm, out_channels)
        # An empty Sequential, not Identity: it returns its input and has no row in a summary.
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.add_module(
                "conv", nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            )
            self.shortcut.add_module("norm", norm_layer(norm, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))
