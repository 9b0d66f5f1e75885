"""The nets: parameters to the unit, shapes for any image and class count, and what they compute."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import make_net
from resight.errors import ResightError
from resight.look.cam_layers import cam_layers
from resight.recipe.nets import NETS


def parameter_count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def randomise_norms(net: nn.Module) -> None:
    """Off the initial statistics and scales of 0 and 1, which would hide a wrong order."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("custom-resnet", {}, 6_573_130),
        ("custom-resnet", {"norm": "layer"}, 6_573_130),
        ("custom-resnet", {"conv_bias": True}, 6_574_090),
        ("custom-resnet", {"conv_bias": True, "norm": "layer"}, 6_574_090),
        ("custom-resnet", {"classes": 100}, 6_573_130 + 90 * 513),
        ("custom-resnet", {"channels": 1}, 6_573_130 - 2 * 9 * 64),
        ("custom-resnet", {"image_size": 64}, 6_573_130),
        ("resnet18", {}, 11_173_962),
        ("resnet18-gn", {}, 11_173_962),
        ("resnet18", {"classes": 100}, 11_173_962 + 90 * 513),
        ("resnet18-gn", {"channels": 4}, 11_173_962 + 9 * 64),
    ],
)
def test_parameter_count(name: str, options: dict[str, Any], expected: int) -> None:
    assert parameter_count(make_net(name, **{"classes": 10, **options})) == expected


