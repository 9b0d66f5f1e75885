"""The averages are exact, their weights are pure functions of the step, and nets stay apart."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from replaying import NothingRead
from resight.engine.averages import Averages, Ema, Lookahead, ema_weight, make_averages
from resight.recipe.settings import Train


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.Flatten(), nn.Linear(24, 5)
    )


def train(model: nn.Module, step: int) -> None:
    """Something that changes every weight and the batch norm's buffers."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        model(torch.randn(4, 3, 4, 4, generator=generator))


def values(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


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
        train(model, step)
        ema.update(model, ema.weight(step, 30))
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


@pytest.mark.parametrize("decay", [0.05, 0.999])
def test_an_average_is_a_lerp_of_each_tensor_bit_for_bit(decay: float) -> None:
    """So that runs from before go on as they began."""
    model = net()
    ema, plain = Ema(model, decay), values(model)
    for step in range(20):
        train(model, step)
        ema.update(model, ema_weight(decay, step))
        for key, source in model.state_dict().items():
            if source.is_floating_point():
                plain[key].lerp_(source, 1.0 - min(decay, (1 + step) / (10 + step)))
            else:
                plain[key].copy_(source)

    assert_equal(values(ema.model), plain)


@pytest.mark.parametrize(
    ("step", "decay", "kept"),
    [(0, 0.999, 0.1), (1, 0.999, 2 / 11), (8, 0.999, 0.5), (0, 0.05, 0.05), (10**6, 0.9, 0.9)],
)
def test_the_decay_warms_up(step: int, decay: float, kept: float) -> None:
    assert ema_weight(decay, step) == pytest.approx(1 - kept, rel=1e-12)
    assert Ema(nn.Linear(1, 1), decay).weight(step, 7) == ema_weight(decay, step)


@pytest.mark.parametrize("kind", [Ema, Lookahead])
def test_averages_are_a_copy_that_no_gradient_reaches(kind: type[Ema] | type[Lookahead]) -> None:
    model, other = net(), net(seed=1)
    average = kind(model, 0.9) if kind is Ema else kind(model, 1)
    before = values(model)

    assert all(not p.requires_grad for p in average.model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    average.update(other, 0.5)
    assert all(p.requires_grad for p in other.parameters())
    assert_equal(values(model), before)
    assert not torch.equal(next(average.model.parameters()), before["0.weight"])


def test_only_what_moves_is_averaged() -> None:
    model = net().requires_grad_(False)
    model[4].requires_grad_(True)
    average = Lookahead(model, 1)
    frozen = values(model)["0.weight"]
    with torch.no_grad():
        model[4].weight.add_(1.0)
    average.update(model, average.weight(9, 10))

    assert torch.equal(average.model[0].weight, frozen)
    assert torch.equal(model[0].weight, frozen)


@pytest.mark.parametrize(
    ("every", "step", "total", "d"),
    [
        (5, 4, 476, 0.95**5 * (5 / 476) ** 3),
        (5, 474, 476, 0.95**5 * (475 / 476) ** 3),
        (5, 2159, 2160, 0.7737809375),
        (1, 0, 1, 0.95),
        (2, 9, 10, 0.9025),
        (2, 11, 10, 0.9025),  # never more than at the end
    ],
)
def test_lookahead_averages_more_and_more(every: int, step: int, total: int, d: float) -> None:
    assert Lookahead(net(), every).weight(step, total) == pytest.approx(1 - d, rel=1e-12)


def test_lookahead_is_due_every_so_many_steps() -> None:
    lookahead = Lookahead(net(), 5)
    due = [step for step in range(23) if lookahead.weight(step, 23)]

    assert due == [4, 9, 14, 19]
    assert all(lookahead.weight(step, 23) == 0.0 for step in range(23) if step not in due)


def as_float(weight: float) -> float:
    return weight


def as_tensor(weight: float) -> Tensor:
    return torch.tensor(weight, dtype=torch.float32)


@pytest.mark.parametrize("given", [as_float, as_tensor])
def test_lookahead_is_a_plain_loop(given: Any) -> None:
    """Slow weights go towards the net's every third step, and the net's are set to them."""
    model, total, every = net(), 14, 3
    lookahead = Lookahead(model, every)
    theirs = net()
    slow = values(theirs)
    for step in range(total):
        train(model, step)
        weight = given(lookahead.weight(step, total))
        lookahead.update(model, weight)

        train(theirs, step)
        done = step + 1
        if done % every == 0:
            d = 0.95**every * (done / total) ** 3
            for key, value in theirs.state_dict().items():
                if value.is_floating_point():
                    slow[key] = d * slow[key] + (1 - d) * value
                    value.copy_(slow[key])
                else:
                    slow[key] = value.clone()
        for mine, plain in ((lookahead.model, slow), (model, theirs.state_dict())):
            for key, value in mine.state_dict().items():
                torch.testing.assert_close(value, plain[key], rtol=1e-5, atol=1e-5)

    # the last two of the 14 steps are in the net but not in what is evaluated
    assert int(lookahead.model.state_dict()["1.num_batches_tracked"]) == 12
    assert int(model.state_dict()["1.num_batches_tracked"]) == 14
    assert not torch.equal(model[0].weight, lookahead.model[0].weight)


@pytest.mark.parametrize("given", [as_float, as_tensor])
def test_where_nothing_is_due_both_nets_stay_as_they_are(given: Any) -> None:
    model = net()
    lookahead = Lookahead(model, 2)
    train(model, 0)
    slow, fast = values(lookahead.model), values(model)
    lookahead.update(model, given(0.0))

    assert_equal(values(lookahead.model), slow)
    assert_equal(values(model), fast)


@pytest.mark.parametrize("given", [as_float, as_tensor])
def test_where_it_is_due_both_nets_are_the_same(given: Any) -> None:
    model = net()
    lookahead = Lookahead(model, 2)
    train(model, 0)
    lookahead.update(model, given(0.3))

    assert_equal(values(lookahead.model), values(model))


@pytest.mark.parametrize("kind", [Ema, Lookahead])
def test_a_weight_on_the_device_is_not_read_and_gives_the_same(
    kind: type[Ema] | type[Lookahead],
) -> None:
    nets = [net(), net()]
    averages: list[Averages] = [Ema(n, 0.9) if kind is Ema else Lookahead(n, 2) for n in nets]
    pointers = [v.data_ptr() for v in averages[1].model.state_dict().values()]
    for step in range(12):
        for model in nets:
            train(model, step)
        weight = averages[0].weight(step, 12)
        on_device = as_tensor(weight)
        averages[0].update(nets[0], weight)
        with NothingRead():
            averages[1].update(nets[1], on_device)
        for one, other in zip(
            (averages[0].model, nets[0]), (averages[1].model, nets[1]), strict=True
        ):
            for key, value in one.state_dict().items():
                torch.testing.assert_close(value, other.state_dict()[key], rtol=1e-6, atol=1e-6)
    assert pointers == [v.data_ptr() for v in averages[1].model.state_dict().values()]


def test_a_net_without_integer_buffers_is_averaged_too() -> None:
    model = nn.Linear(2, 2)
    for average in (Ema(model, 0.5), Lookahead(model, 1)):
        for weight in (0.5, as_tensor(0.5)):
            average.update(model, weight)


def test_a_recipe_says_which_average() -> None:
    ema = make_averages(net(), Train(ema=0.99))
    lookahead = make_averages(net(), Train(lookahead=5))

    assert isinstance(ema, Ema)
    assert ema.decay == 0.99
    assert isinstance(lookahead, Lookahead)
    assert lookahead.every == 5
    assert make_averages(net(), Train()) is None
