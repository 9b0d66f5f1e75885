"""What a step needs for each image, and what is free: of a machine, and in a control group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jobs import recipe_of
from resight.engine import memory
from resight.engine.memory import free_in_groups, free_memory, step_bytes
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Augment, Data, Model

CPU = torch.device("cpu")
FLOAT, INDEX = 4, 8  # bytes


class Plain(nn.Module):
    """A net whose memory can be counted by hand."""

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 5, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(5 * (image_size // 2) ** 2, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.pool(self.conv(x).relu()).flatten(1))
        return logits


def of_size(net: str, px: int) -> Recipe:
    return recipe_of(
        model=Model(net=net, width=8), data=Data(image_size=px), augment=Augment(cutout_px=0)
    )


@pytest.mark.parametrize(("half", "width"), [(False, FLOAT), (True, FLOAT // 2)])
def test_the_bytes_of_a_net_counted_by_hand(
    monkeypatch: pytest.MonkeyPatch, half: bool, width: int
) -> None:
    def plain(*_: Any, channels: int, image_size: int, **__: Any) -> nn.Module:
        return Plain(channels, image_size)

    monkeypatch.setattr(memory, "build_net", plain)
    side = 8
    full, pooled = side**2, side**2 // 4
    image, map_, small = 3 * full * width, 5 * full * width, 5 * pooled * width
    places = 5 * pooled * INDEX  # of the maxima, which are integers under autocast too
    flat = small  # rows of logits need memory of their own: the map is channels last
    kept = image + map_ + places + flat
    assert step_bytes(of_size("custom-resnet", side), classes=7, channels=3, half=half) == (
        kept + 2 * map_
    )


@pytest.mark.parametrize("net", ["custom-resnet", "fastnet", "resnet18", "resnet18-gn"])
def test_a_large_images_bytes_are_those_that_its_own_pass_keeps(
    monkeypatch: pytest.MonkeyPatch, net: str
) -> None:
    """Counted on images of 64 px, and in proportion to their pixels."""
    recipe = of_size(net, 128)
    scaled = step_bytes(recipe, classes=3, channels=3, half=False)
    monkeypatch.setattr(memory, "MEASURED_PX", 128)
    assert scaled == pytest.approx(step_bytes(recipe, classes=3, channels=3, half=False), rel=0.06)


def test_counting_touches_no_random_numbers() -> None:
    before = torch.get_rng_state()
    step_bytes(of_size("fastnet", 16), classes=3, channels=3, half=False)
    assert torch.equal(torch.get_rng_state(), before)


def group(folder: Path, *, version: int, limit: object, used: int, files: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    most, usage, prefix = memory.LIMITS[version]
    (folder / most).write_text(f"{limit}\n")
    (folder / usage).write_text(f"{used}\n")
    lines = [f"{prefix}active_file {files - 3}", f"{prefix}inactive_file 3", "inactive_file 0"]
    (folder / "memory.stat").write_text("\n".join(lines if prefix else lines[:2]) + "\n")


def test_the_limits_of_all_groups_above_count(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:memory:/a/b\n3:cpu,cpuacct:/c\n0::/user/job\n")
    group(tmp_path / "memory", version=1, limit=9000, used=100, files=30)
    group(tmp_path / "memory/a/b", version=1, limit=800, used=500, files=200)
    group(tmp_path / "user", version=2, limit=700, used=650, files=10)
    group(tmp_path / "user/job", version=2, limit="max", used=1, files=5)  # no limit
    assert sorted(free_in_groups(tmp_path, own)) == [60, 500, 8930]


def test_a_container_sees_only_its_own_group(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/../system.slice/box\n")
    group(tmp_path / "groups", version=2, limit=400, used=500, files=50)
    assert list(free_in_groups(tmp_path / "groups", own)) == [0]
    assert list(free_in_groups(tmp_path / "groups", tmp_path / "none")) == []


def test_the_smallest_limit_is_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_memory(CPU)
    assert 0 < free < 2**50
    monkeypatch.setattr(memory, "free_in_groups", lambda: iter([12345, 2**60]))
    assert free_memory(CPU) == 12345
