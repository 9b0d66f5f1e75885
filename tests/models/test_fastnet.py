"""fastnet and fastnet-deep: what they compute, how they begin, and the stem that whitens."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import make_data, make_net
from resight.data.types import ImageData, Split
from resight.engine import job
from resight.engine.job import Job, build_job
from resight.engine.rates import epoch_rates
from resight.engine.runtime import Runtime
from resight.engine.state import TrainState
from resight.models import blocks
from resight.models import fastnet as fastnet_module
from resight.models.fastnet import FastNet, whitening_filters
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.runs.weights import load_model, model_bytes

DEEP = {"fastnet": False, "fastnet-deep": True}
CPU = Runtime(torch.device("cpu"), "fp32", 1)


def fastnet(name: str = "fastnet", **changes: Any) -> FastNet:
    torch.manual_seed(0)
    net = make_net(name, **{"classes": 5, "width": 6, **changes})
    assert isinstance(net, FastNet)
    return net


def lively(name: str, **changes: Any) -> FastNet:
    """In float64, with statistics and biases off 0 and 1, which would hide a wrong order."""
    net = fastnet(name, **changes)
    net.whiten_(correlated(20, 12, net.whiten.in_channels))
    for norm in norms(net):
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
    return net.double()


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def correlated(n: int, size: int, channels: int, *, height: int | None = None) -> Tensor:
    """Images (n, channels, height or size, size) whose neighbours and channels go together."""
    draw = torch.Generator().manual_seed(n)
    noise = torch.randn(n, channels, (height or size) + 2, size + 2, generator=draw)
    mix = torch.randn(channels, channels, generator=draw)
    smooth = F.avg_pool2d(noise, 3, 1)
    return 2 * torch.einsum("nchw,cd->ndhw", smooth, mix) + 0.3


# What they compute


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("fastnet", {"width": 64}, 1_972_792),
        ("fastnet-deep", {"width": 128}, 9_918_776),
        ("fastnet", {"width": 64, "classes": 100}, 1_972_792 + 90 * 256),
        ("fastnet-deep", {"width": 128, "classes": 100}, 9_918_776 + 90 * 512),
        # 8 filters of 4 numbers in place of 24 of 12, and the first convolution after them
        ("fastnet", {"width": 64, "channels": 1}, 1_972_792 - 312 + 40 - 9 * 16 * 64),
    ],
)
def test_parameter_count(name: str, options: dict[str, int], expected: int) -> None:
    net = make_net(name, **{"classes": 10, **options})
    assert sum(p.numel() for p in net.parameters()) == expected


def reference(
    weights: dict[str, Tensor], x: Tensor, *, deep: bool, scale: float, training: bool
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Logits, and in training each norm's batch mean and unbiased variance."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], padding=1)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        if training:
            values = x.transpose(0, 1).flatten(1)
            mean, var = values.mean(1), values.var(1, correction=0)
            seen[name] = mean, values.var(1, correction=1)
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-12).sqrt()
        return x + weights[f"{name}.bias"][:, None, None]

    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    x = gelu(F.conv2d(x, weights["whiten.weight"], weights["whiten.bias"]))
    for group in ("group1", "group2", "group3"):
        pooled = F.max_pool2d(conv(f"{group}.conv1", x), 2)
        first = gelu(norm(f"{group}.norm1", pooled))
        x = gelu(norm(f"{group}.norm2", conv(f"{group}.conv2", first)))
        if deep:
            x = gelu(norm(f"{group}.norm3", conv(f"{group}.conv3", x)) + first)
    return x.amax((2, 3)) @ weights["head.weight"].T * scale, seen


@pytest.mark.parametrize("size", [9, 24, 27, 32])
@pytest.mark.parametrize("scale", [1.0, 1 / 9])
@pytest.mark.parametrize("name", DEEP)
def test_evaluated_they_are_their_formula(name: str, scale: float, size: int) -> None:
    net = lively(name, logit_scale=scale).eval()
    x = correlated(3, size, 3).double()
    expected, _ = reference(net.state_dict(), x, deep=DEEP[name], scale=scale, training=False)
    torch.testing.assert_close(net(x), expected)
    assert expected.std() > 0.01


@pytest.mark.parametrize("size", [16, 19])
@pytest.mark.parametrize(("name", "momentum"), [("fastnet", 0.4), ("fastnet-deep", 0.1)])
def test_trained_they_are_their_formula(name: str, momentum: float, size: int) -> None:
    net = lively(name, logit_scale=1 / 7).train()
    x = correlated(4, size, 3).double()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    expected, seen = reference(before, x, deep=DEEP[name], scale=1 / 7, training=True)
    torch.testing.assert_close(net(x), expected)
    assert len(seen) == (9 if DEEP[name] else 6)
    for at, (mean, var) in seen.items():
        for kind, value in (("running_mean", mean), ("running_var", var)):
            moved = (1 - momentum) * before[f"{at}.{kind}"] + momentum * value
            torch.testing.assert_close(net.state_dict()[f"{at}.{kind}"], moved)


@pytest.mark.parametrize("name", DEEP)
def test_pool_norm_and_gelu_as_one_operation_change_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operation's twin in plain PyTorch takes the place of its kernels here."""
    nets, called = [lively(name).float() for _ in range(2)], []
    x = correlated(4, 19, 3)
    monkeypatch.setattr(blocks, "available", lambda x, activation: True)
    blocks.fuse(nets[1], fused=True)
    pools = {module for module in nets[1].modules() if isinstance(module, nn.MaxPool2d)}
    for pool in pools:
        pool.register_forward_hook(lambda module, inputs, output: called.append(module))
    for net in nets:
        F.cross_entropy(net.train()(x), torch.tensor([0, 1, 2, 3])).backward()
    assert called == []  # the second net went without them
    torch.testing.assert_close(nets[1].state_dict(), nets[0].state_dict(), rtol=1e-4, atol=1e-5)
    for one, other in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) == (not one.requires_grad)
        if one.grad is not None and other.grad is not None:
            assert (one.grad - other.grad).norm() < 1e-2 * other.grad.norm()
    torch.testing.assert_close(nets[1].eval()(x), nets[0].eval()(x), rtol=1e-3, atol=1e-4)
    assert set(called) == pools


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize(
    ("size", "sides"), [(32, [31, 15, 7, 3]), (24, [23, 11, 5, 2]), (9, [8, 4, 2, 1])]
)
def test_sizes_of_the_maps(name: str, size: int, sides: list[int]) -> None:
    """Images smaller than those that the net was built for go through it as they are."""
    net, maps = fastnet(name, width=2, image_size=32), []
    for part in (net.whiten, net.group1, net.group2, net.group3):
        part.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    assert net(torch.randn(2, 3, size, size)).shape == (2, 5)
    assert [tuple(shape[2:]) for shape in maps] == [(side, side) for side in sides]
    assert [shape[1] for shape in maps] == [24, 2, *([6, 8] if DEEP[name] else [8, 8])]


