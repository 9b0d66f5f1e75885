"""Grad-CAM and its relatives: where in an image a net finds evidence for a class.

The methods, for the logit S of a class and a layer's feature map A, `(C, h, w)`, with g = dS/dA:

- "gradcam", Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391: each channel is weighted by
  the mean of its g.
- "gradcam++", Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063: by the sum of its
  positive g, each times α = g² / (2g² + g³ ΣA). The paper's factor exp(S), the same for every cell,
  is left out: it overflows, and a scaled map does not depend on it. α assumes maps that are nowhere
  negative, as after a ReLU, and counts as 0 where its denominator is 0.
- "hirescam", Draelos and Carin 2020, https://arxiv.org/abs/2011.08891: no weights, g · A cell by
  cell.

The raw map is the sum over channels; the map is its positive part, divided by its maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resight.errors import ResightError, did_you_mean
from resight.look.cam_layers import Probe, kind_of, logits_of, standing_still

Method = Literal["gradcam", "gradcam++", "hirescam"]
Targets = int | Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[Any] | Tensor | None
METHODS: tuple[Method, ...] = ("gradcam", "gradcam++", "hirescam")
CHUNK = 32  # images at a time; more are no faster on a CPU and need more memory
CHUNK_PIXELS = CHUNK * 128**2


@dataclass(frozen=True, eq=False)
class CamMaps:
    """One map for each image and class of `targets`, at the resolution of `layer`, on the CPU.

    raw: float32 (N, h, w), before ReLU and scaling, finite; targets: int64 (N,), the classes. If
    grad_cam was given targets (N, T), everything is (N, T) instead of (N,).
    """

    raw: Tensor
    targets: Tensor
    layer: str
    method: Method

    @cached_property
    def maps(self) -> Tensor:
        """float32 (N, h, w) in [0, 1]: the positive part of `raw`, divided by its maximum.

        So each map that is not empty reaches 1; to compare maps with each other, use `raw`. An
        empty map is all zeros.
        """
        positive = self.raw.clamp(min=0)
        highest = positive.amax((-2, -1), keepdim=True)
        return positive / torch.where(highest > 0, highest, 1)

    @property
    def empty(self) -> Tensor:
        """bool (N,): no evidence for the class at this layer: no cell of `raw` is positive."""
        return ~(self.raw > 0).any(-1).any(-1)

    def enlarged(self, height_px: int, width_px: int) -> Tensor:
        """`maps` at the image size: float32 (N, height_px, width_px) in [0, 1], bilinear."""
        cells = self.maps.reshape(-1, 1, *self.maps.shape[-2:])
        pixels = F.interpolate(cells, (height_px, width_px), mode="bilinear", align_corners=False)
        return pixels.clamp(0, 1).reshape(*self.targets.shape, height_px, width_px)


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: str | None = None,
    method: Method = "gradcam",
    *,
    chunk: int | None = None,
) -> CamMaps:
    """Maps of where `images` show evidence for the classes `targets`, in eval mode.

    images: floating-point (N, C, H, W), normalised as in training; moved, `chunk` at a time, to the
    model's device and dtype. targets: None for the predicted classes, one class for all images,
    int64 (N,), or int64 (N, T) for T maps per image from one forward pass. layer: the path of a
    module whose output is a feature map (`layer3.1.conv2`), by default `default_layer`; if a
    forward pass calls the module several times, the last call counts. chunk: by default 32, and
    fewer of large images.

    The caller's autocast applies, a no_grad does not. The model is left as it was: training flags,
    gradients, hooks; but no other thread may use it at the same time. Raises `ResightError` for
    invalid images, targets, layer or method, for a layer that the logits do not depend on, and for
    maps that are not finite.
    """
    if method not in METHODS:
        raise ResightError(f"unknown method {method!r}{did_you_mean(str(method), METHODS)}")
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ResightError(f"chunk = {chunk!r} must be an integer ≥ 1, the number of images")
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        raise ResightError(
            f"images are {kind_of(images)}: must be a floating-point tensor (N, C, H, W), "
            "normalised as in training"
        )
    pixels = images.shape[2] * images.shape[3]
    at_once = chunk or max(1, min(CHUNK, CHUNK_PIXELS // max(pixels, 1)))
    with standing_still(model):
        probe = Probe.of(model, images.shape[1:], images.device)
        layer = probe.default() if layer is None else layer
        module, cells = probe.find(layer)
        classes = _as_classes(targets, len(images), probe.classes)
        raw, chosen = [], []
        for start in range(0, len(images), at_once):
            part = images[start : start + at_once]
            activation, logits = _forward(model, module, part, layer)
            if classes is None:
                wanted = logits.argmax(1)
            else:
                wanted = classes[start : start + at_once].to(logits.device)
            raw.append(_raw_maps(activation, logits, wanted, layer, method).float().cpu())
            chosen.append(wanted.cpu())
    if not chosen:
        none = torch.empty(0, dtype=torch.int64) if classes is None else classes
        return CamMaps(torch.empty(*none.shape, *cells), none, layer, method)
    result = CamMaps(torch.cat(raw), torch.cat(chosen), layer, method)
    finite = result.raw.isfinite().flatten(1).all(1)
    if not finite.all():
        raise ResightError(
            f"the maps of {int((~finite).sum())} of {len(images)} images are not finite, the first "
            f"is image {int(finite.int().argmin())}: check the images and the weights for NaN or "
            "infinity; in float16, logits can overflow"
        )
    return result


def _forward(
    model: nn.Module, module: nn.Module, images: Tensor, layer: str
) -> tuple[Tensor, Tensor]:
    """The output of `module`'s last call, as a leaf of the graph that ends in the logits.

    No graph is recorded before it.
    """
    leaves: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        # A copy in and a copy out: later modules may write into their input, and so may whatever
        # shares memory with the output.
        leaves[:] = [output.detach().clone().requires_grad_()]
        torch.set_grad_enabled(True)  # in case the model runs this part under no_grad
        return leaves[0].clone()

    hook = module.register_forward_hook(cut)
    try:
        logits = logits_of(model, images)
    finally:
        hook.remove()
    if not leaves or not logits.requires_grad:
        raise _not_on_path(layer)
    return leaves[0], logits


def _raw_maps(
    activation: Tensor, logits: Tensor, classes: Tensor, layer: str, method: Method
) -> Tensor:
    """(N, h, w) for classes (N,), (N, T, h, w) for (N, T): one backward pass per column."""
    columns = classes.reshape(len(classes), -1).unbind(1)
    maps = []
    for i, column in enumerate(columns):
        chosen = F.one_hot(column, logits.shape[1]).to(logits.dtype)
        (gradient,) = torch.autograd.grad(
            logits, activation, chosen, retain_graph=i + 1 < len(columns), allow_unused=True
        )
        if gradient is None:
            raise _not_on_path(layer)
        maps.append(_weigh(activation.detach(), gradient, method))
    return torch.stack(maps, 1).reshape(*classes.shape, *activation.shape[2:])


def _weigh(activation: Tensor, gradient: Tensor, method: Method) -> Tensor:
    """Two (N, C, h, w) to raw maps (N, h, w), in at least float32."""
    dtype = torch.promote_types(activation.dtype, torch.float32)
    activation, gradient = activation.to(dtype), gradient.to(dtype)
    if method == "hirescam":
        return (gradient * activation).sum(1)
    if method == "gradcam":
        weights = gradient.mean((2, 3), keepdim=True)
    else:
        # α with g² cancelled, because the square and the cube of a small g underflow in float32.
        below = 2 + gradient * activation.sum((2, 3), keepdim=True)
        alpha = torch.where(below == 0, 0, 1 / below)
        weights = (alpha * gradient.clamp(min=0)).sum((2, 3), keepdim=True)
    return (weights * activation).sum(1)


def _as_classes(targets: Any, images: int, classes: int) -> Tensor | None:
    """int64 (N,) or (N, T) on the CPU; None for the predicted classes. Raises `ResightError`."""
    if targets is None:
        return None
    allowed = f"must be None, a class, or integers of shape ({images},) or ({images}, T)"
    try:
        given = torch.as_tensor(targets).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ResightError(f"targets are not a tensor of classes ({error}): {allowed}") from None
    if given.numel() == 0 and images == 0:
        given = given.long()  # an empty list gives floats
    if given.dtype == torch.bool or given.is_floating_point() or given.is_complex():
        raise ResightError(f"targets are {given.dtype}, not integers: {allowed}")
    if given.ndim == 0:
        given = given.expand(images)
    if given.ndim not in (1, 2) or len(given) != images or 0 in given.shape[1:]:
        raise ResightError(f"targets have shape {tuple(given.shape)}: {allowed}")
    wrong = given[(given < 0) | (given >= classes)]
    if len(wrong):
        raise ResightError(
            f"targets contain class {int(wrong[0])}: must be 0 to {classes - 1}, as the model has "
            f"{classes} classes"
        )
    return given.long()


def _not_on_path(layer: str) -> ResightError:
    return ResightError(
        f"layer {layer!r}: the logits do not depend on its output, so it gives no map; choose "
        "another layer"
    )
