"""Small trainings, and what stops them on their way."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import resight
from helpers import make_data
from resight.data.types import ImageData, Split
from resight.progress import Quiet, StepInfo
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.runs.checkpoints import Checkpointer
from resight.runs.run import load_run
from states import TIMES, assert_same


def tiny(name: str, **changes: Any) -> Recipe:
    """A named recipe on 8 px images: narrow, three epochs, batches of 32."""
    recipe = find_recipe(name).with_epochs(3)
    small = {
        "model.width": 8,
        "data.image_size": 16 if recipe.model.net != "custom-resnet" else 8,
        "augment.crop_pad_px": 1,
        "augment.cutout_px": 3,
        "train.batch_size": 32,
        # found LRs are numbers of the curve; a fixed one keeps the tests on their subject
        "schedule.lr_max": 0.02,
        **changes,
    }
    if hasattr(recipe.schedule, "lr_min"):
        small.setdefault("schedule.lr_min", 0.002)
    if getattr(recipe.schedule, "lr_end", 0) == "lr_min":
        small.setdefault("schedule.lr_end", "lr_min")
    if recipe.train.norm_batch:
        small.setdefault("train.norm_batch", 0)
    if recipe.schedule.small_px:
        small.setdefault("schedule.small_px", 9)
    return recipe.with_changes(small)


def images_for(recipe: Recipe, **settings: Any) -> ImageData:
    return make_data(size=recipe.data.image_size, **settings)


def unequal(data: ImageData) -> ImageData:
    """All train images of class 0, every third of class 1, every fifth of class 2."""
    labels = data.train.labels
    kept = np.concatenate([np.flatnonzero(labels == k)[:: 2 * k + 1] for k in range(3)])
    kept.sort()
    train = Split(data.train.images[kept], labels[kept], data.train.ids[kept])
    return dataclasses.replace(data, train=train, fingerprint=f"{data.fingerprint}-unequal")


def fit(recipe: Recipe, data: ImageData, out: Path, **options: Any) -> resight.Run:
    options = {"reporter": Quiet(), "precision": "fp32", "report": False, **options}
    return resight.train(recipe, data, out=out, **options)


def resume(out: Path, data: ImageData, **options: Any) -> resight.Run:
    options = {"reporter": Quiet(), "report": False, **options}
    return resight.train(resume=out, data=data, **options)


def final_state(out: Path) -> dict[str, Any]:
    saved = load_run(out).checkpoint()
    assert saved is not None
    return {key: value for key, value in saved.items() if key not in TIMES}


def assert_same_run(a: Path, b: Path) -> None:
    assert_same(final_state(a), final_state(b))
    strip = [{k: v for k, v in row.items() if k not in TIMES} for row in load_run(a).metrics]
    other = [{k: v for k, v in row.items() if k not in TIMES} for row in load_run(b).metrics]
    assert strip == other
    mine, theirs = load_run(a).predictions, load_run(b).predictions
    assert (mine.logits == theirs.logits).all()
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


class StopAt(Quiet):
    """Sends this process a signal, or raises, after a number of steps."""

    def __init__(self, steps: int, action: Callable[[], object]) -> None:
        self.left, self.action = steps, action

    def step(self, info: StepInfo) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def every_second_time() -> Callable[[Checkpointer], bool]:
    flags = itertools.cycle([False, True])
    return lambda self: next(flags)


class Listener(Quiet):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[StepInfo] = []
        self.rows: list[dict[str, Any]] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, info: StepInfo) -> None:
        self.steps.append(info)

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        self.rows.append(row)


class StopInLrTest(Quiet):
    def counting(self, what: str) -> Any:
        return lambda done, total: interrupt() if what == "LR test" and done == 9 else None
