"""A snapshot on its way to the host: copied by another thread, on a stream of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from replaying import CUDA
from resight.engine.host import to_host
from resight.engine.job import build_job
from resight.engine.runtime import Runtime
from resight.runs.checkpoints import Checkpointer, read_checkpoint
from resight.runs.run import Run
from states import assert_same
from trainings import images_for, tiny

GPU = torch.device("cuda")


def test_on_a_cpu_it_is_the_snapshot() -> None:
    snapshot = {"model": {"weight": torch.ones(2)}}
    assert to_host(snapshot, torch.device("cpu"))() is snapshot


class Order:
    """What is asked of a GPU's streams, in order, where there is none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        plain, copy = torch.empty_like, torch.Tensor.copy_

        def empty_like(tensor: torch.Tensor, **options: Any) -> torch.Tensor:
            assert options == {"device": "cpu", "pin_memory": True}
            return plain(tensor)

        def copy_(to: torch.Tensor, source: torch.Tensor, *, non_blocking: bool) -> torch.Tensor:
            assert non_blocking
            self.asked.append("copy")
            return copy(to, source)

        @contextlib.contextmanager
        def stream(chosen: Any) -> Iterator[None]:
            self.asked.append("begin")
            yield
            self.asked.append("end")

        monkeypatch.setattr(torch.cuda, "Stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the training's")
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch, "empty_like", empty_like)
        monkeypatch.setattr(torch.Tensor, "copy_", copy_)

    def stream(self, device: torch.device, priority: int) -> Order:
        assert (device, priority) == (GPU, -1)
        return self

    def wait_stream(self, other: str) -> None:
        self.asked.append(f"after {other}")

    def synchronize(self) -> None:
        self.asked.append("wait")


def test_on_a_gpu_copies_wait_for_the_snapshot_and_the_caller_for_the_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    snapshot = {"model": {"weight": weight}, "state": [torch.ones(2)], "step": 3}
    order = Order(monkeypatch)
    fetch = to_host(snapshot, GPU)
    assert order.asked == ["after the training's"]

    copied = fetch()
    monkeypatch.undo()
    assert order.asked == ["after the training's", "begin", "copy", "copy", "end", "wait"]
    assert_same(copied, snapshot)
    assert copied["model"]["weight"].stride() == weight.stride()
    assert copied["model"]["weight"].data_ptr() != weight.data_ptr()


@CUDA
def test_on_a_gpu_a_checkpoint_is_the_state_when_it_was_asked_for(tmp_path: Path) -> None:
    """Though steps are recorded and go on."""
    recipe = tiny("custom-resnet")
    job = build_job(recipe, images_for(recipe), Runtime.choose("cuda", "fp32"))
    expected, path = job.state.snapshot(), tmp_path / "last.pt"
    checkpoints, fetch = Checkpointer(Run(tmp_path).write_files), job.state.host_snapshot()
    checkpoints.save(fetch)
    list(job.steps_at([0.01] * job.steps_per_epoch))  # records the steps first
    checkpoints.close()

    saved = read_checkpoint(path)
    assert saved is not None
    assert_same(saved["model"], {key: value.cpu() for key, value in expected["model"].items()})
    changed = job.state.model.state_dict()
    assert any(not torch.equal(changed[key].cpu(), value) for key, value in saved["model"].items())