# How they begin


def convolutions(net: FastNet) -> dict[str, nn.Conv2d]:
    found = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    del found["whiten"]
    return found


@pytest.mark.parametrize("width", [6, 40])  # fewer and more than the stem's 24 filters
@pytest.mark.parametrize("name", DEEP)
def test_the_first_filters_are_the_identity_and_the_others_torchs(name: str, width: int) -> None:
    found = convolutions(fastnet(name, width=width))
    assert len(found) == (9 if DEEP[name] else 6)
    for conv in found.values():
        ins, outs = conv.in_channels, conv.out_channels
        x = torch.randn(2, ins, 5, 5)
        assert conv.bias is None
        torch.testing.assert_close(conv(x)[:, :ins], x[:, :outs])
        others = conv.weight[ins:].detach()
        bound = 1 / math.sqrt(9 * ins)  # kaiming_uniform_ with a = √5
        if outs > ins:
            assert others.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            assert others.abs().max() <= bound
    assert any(conv.out_channels > conv.in_channels for conv in found.values())


@pytest.mark.parametrize(("name", "momentum"), [("fastnet", 0.4), ("fastnet-deep", 0.1)])
def test_norms_have_a_bias_that_learns_alone(name: str, momentum: float) -> None:
    net = fastnet(name)
    assert len(norms(net)) == (9 if DEEP[name] else 6)
    for norm in norms(net):
        assert (norm.eps, norm.momentum) == (1e-12, momentum)
        assert not norm.weight.requires_grad
        assert norm.bias.requires_grad
        assert norm.weight.eq(1).all()
        assert not norm.bias.any()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert len(frozen) == 1 + len(norms(net))
    assert "whiten.weight" in frozen


