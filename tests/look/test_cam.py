"""Maps: against captum and against formulas written out, on any module, which stays as it was."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import make_net
from resight.errors import ResightError
from resight.look.cam import METHODS, CamMaps, Method, grad_cam
from resight.look.cam_layers import cam_layers, default_layer

NETS: dict[str, dict[str, Any]] = {
    "custom-resnet": {"name": "custom-resnet"},
    "custom-resnet, layer norm, biases": {
        "name": "custom-resnet",
        "norm": "layer",
        "conv_bias": True,
    },
    "resnet18": {"name": "resnet18"},
    "resnet18-gn": {"name": "resnet18-gn"},
    "fastnet": {"name": "fastnet"},
    "fastnet-deep": {"name": "fastnet-deep"},
}


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """As after some training: norms that scale, shift and have seen images; a head that decides."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5, generator=draw)
                module.bias.uniform_(-0.5, 0.5, generator=draw)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.2, 0.2, generator=draw)
                module.running_var.uniform_(0.05, 0.3, generator=draw)
            if isinstance(module, nn.Linear):
                module.weight.mul_(20)
    return net


def small_net(name: str = "custom-resnet", **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return lively(make_net(**{"classes": 5, "width": 8, **NETS[name], **changes})).eval()


def images(n: int = 6, size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])
SMALL_NET = small_net()


class Weighted(nn.Module):
    """Logits that are sums over the map of `layer`, each cell times a weight of its own."""

    def __init__(self, weights: Tensor) -> None:
        """weights: (K, C, h, w)."""
        super().__init__()
        self.layer = nn.Identity()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", self.layer(x), self.weights)


class Toy(nn.Module):
    """A convolution, dropout, a norm and a ReLU, a second convolution, and a mean as head."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=inplace)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.drop(self.first(x))))
        return self.head(F.relu(self.second(x)).amax((2, 3)))  # type: ignore[no-any-return]


def reference(net: nn.Module, layer: str, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's output and the gradient of the targets' logits with respect to it."""
    seen: list[Tensor] = []
    hook = net.get_submodule(layer).register_forward_hook(lambda m, i, out: seen.append(out))
    logits = net(x)
    hook.remove()
    seen[-1].retain_grad()
    logits[torch.arange(len(x)), targets].sum().backward()
    assert seen[-1].grad is not None
    return seen[-1].detach(), seen[-1].grad


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        *((name, None) for name in NETS),
        ("custom-resnet", "prep.conv"),
        ("custom-resnet", "layer1"),
        ("custom-resnet", "res2"),
        ("custom-resnet, layer norm, biases", "res1.norm2"),
        ("custom-resnet, layer norm, biases", "res2"),
        ("resnet18", "layer1"),
        ("resnet18", "layer3.1.conv2"),
        ("resnet18", "layer4"),
        ("resnet18-gn", "layer2"),
        ("resnet18-gn", "layer4.0.shortcut"),
        ("fastnet", "whiten"),
        ("fastnet", "group2"),
        ("fastnet", "group3"),
        ("fastnet-deep", "group1"),
        ("fastnet-deep", "group2.norm3"),
        ("fastnet-deep", "group3"),
    ],
)
def test_raw_maps_are_those_of_captum(name: str, layer: str | None) -> None:
    net, x = small_net(name), images()
    made = grad_cam(net, x, TARGETS, layer)
    module = net.get_submodule(made.layer)
    expected = LayerGradCam(net, module).attribute(x, target=TARGETS)[:, 0].detach()
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(made.raw, expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


# Two channels of 2×2 cells, and the weights, which are the gradients, of class 1.
MAP = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[2.0, 0.0], [0.0, 2.0]]]])
WEIGHTS = torch.tensor([[[0.1, -1.0], [0.0, 0.2]], [[0.5, 0.5], [-2.0, 0.0]]])
TOY = Weighted(torch.stack([torch.zeros(2, 2, 2), WEIGHTS]))


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        # means of the gradients: -0.7/4 and -1/4
        ("gradcam", [[-0.175 - 0.5, -0.35], [-0.525, -0.7 - 0.5]]),
        # gradient times map, cell by cell
        ("hirescam", [[0.1 + 1, -2.0], [0.0, 0.8]]),
        # α: 1/(2 + 10·0.1), 1/(2 + 10·0.2), and 1/(2 + 4·0.5) twice
        (
            "gradcam++",
            [
                [0.1 / 3 + 0.2 / 4 + 2 * 0.25, 2 * (0.1 / 3 + 0.2 / 4)],
                [3 * (0.1 / 3 + 0.2 / 4), 4 * (0.1 / 3 + 0.2 / 4) + 2 * 0.25],
            ],
        ),
    ],
)
def test_the_methods_by_hand(method: Method, raw: list[list[float]]) -> None:
    made = grad_cam(TOY, MAP, 1, "layer", method)
    expected = torch.tensor([raw])
    torch.testing.assert_close(made.raw, expected, rtol=1e-6, atol=1e-6)
    positive = expected.clamp(min=0)
    scaled = positive / positive.max() if positive.any() else positive
    torch.testing.assert_close(made.maps, scaled, rtol=1e-6, atol=1e-6)
    assert made.empty.tolist() == [not positive.any()]
    assert (made.layer, made.method, made.targets.tolist()) == ("layer", method, [1])


