"""`StepNeeds`: what a training step needs for each image, counted in a forward pass of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resight.models.build import build_net
from resight.models.summary import macs_of
from resight.recipe.recipe import Recipe

MEASURED_PX = 64  # from there on all is in proportion to the pixels
MEASURED_IMAGES = 2  # batch norm needs two
PASSES = 3  # forward, the gradient of the weights, the gradient of the map


@dataclass(frozen=True)
class StepNeeds:
    """Of the forward and backward pass of a step, for each image.

    nbytes: all that the forward pass keeps for the backward pass, and twice the largest part of it:
    a gradient and the one that is computed from it. flop: floating-point operations in convolutions
    and linear layers, as if all their weights were trained.
    """

    nbytes: int
    flop: int


def step_needs(recipe: Recipe, *, classes: int, channels: int, half: bool) -> StepNeeds:
    """What a step needs. half: under autocast to bf16 or fp16."""
    side = min(recipe.data.image_size, MEASURED_PX)
    with torch.random.fork_rng(devices=[]):
        net = build_net(recipe.model, classes=classes, channels=channels, image_size=side)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}
    macs = 0

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            halved = half and tensor.is_floating_point()
            kept[storage.data_ptr()] = storage.nbytes() // (2 if halved else 1)
        return tensor.detach()  # with its storage: none of the addresses is used again

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal macs
        macs += macs_of(module, inputs, output)

    for module in net.modules():
        module.register_forward_hook(count)
    images = torch.zeros(MEASURED_IMAGES, channels, side, side)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda held: held):
        logits = net.train()(images.to(memory_format=torch.channels_last))
    assert logits.requires_grad
    nbytes = (sum(kept.values()) + 2 * max(kept.values())) / MEASURED_IMAGES
    scale = (recipe.data.image_size / side) ** 2
    return StepNeeds(round(nbytes * scale), round(2 * macs * PASSES * scale))
