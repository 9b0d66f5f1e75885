"""Work recorded once and replayed: CUDA graphs behind two methods, so that tests need no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

WARM_UPS = 3  # cuDNN chooses its algorithms and the allocator settles down


class Graphs(Protocol):
    """Records work and replays it: CUDA graphs, or a stand-in for tests."""

    def warm_up(self, body: Callable[[], None]) -> None:
        """Run `body` until a recording of it allocates nothing new."""

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Record `body` without running it. The result replays the recording."""


class CudaGraphs:
    """CUDA graphs with one shared memory pool: the last, smaller batch reuses the others'."""

    def __init__(self, device: torch.device) -> None:
        """Nothing else may be starting on the device: see `Runtime.wait_until_awake`."""
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, body: Callable[[], None]) -> None:
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    body()
        finally:  # what comes next must not overlap with its last writes
            torch.cuda.current_stream(self._device).wait_stream(stream)

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # other threads may use CUDA meanwhile (the checkpoint's writer copies to the host)
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                body()
        finally:
            torch.cuda.set_stream(stream)  # torch stays on its capture stream if a capture fails
        return graph.replay
