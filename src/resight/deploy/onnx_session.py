"""ONNX files, run by onnxruntime on this CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from resight.deploy.onnx_graph import INPUT

if TYPE_CHECKING:
    import onnxruntime

ROUNDS = 5  # of a speed measurement
ERRORS_ONLY = 3

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


class Session:
    """A model that is loaded: uint8 (N, H, W, C) → logits float32 (N, K)."""

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        self._session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, images: Images) -> Logits:
        logits = self._session.run(None, {INPUT: np.ascontiguousarray(images)})[0]
        return np.asarray(logits, dtype=np.float32)


def logits_by(
    net: Callable[[Images], Logits],
    images: Images,
    at_once: int,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Logits:
    """float32 (N, K): what `net` says of all images, `at_once` at a time."""
    parts = []
    for start in range(0, len(images), at_once):
        parts.append(net(images[start : start + at_once]))
        progress(min(start + at_once, len(images)), len(images))
    return np.concatenate(parts)


def speeds(sessions: Sequence[Session], images: Images) -> list[float]:
    """Images/s of each session, in turn and the fastest of `ROUNDS` each, after one that does not
    count: what else the machine does makes some slower and none faster."""
    best = [0.0] * len(sessions)
    for round_ in range(ROUNDS + 1):
        for i, session in enumerate(sessions):
            began = time.perf_counter()
            session(images)
            rate = len(images) / (time.perf_counter() - began)
            best[i] = max(best[i], rate) if round_ else 0.0
    return best
