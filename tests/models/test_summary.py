"""The summary: torchsummary's rows and totals, of any module, and no trace left."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import make_net
from resight.errors import ResightError
from resight.look.summary import summary as summary_of
from resight.models.summary import ModelSummary, Row, summarize
from resight.recipe.nets import NETS

CUSTOM_RESNET_TABLE = """\
Layer (type)    Path         Output shape          Params  RF px        MACs
============================================================================
Conv2d-1        prep.conv    [-1, 64, 32, 32]       1,728      3   1,769,472
BatchNorm2d-2   prep.norm    [-1, 64, 32, 32]         128      3           0
ReLU-3          prep.relu    [-1, 64, 32, 32]           0      3           0
Conv2d-4        layer1.conv  [-1, 128, 32, 32]     73,728      5  75,497,472
MaxPool2d-5     layer1.pool  [-1, 128, 16, 16]          0      6           0
BatchNorm2d-6   layer1.norm  [-1, 128, 16, 16]        256      6           0
ReLU-7          layer1.relu  [-1, 128, 16, 16]          0      6           0
Conv2d-8        res1.conv1   [-1, 128, 16, 16]    147,456     10  37,748,736
BatchNorm2d-9   res1.norm1   [-1, 128, 16, 16]        256     10           0
ReLU-10         res1.relu1   [-1, 128, 16, 16]          0     10           0
Conv2d-11       res1.conv2   [-1, 128, 16, 16]    147,456     14  37,748,736
BatchNorm2d-12  res1.norm2   [-1, 128, 16, 16]        256     14           0
ReLU-13         res1.relu2   [-1, 128, 16, 16]          0     14           0
Conv2d-14       layer2.conv  [-1, 256, 16, 16]    294,912     18  75,497,472
MaxPool2d-15    layer2.pool  [-1, 256, 8, 8]            0     20           0
BatchNorm2d-16  layer2.norm  [-1, 256, 8, 8]          512     20           0
ReLU-17         layer2.relu  [-1, 256, 8, 8]            0     20           0
Conv2d-18       layer3.conv  [-1, 512, 8, 8]    1,179,648     28  75,497,472
MaxPool2d-19    layer3.pool  [-1, 512, 4, 4]            0     32           0
BatchNorm2d-20  layer3.norm  [-1, 512, 4, 4]        1,024     32           0
ReLU-21         layer3.relu  [-1, 512, 4, 4]            0     32           0
Conv2d-22       res2.conv1   [-1, 512, 4, 4]    2,359,296     48  37,748,736
BatchNorm2d-23  res2.norm1   [-1, 512, 4, 4]        1,024     48           0
ReLU-24         res2.relu1   [-1, 512, 4, 4]            0     48           0
Conv2d-25       res2.conv2   [-1, 512, 4, 4]    2,359,296     64  37,748,736
BatchNorm2d-26  res2.norm2   [-1, 512, 4, 4]        1,024     64           0
ReLU-27         res2.relu2   [-1, 512, 4, 4]            0     64           0
MaxPool2d-28    pool         [-1, 512, 1, 1]            0     88           0
Linear-29       head         [-1, 10]               5,130      -       5,120
============================================================================
Total params: 6,573,130
Trainable params: 6,573,130
Non-trainable params: 0
Multiply-accumulates per image: 379,261,952
----------------------------------------------------------------------------
Input size (MB): 0.01
Forward/backward pass size (MB): 6.44
Params size (MB): 25.07
Estimated total size (MB): 31.53"""


def test_the_table_of_custom_resnet() -> None:
    net = make_net("custom-resnet", classes=10)
    assert str(summarize(net, (3, 32, 32))) == CUSTOM_RESNET_TABLE


@pytest.mark.parametrize(
    ("name", "blocks", "rows", "megabytes"),
    [
        ("custom-resnet", False, 29, ("0.01", "6.44", "25.07", "31.53")),
        ("custom-resnet", True, 31, ("0.01", "6.75", "25.07", "31.84")),
        ("resnet18", True, 50, ("0.01", "11.75", "42.63", "54.39")),
        ("resnet18-gn", True, 49, ("0.01", "13.50", "42.63", "56.14")),
    ],
)
def test_totals_of_the_write_ups(
    name: str, blocks: bool, rows: int, megabytes: tuple[str, ...]
) -> None:
    net = make_net(name, classes=10)
    summary = summarize(net, (3, 32, 32), blocks=blocks)
    sizes = (summary.input_mb, summary.forward_backward_mb, summary.params_mb, summary.total_mb)
    assert tuple(f"{size:.2f}" for size in sizes) == megabytes
    assert len(summary.rows) == rows
    assert summary.total_params == sum(row.params for row in summary.rows)


def test_multiply_accumulates_by_hand() -> None:
    """3×3 convolutions: positions × 9 × in × out; the head 512 × 10."""
    stem = 32 * 32 * 9 * 3 * 64
    layers = 9 * (32 * 32 * 64 * 128 + 16 * 16 * 128 * 256 + 8 * 8 * 256 * 512)
    blocks = 9 * (2 * 16 * 16 * 128 * 128 + 2 * 4 * 4 * 512 * 512)
    summary = summarize(make_net("custom-resnet", classes=10), (3, 32, 32))
    assert summary.total_macs == stem + layers + blocks + 512 * 10 == 379_261_952


def test_multiply_accumulates_are_half_of_torchs_flops() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.Conv2d(6, 8, (1, 3), dilation=2),
        nn.ConvTranspose2d(8, 4, 3, stride=2),
        nn.Linear(21, 5),
    )
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 4, 28, 30))
    macs = [row.macs for row in summarize(net, (4, 28, 30)).rows]
    assert 2 * sum(macs) == counter.get_total_flops()
    assert macs[3] == 4 * 27 * 21 * 5


@pytest.mark.parametrize("name", NETS)
def test_every_nets_multiply_accumulates_are_half_of_torchs_flops(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = make_net(name, classes=10, width=8).eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 32, 32))
    assert 2 * summarize(net, (3, 32, 32)).total_macs == counter.get_total_flops()


def test_fastnets_multiply_accumulates_by_hand() -> None:
    """The stem gives 31×31 of 24 channels; a group's second convolution works on half the map."""
    stem = 31 * 31 * 4 * 3 * 24
    group1 = 9 * (31 * 31 * 24 * 64 + 15 * 15 * 64 * 64)
    group2 = 9 * (15 * 15 * 64 * 256 + 7 * 7 * 256 * 256)
    group3 = 9 * (7 * 7 * 256 * 256 + 3 * 3 * 256 * 256)
    summary = summary_of("fast")
    assert summary.total_macs == stem + group1 + group2 + group3 + 256 * 10
    assert summary.total_params == summary_of("fastnet").total_params == 1_972_792


