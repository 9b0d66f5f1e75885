"""The optimizers are torch's, their state is whole from the start, and the averages are exact."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resight.models import build_net
from resight.optim import Ema, make_optimizer, set_rates
from resight.settings import Adam, Optimizer, Sgd

ALL = [
    Sgd(momentum=0.0),
    Sgd(momentum=0.9),
    Sgd(momentum=0.9, nesterov=True),
    Sgd(momentum=0.9, weight_decay=0.01),
    Sgd(momentum=0.9, weight_decay=0.01, nesterov=True, decay="weights"),
    Adam(),
    Adam(weight_decay=0.01),
    Adam(weight_decay=0.01, decay="weights", beta1=0.8, beta2=0.95, eps=1e-5),
    Adam(name="adamw"),
    Adam(name="adamw", weight_decay=0.1),
    Adam(name="adamw", weight_decay=0.1, decay="weights"),
]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.Flatten(), nn.Linear(24, 5)
    )


def gradients(model: nn.Module, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator) for p in model.parameters()]


def give(model: nn.Module, grads: list[Tensor]) -> None:
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        parameter.grad = grad.clone()


def torchs(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The plain one, written out anew: one parameter after the other, no fused kernel."""
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": settings.weight_decay}]
    if settings.decay == "weights":
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        groups[0]["weight_decay"] = settings.weight_decay
    plain: Any = {"lr": 0.0, "foreach": False, "fused": False}
    if isinstance(settings, Sgd):
        return torch.optim.SGD(
            groups, momentum=settings.momentum, nesterov=settings.nesterov, **plain
        )
    betas = (settings.beta1, settings.beta2)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.name]
    return kind(groups, betas=betas, eps=settings.eps, **plain)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_ten_steps_are_those_of_torchs_plain_optimizer(settings: Optimizer) -> None:
    mine, theirs = net(), net()
    optimizer, reference = make_optimizer(mine, settings), torchs(theirs, settings)
    tolerance = 1e-7 if isinstance(settings, Sgd) else 1e-6
    for step in range(10):
        grads = gradients(mine, step)
        give(mine, grads)
        give(theirs, grads)
        set_rates(optimizer, 0.05 / (step + 1), None)
        for group in reference.param_groups:
            group["lr"] = 0.05 / (step + 1)
        optimizer.step()
        reference.step()

        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_making_one_leaves_weights_and_gradients_as_they_were(settings: Optimizer) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(model, settings)

    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [0.0] * len(optimizer.param_groups)


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_the_state_is_there_from_the_start_and_zero(settings: Optimizer) -> None:
    model = net()
    optimizer = make_optimizer(model, settings)
    names = {"step", "exp_avg", "exp_avg_sq"}
    if isinstance(settings, Sgd):
        names = {"momentum_buffer"} if settings.momentum else set()

    for parameter in model.parameters():
        state = optimizer.state[parameter]
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        assert set(tensors) == names
        assert all(not value.any() for value in tensors.values())
        assert all(
            value.shape == parameter.shape for key, value in tensors.items() if key != "step"
        )


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_no_step_adds_to_the_state(settings: Optimizer) -> None:
    """Else a snapshot of the start could not hold what a later one does."""
    model = net()
    optimizer = make_optimizer(model, settings)
    before = {i: set(state) for i, state in optimizer.state_dict()["state"].items()}
    pointers = [t.data_ptr() for s in optimizer.state.values() for t in s.values() if t is not None]
    give(model, gradients(model, 0))
    set_rates(optimizer, 0.1, None)
    optimizer.step()

    after = {i: set(state) for i, state in optimizer.state_dict()["state"].items()}
    assert after == before
    assert pointers == [
        t.data_ptr() for s in optimizer.state.values() for t in s.values() if t is not None
    ]


def test_a_momentum_that_is_cycled_up_from_zero_has_its_state_from_the_start() -> None:
    model, theirs = net(), net()
    optimizer = make_optimizer(model, Sgd(momentum=0.0, cycle_momentum=True))
    reference = torchs(theirs, Sgd(momentum=0.9))

    assert all(
        isinstance(optimizer.state[p].get("momentum_buffer"), Tensor) for p in model.parameters()
    )
    for step in range(3):
        for each in (model, theirs):
            give(each, gradients(each, step))
        set_rates(optimizer, 0.1, 0.9)
        set_rates(reference, 0.1, 0.9)
        optimizer.step()
        reference.step()
    for one, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_only_what_is_trained_is_optimized() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    optimizer = make_optimizer(model, Sgd())

    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(owned) == 7


@pytest.mark.parametrize("kind", [Sgd(weight_decay=0.1), Adam(weight_decay=0.1)], ids=repr)
def test_decay_all_takes_everything(kind: Optimizer) -> None:
    groups = make_optimizer(net(), kind).param_groups

    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(8, 0.1)]


@pytest.mark.parametrize("kind", [Sgd, Adam])
def test_decay_weights_spares_biases_and_norms(kind: type[Sgd] | type[Adam]) -> None:
    model = build_net("custom-resnet", classes=3, image_size=8, width=8, conv_bias=True)
    groups = make_optimizer(model, kind(weight_decay=0.1, decay="weights")).param_groups
    kinds = (nn.Conv2d, nn.Linear)
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, kinds)}
    spared = {id(p) for p in model.parameters()} - decayed

    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert {id(p) for p in groups[0]["params"]} == decayed
    assert {id(p) for p in groups[1]["params"]} == spared
    assert len(spared) == sum(
        len(list(m.parameters())) for m in model.modules() if isinstance(m, nn.BatchNorm2d)
    ) + sum(1 for m in model.modules() if isinstance(m, kinds) and m.bias is not None)


def test_spared_parameters_do_not_shrink() -> None:
    model = net()
    optimizer = make_optimizer(model, Sgd(weight_decay=0.5, momentum=0.0, decay="weights"))
    before = weights(model)
    give(model, [torch.zeros_like(p) for p in model.parameters()])
    set_rates(optimizer, 0.1, None)
    optimizer.step()

    for old, new in zip(before, model.parameters(), strict=True):
        factor = 0.95 if old.ndim > 1 else 1.0
        torch.testing.assert_close(new, old * factor, rtol=1e-6, atol=0)


def test_rates_are_set_in_every_group() -> None:
    sgd = make_optimizer(net(), Sgd(weight_decay=0.1, decay="weights"))
    adam = make_optimizer(net(), Adam(weight_decay=0.1, decay="weights", beta2=0.9))
    for optimizer in (sgd, adam):
        set_rates(optimizer, 0.3, None)
        assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]
    assert [group["momentum"] for group in sgd.param_groups] == [0.9, 0.9]
    assert [group["betas"] for group in adam.param_groups] == [(0.9, 0.9)] * 2

    for optimizer in (sgd, adam):
        set_rates(optimizer, 0.2, 0.85)
    assert [group["momentum"] for group in sgd.param_groups] == [0.85, 0.85]
    assert [group["betas"] for group in adam.param_groups] == [(0.85, 0.9)] * 2
    assert "momentum" not in adam.param_groups[0]


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_averages_are_those_by_hand(decay: float) -> None:
    model = net()
    ema = Ema(model, decay)
    by_hand = {
        key: value.double().numpy().copy()
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    for step in range(30):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        model(torch.randn(4, 3, 4, 4, generator=generator))  # moves the batch norm's buffers
        ema.update(model, step)
        kept = min(decay, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            if key in by_hand:
                by_hand[key] = kept * by_hand[key] + (1 - kept) * value.double().numpy()

    averages = ema.model.state_dict()
    assert {"1.running_mean", "1.running_var"} < set(by_hand)
    for key, expected in by_hand.items():
        np.testing.assert_allclose(averages[key].numpy(), expected, rtol=1e-5, atol=1e-5)
    assert int(averages["1.num_batches_tracked"]) == 30
    assert averages["1.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize(
    ("step", "decay", "kept"),
    [(0, 0.999, 0.1), (1, 0.999, 2 / 11), (8, 0.999, 0.5), (0, 0.05, 0.05), (10**6, 0.9, 0.9)],
)
def test_the_decay_warms_up(step: int, decay: float, kept: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = Ema(model, decay)
    with torch.no_grad():
        model.weight.fill_(0.0)
    ema.update(model, step)

    assert ema.model.weight.item() == pytest.approx(kept, rel=1e-6)


def test_averages_are_a_copy_that_no_gradient_reaches() -> None:
    model = net()
    ema = Ema(model, 0.9)
    before = weights(model)

    assert all(not p.requires_grad for p in ema.model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    ema.update(net(seed=1), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    first = next(iter(ema.model.parameters()))
    assert not torch.equal(first, before[0])