def test_the_head_of_fastnet_has_a_spread_of_one_and_that_of_the_deep_one_torchs() -> None:
    for classes, width in ((2, 1), (10, 64)):
        head = fastnet(classes=classes, width=width).head
        assert head.bias is None
        assert head.weight.std().item() == pytest.approx(1, rel=1e-5)
    deep = fastnet("fastnet-deep", classes=10, width=64).head
    assert deep.bias is None
    assert deep.weight.abs().max().item() == pytest.approx(1 / math.sqrt(256), rel=0.01)
    assert deep.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 256), rel=0.05)


def test_the_stems_bias_begins_as_torchs_or_in_the_deep_one_at_zero() -> None:
    stem, deep = fastnet().whiten, fastnet("fastnet-deep").whiten
    assert stem.bias is not None
    assert deep.bias is not None
    assert stem.bias.requires_grad
    assert deep.bias.requires_grad
    assert 0.1 < stem.bias.abs().max() <= 1 / math.sqrt(12)
    assert not deep.bias.any()


# Whitening


@pytest.mark.parametrize("n", [7, 300])  # 300: more than are looked at together
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_whitened_patches_have_a_diagonal_covariance(channels: int, n: int) -> None:
    images = correlated(n, 9, channels, height=11)
    size = 4 * channels
    filters = whitening_filters(images)
    assert filters.shape == (2 * size, channels, 2, 2)
    assert filters.dtype == torch.float32
    assert torch.equal(filters[size:], -filters[:size])

    patches = F.unfold(images.double(), 2).transpose(1, 2).reshape(-1, size)
    covariance = patches.T @ patches / len(patches)  # about 0, not about the mean
    values = torch.linalg.eigvalsh(covariance).flip(0)
    assert values[0] > 30 * values[-1]
    flat = filters[:size].flatten(1).double()
    whitened = flat @ covariance @ flat.T
    torch.testing.assert_close(whitened, (values / (values + 5e-4)).diag(), rtol=0, atol=1e-4)

    net = make_net("fastnet", classes=2, channels=channels, width=2)
    assert isinstance(net, FastNet)
    net.whiten_(images)
    assert net.whiten.bias is not None
    nn.init.zeros_(net.whiten.bias)
    power = net.whiten(images).detach().double().square().mean((0, 2, 3))
    torch.testing.assert_close(power, whitened.diag().repeat(2), rtol=0, atol=1e-3)


def test_patches_are_taken_from_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images, sizes = correlated(200, 9, 3), []
    patches = fastnet_module._patches
    monkeypatch.setattr(
        fastnet_module, "_patches", lambda some: sizes.append(len(some)) or patches(some)
    )
    whole = whitening_filters(images)
    monkeypatch.setattr(fastnet_module, "_CHUNK_PIXELS", 70 * 9 * 9)
    parts = whitening_filters(images)
    assert sizes == [128, 72, 70, 70, 60]
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_images_that_are_all_alike_have_finite_filters(value: float) -> None:
    filters = whitening_filters(torch.full((3, 3, 9, 9), value))
    assert filters.isfinite().all()
    assert filters.abs().max() <= 1 / math.sqrt(5e-4) + 1e-3
    assert (filters.flatten(1).norm(dim=1) > 0).all()


