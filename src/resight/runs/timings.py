"""Where the seconds of a command went, as a run's `result.json` records it (`timings`)."""

from __future__ import annotations

import math
from collections.abc import Mapping

PARTS = {
    "start": "start-up: interpreter, imports, torch",
    "data": "images: decoding, or reading the cache",
    "build": "net, optimizer, images to the device",
    "cost": "cost estimate",
    "checks": "image checks",
    "lr_test": "LR test",
    "steps": "training steps",
    "evaluate": "evaluation",
    "capture": "recording CUDA graphs",
    "epochs": "between steps: plans, checkpoints",
    "save": "saving weights and predictions",
    "rest": "everything else",
    "report": "diagnosis and report",
}


def table(parts: Mapping[str, float]) -> list[str]:
    """One line per part: what it is, its seconds, its share of the total."""
    total = math.fsum(parts.values())
    width = max(map(len, PARTS.values()))
    return [
        f"  {PARTS[part]:<{width}} {seconds:>10,.2f} s {seconds / total if total else 0.0:>7.1%}"
        for part, seconds in parts.items()
    ]
