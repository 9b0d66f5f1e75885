"""Receptive fields are what gradients show, and none is given where that is not sure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import make_net
from resight.models.summary import summarize


def seen_by_centre_cells(net: nn.Module, image_size: int) -> dict[str, int]:
    """Per module, the rows of the image in which its centre output cell has a gradient.

    Weights and image are positive so that nothing cancels and every ReLU passes; norms, which look
    at the whole map, go, and max pools, which look at one cell in four, become average pools.
    """
    for name, module in list(net.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
            setattr(net.get_submodule(parent), child, nn.Identity())
        if isinstance(module, nn.MaxPool2d):
            setattr(net.get_submodule(parent), child, nn.AvgPool2d(module.kernel_size))
    net.head = nn.Identity()
    net.double()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 1 / parameter[0].numel())
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    for name, module in net.named_modules():
        module.register_forward_hook(keep(name))
    image = torch.ones(1, 3, image_size, image_size, dtype=torch.float64, requires_grad=True)
    net(image)
    sides = {}
    for name, output in outputs.items():
        if output.ndim == 4:
            middle = output.shape[-1] // 2
            cell = output[..., middle, middle].sum()
            (gradient,) = torch.autograd.grad(cell, image, retain_graph=True)
            touched = gradient[0].abs().sum(0) > 0
            rows, columns = touched.any(1), touched.any(0)
            assert rows[[0, -1]].tolist() == [False, False], "the image is too small to show all"
            assert rows.sum() == columns.sum()
            sides[name] = int(rows.sum())
    return sides


@pytest.mark.parametrize(
    ("name", "image_size", "last_px"),
    [
        ("custom-resnet", 168, 88),
        ("resnet18", 128, 109),
        ("resnet18-gn", 112, 85),
        ("fastnet", 112, 51),
        ("fastnet-deep", 136, 79),
    ],
)
def test_receptive_fields_are_what_gradients_show(name: str, image_size: int, last_px: int) -> None:
    net = make_net(name, classes=2, width=1)
    rows = summarize(net, (3, 32, 32), blocks=True).rows
    shown = {row.name: row.receptive_field for row in rows}
    assert shown.pop("head") is None
    seen = seen_by_centre_cells(net, image_size)
    assert shown == {name: seen[name] for name in shown}
    assert list(shown.values())[-1] == last_px


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def write_into_a_part(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :2] = F.max_pool2d(x[:, :2], 5, 1, 2)
    return x


def collect_by_parts(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :2] = F.max_pool2d(x, 5, 1, 2)[:, :2]
    return x + out


CONSTANT_MAP = torch.zeros(16, 16)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x, 3),
        (lambda x: F.max_pool2d(x, 2), 4),
        (lambda x: F.max_pool2d(x, 3, 2, 1, 2), 7),
        (lambda x: F.avg_pool2d(x, 3, 1, 1), 5),
        (lambda x: F.avg_pool2d(F.avg_pool2d(x, 2), 2), 6),
        (lambda x: F.avg_pool2d(x, (1, 5), 1), 7),
        (lambda x: F.conv2d(x, torch.ones(4, 4, 3, 3), dilation=4), 11),
        (lambda x: F.relu(x) * 2 + torch.ones(4, 1, 1), 3),
        (lambda x: torch.cat([x, F.avg_pool2d(x, 3, 1, 1)], 1), 5),
        (lambda x: F.dropout(F.hardswish(F.gelu(x)), 0.5, training=False), 3),
        (lambda x: F.max_pool2d(x, 2) + F.conv2d(x, torch.ones(1, 4, 1, 1), stride=2), 4),
        (lambda x: x[:, :, 1:], None),
        (lambda x: x * x.mean((2, 3), keepdim=True), None),
        (lambda x: x + x.flip(3), None),
        (lambda x: x + x.transpose(2, 3), None),
        (lambda x: torch.cat([x, x], 2), None),
        (lambda x: F.pad(x, (1, 1, 1, 1)), None),
        (lambda x: F.interpolate(x, scale_factor=2), None),
        (lambda x: F.conv_transpose2d(x, torch.ones(4, 4, 2, 2), stride=2), None),
        (lambda x: F.conv2d(x, x[:1, :, :3, :3]), None),
        (lambda x: F.adaptive_avg_pool2d(x, 1), None),
        (lambda x: x.flatten(1), None),
        (lambda x: x + CONSTANT_MAP, None),
        (lambda x: F.max_pool2d(x, 2) + F.max_pool2d(x, 2)[:, :, :1, :1], None),
        (lambda x: F.avg_pool2d(x, 2, 2) + F.conv2d(x, torch.ones(4, 4, 9, 9)), None),
        (write_into_a_part, None),
        (collect_by_parts, None),
    ],
)
def test_receptive_field_of_what_follows_a_convolution(
    function: Callable[[Tensor], Tensor], expected: int | None
) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Lambda(function))
    assert summarize(net, (1, 16, 16)).rows[1].receptive_field == expected


def test_writing_in_place_is_followed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1)
            self.relu = nn.ReLU(inplace=True)
            self.pool = nn.AvgPool2d(3, 1, 1)
            self.last = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.conv(x))
            x += self.pool(x)
            out: Tensor = self.last(x)
            return out

    fields = [row.receptive_field for row in summarize(Net(), (1, 16, 16)).rows]
    assert fields == [3, 3, 5, 5]
