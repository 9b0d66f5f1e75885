"""What is free: of a machine, and in a control group."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from resight.engine import memory
from resight.engine.memory import free_in_groups, free_memory

CPU = torch.device("cpu")


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
