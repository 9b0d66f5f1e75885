"""Which layers of a net give a map, and how the net is kept unchanged while one is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resight.errors import ResightError, described, did_you_mean

MAX_LAYERS_LISTED = 12  # in an error


def cam_layers(model: nn.Module, input_shape: Sequence[int]) -> list[tuple[str, tuple[int, int]]]:
    """The layers to offer for maps, first to last, each with its map's height and width in cells.

    They are the paths in the model's own tuple `cam_layers` if it has one; else, of the modules
    without children whose output is a map of more than one cell, the convolutions or, if there are
    none, all. input_shape: (C, H, W) of an image. Raises `ResightError` if the model cannot take
    such an image.
    """
    _check_shape(input_shape)
    with standing_still(model):
        return Probe.of(model, input_shape).layers()


def default_layer(model: nn.Module, input_shape: Sequence[int]) -> str:
    """The last of `cam_layers` with at least 8×8 cells, or 4×4 for images smaller than 32 px; if
    none has as many, the last of those with the most cells.

    Raises `ResightError` if there is none or if the model cannot take such an image.
    """
    _check_shape(input_shape)
    with standing_still(model):
        return Probe.of(model, input_shape).default()


@dataclass(frozen=True)
class Probe:
    """What one forward pass of two images showed.

    shapes: the output shape of each module that was called, in the order of their last calls; None
    if the output is not a floating-point tensor.
    """

    model: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    shapes: dict[nn.Module, tuple[int, ...] | None]

    @classmethod
    def of(
        cls, model: nn.Module, input_shape: Sequence[int], device: torch.device | None = None
    ) -> Probe:
        """Raises `ResightError` if the model cannot take an image of `input_shape` (C, H, W)."""
        shapes: dict[nn.Module, tuple[int, ...] | None] = {}

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            shapes.pop(module, None)  # so that the last call determines the order
            is_plain = isinstance(output, Tensor) and output.is_floating_point()
            shapes[module] = tuple(output.shape) if is_plain else None

        hooks = [module.register_forward_hook(note) for module in model.modules()]
        try:
            logits = logits_of(model, torch.zeros(2, *input_shape, device=device))
        except ResightError:
            raise
        except Exception as error:  # a user's model may raise anything
            raise ResightError(
                f"the model cannot take images of shape {tuple(input_shape)} "
                f"({described(error)}); give the channels, height and width it was built for"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        return cls(model, tuple(input_shape), logits.shape[1], shapes)

    def cells(self, module: nn.Module) -> tuple[int, int] | None:
        """Height and width of the map that `module` returns; None if it returns none."""
        shape = self.shapes.get(module)
        return (shape[2], shape[3]) if shape is not None and len(shape) == 4 else None

    def layers(self) -> list[tuple[str, tuple[int, int]]]:
        """What `cam_layers` returns."""
        declared = getattr(self.model, "cam_layers", None)
        if isinstance(declared, tuple):
            found = [(name, self.cells(self.model.get_submodule(name))) for name in declared]
            return [(name, cells) for name, cells in found if cells is not None]
        names = {module: name for name, module in self.model.named_modules()}
        convolutions, others = [], []
        for module in self.shapes:
            cells = self.cells(module)
            if cells is None or cells == (1, 1):
                continue
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                convolutions.append((names[module], cells))
            elif next(module.children(), None) is None:
                others.append((names[module], cells))
        return convolutions or others

    def default(self) -> str:
        """What `default_layer` returns. Raises `ResightError`."""
        layers = self.layers()
        if not layers:
            raise ResightError(
                "the model has no layer to make maps from: for images of shape "
                f"{self.input_shape}, none of its modules returns a map (N, C, h, w) of several "
                "cells"
            )
        side_cells = 8 if min(self.input_shape[1:]) >= 32 else 4
        large_enough = [name for name, cells in layers if min(cells) >= side_cells]
        most = max(height * width for _, (height, width) in layers)
        return (large_enough or [name for name, (h, w) in layers if h * w == most])[-1]

    def find(self, layer: str) -> tuple[nn.Module, tuple[int, int]]:
        """The module at the path `layer`, and the size of its map. Raises `ResightError`."""
        try:
            module = self.model.get_submodule(layer)
        except AttributeError:
            paths = [path for path, _ in self.model.named_modules() if path]
            near = did_you_mean(str(layer), paths)
            what = "is not in the model" + (near if near.startswith("; did you mean") else ";")
        else:
            cells = self.cells(module)
            if cells is not None:
                return module, cells
            if module not in self.shapes:
                what = "is not called in a forward pass;"
            elif (shape := self.shapes[module]) is None:
                what = "does not return a single floating-point tensor;"
            else:
                what = f"does not return a map (N, C, h, w) but, for two images, {shape};"
        names = [f"{name} ({height}×{width})" for name, (height, width) in self.layers()]
        left_out = len(names) - MAX_LAYERS_LISTED
        more = f" and {left_out} more" if left_out > 0 else ""
        listed = ", ".join(names[:MAX_LAYERS_LISTED]) or "none"
        raise ResightError(
            f"layer {layer!r} {what} choose from {listed}{more}, or give the path of any other "
            "module that returns a map"
        )


def _check_shape(input_shape: Sequence[int]) -> None:
    if len(input_shape) != 3 or any(not isinstance(n, int) or n < 1 for n in input_shape):
        raise ResightError(
            f"input_shape = {input_shape!r} must be three integers ≥ 1: channels, height and "
            "width; for CIFAR-10 (3, 32, 32)"
        )


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """(N, K) for images (N, C, H, W), which are copied to the device and dtype of the model's
    weights: the model may modify the copy. Raises `ResightError` for anything but logits."""
    weights = next((p for p in model.parameters() if p.is_floating_point()), images)
    logits = model(images.detach().to(weights.device, weights.dtype, copy=True))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        n = len(images)
        raise ResightError(
            f"the model returns {kind_of(logits)} for {n} images, not logits ({n}, K): wrap it in "
            "a module that returns one row of logits per image"
        )
    return logits


def kind_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return f"a {type(value).__name__}"


@contextmanager
def standing_still(model: nn.Module) -> Iterator[None]:
    """Eval mode, and a graph only after a tensor that requires a gradient.

    On exit, each module and each parameter has its own flag again. The flags are set one by one
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