def test_what_fastnets_keep_as_it_began_does_not_train() -> None:
    """The stem's filters and the norms' weights."""
    whiten = 24 * 12
    fast, best = summary_of("fast"), summary_of("best")
    assert fast.non_trainable_params == whiten + 2 * (64 + 256 + 256)
    assert (best.total_params, best.rows[-1].output_shape) == (9_918_776, (-1, 10))
    assert best.non_trainable_params == whiten + 3 * (128 + 384 + 512)
    blocks = summary_of("best", blocks=True)
    assert [row.name for row in blocks.rows if row.type == "ConvGroup"] == [
        "group1",
        "group2",
        "group3",
    ]


def test_blocks_stand_after_their_children_and_containers_nowhere() -> None:
    net = make_net("resnet18", classes=10)
    labels = [row.label for row in summarize(net, (3, 32, 32), blocks=True).rows]
    assert labels[:14] == [
        "Conv2d-1",
        "BatchNorm2d-2",
        "ReLU-3",
        "Conv2d-4",
        "BatchNorm2d-5",
        "Conv2d-6",
        "BatchNorm2d-7",
        "BasicBlock-8",
        "Conv2d-9",
        "BatchNorm2d-10",
        "Conv2d-11",
        "BatchNorm2d-12",
        "BasicBlock-13",
        "Conv2d-14",
    ]
    assert labels[-2:] == ["BasicBlock-49", "Linear-50"]
    without = summarize(net, (3, 32, 32)).rows
    assert [row.type for row in without].count("BasicBlock") == 0
    assert len(without) == 42


def test_the_group_norm_nets_stem_relu_has_no_row() -> None:
    summary = summarize(make_net("resnet18-gn", classes=10), (3, 32, 32), blocks=True)
    assert "ReLU" not in {row.type for row in summary.rows}
    assert [row.type for row in summary.rows[:3]] == ["Conv2d", "GroupNorm", "Conv2d"]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("image_size", [28, 33, 64])
@pytest.mark.parametrize("name", NETS)
def test_other_images(name: str, image_size: int, channels: int) -> None:
    net = make_net(name, classes=7, channels=channels, image_size=image_size, width=2)
    summary = summarize(net, (channels, image_size, image_size))
    stem = (2, image_size) if "resnet" in name else (2 * channels * 4, image_size - 1)
    assert summary.rows[0].output_shape == (-1, stem[0], stem[1], stem[1])
    assert summary.rows[-1].output_shape == (-1, 7)
    assert summary.input_mb == channels * image_size**2 * 4 / 1024**2


# Any module


