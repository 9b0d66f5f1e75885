"""The runtime of one run is not that of the next."""

from __future__ import annotations

from pathlib import Path

import torch

from resight.engine.runtime import Runtime


def test_switches_of_one_run_do_not_reach_the_next(tmp_path: Path) -> None:
    Runtime.choose("cpu", "fp32", deterministic=True).apply()
    assert torch.are_deterministic_algorithms_enabled()
    Runtime.choose("cpu", "fp32").apply()
    assert not torch.are_deterministic_algorithms_enabled()
