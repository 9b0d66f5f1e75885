"""A snapshot on its way to the host, for which neither the GPU nor the training waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def to_host(snapshot: dict[str, Any], device: torch.device) -> Callable[[], dict[str, Any]]:
    """What gives `snapshot` with its tensors on the CPU, to be called by another thread.

    On a GPU they are copied by that thread, as soon as they are complete there, on a stream of
    their own and into pinned memory: steps that are queued meanwhile are not waited for.
    """
    if device.type != "cuda":
        return lambda: snapshot
    # of the streams with priority, so that it is not one that a step is being recorded on
    stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))

    def fetch() -> dict[str, Any]:
        with torch.cuda.stream(stream):
            copied: dict[str, Any] = _copied(snapshot)
        stream.synchronize()  # only then may the snapshot's memory be used again
        return copied

    return fetch


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        pinned = torch.empty_like(value, device="cpu", pin_memory=True)
        return pinned.copy_(value, non_blocking=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