def test_a_zero_denominator_of_gradcam_plus_plus_counts_as_no_weight() -> None:
    x = torch.tensor([[[[-4.0, 1.0], [-1.0, 0.0]]]])  # sum -4, and 2 - 4·0.5 = 0
    net = Weighted(torch.tensor([[[[0.5, 0.25], [0.0, 0.0]]]]))
    made = grad_cam(net, x, 0, "layer", "gradcam++")
    assert torch.equal(made.raw, 0.25 / (2 - 4 * 0.25) * x[:, 0])


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_gradcam_plus_plus_is_the_papers_formula_however_small_the_gradient(scale: float) -> None:
    net, x = small_net("resnet18").double(), images().double()
    activation, gradient = reference(net, "layer3", x, TARGETS)
    with torch.no_grad():
        net.get_submodule("head").weight.mul_(scale)  # type: ignore[union-attr, operator]
    gradient = gradient * scale
    below = 2 * gradient**2 + gradient**3 * activation.sum((2, 3), keepdim=True)
    alpha = torch.where(gradient == 0, 0, gradient**2 / below)
    weights = (alpha * gradient.relu()).sum((2, 3))
    expected = torch.einsum("nc,nchw->nhw", weights, activation).float() / scale
    made = grad_cam(net.float(), x.float(), TARGETS, "layer3", "gradcam++")
    torch.testing.assert_close(made.raw / scale, expected, rtol=1e-3, atol=1e-4)
    assert expected.max() > 0.1


def test_hirescam_is_gradient_times_map() -> None:
    net, x = small_net(), images()
    activation, gradient = reference(net, "res1", x, TARGETS)
    made = grad_cam(net, x, TARGETS, "res1", "hirescam")
    torch.testing.assert_close(made.raw, (activation * gradient).sum(1), rtol=1e-5, atol=1e-5)


def test_hirescam_is_gradcam_where_a_mean_and_a_linear_head_follow() -> None:
    net, x = small_net("resnet18-gn"), images()
    high = grad_cam(net, x, TARGETS, "layer4", "hirescam").raw
    torch.testing.assert_close(high, grad_cam(net, x, TARGETS, "layer4").raw, rtol=1e-4, atol=1e-5)
    assert not high.allclose(grad_cam(net, x, TARGETS, "layer4", "gradcam++").raw, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "size", "layer", "cells"),
    [
        ("custom-resnet", 32, "layer2", 8),
        ("resnet18", 32, "layer3", 8),
        ("resnet18-gn", 32, "layer4", 8),
        ("custom-resnet", 64, "res2", 8),
        ("resnet18", 64, "layer4", 8),
        ("custom-resnet", 56, "layer2", 14),
        ("custom-resnet", 28, "layer2", 7),
        ("resnet18", 28, "layer4", 4),
        ("custom-resnet", 8, "res1", 4),
        ("resnet18", 3, "layer1", 3),
        ("resnet18", 1, "layer4", 1),
        ("fastnet", 64, "group2", 15),
        ("fastnet", 28, "group2", 6),
        ("fastnet", 32, "group2", 7),
        ("fastnet-deep", 9, "group2", 2),
    ],
)
def test_the_default_layer_is_the_last_with_enough_cells(
    name: str, size: int, layer: str, cells: int
) -> None:
    net, shape = small_net(name, image_size=size), (3, size, size)
    assert default_layer(net, shape) == layer
    assert dict(cam_layers(net, shape))[layer] == (cells, cells)
    made = grad_cam(net, images(2, size))
    assert made.layer == layer
    assert made.maps.shape == made.raw.shape == (2, cells, cells)