@pytest.mark.parametrize("name", NETS)
def test_width_scales_every_stage(name: str) -> None:
    net = make_net(name, classes=10, width=3)
    shapes = [tuple(m.weight.shape[:2]) for m in net.modules() if isinstance(m, nn.Conv2d)]
    if name == "custom-resnet":
        expected = [(3, 3), (6, 3), (6, 6), (6, 6), (12, 6), (24, 12), (24, 24), (24, 24)]
    elif name == "fastnet":
        expected = [(24, 3), (3, 24), (3, 3), (12, 3), (12, 12), (12, 12), (12, 12)]
    elif name == "fastnet-deep":
        expected = [(24, 3), (3, 24), (3, 3), (3, 3), (9, 3), (9, 9), (9, 9)]
        expected += [(12, 9), (12, 12), (12, 12)]
    else:
        expected = [(3, 3)] * 5
        for c in (6, 12, 24):
            expected += [(c, c // 2), (c, c), (c, c // 2), (c, c), (c, c)]
    assert shapes == expected
    assert net.head.in_features == expected[-1][0]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("name", "image_size"),
    [(n, px) for n in NETS for px in (8, 9, 28, 32, 33, 64) if px >= NETS[n].smallest_px],
)
def test_any_image_gives_logits(name: str, image_size: int, channels: int) -> None:
    for classes in (2, 100):
        net = make_net(name, classes=classes, channels=channels, image_size=image_size, width=2)
        logits = net(torch.randn(2, channels, image_size, image_size))
        assert logits.shape == (2, classes)
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", NETS)
def test_the_smallest_image_trains(name: str) -> None:
    size = NETS[name].smallest_px
    expected = {"custom-resnet": 8, "resnet18": 1, "resnet18-gn": 1}
    assert size == {**expected, "fastnet": 9, "fastnet-deep": 9}[name]
    net = make_net(name, classes=2, image_size=size, width=2)
    net(torch.randn(4, 3, size, size)).sum().backward()
    if size > 1:
        with pytest.raises(RuntimeError, match="too small"):
            net(torch.randn(4, 3, size - 1, size - 1))


@pytest.mark.parametrize(
    ("name", "image_size", "last_map"),
    [
        ("custom-resnet", 8, 1),
        ("custom-resnet", 28, 3),
        ("custom-resnet", 32, 4),
        ("custom-resnet", 33, 4),
        ("custom-resnet", 64, 8),
        ("resnet18", 28, 4),
        ("resnet18", 32, 4),
        ("resnet18", 33, 5),
        ("resnet18-gn", 32, 8),
        ("resnet18-gn", 33, 9),
    ],
)
def test_size_of_the_last_map(name: str, image_size: int, last_map: int) -> None:
    net = make_net(name, classes=2, image_size=image_size, width=2)
    maps: list[Tensor] = []
    last = net.res2 if name == "custom-resnet" else net.layer4
    last.register_forward_hook(lambda module, inputs, output: maps.append(output))
    net(torch.randn(2, 3, image_size, image_size))
    assert maps[0].shape == (2, 16, last_map, last_map)
    if name == "custom-resnet":
        assert net.pool.kernel_size == last_map


def norm_reference(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if f"{name}.running_mean" not in weights:
        mean = x.mean((1, 2, 3), keepdim=True)
        var = x.var((1, 2, 3), keepdim=True, correction=0)
    else:
        mean = weights[f"{name}.running_mean"][:, None, None]
        var = weights[f"{name}.running_var"][:, None, None]
    return (x - mean) / (var + 1e-5).sqrt() * w[:, None, None] + b[:, None, None]


def custom_resnet_reference(w: dict[str, Tensor], x: Tensor, *, relu_first: bool) -> Tensor:
    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=1)

    def layer(name: str, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(conv(f"{name}.conv", x), 2)
        return norm_reference(w, f"{name}.norm", pooled).clamp(min=0)

    def res(name: str, x: Tensor) -> Tensor:
        y = norm_reference(w, f"{name}.norm1", conv(f"{name}.conv1", x)).clamp(min=0)
        return x + norm_reference(w, f"{name}.norm2", conv(f"{name}.conv2", y)).clamp(min=0)

    x = conv("prep.conv", x)
    if relu_first:
        x = norm_reference(w, "prep.norm", x.clamp(min=0))
    else:
        x = norm_reference(w, "prep.norm", x).clamp(min=0)
    x = res("res2", layer("layer3", layer("layer2", res("res1", layer("layer1", x)))))
    return x.amax((2, 3)) @ w["head.weight"].T + w["head.bias"]


def resnet18_reference(w: dict[str, Tensor], x: Tensor, strides: tuple[int, ...]) -> Tensor:
    def conv_norm(conv: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = w[f"{conv}.weight"]
        padding = weight.shape[-1] // 2
        return norm_reference(w, norm, F.conv2d(x, weight, stride=stride, padding=padding))

    x = conv_norm("stem.conv", "stem.norm", x).clamp(min=0)
    for stage, first_stride in enumerate(strides, start=1):
        for block, stride in (("0", first_stride), ("1", 1)):
            at = f"layer{stage}.{block}"
            y = conv_norm(f"{at}.conv1", f"{at}.norm1", x, stride).clamp(min=0)
            y = conv_norm(f"{at}.conv2", f"{at}.norm2", y)
            if f"{at}.shortcut.conv.weight" in w:
                x = conv_norm(f"{at}.shortcut.conv", f"{at}.shortcut.norm", x, stride)
            x = (x + y).clamp(min=0)
    return x.mean((2, 3)) @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize("image_size", [16, 19])
@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("conv_bias", [False, True])
def test_custom_resnet_is_its_formula(conv_bias: bool, norm: Any, image_size: int) -> None:
    torch.manual_seed(0)
    net = make_net(
        "custom-resnet", classes=5, image_size=image_size, width=4, norm=norm, conv_bias=conv_bias
    )
    randomise_norms(net)
    net.double().eval()
    x = torch.randn(3, 3, image_size, image_size, dtype=torch.float64)
    expected = custom_resnet_reference(dict(net.state_dict()), x, relu_first=conv_bias)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize(
    ("name", "strides"), [("resnet18", (1, 2, 2, 2)), ("resnet18-gn", (1, 2, 2, 1))]
)
def test_resnet18_is_its_formula(name: str, strides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = make_net(name, classes=5, width=4)
    randomise_norms(net)
    net.double().eval()
    x = torch.randn(3, 3, 19, 19, dtype=torch.float64)
    torch.testing.assert_close(net(x), resnet18_reference(dict(net.state_dict()), x, strides))


def test_layer_norm_is_in_the_residual_blocks_alone() -> None:
    net = make_net("custom-resnet", classes=10, width=4, norm="layer")
    norms = {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)
    }
    group = {name for name, norm in norms.items() if isinstance(norm, nn.GroupNorm)}
    assert group == {"res1.norm1", "res1.norm2", "res2.norm1", "res2.norm2"}
    assert {norms[name].num_groups for name in group} == {1}
    assert norms.keys() - group == {"prep.norm", "layer1.norm", "layer2.norm", "layer3.norm"}


def test_bias_is_outside_the_residual_blocks_alone() -> None:
    net = make_net("custom-resnet", classes=10, width=4, conv_bias=True)
    convs = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert {n for n, m in convs.items() if m.bias is not None} == {
        "prep.conv",
        "layer1.conv",
        "layer2.conv",
        "layer3.conv",
    }
    assert list(dict(net.prep.named_children())) == ["conv", "relu", "norm"]


def test_group_norm_net_sees_each_image_alone() -> None:
    net = make_net("resnet18-gn", classes=10, width=2).train()
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(net(images)[:1], net(images[:1]))


@pytest.mark.parametrize("name", NETS)
def test_no_layer_overwrites_what_a_hook_has_seen(name: str) -> None:
    """Grad-CAM keeps activations; a ReLU in place would change them or forbid its hooks."""
    net = make_net(name, classes=2, image_size=16, width=2)
    seen: list[tuple[Tensor, Tensor]] = []
    for module in net.modules():
        if not any(module.children()) and not isinstance(module, nn.Sequential):
            module.register_forward_hook(lambda m, i, out: seen.append((out, out.clone())))
            module.register_full_backward_hook(lambda m, grads_in, grads_out: None)
    net(torch.randn(2, 3, 16, 16, requires_grad=True)).sum().backward()
    assert len(seen) > 20
    for kept, copy in seen:
        assert torch.equal(kept, copy)


@pytest.mark.parametrize("name", NETS)
def test_logits_are_the_heads_output_times_their_scale(name: str) -> None:
    images, logits, weights = torch.randn(2, 3, 16, 16), [], []
    for options in ({}, {"logit_scale": 1.0}, {"logit_scale": 0.375}):
        torch.manual_seed(0)
        net = make_net(name, classes=5, image_size=16, width=8, **options).eval()
        logits.append(net(images))
        weights.append(net.state_dict())
    assert logits[0].abs().max() > 1e-3
    assert torch.equal(logits[0], logits[1])
    torch.testing.assert_close(logits[2], 0.375 * logits[0])
    assert weights[0].keys() == weights[2].keys()
    assert all(torch.equal(value, weights[2][key]) for key, value in weights[0].items())


@pytest.mark.parametrize("name", NETS)
def test_trains_in_bf16_and_channels_last(name: str) -> None:
    torch.manual_seed(0)
    net = make_net(name, classes=10, image_size=16, width=4)
    net.to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last)
    kept: list[Tensor] = []
    blocks = {"custom-resnet": "res1", "fastnet": "group2", "fastnet-deep": "group2"}
    block = net.get_submodule(blocks.get(name, "layer2"))
    block.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(images)
    F.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])).backward()
    assert logits.dtype == torch.bfloat16
    assert kept[0].is_contiguous(memory_format=torch.channels_last)
    assert all(p.requires_grad for p in net.parameters()) == (not name.startswith("fastnet"))
    for parameter in net.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any()


