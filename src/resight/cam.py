"""Grad-CAM and its kin: where in an image a net finds evidence for a class.

The methods, for the logit S of a class and a layer's map A, `(C, h, w)`, with g = dS/dA:

- "gradcam", Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391: each channel is weighted by
  the mean of its g.
- "gradcam++", Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063: by the sum of its
  positive g, each times α = g² / (2g² + g³ ΣA). The paper's factor exp(S), the same for every cell,
  is left out: it overflows, and a scaled map does not depend on it. α is thought for maps that are
  nowhere negative, after a ReLU, and counts as 0 where its denominator is 0.
- "hirescam", Draelos and Carin 2020, https://arxiv.org/abs/2011.08891: no weights, g · A cell by
  cell.

The raw map is the sum over channels; the map is its positive part, divided by its maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resight.errors import ResightError, did_you_mean

Method = Literal["gradcam", "gradcam++", "hirescam"]
Targets = int | Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[Any] | Tensor | None
METHODS: tuple[Method, ...] = ("gradcam", "gradcam++", "hirescam")
CHUNK = 32  # images at a time; more are no faster on a CPU and take more memory
MOST_NAMES = 12  # of layers, in an error


@dataclass(frozen=True, eq=False)
class CamMaps:
    """A map for each image and class of `targets`, at the cells of `layer`, on the CPU.

    raw: float32 (N, h, w), before ReLU and scaling, finite; targets: int64 (N,), the classes. Where
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
        """bool (N,): nothing at this layer speaks for the class, no cell of `raw` is positive."""
        return ~(self.raw > 0).any(-1).any(-1)

    def enlarged(self, height_px: int, width_px: int) -> Tensor:
        """`maps` at an image's size: float32 (N, height_px, width_px) in [0, 1], bilinear."""
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
    chunk: int = CHUNK,
) -> CamMaps:
    """Maps of where `images` speak for the classes `targets`, in eval mode.

    images: floating (N, C, H, W), normalised as in the training; moved, `chunk` at a time, to the
    model's device and dtype. targets: None for the predicted classes, one class for all images,
    int64 (N,), or int64 (N, T) for T maps of each image from one forward pass. layer: the path of a
    module whose output is a map (`layer3.1.conv2`), unless given `default_layer`'s; of a module
    that a forward pass calls several times, the last call counts.

    The caller's autocast holds, a no_grad does not. The model is left as it was: training flags,
    gradients, hooks; but no other thread may use it meanwhile. Raises `ResightError` for images,
    targets, a layer or a method that cannot be, for a layer the logits do not depend on, and for
    maps that are not finite.
    """
    if method not in METHODS:
        raise ResightError(f"method {method!r} is not known{did_you_mean(str(method), METHODS)}")
    if not isinstance(chunk, int) or chunk < 1:
        raise ResightError(f"chunk = {chunk!r}: allowed is a whole number of images, at least 1")
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        raise ResightError(
            f"images are {_kind(images)}: allowed is a floating tensor (N, C, H, W), normalised as "
            "the images of the training"
        )
    with _standing_still(model):
        probe = _probe(model, images.shape[1:], images.device)
        layer = _default(probe) if layer is None else layer
        module, cells = _find(probe, layer)
        classes = _as_classes(targets, len(images), probe.classes)
        raw, chosen = [], []
        for start in range(0, len(images), chunk):
            part = _at_home(model, images[start : start + chunk])
            activation, logits = _forward(model, module, part, layer)
            if classes is None:
                wanted = logits.argmax(1)
            else:
                wanted = classes[start : start + chunk].to(logits.device)
            raw.append(_raw_maps(activation, logits, wanted, layer, method).float().cpu())
            chosen.append(wanted.cpu())
    if not chosen:
        none = torch.empty(0, dtype=torch.int64) if classes is None else classes
        return CamMaps(torch.empty(*none.shape, *cells), none, layer, method)
    result = CamMaps(torch.cat(raw), torch.cat(chosen), layer, method)
    finite = result.raw.isfinite().flatten(1).all(1)
    if not finite.all():
        raise ResightError(
            f"the maps of {int((~finite).sum())} of {len(images)} images are not finite, image "
            f"{int(finite.int().argmin())} the first: look for NaN or infinity in the images and "
            "the weights; in float16 logits can overflow"
        )
    return result


