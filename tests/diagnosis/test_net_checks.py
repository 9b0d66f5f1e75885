"""What passes through the net show: statistics that do not fit, and channels that are dead."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from diagnosing import names
from helpers import make_net
from resight.diagnosis import net_checks


def small_net(image_size: int = 8) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_net("custom-resnet", classes=3, image_size=image_size, width=8).eval()


def test_running_statistics_that_do_not_fit_are_named() -> None:
    net = small_net()
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net.train()
    with torch.no_grad():
        for _ in range(100):
            net(images)
        labels = net(images).argmax(1)  # right by the batch's statistics
    net.eval()
    assert not list(net_checks.batch_norm(net, images, labels))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.layer1.norm.running_mean += 3.0
    findings = list(net_checks.batch_norm(net, images, labels))
    assert names(findings) == {"batch-norm-statistics"}
    for lr_end, advised in ((None, False), (0.0, False), (0.01, True), ("lr_min", True)):
        (finding,) = net_checks.batch_norm(net, images, labels, lr_end=lr_end)
        assert ("schedule.lr_end=0" in finding.advice) is advised
    net.layer1.norm.running_mean.copy_(before["layer1.norm.running_mean"])
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_dead_channels_are_counted_in_the_layer_where_they_are() -> None:
    net = small_net(32)
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert not list(net_checks.dead_channels(net, images))
    with torch.no_grad():
        net.layer2.norm.bias[:28] = -100.0  # of 32
    assert not list(net_checks.dead_channels(net, images))
    with torch.no_grad():
        net.layer2.norm.bias[28:30] = -100.0
    findings = list(net_checks.dead_channels(net, images))
    assert [(f.name, f.severity) for f in findings] == [("dead-channels", "note")]
    assert "94% of the channels after the ReLU in layer2.relu" in findings[0].evidence
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    with torch.no_grad():
        for layer in (net.prep, net.layer1, net.layer2, net.layer3):
            layer.norm.bias.fill_(-100.0)
        net.res2.norm1.bias.fill_(-100.0)
    assert [f.severity for f in net_checks.dead_channels(net, images)] == ["problem"]


def test_relus_that_are_functions_are_seen_too() -> None:
    net = make_net("resnet18-gn", classes=3, image_size=16, width=8).eval()
    with torch.no_grad():
        net.stem.norm.bias.fill_(-100.0)
    findings = list(net_checks.dead_channels(net, torch.randn(4, 3, 16, 16)))
    assert "100% of the channels after the ReLU in the net" in findings[0].evidence


def test_a_channel_that_one_image_of_one_part_wakes_is_not_dead() -> None:
    images = torch.zeros(9, 3, 4, 4)
    images[7] = 1.0
    assert not list(net_checks.dead_channels(nn.Sequential(nn.ReLU()), images, 2))
    assert list(net_checks.dead_channels(nn.Sequential(nn.ReLU()), images[:7], 2))


@pytest.mark.parametrize(
    ("side", "count"), [(8, 1000), (64, 1000), (65, 969), (224, 81), (256, 64), (4000, 64)]
)
def test_fewer_large_images_are_looked_at(side: int, count: int) -> None:
    assert net_checks.probe_images(side) == count


@pytest.mark.parametrize(
    ("at_once", "passes"), [(None, [10]), (10, [10]), (4, [4, 3, 3]), (3, [3, 3, 2, 2])]
)
def test_images_pass_in_equal_parts(at_once: int | None, passes: list[int]) -> None:
    """With the same findings, as far as they do not depend on a batch's statistics."""
    net = small_net(32)
    with torch.no_grad():
        net.layer2.norm.bias[:30] = -100.0
        net.layer1.norm.running_mean += 30.0
    images = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = copy.deepcopy(net).train()(images).argmax(1)
    seen: list[int] = []
    hook = net.prep.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    dead = list(net_checks.dead_channels(net, images, at_once))
    hook.remove()
    assert dead == list(net_checks.dead_channels(net, images))
    assert seen == passes
    (found,) = net_checks.batch_norm(net, images, labels, at_once)
    (whole,) = net_checks.batch_norm(net, images, labels)
    ends = [finding.evidence.split(" and ")[1] for finding in (found, whole)]
    assert ends[0] == ends[1]  # with running statistics
