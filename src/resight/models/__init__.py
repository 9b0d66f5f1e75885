"""The nets, built by name. torch is imported when a net is built, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resight.errors import ResightError, did_you_mean
from resight.recipe.nets import NETS, NORMS, NormName, smallest_image_size

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NETS", "NORMS", "NormName", "build_net", "smallest_image_size"]


def build_net(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    image_size: int = 32,
    width: int = 64,
    norm: NormName = "batch",
    conv_bias: bool = False,
    logit_scale: float = 1.0,
) -> nn.Module:
    """A net with torch's default initialisation, drawn from torch's global CPU generator.

    It maps float images `(N, channels, image_size, image_size)` to logits `(N, classes)`. `width`
    is the number of channels of the first convolution (fastnet: of its first group); later stages
    have more in proportion. `norm` and `conv_bias` are for custom-resnet (see `CustomResNet`). The
    logits are the head's output times `logit_scale`.

    Raises `ResightError` for an unknown name and for a value the net cannot have.
    """
    smallest_px = smallest_image_size(name)
    _check_at_least("classes", classes, 2, "the number of classes to tell apart")
    _check_at_least("channels", channels, 1, "1 for grey images, 3 for colour")
    _check_at_least("image_size", image_size, smallest_px, f"pixels a side; {name} takes no less")
    _check_at_least("width", width, 1, "64 is the published nets' width")
    if norm not in NORMS:
        raise ResightError(f"norm {norm!r} is not known{did_you_mean(str(norm), NORMS)}")

    if name == "custom-resnet":
        from resight.models.custom_resnet import CustomResNet

        return CustomResNet(
            classes=classes,
            channels=channels,
            image_size=image_size,
            width=width,
            norm=norm,
            conv_bias=conv_bias,
            logit_scale=logit_scale,
        )

    if norm != "batch":
        raise ResightError(
            f"norm = {norm!r}: only custom-resnet takes it, not {name}; leave it at 'batch' and "
            "choose the norm by the net: resnet18-gn has group norm, the others batch norm"
        )
    if conv_bias:
        raise ResightError(
            f"conv_bias = true: only custom-resnet takes it, not {name}; leave it at false"
        )
    if name in ("fastnet", "fastnet-deep"):
        from resight.models.fastnet import fastnet, fastnet_deep

        make = fastnet if name == "fastnet" else fastnet_deep
        return make(classes=classes, channels=channels, width=width, logit_scale=logit_scale)

    from resight.models.resnet18 import resnet18, resnet18_gn

    build = resnet18 if name == "resnet18" else resnet18_gn
    return build(classes=classes, channels=channels, width=width, logit_scale=logit_scale)


def _check_at_least(field: str, value: int, smallest: int, hint: str) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < smallest:
        raise ResightError(
            f"{field} = {value!r}: allowed is a whole number of at least {smallest} ({hint})"
        )
