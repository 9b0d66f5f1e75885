"""The LR test: the training's own step at a rising LR; the state is restored afterwards.

Smith, "Cyclical learning rates for training neural networks" (arXiv:1506.01186).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resight.data.types import ImageData
from resight.engine.job import Job, prepare, with_batch
from resight.engine.runtime import Runtime, kept_threads
from resight.errors import ResightError
from resight.progress import Reporter, default_reporter
from resight.recipe.catalog import own_lr
from resight.recipe.recipe import Recipe
from resight.runs.lr_test import LrTest, diverged, memory, method_for
from resight.training.announcement import few_steps_line, price
from resight.training.costs import measure
from resight.training.lr_test_plan import (
    LrTestPlan,
    longer,
    plan_lr_test,
    smallest_plan,
    too_few,
)

LR_RANGE = (1e-5, 10.0)


@kept_threads()
def find_lr(
    recipe: str | Path | Recipe | None = None,
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
        plan = plan_lr_test(job)
        if few := plan is None and job.recipe.schedule.needs_lr_test:
            reporter.say(f"note: {too_few(job)}")
        plan = plan or smallest_plan(job)
        if steps := few_steps_line(job):
            reporter.say(f"note: a training has {steps}")
        reporter.say(f"LR test: {price(job, measure(job), plan)}")
        test = run_range_test(job, plan, progress=reporter.counting("LR test"))
        if test.recipe_lr is None and (few or not _readable(test)):
            usual = job.recipe.optimizer.usual_lr(job.batch_images(0))
            test = dataclasses.replace(test, usual_lr=usual)
        return test
    finally:
        reporter.close()


def run_range_test(
    job: Job, plan: LrTestPlan, *, progress: Callable[[int, int], None] | None = None
) -> LrTest:
    """The LR test on `job`, whose state is bit for bit the same afterwards.

    A curve that no LR can be read from is measured again with more steps, if that stays within what
    an LR test may cost: few images make few steps per epoch, too few to show anything of a net that
    learns slowly.
    """
    test = _raise_lr(job, plan, progress)
    if (again := longer(plan, job)) and not _readable(test):
        test = _raise_lr(job, again, progress)
    return test


def _readable(test: LrTest) -> bool:
    try:
        test.suggest()
    except ResightError:
        return False
    return True


def _raise_lr(job: Job, plan: LrTestPlan, progress: Callable[[int, int], None] | None) -> LrTest:
    steps_of = job if plan.batch == job.batch_images(0) else with_batch(job, plan.batch)
    steps, lrs = plan.steps, np.geomspace(*LR_RANGE, plan.steps)
    losses: list[float] = []
    stop = f"reached LR {LR_RANGE[1]:g}"
    before = job.state.snapshot()
    interval = job.log_interval
    pending = []
    try:
        for done, loss in enumerate(steps_of.steps_at((lrs / plan.lr_scale).tolist()), start=1):
            pending.append(loss.clone())  # before the next epoch overwrites it
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
    asked = job.recipe.schedule.needs_lr_test  # to find the LR, whatever the named recipe sets
    kept = np.array(losses[:finite], dtype=np.float64)
    return LrTest(
        lrs[:finite],
        kept,
        stop,
        chance=math.log(len(job.data.classes)),
        method=method_for(job.recipe.schedule),
        batch=plan.batch,
        lr_scale=plan.lr_scale,
        recipe_lr=None if asked else own_lr(job.recipe),
    )
