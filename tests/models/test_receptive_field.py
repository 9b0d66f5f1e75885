"""Receptive fields are what gradients show, and none is given where that is not sure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import make_net
from resight.errors import ResightError
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
        (lambda x: F.max_pool2d(x, 3, 2, 1, 2, ceil_mode=True), 7),
        (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), 5),
        (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), 5),
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


class Fire(nn.Module):
    """SqueezeNet's module: a narrow convolution, then two that are joined."""

    def __init__(self, channels: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.wide1 = nn.Conv2d(narrow, wide, 1)
        self.wide3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat([F.relu(self.wide1(x)), F.relu(self.wide3(x))], 1)


def shuffled(x: Tensor) -> Tensor:
    """ShuffleNet's: the channels of two halves in turn."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def test_a_net_with_ceil_mode_pools_has_its_receptive_fields() -> None:
    pool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), pool, Fire(8, 4, 8), Lambda(shuffled))
    summary = summarize(net, (3, 33, 33))
    fields = {row.name: row.receptive_field for row in summary.rows}
    # 3; + 2 · 2 for the pool; + 2 · 4 for the 3×3 convolution after it
    wide = {"2.squeeze": 7, "2.wide1": 7, "2.wide3": 15}
    assert fields == {"0": 3, "1": 7, **wide, "3": None}
    assert summary.rows[1].output_shape == (-1, 8, 8, 8)
    last = str(summary).splitlines()[2 + 5]
    assert last.split()[-2:] == ["-", "0"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.to_sparse().to_dense(),
        lambda x: x.flatten(1).to_sparse(),
        lambda x: torch.fft.fft2(x).abs(),
        lambda x: F.conv3d(x[:, None], torch.ones(1, 1, 3, 3, 3)),
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        lambda x: F.unfold(x, 3),
        lambda x: x.argmax(1),
        lambda x: x.sum(),
    ],
)
def test_what_is_not_understood_is_a_dash_and_no_error(
    function: Callable[[Tensor], Tensor],
) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Lambda(function))
    rows = summarize(net, (1, 16, 16)).rows
    assert [row.receptive_field for row in rows] == [3, None]


def test_modules_called_with_keywords_are_counted() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"maps": self.up(input=x)}

    (row,) = summarize(Net(), (3, 5, 5)).rows
    assert row.macs == 3 * 4 * 9 * 25


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_part_takes_no_hooks_and_has_no_row() -> None:
    part = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    summary = summarize(nn.Sequential(part, nn.Conv2d(4, 2, 1)), (3, 8, 8))
    assert [row.type for row in summary.rows] == ["Conv2d"]
    assert summary.total_params == 4 * 27 + 4 + 2 * 4 + 2


def test_any_error_of_a_strangers_forward_pass_is_one_line() -> None:
    def broken(x: Tensor) -> Tensor:
        raise KeyError("no such\nlayer")

    with pytest.raises(ResightError, match="the model can't take such an image") as caught:
        summarize(Lambda(broken), (3, 8, 8))
    assert "\n" not in str(caught.value)