def cam_layers(model: nn.Module, input_shape: Sequence[int]) -> list[tuple[str, tuple[int, int]]]:
    """The layers to offer for maps, first to last, each with its map's height and width in cells.

    They are the paths in the model's own tuple `cam_layers` where it has one; else, of the modules
    without children whose output is a map of more than one cell, the convolutions or, without any,
    all. input_shape: (C, H, W) of an image. Raises `ResightError` where the model cannot take such
    an image.
    """
    _check_shape(input_shape)
    with _standing_still(model):
        return _offered(_probe(model, input_shape))


def default_layer(model: nn.Module, input_shape: Sequence[int]) -> str:
    """The last of `cam_layers` with at least 8×8 cells, or 4×4 for images of less than 32 px; where
    none has as many, the last of those with the most cells.

    Raises `ResightError` where there is none and where the model cannot take such an image.
    """
    _check_shape(input_shape)
    with _standing_still(model):
        return _default(_probe(model, input_shape))


@dataclass(frozen=True)
class _Probe:
    """What one forward pass of two images showed.

    shapes: of each module that was called, in the order of last calls, its output's; None where
    that is no floating tensor.
    """

    model: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    shapes: dict[nn.Module, tuple[int, ...] | None]

    def cells(self, module: nn.Module) -> tuple[int, int] | None:
        """Height and width of the map that `module` gives; None if it gives none."""
        shape = self.shapes.get(module)
        return (shape[2], shape[3]) if shape is not None and len(shape) == 4 else None


def _probe(
    model: nn.Module, input_shape: Sequence[int], device: torch.device | None = None
) -> _Probe:
    shapes: dict[nn.Module, tuple[int, ...] | None] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        shapes.pop(module, None)  # so that the last call gives the place in the order
        is_plain = isinstance(output, Tensor) and output.is_floating_point()
        shapes[module] = tuple(output.shape) if is_plain else None

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        logits = model(_at_home(model, torch.zeros(2, *input_shape, device=device)))
    except Exception as error:  # a stranger's model raises of any kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ResightError(
            f"the model cannot take images of shape {tuple(input_shape)} ({reason}); give the "
            "channels, height and width it was built for"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    _check_logits(logits, 2)
    return _Probe(model, tuple(input_shape), logits.shape[1], shapes)


def _offered(probe: _Probe) -> list[tuple[str, tuple[int, int]]]:
    declared = getattr(probe.model, "cam_layers", None)
    if isinstance(declared, tuple):
        found = [(name, probe.cells(probe.model.get_submodule(name))) for name in declared]
        return [(name, cells) for name, cells in found if cells is not None]
    names = {module: name for name, module in probe.model.named_modules()}
    convolutions, others = [], []
    for module in probe.shapes:
        cells = probe.cells(module)
        if cells is None or cells == (1, 1):
            continue
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            convolutions.append((names[module], cells))
        elif next(module.children(), None) is None:
            others.append((names[module], cells))
    return convolutions or others


def _default(probe: _Probe) -> str:
    layers = _offered(probe)
    if not layers:
        raise ResightError(
            "the model has no layer to make maps of: for images of shape "
            f"{probe.input_shape} none of its modules gives a map (N, C, h, w) of several cells"
        )
    side_cells = 8 if min(probe.input_shape[1:]) >= 32 else 4
    large_enough = [name for name, cells in layers if min(cells) >= side_cells]
    most = max(height * width for _, (height, width) in layers)
    return (large_enough or [name for name, (h, w) in layers if h * w == most])[-1]


def _find(probe: _Probe, layer: str) -> tuple[nn.Module, tuple[int, int]]:
    """The module at the path `layer` and the size of its map. Raises `ResightError`."""
    try:
        module = probe.model.get_submodule(layer)
    except AttributeError:
        paths = [path for path, _ in probe.model.named_modules() if path]
        near = did_you_mean(str(layer), paths)
        what = "is not in the model" + (near if near.startswith("; did you mean") else ";")
    else:
        cells = probe.cells(module)
        if cells is not None:
            return module, cells
        if module not in probe.shapes:
            what = "is not called in a forward pass;"
        elif (shape := probe.shapes[module]) is None:
            what = "gives something else than one floating tensor;"
        else:
            what = f"gives no map (N, C, h, w) but, for two images, {shape};"
    names = [f"{name} ({height}×{width})" for name, (height, width) in _offered(probe)]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    raise ResightError(
        f"layer {layer!r} {what} those to choose from are {', '.join(names[:MOST_NAMES]) or 'none'}"
        f"{more}, or any other module that gives a map, by its path"
    )


