"""Resight's LR test beside torch-lr-finder's: the same net, weights, batches, optimizer and LRs.

    python benchmarks/lr_finder.py [--recipe digits] [--data DIR] [--set model.width=24]

Both run in fp32, so that they do the same arithmetic. torch-lr-finder reads its own curve:
smoothing 0.05, the steepest gradient after skipping 10 points and 5; its numbers are printed as it
gives them. `--json FILE` writes the figures too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from torch_lr_finder import LRFinder

from resight.job import Job, prepare
from resight.range_test import LR_RANGE, run_range_test
from resight.recipe import parse_setting
from resight.runtime import Runtime
from resight.state import init_net

mpl.use("Agg")


def their_test(job: Job, steps: int) -> tuple[list[float], list[float], float | None]:
    """LRs, raw losses and the suggestion of torch-lr-finder on the batches that the job draws."""
    recipe = job.recipe
    batches = [
        job.train.augmented(index, plan, recipe.augment)
        for index, plan in job.endless_batches(steps)
    ]
    model = init_net(recipe, classes=len(job.data.classes), channels=job.data.channels)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=LR_RANGE[0], weight_decay=recipe.optimizer.weight_decay
    )
    losses: list[float] = []

    class Recorded(nn.CrossEntropyLoss):
        def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = super().forward(logits, labels)
            losses.append(float(loss))
            return loss

    finder = LRFinder(model, optimizer, Recorded(), device="cpu")
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(io.StringIO()):
            loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
            finder.range_test(loader, end_lr=LR_RANGE[1], num_iter=steps, step_mode="exp")
            drawn = finder.plot(suggest_lr=True)
    return finder.history["lr"], losses, drawn[1] if isinstance(drawn, tuple) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--data")
    parser.add_argument("--set", action="append", default=[], help="a field of the recipe")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    changes = dict(parse_setting(pair) for pair in arguments.set)
    job = prepare(arguments.recipe, arguments.data, Runtime.choose("cpu", "fp32"), changes=changes)
    assert job.recipe.optimizer.name == "adam", "the comparison is written for Adam"
    start = time.perf_counter()
    ours = run_range_test(job)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    lrs, losses, suggestion = their_test(job, job.lr_test_steps)
    their_seconds = time.perf_counter() - start
    shared = min(len(ours.lrs), len(lrs))
    apart = np.abs(ours.losses[:shared] - np.array(losses[:shared]))
    before = int(ours.lrs.searchsorted(1e-2))
    result = {
        "recipe": arguments.recipe,
        "changes": changes,
        "resight": ours.suggestions(),
        "resight_steps": len(ours.lrs),
        "resight_stop": ours.stop,
        "resight_seconds": seconds,
        "torch_lr_finder": suggestion,
        "torch_lr_finder_steps": len(lrs),
        "torch_lr_finder_seconds": their_seconds,
        "largest_loss_difference_below_lr_0.01": float(apart[:before].max()),
    }
    print(
        f"{arguments.recipe} on {job.data.name}, at most {job.lr_test_steps} steps up to LR "
        f"{LR_RANGE[1]:g}"
    )
    print("reading                       LR")
    for method, value in ours.suggestions().items():
        print(f"resight {method:<16}{value:>10.3g}")
    theirs = "none" if suggestion is None else f"{suggestion:.3g}"
    print(f"torch-lr-finder steepest{theirs:>10}")
    print(f"resight {len(ours.lrs)} steps in {seconds:.1f} s ({ours.stop}); ", end="")
    print(f"torch-lr-finder {len(lrs)} steps in {their_seconds:.1f} s")
    print(f"raw losses below LR 0.01 differ by at most {apart[:before].max():.2g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
