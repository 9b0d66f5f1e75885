"""The LR test: the training's own step at a rising LR; the state is restored afterwards.

Smith, "Cyclical learning rates for training neural networks" (arXiv:1506.01186).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resight.data.types import ImageData
from resight.engine.job import LR_TEST_STEPS, Job, prepare
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from resight.progress import Reporter, default_reporter
from resight.recipe.recipe import Recipe
from resight.runs.lr_test import LrTest, diverged, memory, method_for
from resight.training.costs import lr_test_price

LR_RANGE = (1e-5, 10.0)


def find_lr(
    recipe: str | Path | Recipe = "custom-resnet",
    data: str | Path | ImageData | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    executor: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
    **changes: Any,
) -> LrTest:
    """Run a recipe's LR test on data and return its curve; nothing is written.

    `changes` as in `resight.train`. Raises `ResightError` for what the user can fix.
    """
    reporter = reporter or default_reporter()
    try:
        runtime = Runtime.choose(device, precision, executor=executor)
        decoding = reporter.counting("decoding images")
        job = prepare(recipe, data, runtime, changes=changes, skip_bad=skip_bad, decoding=decoding)
        reporter.say(lr_test_price(job))
        return run_range_test(job, progress=reporter.counting("LR test"))
    finally:
        reporter.close()


def run_range_test(job: Job, *, progress: Callable[[int, int], None] | None = None) -> LrTest:
    """The LR test on `job`, whose state is bit for bit the same afterwards.

    A curve that no LR can be read from is measured again with twice the steps, up to 200: few
    images make few steps per epoch, too few to show anything of a net that learns slowly.
    """
    steps = job.lr_test_steps
    while True:
        test = _raise_lr(job, steps, progress)
        if steps >= LR_TEST_STEPS or _readable(test):
            return test
        steps = min(2 * steps, LR_TEST_STEPS)


def _readable(test: LrTest) -> bool:
    try:
        test.suggest()
    except ResightError:
        return False
    return True


def _raise_lr(job: Job, steps: int, progress: Callable[[int, int], None] | None) -> LrTest:
    lrs = np.geomspace(*LR_RANGE, steps)
    losses: list[float] = []
    stop = f"reached LR {LR_RANGE[1]:g}"
    before = job.state.snapshot()
    interval = job.log_interval
    pending = []
    try:
        for done, loss in enumerate(job.steps_at(lrs.tolist()), start=1):
            pending.append(loss.clone())  # an executor may overwrite it with the next one
            if done % interval and done < steps:
                continue
            losses += torch.stack(pending).tolist()  # waits for the device once per interval
            pending.clear()
            if progress:
                progress(done, steps)
            if end := diverged(losses, memory(lrs)):
                losses = losses[:end]
                stop = f"diverged at LR {lrs[end - 1]:.3g}"
                break
    finally:
        job.state.restore(before)
    finite = int(np.isfinite(losses).sum())
    kept = np.array(losses[:finite], dtype=np.float64)
    chance = math.log(len(job.data.classes))
    return LrTest(lrs[:finite], kept, stop, chance, method_for(job.recipe.schedule))