def _forward(
    model: nn.Module, module: nn.Module, images: Tensor, layer: str
) -> tuple[Tensor, Tensor]:
    """What `module` gives at its last call, as a leaf of the graph that ends in the logits.

    Nothing before it records a graph.
    """
    leaves: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        # A copy in and a copy out: what follows may write into its input, and so may what shares
        # memory with the output.
        leaves[:] = [output.detach().clone().requires_grad_()]
        torch.set_grad_enabled(True)  # for the layer of a part that the model runs without
        return leaves[0].clone()

    hook = module.register_forward_hook(cut)
    try:
        logits = model(images)
    finally:
        hook.remove()
    _check_logits(logits, len(images))
    if not leaves or not logits.requires_grad:
        raise _not_on_path(layer)
    return leaves[0], logits


def _raw_maps(
    activation: Tensor, logits: Tensor, classes: Tensor, layer: str, method: Method
) -> Tensor:
    """(N, h, w) for classes (N,), (N, T, h, w) for classes (N, T): a backward pass a column."""
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
    """(N, C, h, w) twice to raw maps (N, h, w), in at least float32."""
    dtype = torch.promote_types(activation.dtype, torch.float32)
    activation, gradient = activation.to(dtype), gradient.to(dtype)
    if method == "hirescam":
        return (gradient * activation).sum(1)
    if method == "gradcam":
        weights = gradient.mean((2, 3), keepdim=True)
    else:
        # α with g² cancelled, for the square and the cube of a small g vanish in float32.
        below = 2 + gradient * activation.sum((2, 3), keepdim=True)
        alpha = torch.where(below == 0, 0, 1 / below)
        weights = (alpha * gradient.clamp(min=0)).sum((2, 3), keepdim=True)
    return (weights * activation).sum(1)


def _as_classes(targets: Any, images: int, classes: int) -> Tensor | None:
    """int64 (N,) or (N, T) on the CPU; None for the predicted. Raises `ResightError`."""
    if targets is None:
        return None
    allowed = f"allowed are None, a class, or whole numbers ({images},) or ({images}, T)"
    try:
        given = torch.as_tensor(targets).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ResightError(f"targets are no tensor of classes ({error}): {allowed}") from None
    if given.numel() == 0 and images == 0:
        given = given.long()  # an empty list gives floats
    if given.dtype == torch.bool or given.is_floating_point() or given.is_complex():
        raise ResightError(f"targets are {given.dtype}, no whole numbers: {allowed}")
    if given.ndim == 0:
        given = given.expand(images)
    if given.ndim not in (1, 2) or len(given) != images or 0 in given.shape[1:]:
        raise ResightError(f"targets have shape {tuple(given.shape)}: {allowed}")
    wrong = given[(given < 0) | (given >= classes)]
    if len(wrong):
        raise ResightError(
            f"targets hold class {int(wrong[0])}: the model has {classes}, 0 to {classes - 1}"
        )
    return given.long()


def _check_shape(input_shape: Sequence[int]) -> None:
    if len(input_shape) != 3 or any(not isinstance(n, int) or n < 1 for n in input_shape):
        raise ResightError(
            f"input_shape = {input_shape!r}: allowed are three whole numbers of at least 1, "
            "channels, height and width; for CIFAR-10 (3, 32, 32)"
        )


def _check_logits(logits: Any, images: int) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != images:
        raise ResightError(
            f"the model gives {_kind(logits)} for {images} images, no logits ({images}, K): wrap "
            "it in a module that returns one row of logits for each image"
        )


def _not_on_path(layer: str) -> ResightError:
    return ResightError(
        f"layer {layer!r}: the logits do not depend on its output, so no map can be made of it; "
        "choose another"
    )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _at_home(model: nn.Module, images: Tensor) -> Tensor:
    """A copy on the device and in the dtype of the model's weights: a model may write into it."""
    weights = next((p for p in model.parameters() if p.is_floating_point()), images)
    return images.detach().to(weights.device, weights.dtype, copy=True)


@contextmanager
def _standing_still(model: nn.Module) -> Iterator[None]:
    """Eval mode, and a graph only of what comes after a tensor that asks for one.

    On leaving, each module and each parameter has its own flag again. The flags are set one by one
    because a module's own `train()` may do more than that.
    """
    training = [(module, module.training) for module in model.modules()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        for module, _ in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter in trainable:
            parameter.requires_grad_(True)
