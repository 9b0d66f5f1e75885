"""Images/s of a training step on this CPU: Resight's against the same net's eager fp32 NCHW step.

    python benchmarks/cpu_step.py [--batch-size 512] [--rounds 5] [--json FILE]

Resight's step is the one that `resight train` runs: augmentation from drawn numbers,
channels-last, bf16 where the CPU has it. The other is the plain way: contiguous fp32, torch's
default Adam, a batch that is ready in memory. Both take turns, so that a machine whose speed drifts
favours neither; the figures are medians of the rounds, the ratio that of their ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from resight.data.types import ImageData, Split
from resight.job import build_job
from resight.recipe import Recipe
from resight.runtime import Runtime
from resight.state import init_net

FLOP_PER_IMAGE = 2 * 3 * 379_261_952  # multiply and add, forward and twice that backward


def random_data(n: int) -> ImageData:
    """Random pixels: the time of a step does not depend on them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, n)
    split = Split(images, labels, np.array([f"{i:06d}" for i in range(n)]))
    half = np.full(3, 0.5)
    names = tuple(str(i) for i in range(10))
    return ImageData("random", "memory", names, split, split, half, half / 2, fingerprint="random")


def resight_step(data: ImageData, batch_size: int) -> Callable[[], None]:
    recipe = Recipe().with_changes({"train.batch_size": batch_size})
    runtime = Runtime.choose("cpu")
    runtime.apply()
    job = build_job(recipe, data, runtime)
    plan = job.plan(0)
    index = plan.order[:batch_size]
    return lambda: float(job.executor.step(index, plan, lr=1e-3)[0]) and None


def plain_step(data: ImageData, batch_size: int) -> Callable[[], None]:
    model: nn.Module = init_net(Recipe(), classes=10, channels=3).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    pixels = torch.from_numpy(data.train.images[:batch_size]).permute(0, 3, 1, 2)
    images = ((pixels.float() / 255 - 0.5) / 0.25).contiguous()
    labels = torch.from_numpy(data.train.labels[:batch_size])

    def step() -> None:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    batch = arguments.batch_size
    data = random_data(batch)
    ours, plain = resight_step(data, batch), plain_step(data, batch)
    ours(), plain()
    rounds = [(seconds(ours), seconds(plain)) for _ in range(arguments.rounds)]
    our_rate = statistics.median(batch / a for a, _ in rounds)
    plain_rate = statistics.median(batch / b for _, b in rounds)
    ratios = sorted(b / a for a, b in rounds)
    runtime = Runtime.choose("cpu")
    result = {
        "cpu": runtime.name,
        "torch": torch.__version__,
        "batch_size": batch,
        "rounds": arguments.rounds,
        "resight_precision": runtime.precision,
        "resight_images_per_second": our_rate,
        "plain_images_per_second": plain_rate,
        "ratio_median": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }
    print(f"{runtime.name}, torch {torch.__version__}, batch {batch}, {arguments.rounds} rounds")
    print("step                                        images/s   GFLOP/s")
    for name, rate in (
        (f"resight: {runtime.precision}, channels-last, augmented", our_rate),
        ("plain: fp32, NCHW, eager", plain_rate),
    ):
        print(f"{name:<44}{rate:>8.1f}{rate * FLOP_PER_IMAGE / 1e9:>10.0f}")
    print(f"ratio {result['ratio_median']:.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
