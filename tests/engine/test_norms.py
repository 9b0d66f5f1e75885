"""Batch norm's statistics, taken anew: against torch's own, and nothing else of a net changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from helpers import make_data, make_net
from resight.data.batches import DeviceSplit
from resight.engine import norms
from resight.engine.norms import renew_norms
from resight.engine.runtime import Runtime

CPU = Runtime.choose("cpu", "fp32")
SPLIT = DeviceSplit.place(
    make_data(60).train, torch.full((3,), 0.4), torch.full((3,), 0.3), CPU.device, resident=True
)
ORDER = torch.randperm(60, generator=torch.Generator().manual_seed(1))


def narrow() -> nn.Module:
    """After some steps' worth of running statistics."""
    torch.manual_seed(0)
    net = make_net("custom-resnet", classes=3, image_size=8, width=8).train()
    for _ in range(3):
        net(torch.randn(16, 3, 8, 8))
    return net


def statistics(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in net.state_dict().items() if "running" in key}


def test_they_are_those_of_the_images_in_one_batch() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())
    net[0].running_mean.fill_(7.0)
    renew_norms(net, SPLIT, CPU, ORDER)
    images = SPLIT.plain(0, 60)
    torch.testing.assert_close(net[0].running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(net[0].running_var, images.var((0, 2, 3)))


def test_of_several_batches_they_are_torchs_cumulative_average(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(norms, "images_at_once", lambda split, runtime: 25)
    monkeypatch.setattr(norms, "MIN_BATCH", 2)
    monkeypatch.setattr(norms, "MAX_IMAGES", 50)
    net = narrow()
    reference = copy.deepcopy(net).train()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # torch's cumulative average
    with torch.no_grad():
        for batch in ORDER[:50].split(25):
            reference(SPLIT.at(batch).plain(0, 25))
    renew_norms(net, SPLIT, CPU, ORDER)
    expected = statistics(reference)
    for key, value in statistics(net).items():
        torch.testing.assert_close(value, expected[key])


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training: bool) -> None:
    net = narrow().train(training)
    before = copy.deepcopy(net)
    renew_norms(net, SPLIT, CPU, ORDER)
    assert net.training is training
    old, new = before.state_dict(), net.state_dict()
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    assert changed == set(statistics(net))
    assert all(parameter.grad is None for parameter in net.parameters())
    momenta = [
        [m.momentum for m in n.modules() if isinstance(m, nn.BatchNorm2d)] for n in (before, net)
    ]
    assert momenta[0] == momenta[1]


def test_a_stop_leaves_a_net_that_can_go_on() -> None:
    net, calls = narrow(), iter([None, KeyboardInterrupt])

    def between() -> None:
        if error := next(calls):
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "images_at_once", lambda split, runtime: 5)  # but 32 or more
        with pytest.raises(KeyboardInterrupt):
            renew_norms(net, SPLIT, CPU, ORDER, between)
    fresh = narrow()
    renew_norms(net, SPLIT, CPU, ORDER)
    renew_norms(fresh, SPLIT, CPU, ORDER)
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, net.state_dict()[key])


def test_few_large_images_are_not_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [narrow(), narrow()]
    for net, suits in zip(nets, (5, 32), strict=True):
        monkeypatch.setattr(norms, "images_at_once", lambda split, runtime, n=suits: n)
        renew_norms(net, SPLIT, CPU, ORDER)
    few, expected = (statistics(net) for net in nets)
    assert all(torch.equal(few[key], value) for key, value in expected.items())


def test_a_net_without_batch_norm_and_a_single_image_are_left_alone() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4))
    renew_norms(plain, SPLIT, CPU, ORDER)
    net = narrow()
    before = statistics(copy.deepcopy(net))
    renew_norms(net, SPLIT, CPU, ORDER[:1])
    for key, value in statistics(net).items():
        assert torch.equal(value, before[key])
