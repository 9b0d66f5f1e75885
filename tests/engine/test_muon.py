"""Muon's steps are those of a plain loop over matrices, and its SGD is torch's."""

from __future__ import annotations

import functools
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replaying import NothingRead
from resight.engine import muon
from resight.engine.muon import Muon, newton_schulz
from resight.engine.optim import group_rates, make_optimizer, set_rates, use_tensor_rates
from resight.engine.state import Trace, TrainState
from resight.recipe.settings import Muon as Settings

SHAPES = [(8, 3, 3, 3), (8, 8, 3, 3), (12, 8, 3, 3), (8, 8, 3, 3), (16, 2, 1, 1), (4, 72, 1, 1)]


def plain_newton_schulz(u: Tensor, steps: int) -> Tensor:
    """One matrix, in its own dtype, operation by operation."""
    x = u / (u.float().norm().to(u.dtype) + 1e-7)
    if len(x) > x.shape[1]:
        x = x.T
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.T if len(u) > u.shape[1] else x


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(seed: int = 0) -> list[nn.Parameter]:
    return [nn.Parameter(draw(*shape, seed=seed + i)) for i, shape in enumerate(SHAPES)]


def give(parameters: list[nn.Parameter], step: int) -> None:
    for i, parameter in enumerate(parameters):
        parameter.grad = draw(*parameter.shape, seed=1000 * (step + 1) + i)


