"""What several test files share beside the fixtures: nets, and small images that can be learnt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from resight.data.plan import EpochPlan
from resight.engine.job import Job
from resight.models.build import build_net
from resight.recipe.settings import Model


def make_net(
    name: str, *, classes: int, channels: int = 3, image_size: int = 32, **settings: Any
) -> nn.Module:
    """A net by its name, with settings of a recipe's `model` section."""
    model = Model(net=name, **settings)
    return build_net(model, classes=classes, channels=channels, image_size=image_size)


def batches(job: Job, plan: EpochPlan) -> Iterator[Tensor]:
    """The images of each step of an epoch: int64 (B,)."""
    size = job.recipe.train.batch_size
    return (plan.batch(position, size) for position in range(job.steps_per_epoch))
