"""A checkpoint is whole and good, or the one before it stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from resight.errors import ResightError
from resight.runs.checkpoints import write_checkpoint
from resight.runs.run import Run


def test_a_full_disk_is_one_line_and_the_old_checkpoint_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(Run(tmp_path).write_files, {"w": torch.ones(2)})
    before = (tmp_path / "last.pt").read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResightError, match=r"can't write .*manifest\.json: No space left"):
        write_checkpoint(Run(tmp_path).write_files, {"w": torch.zeros(2)})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"last.pt", "manifest.json", ".manifest.lock"}
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_checkpoint_with_a_bad_value_is_not_written(tmp_path: Path) -> None:
    good = {"model": {"w": torch.ones(3)}, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}
    assert write_checkpoint(Run(tmp_path).write_files, good)
    before = (tmp_path / "last.pt").read_bytes()
    bad = {"model": {"w": torch.ones(3)}, "list": [{"m": torch.tensor([1.0, float("inf")])}]}
    assert not write_checkpoint(Run(tmp_path).write_files, bad)
    assert (tmp_path / "last.pt").read_bytes() == before