def test_a_coarser_layer_is_offered() -> None:
    assert cam_layers(small_net(), (3, 32, 32))[-1] == ("res2", (4, 4))
    assert cam_layers(small_net("resnet18"), (3, 32, 32))[-1] == ("layer4", (4, 4))


@pytest.mark.parametrize(
    ("side", "sizes"),
    [(32, [32, 8]), (128, [32, 8]), (129, [31, 9]), (224, [10] * 4), (900, [1] * 40)],
)
def test_fewer_large_images_pass_at_a_time(side: int, sizes: list[int]) -> None:
    net, seen = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)), []
    net(torch.zeros(1, 1, side, side))
    net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    grad_cam(net, torch.zeros(40, 1, side, side), layer="0")
    assert seen[-len(sizes) :] == sizes


@pytest.mark.parametrize("method", METHODS)
def test_chunks_do_not_show(method: Method) -> None:
    net, x = small_net(), images(11)
    for targets in (None, torch.arange(22).reshape(11, 2) % 5):
        whole = grad_cam(net, x, targets, method=method, chunk=11)
        parts = grad_cam(net, x, targets, method=method, chunk=4)
        torch.testing.assert_close(parts.raw, whole.raw, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(parts.maps, whole.maps, rtol=1e-4, atol=1e-4)
        assert torch.equal(parts.targets, whole.targets)


@pytest.mark.parametrize("method", METHODS)
def test_two_classes_of_an_image_share_a_forward_pass(method: Method) -> None:
    net, x = small_net(), images()
    calls: list[int] = []
    net.register_forward_hook(lambda m, i, out: calls.append(len(out)))
    pairs = torch.stack([TARGETS, TARGETS.flip(0)], 1)
    made = grad_cam(net, x, pairs, method=method)
    assert calls == [2, 6]  # the two images of the probe, then all
    assert made.maps.shape == made.raw.shape == (6, 2, 8, 8)
    assert made.empty.shape == made.targets.shape == (6, 2)
    for column in (0, 1):
        alone = grad_cam(net, x, pairs[:, column], method=method)
        torch.testing.assert_close(made.raw[:, column], alone.raw, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(made.maps[:, column], alone.maps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "targets", [3, [3] * 6, np.full(6, 3), np.full(6, 3, dtype=np.uint8), torch.full((6,), 3)]
)
def test_targets_may_be_any_whole_numbers(targets: Any) -> None:
    made = grad_cam(SMALL_NET, images(), targets)
    assert made.targets.dtype == torch.int64
    assert made.targets.tolist() == [3] * 6
    assert torch.equal(made.raw, grad_cam(SMALL_NET, images(), torch.tensor([3] * 6)).raw)


def test_without_targets_the_predicted_class_is_taken() -> None:
    net, x = Weighted(images(5)), images(6)
    predicted = net(x).argmax(1)
    assert len(predicted.unique()) > 1
    made = grad_cam(net, x, chunk=4)
    assert torch.equal(made.targets, predicted)
    assert torch.equal(made.raw, grad_cam(net, x, predicted).raw)


def test_results_are_float32_on_the_cpu_whatever_the_model_computes_in() -> None:
    made = grad_cam(small_net().double(), images().requires_grad_(), TARGETS)
    assert made.maps.dtype == made.raw.dtype == torch.float32
    assert not made.raw.requires_grad
    torch.testing.assert_close(made.raw, grad_cam(SMALL_NET, images(), TARGETS).raw)


def test_a_map_without_positive_evidence_is_empty_and_zero() -> None:
    x = torch.ones(2, 1, 2, 2)
    x[1, 0, 0, 0] = 4
    made = grad_cam(Weighted(torch.tensor([[[[1.0, -1.0], [-1.0, -1.0]]]])), x, 0, "layer")
    assert made.raw.tolist() == [[[-0.5] * 2] * 2, [[-2.0, -0.5], [-0.5, -0.5]]]
    assert made.empty.tolist() == [True, True]
    assert made.maps.count_nonzero() == 0
    assert grad_cam(Weighted(torch.zeros(1, 1, 2, 2)), x, 0, "layer").empty.tolist() == [True] * 2


@given(arrays(np.float32, (3, 2, 4), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_maps_are_scaled_by_their_own_maximum(raw: Any) -> None:
    made = CamMaps(torch.from_numpy(raw), torch.zeros(3, dtype=torch.int64), "layer", "gradcam")
    for one, cells, empty in zip(made.maps.numpy(), raw, made.empty.tolist(), strict=True):
        assert empty == (cells.max() <= 0)
        assert one.min() >= 0
        assert one.max() == (0 if empty else 1)
        assert empty or one.argmax() == cells.argmax()
        assert not one[cells <= 0].any()
    assert made.maps.dtype == torch.float32


def test_an_enlarged_map_lies_over_the_image() -> None:
    raw = torch.tensor([[[0.0, 2.0], [0.0, 2.0]]])
    made = CamMaps(raw, torch.tensor([0]), "layer", "gradcam")
    assert made.enlarged(2, 4).tolist() == [[[0.0, 0.25, 0.75, 1.0]] * 2]
    full = CamMaps(torch.ones(1, 8, 8), torch.tensor([0]), "layer", "gradcam")
    assert full.enlarged(40, 40).max() == 1  # a bilinear mean of ones may come out above
    pairs = CamMaps(torch.rand(3, 2, 4, 5), torch.zeros(3, 2, dtype=torch.int64), "x", "gradcam")
    assert pairs.enlarged(32, 40).shape == (3, 2, 32, 40)
    assert pairs.enlarged(32, 40).dtype == torch.float32


def test_no_images_give_no_maps() -> None:
    for targets, shape in [
        (None, (0,)),
        ([], (0,)),
        (torch.zeros(0, 2, dtype=torch.int64), (0, 2)),
    ]:
        made = grad_cam(SMALL_NET, images()[:0], targets)
        assert made.maps.shape == (*shape, 8, 8)
        assert made.empty.shape == made.targets.shape == shape
        assert made.enlarged(32, 32).shape == (*shape, 32, 32)


def test_a_relu_in_place_after_the_layer_changes_nothing() -> None:
    plain, inplace = Toy(inplace=False), Toy(inplace=True)
    for layer in ("first", "norm", "relu"):
        for method in METHODS:
            made = grad_cam(inplace, images(), 1, layer, method)
            assert torch.equal(made.raw, grad_cam(plain, images(), 1, layer, method).raw)
    assert made.raw.abs().max() > 0


def test_what_is_written_into_the_layers_input_does_not_reach_its_map() -> None:
    class Aliased(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)  # an Identity: the same memory
            x.mul_(2)
            return torch.einsum("nchw,kchw->nk", y, self.weights)

    net, x = Aliased(TOY.weights.detach()), MAP.clone()
    made = grad_cam(net, x, 1, "layer")
    assert torch.equal(made.raw, grad_cam(TOY, MAP, 1, "layer").raw)
    assert torch.equal(x, MAP)


def everything(net: nn.Module) -> dict[str, Any]:
    """All that a look at the net must not change."""
    return {
        "training": [m.training for m in net.modules()],
        "trainable": [p.requires_grad for p in net.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "state": {key: value.clone() for key, value in net.state_dict().items()},
        "hooks": [
            len(hooks)
            for m in net.modules()
            for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)
        ],
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in ("training", "trainable", "hooks", "grad mode"):
        assert after[key] == before[key], key
    assert torch.equal(after["random"], before["random"])
    for old, new in zip(before["grads"], after["grads"], strict=True):
        assert (old is None) == (new is None)
        assert old is None or torch.equal(old, new)
    for key, value in before["state"].items():
        assert torch.equal(after["state"][key], value), key


def mixed() -> Toy:
    """A net amid a training: train mode with one norm in eval, one layer frozen, some gradients."""
    net = Toy().train()
    net.norm.eval()
    net.second.requires_grad_(False)
    net.first.weight.grad = torch.ones_like(net.first.weight)
    net.drop.register_forward_hook(lambda m, i, out: None)
    return net


@pytest.mark.parametrize("enabled", [True, False])
def test_the_model_and_the_images_are_left_as_they_were(enabled: bool) -> None:
    net, x = mixed(), images().requires_grad_()
    pixels = x.detach().clone()
    with torch.set_grad_enabled(enabled):
        before = everything(net)
        grad_cam(net, x, torch.tensor([[0, 1]] * 6), "first", chunk=4)
        cam_layers(net, (3, 32, 32))
        default_layer(net, (3, 32, 32))
        assert_same(before, everything(net))
    assert x.grad is None
    assert x.requires_grad
    assert torch.equal(x, pixels)


class Falls(nn.Module):
    """A part that raises once it sees more than two images: after the probe."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise KeyError("no")
        return x


@pytest.mark.parametrize("case", ["falls", "falls in the probe", "not on path", "no such layer"])
def test_the_model_is_left_as_it_was_after_an_error_too(case: str) -> None:
    net, x, layer = mixed(), images(), "first"
    if case == "falls":
        net.drop = nn.Sequential(net.drop, Falls())
    if case == "falls in the probe":
        x = x[:, :1]
    if case == "not on path":
        net.register_forward_hook(lambda m, i, out: torch.zeros(len(out), 3))
    if case == "no such layer":
        layer = "third"
    before = everything(net)
    with pytest.raises((ResightError, KeyError)):
        grad_cam(net, x, 1, layer)
    assert_same(before, everything(net))


def test_nothing_grows_over_500_calls() -> None:
    net, x = Toy(), images(2, 8)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    def look() -> None:
        grad_cam(net, x, [[0, 1], [1, 2]])
        with pytest.raises(ResightError):
            grad_cam(net, x, 0, "unused")

    look()
    before, alive = everything(net), tensors()
    for _ in range(250):
        look()
    assert_same(before, everything(net))
    del before
    assert tensors() <= alive


def test_a_model_in_train_mode_is_looked_at_in_eval_mode() -> None:
    net = Toy().train()
    made = grad_cam(net, images(), 1, "first")
    assert torch.equal(made.raw, grad_cam(net.eval(), images(), 1, "first").raw)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_models_and_callers_without_gradients_get_the_same_maps(
    around: Callable[[], Any], frozen: bool
) -> None:
    net = small_net().requires_grad_(not frozen)
    with around():
        made = grad_cam(net, images(), TARGETS)
    assert torch.equal(made.raw, grad_cam(SMALL_NET, images(), TARGETS).raw)


def test_a_part_that_the_model_runs_without_gradients_has_maps_too() -> None:
    class Frozen(Toy):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.norm(self.first(x))
            return self.head(F.relu(self.second(self.relu(x))).amax((2, 3)))  # type: ignore[no-any-return]

    for layer in ("first", "norm"):
        for enabled in (True, False):
            with torch.set_grad_enabled(enabled):
                made = grad_cam(Frozen(), images(), 1, layer)
            assert torch.equal(made.raw, grad_cam(Toy(), images(), 1, layer).raw)


def test_nothing_before_the_layer_records_a_graph() -> None:
    net = Toy()
    recorded: dict[str, bool] = {}
    for name, module in net.named_children():
        module.register_forward_hook(
            lambda m, i, out, name=name: recorded.update({name: out.requires_grad})
        )
    grad_cam(net, images(), 1, "relu")
    assert recorded == {
        **{"first": False, "drop": False, "norm": False, "relu": False},
        **{"second": True, "head": True},
    }


def test_of_a_module_called_twice_the_last_call_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.ReLU()
            self.net = TOY

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.layer(self.layer(x) - 1))  # type: ignore[no-any-return]

    made = grad_cam(Twice(), MAP, 1, "layer", "hirescam")
    assert torch.equal(made.raw, grad_cam(TOY, (MAP - 1).relu(), 1, "layer", "hirescam").raw)


def test_maps_under_bf16_autocast_are_near_those_of_fp32() -> None:
    net, x = small_net("resnet18"), images()
    for method in METHODS:
        exact = grad_cam(net, x, TARGETS, method=method)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near = grad_cam(net, x, TARGETS, method=method)
        assert near.raw.dtype == torch.float32
        assert not torch.equal(near.raw, exact.raw)
        assert not torch.equal(near.raw, near.raw.bfloat16().float())  # weighed in fp32
        both = torch.stack([near.raw.flatten(), exact.raw.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.98


def test_any_module_has_layers_convolutions_before_others() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.MaxPool2d(4),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(4, 4, 1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    layers = [("0", (32, 32)), ("2", (8, 8)), ("5", (4, 4))]
    assert cam_layers(net, (3, 32, 32)) == layers
    assert default_layer(net, (3, 32, 32)) == "2"
    assert default_layer(net, (3, 24, 24)) == "2"
    assert default_layer(net, (3, 16, 40)) == "2"
    assert default_layer(net, (3, 8, 24)) == "0"
    assert grad_cam(net, images()).layer == "2"
    assert grad_cam(net, images(), layer="3").maps.shape == (6, 8, 8)
    assert grad_cam(nn.Sequential(nn.Identity(), net), images()).layer == "1.2"


def test_layers_stand_in_the_order_of_their_last_calls() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    net = nn.Sequential(shared, nn.Conv2d(3, 3, 1), shared, nn.AdaptiveMaxPool2d(1), nn.Flatten())
    assert [name for name, _ in cam_layers(net, (3, 32, 32))] == ["1", "0"]
    assert torch.equal(grad_cam(net, images(), 1).raw, grad_cam(net, images(), 1, "2").raw)


def test_a_model_without_convolutions_or_weights_has_layers() -> None:
    class Means(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AvgPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(x).amax((2, 3))  # type: ignore[no-any-return]

    assert cam_layers(Means(), (3, 32, 32)) == [("pool", (16, 16))]
    made = grad_cam(Means(), images().double())
    assert made.raw.dtype == torch.float32
    assert made.raw.shape == (6, 16, 16)


def test_a_model_may_name_its_own_layers() -> None:
    net = Toy()
    net.cam_layers = ("first", "norm", "unused")  # type: ignore[assignment]
    assert cam_layers(net, (3, 32, 32)) == [("first", (32, 32)), ("norm", (32, 32))]
    assert default_layer(net, (3, 32, 32)) == "norm"


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ResightError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_wrong_layer_is_refused_with_those_there_are() -> None:
    net, x = small_net(), images()
    said = refusal(lambda: grad_cam(net, x, layer="layer22"))
    assert said.startswith("layer 'layer22' is not in the model; did you mean 'layer2'? ")
    assert "res1 (16×16), layer2 (8×8), res2 (4×4)" in said
    assert "conv" not in refusal(lambda: grad_cam(net, x, layer="?"))
    assert "does not return a map" in refusal(lambda: grad_cam(net, x, layer="head"))
    assert "(2, 5)" in refusal(lambda: grad_cam(net, x, layer="head"))
    assert "is not called" in refusal(lambda: grad_cam(Toy(), x, layer="unused"))


def test_a_layer_that_gives_whole_numbers_or_several_tensors_is_refused() -> None:
    class Round(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.int()

    for layer in (Round(), nn.MaxPool2d(2, return_indices=True)):
        net = Toy()
        net.unused = layer  # type: ignore[assignment]
        net.register_forward_pre_hook(lambda m, args: (args[0], m.unused(args[0]))[:1])
        said = refusal(lambda net=net: grad_cam(net, images(), layer="unused"))  # type: ignore[misc]
        assert "does not return a single floating-point tensor" in said


def test_the_list_of_layers_in_a_refusal_is_bounded() -> None:
    convolutions = [nn.Conv2d(3, 3, 1) for _ in range(40)]
    net = nn.Sequential(*convolutions, nn.AdaptiveMaxPool2d(1), nn.Flatten())
    said = refusal(lambda: grad_cam(net, images(), layer="blurb"))
    assert "11 (32×32) and 28 more" in said
    assert len(said) < 400


@pytest.mark.parametrize("case", ["aside", "detached", "twice"])
def test_a_layer_that_the_logits_do_not_depend_on_is_refused(case: str) -> None:
    class Aside(Toy):
        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            if case == "detached":
                x = x + self.unused(x).detach().mean()
            if case == "twice":  # only the first of the calls matters to the logits
                x = x + self.unused(x).mean()
                self.unused(x)
            return super().forward(x)

    said = refusal(lambda: grad_cam(Aside(), images(), layer="unused"))
    assert said.startswith("layer 'unused': the logits do not depend on its output")


@pytest.mark.parametrize(
    ("targets", "part"),
    [
        (5, "class 5: must be 0 to 4, as the model has 5 classes"),
        (-1, "class -1: must be 0 to 4"),
        ([0, 1, 2, 3, 4, 9], "class 9"),
        ([0, 1], "have shape (2,)"),
        ([[0], [1]], "have shape (2, 1)"),
        (torch.zeros(6, 0, dtype=torch.int64), "have shape (6, 0)"),
        (torch.zeros(6, 1, 1, dtype=torch.int64), "have shape (6, 1, 1)"),
        (1.0, "torch.float32"),
        ([True] * 6, "torch.bool"),
        ("cat", "not a tensor of classes"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets: Any, part: str) -> None:
    said = refusal(lambda: grad_cam(SMALL_NET, images(), targets))
    assert said.startswith("targets ")
    assert part in said


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: grad_cam(SMALL_NET, images(), method="gradcam+"), "did you mean 'gradcam++'?"),  # type: ignore[arg-type]
        (lambda: grad_cam(SMALL_NET, images(), chunk=0), "chunk = 0"),
        (lambda: grad_cam(SMALL_NET, images()[0]), "float32 tensor (3, 32, 32)"),
        (lambda: grad_cam(SMALL_NET, images().byte()), "uint8 tensor"),
        (lambda: grad_cam(SMALL_NET, images().numpy()), "ndarray"),  # type: ignore[arg-type]
        (lambda: grad_cam(SMALL_NET, images(channels=1)), "of shape (1, 32, 32)"),
        (lambda: grad_cam(SMALL_NET, images(size=64)), "of shape (3, 64, 64)"),
        (lambda: cam_layers(SMALL_NET, (32, 32)), "input_shape = (32, 32)"),
        (lambda: default_layer(SMALL_NET, (3, 0, 32)), "input_shape = (3, 0, 32)"),
        (lambda: grad_cam(nn.Conv2d(3, 3, 1), images()), "(2, 3, 32, 32) for 2 images, not logits"),
        (lambda: grad_cam(nn.Flatten(0), images()), "(6144,) for 2 images, not logits (2, K)"),
        (lambda: grad_cam(nn.Flatten(0, 2), images()), "(192, 32) for 2 images, not logits (2, K)"),
        (lambda: grad_cam(nn.Flatten(), images()), "no layer to make maps from"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call: Callable[[], Any], part: str) -> None:
    assert part in refusal(call)


def test_a_map_that_is_not_finite_is_refused_and_its_image_named() -> None:
    x = images()
    x[4, 0, 0, 0] = math.nan
    said = refusal(lambda: grad_cam(SMALL_NET, x, TARGETS, chunk=4))
    assert "the maps of 1 of 6 images are not finite, the first is image 4" in said
