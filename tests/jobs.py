"""Small jobs, made ready to step."""

from __future__ import annotations

import dataclasses
from typing import Any

from resight.engine.job import Job, build_job
from resight.engine.runtime import Runtime
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Augment, Constant, Data, Model, Sgd, Train
from trainings import images_for

PLAIN = Sgd(momentum=0.0)  # a step of LR 1 is the gradient


def recipe_of(**sections: Any) -> Recipe:
    return Recipe(
        **{
            "model": Model(width=8),
            "data": Data(image_size=8),
            "augment": Augment(crop_pad_px=1, cutout_px=3),
            "schedule": Constant(shape="constant", epochs=3, lr_max=1.0),
            "optimizer": PLAIN,
            "train": Train(batch_size=32),
            **sections,
        }
    )


def runtime(precision: str = "fp32", **changes: Any) -> Runtime:
    return dataclasses.replace(Runtime.choose("cpu", precision, threads=1), **changes)


def job_of(recipe: Recipe, chosen: Runtime | None = None, *, n: int = 70) -> Job:
    return build_job(recipe, images_for(recipe, n=n), chosen or runtime())