@pytest.mark.parametrize("name", NETS)
def test_no_pool_is_adaptive(name: str) -> None:
    """Adaptive pools have no deterministic backward pass on CUDA."""
    net = make_net(name, classes=2, width=1)
    assert not [m for m in net.modules() if "Adaptive" in type(m).__name__]


@pytest.mark.parametrize("name", NETS)
def test_a_seed_fixes_the_weights(name: str) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(make_net(name, classes=2, width=2).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "custom-resnet",
            {"image_size": 7},
            "image_size = 7 must be an integer ≥ 8 (pixels; the smallest side that custom-resnet "
            "accepts)",
        ),
        ("fastnet", {"image_size": 8}, "image_size = 8 must be an integer ≥ 9 (pixels; the"),
        ("resnet18", {"image_size": 0}, "image_size = 0 must be an integer ≥ 1"),
        ("resnet18", {"classes": 1}, "classes = 1 must be an integer ≥ 2"),
        ("resnet18", {"channels": 0}, "channels = 0 must be an integer ≥ 1"),
        ("custom-resnet", {"channels": True}, "channels = True must be an integer"),
    ],
)
def test_what_a_user_can_fix(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ResightError, match=re.escape(message)) as caught:
        make_net(name, **{"classes": 10, **options})
    assert "\n" not in str(caught.value)


def test_the_names_need_no_torch() -> None:
    code = (
        "import sys; from resight.recipe.nets import NETS; "
        "assert NETS['fastnet'].smallest_px == 9; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", NETS)
def test_the_tables_cam_layers_are_those_that_maps_offer(name: str) -> None:
    net = make_net(name, classes=2, width=8)
    assert tuple(layer for layer, _ in cam_layers(net, (3, 32, 32))) == NETS[name].cam_layers


@pytest.mark.parametrize("name", NETS)
def test_the_table_has_the_side_of_the_last_normalised_map(name: str) -> None:
    for size in (max(NETS[name].smallest_px, 9), 17, 32, 33):
        net, sides = make_net(name, classes=2, width=8, image_size=size), list[int]()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                module.register_forward_hook(
                    lambda module, images, out, sides=sides: sides.append(out.shape[2])
                )
        net.eval()(torch.zeros(1, 3, size, size))
        assert sides[-1] == NETS[name].last_map(size), size


@pytest.mark.parametrize("name", NETS)
def test_the_table_knows_norms_and_stem(name: str) -> None:
    net = make_net(name, classes=2, width=8)
    assert NETS[name].batch_norm == any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert NETS[name].whitening_stem == hasattr(net, "whiten_")