def test_whitening_moves_nothing_else_and_draws_no_number() -> None:
    net = fastnet()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    net.whiten_(correlated(10, 9, 3))
    changed = {
        key for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"whiten.weight"}
    assert not net.whiten.weight.requires_grad
    assert torch.equal(random, torch.get_rng_state())


def small(name: str, **changes: Any) -> Recipe:
    """A named recipe on 16 px images, all of one size, narrow and in batches of 16."""
    tiny = {
        "model.width": 8,
        "data.image_size": 16,
        "train.batch_size": 16,
        "train.norm_batch": 0,
        "schedule.small_epochs": 0,
        "schedule.small_px": 0,
    }
    return find_recipe(name).with_changes({**tiny, **changes})


def sorted_by_class(per_class: int = 14) -> ImageData:
    """Of each of three classes another channel alone has a picture: images of one class show too
    little to whiten the others."""
    data = make_data(3 * per_class, size=16)
    order = np.argsort(data.train.labels, kind="stable")
    labels, ids = data.train.labels[order], data.train.ids[order]
    images = data.train.images[order]
    images[np.arange(3) != labels[:, None, None, None].repeat(16, 1).repeat(16, 2)] = 90
    pixels = images.reshape(-1, 3) / 255
    train = Split(images, labels, ids)
    return dataclasses.replace(data, train=train, mean=pixels.mean(0), std=pixels.std(0))


def normalized(data: ImageData) -> Tensor:
    pixels = (data.train.images / 255 - data.mean) / data.std
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float()


def stem_of(model: nn.Module) -> Tensor:
    assert isinstance(model, FastNet)
    return model.whiten.weight.detach().clone(memory_format=torch.contiguous_format)


def assert_whitens(filters: Tensor, images: Tensor) -> None:
    """Signs and the order of equal eigenvalues are free; the inverse covariance is not."""
    flat, expected = filters.flatten(1), whitening_filters(images).flatten(1)
    scale = expected.square().sum(1).max().item()
    torch.testing.assert_close(flat.T @ flat, expected.T @ expected, rtol=1e-3, atol=1e-5 * scale)


def test_a_job_whitens_with_images_from_all_over_the_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = sorted_by_class()
    images = normalized(data)
    assert_whitens(stem_of(build_job(small("fast"), data, CPU).state.model), images)

    # 14 images of each class one after the other: every 41/8th from the first to the last
    monkeypatch.setattr(job, "WHITENING_PIXELS", 9 * 16**2)
    few = stem_of(build_job(small("fast"), data, CPU).state.model)
    assert_whitens(few, images[[0, 5, 10, 15, 20, 26, 31, 36, 41]])
    with pytest.raises(AssertionError):
        assert_whitens(few, images[:9])


def test_without_images_the_stem_is_torchs() -> None:
    recipe = small("fast")
    arguments: dict[str, Any] = {"classes": 3, "channels": 3, "steps_per_epoch": 2}
    plain = TrainState.build(recipe, device=CPU.device, **arguments)
    assert stem_of(plain.model).abs().max() <= 1 / math.sqrt(12)
    sample = correlated(30, 16, 3)
    state = TrainState.build(recipe, device=CPU.device, sample=sample, **arguments)
    assert_whitens(stem_of(state.model), sample)
    rest = {key for key, value in plain.model.state_dict().items() if "whiten.weight" not in key}
    assert all(torch.equal(plain.model.state_dict()[k], state.model.state_dict()[k]) for k in rest)


@pytest.mark.parametrize("average", [{"train.ema": 0.9}, {"train.lookahead": 2}, {}], ids=str)
@pytest.mark.parametrize("name", ["fast", "best"])
def test_what_is_evaluated_is_whitened_as_well_and_stays_so(
    name: str, average: dict[str, Any]
) -> None:
    data = sorted_by_class()
    recipe = small(name, **{"train.lookahead": 0, "train.ema": 0.0, **average})
    made = build_job(recipe, data, CPU)
    filters = stem_of(made.state.model)
    assert_whitens(filters, normalized(data))
    assert (made.state.eval_model is not made.state.model) == bool(average)
    assert torch.equal(stem_of(made.state.eval_model), filters)
    train_steps(made, 2)
    assert torch.equal(stem_of(made.state.model), filters)
    assert torch.equal(stem_of(made.state.eval_model), filters)


