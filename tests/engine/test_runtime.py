"""The runtime of one run is not that of the next."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from resight.engine.runtime import REQUESTED, STORED, Runtime, RuntimeOptions, kept_threads
from resight.errors import ResightWarning


def test_switches_of_one_run_do_not_reach_the_next(tmp_path: Path) -> None:
    Runtime.choose("cpu", "fp32", deterministic=True).apply()
    assert torch.are_deterministic_algorithms_enabled()
    Runtime.choose("cpu", "fp32").apply()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({"micro_batch": 0}, 0),
        ({"micro_batch": 7, "reasons": {"micro_batch": "as it was"}}, 7),
        ({"micro_batch": 7, "device": "cuda"}, None),  # recorded on another device
        ({"micro_batch": None}, None),  # an older run's, which did not record it
    ],
)
def test_a_runtime_like_a_runs_has_its_pieces_on_the_same_device(
    changes: dict[str, Any], pieces: int | None, tmp_path: Path
) -> None:
    stored = Runtime.choose("cpu", "fp32", threads=1).to_dict() | changes
    stored = {key: value for key, value in stored.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResightWarning)
        runtime = Runtime.like(stored, RuntimeOptions("cpu"), run=tmp_path)
    assert runtime.micro_batch == pieces
    assert runtime.reasons.get("micro_batch") == stored["reasons"].get("micro_batch")
    assert runtime.to_dict()["micro_batch"] == (pieces or 0)


def test_threads_are_again_what_they_were() -> None:
    try:
        torch.set_num_threads(3)
        with kept_threads():
            Runtime.choose("cpu", threads=2).apply()
            assert torch.get_num_threads() == 2
            with contextlib.suppress(ZeroDivisionError), kept_threads():
                Runtime.choose("cpu", threads=1).apply()
                raise ZeroDivisionError
            assert torch.get_num_threads() == 2
            assert Runtime.choose("cpu").threads == 3
        assert torch.get_num_threads() == 3
        assert Runtime.choose("cpu").threads == 3
    finally:
        torch.set_num_threads(1)


def test_what_a_run_had_is_not_called_requested(tmp_path: Path) -> None:
    stored = Runtime.choose("cpu", "fp32", threads=1).to_dict()
    reasons = Runtime.like(stored, RuntimeOptions(), run=tmp_path).reasons
    assert {key: reasons[key] for key in ("device", "precision", "executor", "threads")} == (
        dict.fromkeys(("device", "precision", "executor", "threads"), STORED)
    )
    given = Runtime.like(stored, RuntimeOptions(precision="fp32"), run=tmp_path)
    assert given.reasons["precision"] == REQUESTED
