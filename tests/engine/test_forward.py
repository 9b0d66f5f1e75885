"""Test-time augmentation against a plain loop, and recorded passes against passes as they come."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from helpers import make_data, make_net
from replaying import CUDA, Replay
from resight.data.batches import DeviceSplit
from resight.engine import forward as passes
from resight.engine.forward import VIEWS, Forwards, Views, eager, logits_of, predict
from resight.engine.job import place
from resight.engine.runtime import Runtime
from resight.errors import ResightWarning

TTAS = get_args(Views)


def cpu(precision: str = "fp32") -> Runtime:
    return Runtime.choose("cpu", precision, threads=1)


def net(seed: int = 0) -> nn.Module:
    """custom-resnet with statistics and scales as if it had been trained."""
    torch.manual_seed(seed)
    model = make_net("custom-resnet", classes=3, channels=3, image_size=8, width=8)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.normal_(1.0, 0.3)
                module.bias.normal_(std=0.3)
    return model.to(memory_format=torch.channels_last).eval()


def split_of(n: int, runtime: Runtime | None = None) -> DeviceSplit:
    return place(make_data(n_test=n), "test", runtime or cpu())


def pixel_weights(height: int, width: int) -> Tensor:
    """No two pixels weigh the same, so that no move or mirror of an image goes unseen."""
    return torch.arange(1.0, height * width + 1).reshape(height, width).sqrt()


class Weighing(nn.Module):
    """Logits that tell where each pixel is: sums over the map, by channel."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * pixel_weights(*x.shape[2:])).sum((2, 3))


def reference(model: nn.Module, images: Tensor, tta: Views) -> Tensor:
    """Pixel by pixel: views with their shares, the edge reflected without being repeated."""
    mirrored = [(False, 1.0)] if tta == "none" else [(False, 0.5), (True, 0.5)]
    moves = [((0, 0), 0.5), ((-1, -1), 0.25), ((1, 1), 0.25)]
    if tta != "flip-shift":
        moves = [((0, 0), 1.0)]
    height, width = images.shape[2:]
    total = 0
    for (down, right), share in moves:
        for mirror, half in mirrored:
            view = torch.empty_like(images)
            for row in range(height):
                for column in range(width):
                    from_row, from_column = abs(row - down), abs(column - right)
                    from_row = min(from_row, 2 * (height - 1) - from_row)
                    from_column = min(from_column, 2 * (width - 1) - from_column)
                    to = width - 1 - column if mirror else column
                    view[:, :, row, to] = images[:, :, from_row, from_column]
            total = total + share * half * model(view)
    return total


@torch.no_grad()
@pytest.mark.parametrize("tta", TTAS)
@pytest.mark.parametrize("make", [Weighing, net], ids=["weights of pixels", "custom-resnet"])
def test_logits_are_the_mean_over_the_views(tta: Views, make: Callable[[], nn.Module]) -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = make()
    expected = reference(model, images, tta)
    assert torch.allclose(logits_of(model, images, tta), expected, rtol=1e-5, atol=1e-5)
    others = [reference(model, images, other) for other in TTAS if other != tta]
    assert not any(torch.allclose(expected, other, rtol=1e-3) for other in others)


