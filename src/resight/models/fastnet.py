"""fastnet and fastnet-deep: Keller Jordan's nets from airbench94 and airbench96."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resight.models.blocks import Fusable, conv3x3, pool_norm_activation
from resight.recipe.settings import Model

PATCH_PX = 2
WHITENING_EPS = 5e-4
_CHUNK, _CHUNK_PIXELS = 128, 128 * 64**2  # more patches at once would take gigabytes


class ConvGroup(Fusable):
    """conv → pool → norm → GELU → conv → norm → GELU: `(N, in, H, W)` to `(N, out, ⌊H/2⌋, ⌊W/2⌋)`.

    With `deep` a third conv and norm, to which the first GELU's output is added before a last GELU.
    The norms' scale stays 1, only their bias learns. The first filters of each convolution start as
    the identity, so that a fresh net passes its input on.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, deep: bool, norm_momentum: float
    ) -> None:
        super().__init__()
        self.conv1 = _identity_first(in_channels, out_channels)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _bias_norm(out_channels, norm_momentum)
        self.gelu1 = nn.GELU()
        self.conv2 = _identity_first(out_channels, out_channels)
        self.norm2 = _bias_norm(out_channels, norm_momentum)
        self.gelu2 = nn.GELU()
        self.deep = deep
        if deep:
            self.conv3 = _identity_first(out_channels, out_channels)
            self.norm3 = _bias_norm(out_channels, norm_momentum)
            self.gelu3 = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        first: Tensor
        if self.fuses(x, "gelu"):
            first = pool_norm_activation(x, self.norm1, "gelu")
        else:
            first = self.gelu1(self.norm1(self.pool(x)))
        x = self.gelu2(self.norm2(self.conv2(first)))
        if self.deep:
            x = self.gelu3(self.norm3(self.conv3(x)) + first)
        return x


class FastNet(nn.Module):
    """`(N, channels, H, W)` to logits `(N, classes)`, for any H and W of at least 9 px.

    whiten (2×2, frozen except for its bias) → GELU → three groups of `widths` channels, each
    halving the map → maximum over the map → head without bias, times `logit_scale`.

    A fresh net is not whitened yet: see `whiten_`. From
    https://github.com/KellerJordan/cifar10-airbench (airbench94_muon, airbench96): 1,972,792
    parameters at 64/256/256 for CIFAR-10, and 9,918,776 at 128/384/512 with `deep`.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        widths: tuple[int, int, int],
        deep: bool,
        norm_momentum: float,
        logit_scale: float,
    ) -> None:
        super().__init__()
        filters = 2 * channels * PATCH_PX**2
        self.whiten = nn.Conv2d(channels, filters, PATCH_PX)
        self.whiten.weight.requires_grad_(False)
        self.gelu = nn.GELU()
        ins = (filters, *widths)
        self.group1, self.group2, self.group3 = (
            ConvGroup(ins[i], widths[i], deep=deep, norm_momentum=norm_momentum) for i in range(3)
        )
        self.head = nn.Linear(widths[2], classes, bias=False)
        self.logit_scale = logit_scale
        self.stem_frozen = False  # no gradient for the stem, whose bias learns at first only

    @torch.no_grad()
    def whiten_(self, images: Tensor) -> None:
        """Set the stem's filters to whiten 2×2 patches of `images`: float (n, C, H, W), normalised.

        Without it the net still trains, but more slowly. The filters are saved like all weights.
        """
        self.whiten.weight.copy_(whitening_filters(images))

    def forward(self, x: Tensor) -> Tensor:
        x = self.gelu(self.whiten(x))
        x = x.detach() if self.stem_frozen else x
        x = self.group3(self.group2(self.group1(x)))
        # over the whole map, whatever its size: images may be smaller at first (small_px)
        logits: Tensor = self.head(x.amax((2, 3)))
        return logits * self.logit_scale


def fastnet(settings: Model, *, classes: int, channels: int, image_size: int) -> FastNet:
    """Groups of 1, 4 and 4 times `width` channels; a head whose weights start with a std of 1.

    So `logit_scale` alone sets how large the first logits are: airbench94_muon's is 1/256.
    """
    net = FastNet(
        classes=classes,
        channels=channels,
        widths=(settings.width, 4 * settings.width, 4 * settings.width),
        deep=False,
        norm_momentum=0.4,
        logit_scale=settings.logit_scale,
    )
    with torch.no_grad():
        net.head.weight.div_(net.head.weight.std())
    return net


def fastnet_deep(settings: Model, *, classes: int, channels: int, image_size: int) -> FastNet:
    """Groups of three convolutions with 1, 3 and 4 times `width` channels, torch's default head.

    airbench96's `width` is 128, its `logit_scale` 1/9. The stem's bias starts at 0.
    """
    net = FastNet(
        classes=classes,
        channels=channels,
        widths=(settings.width, 3 * settings.width, 4 * settings.width),
        deep=True,
        norm_momentum=0.1,
        logit_scale=settings.logit_scale,
    )
    assert net.whiten.bias is not None
    nn.init.zeros_(net.whiten.bias)
    return net


def whitening_filters(images: Tensor) -> Tensor:
    """Eigenvectors of the patches' covariance, each divided by the root of its eigenvalue, and
    their negatives: float32 (2·C·4, C, 2, 2) for images float (n, C, H, W).

    The covariance is taken about 0, not about the mean, as in airbench. 5e-4 is added to its
    eigenvalues, so that the filters are finite even if all images are alike. It is summed in
    float64 where the images are; the filters are on the CPU.
    """
    channels = images.shape[1]
    size = channels * PATCH_PX**2
    total = torch.zeros((size, size), dtype=torch.float64, device=images.device)
    at_once = max(1, min(_CHUNK, _CHUNK_PIXELS // (images.shape[2] * images.shape[3])))
    for some in torch.split(images, at_once):
        rows = _patches(some.double())
        total += rows @ rows.T
    count = len(images) * (images.shape[2] - PATCH_PX + 1) * (images.shape[3] - PATCH_PX + 1)
    values, vectors = torch.linalg.eigh((total / count).cpu())
    filters = (vectors / torch.sqrt(values.clamp(min=0) + WHITENING_EPS)).T
    filters = filters.flip(0).reshape(-1, channels, PATCH_PX, PATCH_PX)
    return torch.cat([filters, -filters]).float()


def _patches(images: Tensor) -> Tensor:
    """Every patch of images (n, C, H, W) as a column: (C·4, patches), channels first."""
    height, width = images.shape[2] - PATCH_PX + 1, images.shape[3] - PATCH_PX + 1
    corners = [(row, column) for row in range(PATCH_PX) for column in range(PATCH_PX)]
    views = [images[:, :, r : r + height, c : c + width] for r, c in corners]
    return torch.stack(views, 2).permute(1, 2, 0, 3, 4).reshape(-1, len(images) * height * width)


def _identity_first(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = conv3x3(in_channels, out_channels)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:in_channels])
    return conv


def _bias_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm
