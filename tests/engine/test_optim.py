"""The optimizers are torch's, their state is whole from the start, groups hold what they say."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import make_net
from resight.engine.optim import (
    group_rates,
    make_optimizer,
    set_rates,
    set_tensor_rates,
    use_tensor_rates,
)
from resight.recipe.settings import Adam, Muon, Optimizer, Sgd

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
MUON = Muon(name="muon", weight_decay=0.01)


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


def set_all(optimizer: torch.optim.Optimizer, rate: float, momentum: float | None = None) -> None:
    set_rates(optimizer, [rate] * len(optimizer.param_groups), momentum)


class Stemmed(nn.Module):
    """What fastnet has, and more: a stem, norms with and without a scale to learn, biases."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.whiten = nn.Conv2d(3, 8, 2)
        self.whiten.weight.requires_grad_(False)
        self.conv1, self.norm1 = nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6)
        self.norm1.weight.requires_grad_(False)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 1, bias=False), nn.GroupNorm(2, 6)
        self.norm3 = nn.BatchNorm2d(6, affine=False)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(self.whiten(x))).relu()
        x = self.norm2(self.norm3(self.conv2(x)))
        logits: Tensor = self.head(x.relu().mean((2, 3)))
        return logits


def described(model: nn.Module, settings: Optimizer) -> list[tuple[list[str], float, float, bool]]:
    """Of each group: the names of its parameters, LR scale, decay, stem."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [
        (
            [names[id(p)] for p in group["params"]],
            group["lr_scale"],
            group["weight_decay"],
            group["stem"],
        )
        for group in make_optimizer(model, settings).param_groups
    ]


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
        set_all(optimizer, 0.05 / (step + 1))
        for group in reference.param_groups:
            group["lr"] = 0.05 / (step + 1)
        optimizer.step()
        reference.step()

        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("settings", [*ALL, MUON], ids=repr)
def test_making_one_leaves_weights_and_gradients_as_they_were(settings: Optimizer) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(model, settings)

    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [0.0] * len(optimizer.param_groups)


@pytest.mark.parametrize("settings", [*ALL, MUON], ids=repr)
def test_the_state_is_there_from_the_start_and_zero(settings: Optimizer) -> None:
    model = net()
    optimizer = make_optimizer(model, settings)
    names = {"momentum_buffer"} if settings == MUON else {"step", "exp_avg", "exp_avg_sq"}
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


@pytest.mark.parametrize("settings", [*ALL, MUON], ids=repr)
def test_no_step_adds_to_the_state(settings: Optimizer) -> None:
    """Else a snapshot of the start could not hold what a later one does."""
    model = net()
    optimizer = make_optimizer(model, settings)
    before = {i: set(state) for i, state in optimizer.state_dict()["state"].items()}
    pointers = [t.data_ptr() for s in optimizer.state.values() for t in s.values() if t is not None]
    give(model, gradients(model, 0))
    set_all(optimizer, 0.1)
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
        set_all(optimizer, 0.1, 0.9)
        set_all(reference, 0.1, 0.9)
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
    model = make_net("custom-resnet", classes=3, image_size=8, width=8, conv_bias=True)
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
    set_all(optimizer, 0.1)
    optimizer.step()

    for old, new in zip(before, model.parameters(), strict=True):
        factor = 0.95 if old.ndim > 1 else 1.0
        torch.testing.assert_close(new, old * factor, rtol=1e-6, atol=0)


def test_rates_are_set_in_every_group() -> None:
    sgd = make_optimizer(net(), Sgd(weight_decay=0.1, decay="weights"))
    adam = make_optimizer(net(), Adam(weight_decay=0.1, decay="weights", beta2=0.9))
    for optimizer in (sgd, adam):
        set_rates(optimizer, [0.3, 0.4], None)
        assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.4]
    assert [group["momentum"] for group in sgd.param_groups] == [0.9, 0.9]
    assert [group["betas"] for group in adam.param_groups] == [(0.9, 0.9)] * 2

    for optimizer in (sgd, adam):
        set_all(optimizer, 0.2, 0.85)
    assert [group["momentum"] for group in sgd.param_groups] == [0.85, 0.85]
    assert [group["betas"] for group in adam.param_groups] == [(0.85, 0.9)] * 2
    assert "momentum" not in adam.param_groups[0]


@pytest.mark.parametrize("settings", [Sgd(), Adam(), Adam(name="adamw")], ids=repr)
def test_without_a_stem_and_scales_groups_are_what_old_checkpoints_hold(
    settings: Optimizer,
) -> None:
    everything = [name for name, _ in net().named_parameters()]
    assert described(net(), settings) == [(everything, 1.0, 0.0, False)]

    spared = settings.model_copy(update={"decay": "weights", "weight_decay": 0.1})
    assert described(net(), spared) == [
        (["0.weight", "4.weight"], 1.0, 0.1, False),
        (["0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "4.bias"], 1.0, 0.0, False),
    ]


MAIN = ["conv1.weight", "conv1.bias", "conv2.weight", "norm2.weight", "head.weight", "head.bias"]
NORM_BIASES = ["norm1.bias", "norm2.bias"]
STEM = ["whiten.bias"]


@pytest.mark.parametrize("kind", [Sgd, Adam])
def test_the_stem_has_a_group_of_its_own(kind: type[Sgd] | type[Adam]) -> None:
    rest = [*MAIN[:2], "norm1.bias", *MAIN[2:4], "norm2.bias", *MAIN[4:]]

    assert described(Stemmed(), kind(weight_decay=0.1)) == [
        (rest, 1.0, 0.1, False),
        (STEM, 1.0, 0.1, True),
    ]
    assert described(Stemmed(), kind(weight_decay=0.1, decay="weights")) == [
        (["conv1.weight", "conv2.weight", "head.weight"], 1.0, 0.1, False),
        ([name for name in rest if "conv1.bias" in name or "norm" in name or name == "head.bias"],
         1.0, 0.0, False),
        (STEM, 1.0, 0.0, True),
    ]  # fmt: skip


def test_norms_biases_have_an_lr_of_their_own_and_as_much_less_decay() -> None:
    settings = Sgd(weight_decay=0.64, bias_lr_scale=64.0)
    assert described(Stemmed(), settings) == [
        (MAIN, 1.0, 0.64, False),
        (NORM_BIASES, 64.0, 0.01, False),
        (STEM, 1.0, 0.64, True),
    ]
    spared = settings.model_copy(update={"decay": "weights"})
    assert described(Stemmed(), spared) == [
        (["conv1.weight", "conv2.weight", "head.weight"], 1.0, 0.64, False),
        (["conv1.bias", "norm2.weight", "head.bias"], 1.0, 0.0, False),
        (NORM_BIASES, 64.0, 0.0, False),
        (STEM, 1.0, 0.0, True),
    ]


@pytest.mark.parametrize("settings", [Sgd(bias_lr_scale=64.0), MUON], ids=repr)
def test_what_is_frozen_is_in_no_group(settings: Optimizer) -> None:
    model = Stemmed()
    for frozen in (model.whiten.bias, model.norm2.bias, model.conv2.weight):
        frozen.requires_grad_(False)
    held = [name for names, *_ in described(model, settings) for name in names]

    assert sorted(held) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert not any(stem for *_, stem in described(model, settings))


def test_muon_has_convolutions_head_biases_and_stem_apart() -> None:
    settings = Muon(name="muon", weight_decay=0.4, bias_lr_scale=40.0, head_lr_scale=800.0)
    biases = ["conv1.bias", "norm1.bias", "norm2.weight", "norm2.bias", "head.bias"]
    expected = [
        (["conv1.weight", "conv2.weight"], 1.0, 0.0, False),
        (["head.weight"], 800.0, 0.4 / 800, False),
        (biases, 40.0, 0.01, False),
        (STEM, 40.0, 0.01, True),
    ]
    groups = make_optimizer(Stemmed(), settings).param_groups

    assert described(Stemmed(), settings) == expected
    assert [group["kind"] for group in groups] == ["muon", "sgd", "sgd", "sgd"]
    assert [group["momentum"] for group in groups] == [0.6, 0.85, 0.85, 0.85]
    assert groups[0]["newton_schulz_steps"] == 3

    spared = settings.model_copy(update={"decay": "weights", "newton_schulz_steps": 5})
    assert [decay for _, _, decay, _ in described(Stemmed(), spared)] == [0.0, 0.4 / 800, 0.0, 0.0]
    assert make_optimizer(Stemmed(), spared).param_groups[0]["newton_schulz_steps"] == 5


def test_fastnets_groups_are_airbenchs() -> None:
    """Six convolutions by Muon, one matrix, six norms' biases and the stem's by SGD."""
    model = make_net("fastnet", classes=10, width=8)
    groups = make_optimizer(model, Muon(name="muon")).param_groups

    assert [len(group["params"]) for group in groups] == [6, 1, 6, 1]
    assert groups[1]["params"][0] is model.head.weight
    assert groups[3]["params"][0] is model.whiten.bias
    sgd = make_optimizer(model, Sgd(bias_lr_scale=64.0)).param_groups
    assert [len(group["params"]) for group in sgd] == [7, 6, 1]


def test_a_groups_rate_is_the_recipes_times_its_scale() -> None:
    muon = make_optimizer(
        Stemmed(), Muon(name="muon", weight_decay=0.4, bias_lr_scale=40.0, head_lr_scale=800.0)
    )
    assert group_rates(muon, 0.25) == [0.25, 200.0, 10.0, 10.0]
    assert group_rates(muon, 0.25, 0.5) == [0.25, 200.0, 10.0, 20.0]
    assert group_rates(muon, 0.25, 0.0) == [0.25, 200.0, 10.0, 0.0]
    # what a step takes off a parameter, LR · decay, knows no scale
    taken = [
        rate * group["weight_decay"]
        for rate, group in zip(group_rates(muon, 0.25), muon.param_groups, strict=True)
    ]
    assert taken == pytest.approx([0.0, 0.1, 0.1, 0.1])

    sgd = make_optimizer(Stemmed(), Sgd(bias_lr_scale=64.0))
    assert group_rates(sgd, 0.1, 0.3) == [0.1, 6.4, 0.3]
    assert all(group["lr"] == 0.0 for group in sgd.param_groups)  # nothing is set
    with pytest.raises(ValueError, match="zip"):
        set_rates(sgd, [0.1], None)


@pytest.mark.parametrize(
    "settings",
    [Sgd(nesterov=True, weight_decay=0.01), Adam(weight_decay=0.01), Adam(name="adamw"), MUON],
    ids=repr,
)
def test_rates_on_the_device_give_what_numbers_give(settings: Optimizer) -> None:
    mine, theirs = net(), net()
    optimizer, reference = make_optimizer(mine, settings), make_optimizer(theirs, settings)
    use_tensor_rates(optimizer, torch.device("cpu"))
    tensors = [group["lr"] for group in optimizer.param_groups]
    table = torch.tensor([group_rates(reference, 0.001 / (step + 1)) for step in range(6)])
    for step in range(6):
        grads = gradients(mine, step)
        give(mine, grads)
        give(theirs, grads)
        if step < 3:
            set_tensor_rates(optimizer, table[step])
        else:
            set_rates(optimizer, table[step].tolist(), None)
        set_rates(reference, group_rates(reference, 0.001 / (step + 1)), None)
        optimizer.step()
        reference.step()

        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert all(a is g["lr"] for a, g in zip(tensors, optimizer.param_groups, strict=True))
    assert all(t.shape == () and t.dtype == torch.float32 for t in tensors)
    assert all(g.get("capturable", True) for g in optimizer.param_groups)


def test_a_rate_of_its_own_reaches_its_group() -> None:
    model = Stemmed()
    optimizer = make_optimizer(model, Sgd(momentum=0.0, bias_lr_scale=64.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_rates(optimizer, group_rates(optimizer, 0.01, 0.5), None)
    optimizer.step()

    for name, parameter in model.named_parameters():
        rate = 0.64 if name in NORM_BIASES else 0.5 if name in STEM else 0.01
        if not parameter.requires_grad:
            rate = 0.0
        torch.testing.assert_close(parameter.data, before[name] - rate)


def test_a_recipe_on_the_summed_loss_is_one_on_the_mean_loss() -> None:
    """LR L and decay D on the sum over B images are B L and D / B on their mean: how airbench's
    and DavidNet's numbers become a recipe's. Here airbench94's, biases at 64 times the LR."""
    images, lr, decay, scale = 16, 1.464844e-3, 1.36237, 64.0
    theirs, mine = Stemmed().double(), Stemmed().double()
    biases = [theirs.norm1.bias, theirs.norm2.bias]
    others = [p for p in theirs.parameters() if p.requires_grad and all(p is not b for b in biases)]
    reference = torch.optim.SGD(
        [
            {"params": others, "lr": lr, "weight_decay": decay},
            {"params": biases, "lr": lr * scale, "weight_decay": decay / scale},
        ],
        momentum=0.85,
        nesterov=True,
    )
    settings = Sgd(momentum=0.85, nesterov=True, weight_decay=decay / images, bias_lr_scale=scale)
    optimizer = make_optimizer(mine, settings)
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(images, 3, 8, 8, generator=generator, dtype=torch.float64)
        labels = torch.randint(5, (images,), generator=generator)
        nn.functional.cross_entropy(theirs(x), labels, reduction="sum").backward()
        nn.functional.cross_entropy(mine(x), labels).backward()
        set_rates(optimizer, group_rates(optimizer, lr * images), None)
        for one in (reference, optimizer):
            one.step()
            one.zero_grad()

        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    start = dict(Stemmed().double().named_parameters())
    moved = [n for n, p in mine.named_parameters() if (p - start[n]).abs().max() > 1e-3]
    assert moved == [n for n, p in mine.named_parameters() if p.requires_grad]