@torch.no_grad()
def test_flip_shift_is_what_airbench_does() -> None:
    """`infer_mirror_translate` of airbench94, in its words."""
    images = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(2))

    def mirror(x: Tensor) -> Tensor:
        return 0.5 * Weighing()(x) + 0.5 * Weighing()(x.flip(-1))

    padded = pad(images, (1, 1, 1, 1), "reflect")
    moved = torch.stack([mirror(padded[:, :, 0:9, 0:7]), mirror(padded[:, :, 2:11, 2:9])])
    expected = 0.5 * mirror(images) + 0.5 * moved.mean(0)
    assert torch.allclose(logits_of(Weighing(), images, "flip-shift"), expected, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("tta", TTAS)
def test_the_views_are_as_many_as_said(tta: Views) -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return x.mean((2, 3))

    logits_of(Counting(), torch.zeros(5, 3, 8, 8), tta)
    assert sum(seen) == VIEWS[tta] * 5


@torch.no_grad()
def test_logits_are_float32_under_bf16() -> None:
    forward = eager(net(), split_of(6), cpu("bf16"), "flip-shift")
    exact = eager(net(), split_of(6), cpu(), "flip-shift")
    assert forward(0, 6).dtype == torch.float32
    assert not torch.equal(forward(0, 6), exact(0, 6))
    assert torch.allclose(forward(0, 6), exact(0, 6), atol=0.1)


@pytest.mark.parametrize("tta", TTAS)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 24, 30])
def test_replayed_passes_are_those_as_they_come(
    monkeypatch: pytest.MonkeyPatch, tta: Views, n: int
) -> None:
    """Of each batch, the rest too."""
    monkeypatch.setattr(passes, "EVAL_PIXELS_CPU", 8 * 8**2)
    model, split, graphs = net(), split_of(n), Replay()
    forwards = Forwards(cpu(), graphs)
    expected = predict(model, split, cpu(), tta=tta)
    for _ in range(2):
        assert torch.equal(predict(model, split, cpu(), tta=tta, forwards=forwards), expected)
    assert graphs.recorded == (n >= 8) + bool(n % 8)
    assert graphs.replayed == 2 * -(-n // 8)


@torch.no_grad()
def test_replayed_passes_are_of_the_weights_as_they_are_now() -> None:
    model, other, split = net(), net(seed=1), split_of(8)
    forward = Forwards(cpu(), Replay()).of(model, split, "flip")
    before = forward(0, 8)
    for tensor, value in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        tensor.copy_(value)
    assert torch.equal(forward(0, 8), eager(other, split, cpu(), "flip")(0, 8))
    assert not torch.allclose(forward(0, 8), before)


@torch.no_grad()
def test_logits_outlive_the_next_pass() -> None:
    split = split_of(16)
    forward, plain = Forwards(cpu(), Replay()).of(net(), split, "none"), None
    plain = eager(net(), split, cpu(), "none")
    first, second = forward(0, 8), forward(8, 16)
    assert torch.equal(first, plain(0, 8))
    assert torch.equal(second, plain(8, 16))


@torch.no_grad()
def test_models_splits_and_views_are_told_apart() -> None:
    models, splits, graphs = (net(), net(seed=1)), (split_of(8), split_of(9)), Replay()
    forwards = Forwards(cpu(), graphs)
    for _ in range(2):
        for model in models:
            for split in splits:
                for tta in TTAS:
                    mine = forwards.of(model, split, tta)(1, 8)
                    assert torch.equal(mine, eager(model, split, cpu(), tta)(1, 8))
    assert graphs.recorded == 2 * 2 * 3


@torch.no_grad()
def test_what_is_recorded_is_kept_alive() -> None:
    """Else another model could take its place in memory, and be given its logits."""
    forwards, model, split = Forwards(cpu(), Replay()), net(), split_of(8)
    forwards.of(model, split, "none")(0, 8)
    held = weakref.ref(model), weakref.ref(split)
    del model, split
    gc.collect()
    assert all(reference() is not None for reference in held)


@pytest.mark.parametrize("place", ["warm_up", "record"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "at the rest"])
def test_where_no_recording_succeeds_passes_are_run_as_they_come(
    monkeypatch: pytest.MonkeyPatch, place: str, late: bool
) -> None:
    monkeypatch.setattr(passes, "EVAL_PIXELS_CPU", 8 * 8**2)
    graphs, calls = Replay(), []
    right = getattr(graphs, place)

    def refuse(body: Callable[[], None]) -> Any:
        calls.append(place)
        if late and len(calls) == 1:
            return right(body)
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 3 GiB")

    monkeypatch.setattr(graphs, place, refuse)
    model, split, forwards = net(), split_of(20), Forwards(cpu(), graphs)
    expected = predict(model, split, cpu(), tta="flip")
    with pytest.warns(
        ResightWarning, match=r"could not be captured .*\(CUDA out of memory\.\)"
    ) as w:
        first = predict(model, split, cpu(), tta="flip", forwards=forwards)
    assert len(w) == 1
    assert torch.equal(first, expected)
    assert torch.equal(predict(model, split, cpu(), tta="flip", forwards=forwards), expected)
    assert len(calls) == 1 + late


def test_the_models_mode_is_given_back() -> None:
    model, forwards = net().train(), Forwards(cpu(), Replay())
    before = [buffer.clone() for buffer in model.buffers()]
    predict(model, split_of(8), cpu(), forwards=forwards)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


@CUDA
@pytest.mark.parametrize("tta", TTAS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_replayed_passes_are_those_as_they_come(
    monkeypatch: pytest.MonkeyPatch, tta: Views, precision: str
) -> None:
    monkeypatch.setattr(passes, "EVAL_PIXELS_CUDA", 16 * 8**2)
    runtime = Runtime.choose("cuda", precision)
    model, split = net().to("cuda"), split_of(40, runtime)
    forwards = Forwards(runtime)
    for seed in range(3):
        with torch.no_grad():
            for mine, theirs in zip(
                model.state_dict().values(), net(seed).state_dict().values(), strict=True
            ):
                mine.copy_(theirs)
        expected = predict(model, split, runtime, tta=tta)
        replayed = predict(model, split, runtime, tta=tta, forwards=forwards)
        tolerance = 1e-3 if precision == "fp32" else 5e-2
        np.testing.assert_allclose(replayed, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("captured", [False, True])
def test_only_unsure_images_are_seen_six_times(
    captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself: an image's logits do not depend on the others."""
    monkeypatch.setattr(passes, "EVAL_PIXELS_CPU", 7 * 8**2)
    model, split = net(), split_of(30)
    forwards = Forwards(cpu(), Replay()) if captured else None
    once = predict(model, split, cpu())
    six = predict(model, split, cpu(), tta="flip-shift")
    sure = once.softmax(1).amax(1)
    monkeypatch.setattr(passes, "UNSURE", float(sure.median()) + 1e-6)
    unsure = sure < passes.UNSURE
    assert int(unsure.sum()) == 15
    mixed = predict(model, split, cpu(), tta="flip-shift-unsure", forwards=forwards)
    assert torch.equal(mixed[~unsure], once[~unsure])
    assert torch.allclose(mixed[unsure], six[unsure], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(once[unsure], six[unsure], rtol=1e-4, atol=1e-4)
    alone = split.at(torch.tensor([4]))
    single = predict(model, alone, cpu(), tta="flip-shift-unsure")
    assert torch.allclose(single, mixed[4:5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scale", "views"), [(1000.0, 1), (0.0, 7)])
def test_where_all_or_none_are_sure(scale: float, views: int) -> None:
    seen: list[int] = []

    class Sure(Weighing):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return torch.eye(3, device=x.device)[[0] * len(x)] * scale

    logits = predict(Sure(), split_of(9), cpu(), tta="flip-shift-unsure")
    assert sum(seen) == views * 9
    assert logits.shape == (9, 3)