def test_a_module_called_twice_has_two_rows_and_counts_once() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    conv.bias.requires_grad_(False)
    summary = summarize(nn.Sequential(conv, nn.ReLU(), conv), (2, 8, 8))
    assert [(row.label, row.name) for row in summary.rows] == [
        ("Conv2d-1", "0"),
        ("ReLU-2", "1"),
        ("Conv2d-3", "0"),
    ]
    assert [row.receptive_field for row in summary.rows] == [3, 3, 5]
    assert (summary.total_params, summary.trainable_params) == (38, 36)
    assert summary.non_trainable_params == 2
    assert summary.total_macs == 2 * 36 * 64


def test_a_net_of_one_layer_and_one_without_parameters() -> None:
    summary = summarize(nn.Flatten(), (2, 3, 4))
    assert summary.rows == (
        Row(
            index=1,
            name="",
            type="Flatten",
            output_shape=(-1, 24),
            params=0,
            receptive_field=None,
            macs=0,
        ),
    )
    assert summary.total_params == 0


def test_the_table_keeps_to_100_columns() -> None:
    class ALayerWithAVeryLongNameIndeed(nn.Identity):
        pass

    deep: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 1), ALayerWithAVeryLongNameIndeed())
    for _ in range(12):
        outer = nn.Sequential()
        outer.add_module("a_long_name", deep)
        deep = outer
    lines = str(summarize(deep, (3, 32, 32))).splitlines()
    assert max(len(line) for line in lines) == 100
    assert len({len(line) for line in lines[:5]}) == 1
    assert "…thAVeryLongNameIndeed-2  " in lines[3]
    assert ".a_long_name.a_long_name.0  [-1" in lines[2]


def test_to_dict_is_json_and_complete() -> None:
    net = make_net("resnet18", classes=3, width=2)
    summary = summarize(net, (3, 32, 32), blocks=True)
    told = json.loads(json.dumps(summary.to_dict()))
    rows = tuple(
        Row(**{k: tuple(v) if k == "output_shape" else v for k, v in row.items() if k != "label"})
        for row in told["rows"]
    )
    assert summary == ModelSummary(
        input_shape=tuple(told["input_shape"]),
        rows=rows,
        total_params=told["total_params"],
        trainable_params=told["trainable_params"],
    )
    assert told["rows"][0]["label"] == "Conv2d-1"
    assert told["total_macs"] == summary.total_macs
    assert told["total_mb"] == summary.total_mb


def test_a_block_whose_only_child_is_empty_is_a_block() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shortcut = nn.Sequential()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.shortcut(x)
            return out

    net = nn.Sequential(Block(), nn.ReLU())
    assert [row.type for row in summarize(net, (1, 4, 4)).rows] == ["ReLU"]
    assert [row.type for row in summarize(net, (1, 4, 4), blocks=True).rows] == ["Block", "ReLU"]


# No trace left


def state_of(net: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {k: v.clone() for k, v in net.state_dict().items()},
        "training": [m.training for m in net.modules()],
        "gradients": [p.requires_grad for p in net.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()],
    }


class DrawsInForward(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(1)


def test_nothing_of_the_model_or_the_random_state_changes() -> None:
    net = make_net("custom-resnet", classes=3, width=2)
    net.prep.add_module("noise", DrawsInForward())
    net.prep.add_module("dropout", nn.Dropout(0.5))
    net.train()
    net.res1.eval()
    net.head.bias.requires_grad_(False)
    grad_modes: list[bool] = []
    net.head.register_forward_hook(lambda m, i, out: grad_modes.append(out.requires_grad))
    before, torch_state = state_of(net), torch.get_rng_state()
    python_state = random.getstate()

    summarize(net, (3, 32, 32), blocks=True)

    after = state_of(net)
    for key, tensor in before.pop("tensors").items():
        assert torch.equal(tensor, after["tensors"][key]), key
    assert before == {key: after[key] for key in before}
    assert torch.equal(torch_state, torch.get_rng_state())
    assert python_state == random.getstate()
    assert grad_modes == [False]
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in net.parameters())


def test_an_image_the_model_cannot_take() -> None:
    net = make_net("custom-resnet", classes=3, width=2).train()
    before = state_of(net)
    with pytest.raises(ResightError, match=r"input_shape = \(1, 32, 32\): the model can't") as e:
        summarize(net, (1, 32, 32))
    assert "\n" not in str(e.value)
    after = state_of(net)
    assert before["training"] == after["training"]
    assert before["hooks"] == after["hooks"]


@pytest.mark.parametrize("shape", [(3, 32), (3, 0, 32), (3, 32.0, 32), (1, 3, 32, 32)])
def test_a_shape_that_is_none(shape: Any) -> None:
    with pytest.raises(ResightError, match="must be three integers ≥ 1"):
        summarize(nn.Flatten(), shape)


def test_a_double_precision_model() -> None:
    assert summarize(nn.Conv2d(3, 2, 3).double(), (3, 8, 8)).rows[0].output_shape == (-1, 2, 6, 6)
