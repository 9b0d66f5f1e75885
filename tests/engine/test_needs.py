"""What a step needs for each image, counted by hand and at another size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from jobs import recipe_of
from resight.engine import needs
from resight.engine.needs import StepNeeds, step_needs
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Augment, Data, Model

FLOAT, INDEX = 4, 8  # bytes


class Plain(nn.Module):
    """A net whose memory can be counted by hand."""

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 5, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(5 * (image_size // 2) ** 2, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.pool(self.conv(x).relu()).flatten(1))
        return logits


def of_size(net: str, px: int) -> Recipe:
    return recipe_of(
        model=Model(net=net, width=8), data=Data(image_size=px), augment=Augment(cutout_px=0)
    )


@pytest.mark.parametrize(("half", "width"), [(False, FLOAT), (True, FLOAT // 2)])
def test_the_bytes_and_operations_of_a_net_counted_by_hand(
    monkeypatch: pytest.MonkeyPatch, half: bool, width: int
) -> None:
    def plain(*_: Any, channels: int, image_size: int, **__: Any) -> nn.Module:
        return Plain(channels, image_size)

    monkeypatch.setattr(needs, "build_net", plain)
    side = 8
    full, pooled = side**2, side**2 // 4
    image, map_, small = 3 * full * width, 5 * full * width, 5 * pooled * width
    places = 5 * pooled * INDEX  # of the maxima, which are integers under autocast too
    flat = small  # rows of logits need memory of their own: the map is channels last
    kept = image + map_ + places + flat
    adds = 3 * 9 * 5 * full + 5 * pooled * 7  # of the convolution and the head, per image
    found = step_needs(of_size("custom-resnet", side), classes=7, channels=3, half=half)
    assert found == StepNeeds(nbytes=kept + 2 * map_, flop=2 * 3 * adds)


@pytest.mark.parametrize("net", ["custom-resnet", "fastnet", "resnet18", "resnet18-gn"])
def test_a_large_images_needs_are_those_of_its_own_pass(
    monkeypatch: pytest.MonkeyPatch, net: str
) -> None:
    """Counted on images of 64 px, and in proportion to their pixels."""
    recipe = of_size(net, 128)
    scaled = step_needs(recipe, classes=3, channels=3, half=False)
    monkeypatch.setattr(needs, "MEASURED_PX", 128)
    own = step_needs(recipe, classes=3, channels=3, half=False)
    assert scaled.nbytes == pytest.approx(own.nbytes, rel=0.06)
    assert scaled.flop == pytest.approx(own.flop, rel=0.06)


def test_counting_touches_no_random_numbers() -> None:
    before = torch.get_rng_state()
    step_needs(of_size("fastnet", 16), classes=3, channels=3, half=False)
    assert torch.equal(torch.get_rng_state(), before)