class Net(nn.Module):
    """A stem, convolutions of which two are alike, norms, a head with a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.whiten = nn.Conv2d(3, 8, 2)
        self.whiten.weight.requires_grad_(False)
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 12, 3, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2(self.conv1(self.whiten(x)).relu()))
        logits: Tensor = self.head(self.norm(x).relu().mean((2, 3)))
        return logits


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, lr: float) -> None:
    images, labels = draw(8, 3, 8, 8, seed=step), torch.arange(8) % 5
    nn.functional.cross_entropy(model(images), labels).backward()
    set_rates(optimizer, group_rates(optimizer, lr), None)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("shape", [(7, 7), (6, 27), (27, 6), (1, 9), (9, 1)])
def test_newton_schulz_is_a_plain_loop(shape: tuple[int, int], steps: int) -> None:
    stacked = torch.stack([draw(*shape, seed=seed) * 10.0**seed for seed in range(3)])
    made = newton_schulz(stacked, steps, torch.float32)

    assert made.shape == stacked.shape
    for u, x in zip(stacked, made, strict=True):
        torch.testing.assert_close(x, plain_newton_schulz(u, steps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (16, 72), (72, 16)])
def test_newton_schulz_in_bf16_is_the_loop_but_for_rounding(shape: tuple[int, int]) -> None:
    stacked = torch.stack([draw(*shape, seed=seed) for seed in range(3)])
    made = newton_schulz(stacked, 3)

    assert made.dtype == torch.bfloat16
    for u, x in zip(stacked, made, strict=True):
        in_bf16 = plain_newton_schulz(u.bfloat16(), 3).float()
        exact = plain_newton_schulz(u.double(), 3).float()
        assert (x.float() - in_bf16).norm() < 0.03 * in_bf16.norm()
        assert (x.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 27), (27, 6)])
def test_a_batch_is_what_its_matrices_are_one_by_one(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    stacked = torch.stack([draw(*shape, seed=seed) for seed in range(4)])
    one_by_one = torch.cat([newton_schulz(u[None], 3, dtype) for u in stacked])
    tolerance = 1e-5 if dtype == torch.float32 else 0.02

    torch.testing.assert_close(
        newton_schulz(stacked, 3, dtype), one_by_one, rtol=tolerance, atol=tolerance
    )


def test_three_steps_level_singular_values_and_keep_vectors() -> None:
    left, right = torch.linalg.qr(draw(10, 10))[0], torch.linalg.qr(draw(30, 10, seed=1))[0]
    values = torch.linspace(0.02, 0.4, 10)
    values[-1] = (1 - values[:-1].square().sum()).sqrt()  # a norm of 1
    made = newton_schulz((left * values @ right.T)[None], 3, torch.float32)[0]
    core = left.T @ made @ right

    assert (core - core.diag().diag()).abs().max() < 1e-5
    assert 0.68 < float(core.diag().min()) < float(core.diag().max()) < 1.21


def test_newton_schulz_of_zeros_is_zeros() -> None:
    assert torch.equal(newton_schulz(torch.zeros(2, 3, 4), 3).float(), torch.zeros(2, 3, 4))


def plain_muon(
    parameters: list[nn.Parameter], buffers: list[Tensor], lr: float, momentum: float, steps: int
) -> None:
    for parameter, buffer in zip(parameters, buffers, strict=True):
        weight, gradient = parameter.data, parameter.grad
        assert gradient is not None
        weight.mul_(math.sqrt(len(weight)) / weight.norm())
        buffer.mul_(momentum).add_(gradient)
        u = (gradient + momentum * buffer).reshape(len(weight), -1)
        weight.sub_(lr * plain_newton_schulz(u, steps).reshape(weight.shape))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("momentum", "steps"), [(0.0, 3), (0.6, 3), (0.9, 2)])
def test_five_steps_are_those_of_a_plain_loop(
    monkeypatch: pytest.MonkeyPatch,
    memory_format: torch.memory_format,
    momentum: float,
    steps: int,
) -> None:
    monkeypatch.setattr(
        muon, "newton_schulz", functools.partial(newton_schulz, dtype=torch.float32)
    )
    mine, theirs = weights(), weights()
    for parameter in mine:
        parameter.data = parameter.data.to(memory_format=memory_format)
    optimizer = Muon([{"params": mine, "momentum": momentum, "newton_schulz_steps": steps}])
    buffers = [torch.zeros_like(p) for p in theirs]
    for step in range(5):
        lr = 0.2 / (step + 1)
        give(mine, step)
        give(theirs, step)
        set_rates(optimizer, [lr], None)
        optimizer.step()
        plain_muon(theirs, buffers, lr, momentum, steps)

        for one, other, buffer in zip(mine, theirs, buffers, strict=True):
            torch.testing.assert_close(one.data, other.data, rtol=1e-4, atol=2e-5)
            held = optimizer.state[one]["momentum_buffer"]
            torch.testing.assert_close(held, buffer, rtol=1e-6, atol=1e-6)


def test_a_step_in_bf16_is_near_the_exact_one() -> None:
    mine, theirs = weights(), weights()
    optimizer = Muon([{"params": mine}])
    give(mine, 0)
    give(theirs, 0)
    set_rates(optimizer, [0.1], None)
    optimizer.step()
    plain_muon(theirs, [torch.zeros_like(p) for p in theirs], 0.1, 0.6, 3)

    for one, other in zip(mine, theirs, strict=True):
        moved = 0.1 * math.sqrt(min(len(one), one[0].numel()))
        assert (one - other).norm() < 0.03 * moved


def test_each_weight_has_the_norm_of_its_outputs_before_it_moves() -> None:
    parameters = weights()
    before = [p.detach().clone() for p in parameters]
    optimizer = Muon([{"params": parameters}])
    give(parameters, 0)
    optimizer.step()  # at an LR of 0

    for old, new in zip(before, parameters, strict=True):
        expected = old * (math.sqrt(len(old)) / old.norm())
        torch.testing.assert_close(new.data, expected, rtol=1e-6, atol=1e-6)
        assert float(new.data.norm()) == pytest.approx(math.sqrt(len(new)), rel=1e-6)


def test_a_weight_of_zeros_is_no_accident() -> None:
    weight = nn.Parameter(torch.zeros(4, 2, 3, 3))
    optimizer = Muon([{"params": [weight]}])
    give([weight], 0)
    set_rates(optimizer, [0.1], None)
    optimizer.step()

    assert torch.isfinite(weight).all()
    assert weight.any()


@pytest.mark.parametrize("momentum", [0.0, 0.85])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_groups_of_sgd_are_torchs_bit_for_bit(momentum: float, decay: float) -> None:
    mine, fused, plain = ([nn.Parameter(draw(6, 5)), nn.Parameter(draw(6))] for _ in range(3))
    keys: dict[str, Any] = {"momentum": momentum, "weight_decay": decay}
    optimizer = Muon([{"params": mine, "kind": "sgd", **keys}])
    references = [
        torch.optim.SGD(fused, lr=0.1, nesterov=momentum > 0, fused=True, **keys),
        torch.optim.SGD(plain, lr=0.1, nesterov=momentum > 0, foreach=False, **keys),
    ]
    set_rates(optimizer, [0.1], None)
    for step in range(5):
        for each in (mine, fused, plain):
            give(each, step)
        for one in (optimizer, *references):
            one.step()

        for a, b, c in zip(mine, fused, plain, strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, c, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["muon", "sgd"])
def test_what_has_no_gradient_stays(kind: str) -> None:
    parameters = weights()
    optimizer = Muon([{"params": parameters, "kind": kind}])
    set_rates(optimizer, [0.1], None)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, weights(), strict=True))

    give(parameters[:1], 0)
    optimizer.step()
    same = [torch.equal(a, b) for a, b in zip(parameters, weights(), strict=True)]
    assert same == [False] + [True] * (len(SHAPES) - 1)


def test_an_lr_on_the_device_is_not_read_and_gives_the_same() -> None:
    nets = [Net(), Net()]
    plain, captured = (make_optimizer(n, Settings(name="muon", weight_decay=1e-3)) for n in nets)
    use_tensor_rates(captured, torch.device("cpu"))
    rates = [group["lr"] for group in captured.param_groups]
    for step in range(4):
        images, labels = draw(8, 3, 8, 8, seed=step), torch.arange(8) % 5
        for model, optimizer in zip(nets, (plain, captured), strict=True):
            nn.functional.cross_entropy(model(images), labels).backward()
            set_rates(optimizer, [1e-3 * (step + 1)] * 4, None)
        plain.step()
        with NothingRead():
            captured.step()
        for optimizer in (plain, captured):
            optimizer.zero_grad(set_to_none=True)
        for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert all(a is b["lr"] for a, b in zip(rates, captured.param_groups, strict=True))


def test_momentum_is_fp32_and_there_from_the_start() -> None:
    parameters = [nn.Parameter(p.detach().bfloat16()) for p in weights()]
    optimizer = Muon([{"params": parameters}])
    held = [optimizer.state[p]["momentum_buffer"] for p in parameters]
    assert all(m.dtype == torch.float32 and not m.any() for m in held)

    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    set_rates(optimizer, [0.1], None)
    optimizer.step()
    assert [optimizer.state[p]["momentum_buffer"].data_ptr() for p in parameters] == [
        m.data_ptr() for m in held
    ]
    assert all(torch.equal(m, torch.ones_like(m)) for m in held)


def state_of(model: nn.Module) -> TrainState:
    optimizer = make_optimizer(model, Settings(name="muon", weight_decay=1e-3))
    return TrainState(model, optimizer, None, Trace.empty(1, torch.device("cpu")))


def test_a_restored_snapshot_goes_on_bit_for_bit() -> None:
    """Also one that was written, read without pickle's freedom, and put into another net."""
    state = state_of(Net())
    for step in range(2):
        learn(state.model, state.optimizer, step, 1e-3)
    saved = state.snapshot()
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)

    ends = []
    other = state_of(Net())
    learn(other.model, other.optimizer, 9, 1e-2)
    for one, snapshot in ((state, saved), (state, saved), (other, read)):
        one.restore(snapshot)
        for step in range(2, 5):
            learn(one.model, one.optimizer, step, 1e-3)
        ends.append(one.snapshot())
    for end in ends[1:]:
        for key, value in ends[0]["model"].items():
            assert torch.equal(end["model"][key], value), key
        for index, tensors in ends[0]["optimizer"]["state"].items():
            held = end["optimizer"]["state"][index]["momentum_buffer"]
            assert torch.equal(held, tensors["momentum_buffer"])
    assert not torch.equal(ends[0]["model"]["conv1.weight"], saved["model"]["conv1.weight"])
    assert ends[0]["optimizer"]["param_groups"] == ends[2]["optimizer"]["param_groups"]


def test_it_learns() -> None:
    model = Net()
    optimizer = make_optimizer(model, Settings(name="muon", bias_lr_scale=1.0, head_lr_scale=1.0))
    images, labels = draw(40, 3, 8, 8), torch.arange(40) % 5
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        set_rates(optimizer, group_rates(optimizer, 0.05), None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())

    assert losses[-1] < 0.5 * losses[0]