@pytest.mark.parametrize("name", ["fast", "best"])
def test_a_stored_net_keeps_its_filters(name: str, tmp_path: Path) -> None:
    data, recipe = sorted_by_class(), small(name)
    made = build_job(recipe, data, CPU)
    train_steps(made, 2)
    model = made.state.eval_model.eval()
    (tmp_path / "model.safetensors").write_bytes(model_bytes(model, recipe, data))
    loaded = load_model(tmp_path / "model.safetensors")
    images = normalized(data).contiguous(memory_format=torch.channels_last)
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(stem_of(loaded), stem_of(model))


def test_a_restored_state_has_the_filters_that_were_saved() -> None:
    recipe, data = small("best"), sorted_by_class()
    made = build_job(recipe, data, CPU)
    train_steps(made, 5)
    other = build_job(recipe, make_data(42, size=16), CPU)
    assert not torch.equal(stem_of(other.state.model), stem_of(made.state.model))
    other.state.restore(made.state.snapshot())
    for mine, theirs in (
        (other.state.model, made.state.model),
        (other.state.eval_model, made.state.eval_model),
    ):
        assert torch.equal(stem_of(mine), stem_of(theirs))


# Their recipes


def train_steps(made: Job, steps: int) -> list[float]:
    """The losses of the first steps at the recipe's own rates."""
    losses = []
    for done in range(steps):
        epoch, position = divmod(done, made.steps_per_epoch)
        if position == 0:
            rates = epoch_rates(
                made.state,
                made.recipe,
                made.recipe.schedule,
                epoch=epoch,
                steps=made.steps_per_epoch,
            )
            made.executor.begin(made.plan(epoch), rates)
        made.executor.step(position)
        losses.append(float(made.state.trace.losses[position]))
    return losses


@pytest.mark.parametrize("name", ["fast", "best", "custom-resnet-fast"])
def test_the_fast_recipes_train(name: str) -> None:
    made = build_job(small(name), make_data(40, size=16), CPU)
    before = {key: value.clone() for key, value in made.state.model.state_dict().items()}
    losses = train_steps(made, 3)
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] == pytest.approx(math.log(3), abs=0.5)
    for key, parameter in made.state.model.named_parameters():
        assert parameter.isfinite().all(), key
        assert torch.equal(parameter, before[key]) != parameter.requires_grad, key


@pytest.mark.parametrize("name", ["fast", "best"])
def test_smaller_images_at_first_train_too(name: str) -> None:
    changes = {"schedule.small_epochs": 1, "schedule.small_px": 9}
    made, sizes = build_job(small(name, **changes), make_data(40, size=16), CPU), []
    made.state.model.register_forward_hook(lambda m, inputs, out: sizes.append(inputs[0].shape[-1]))
    assert made.steps_per_epoch == 2
    assert all(math.isfinite(loss) for loss in train_steps(made, 3))
    assert sizes == [9, 9, 16]


def test_the_stem_of_fast_learns_for_three_epochs() -> None:
    """Then it stands still, decay and momentum included."""
    made = build_job(small("fast"), make_data(20, size=16), CPU)
    assert made.steps_per_epoch == 1
    model, biases = made.state.model, []
    assert isinstance(model, FastNet)
    assert model.whiten.bias is not None
    for epoch in range(5):
        rates = epoch_rates(made.state, made.recipe, made.recipe.schedule, epoch=epoch, steps=1)
        made.executor.begin(made.plan(epoch), rates)
        biases.append(model.whiten.bias.detach().clone())
        made.executor.step(0)
    assert not torch.equal(biases[2], biases[3])
    assert torch.equal(biases[3], biases[4])
    assert torch.equal(biases[4], model.whiten.bias)
