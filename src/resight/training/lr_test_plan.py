"""`LrTestPlan`: how many steps an LR test takes, and on how many images each."""

from __future__ import annotations

from dataclasses import dataclass

from resight.engine.job import Job

MAX_SHARE = 0.1  # of the images that the training will see
MIN_STEPS, MAX_STEPS = 50, 200
MIN_BATCH = 32  # images; from smaller ones too low an LR is read (`docs/log.md`)
MIN_STEPS_OF_MIN_BATCH = 30
MIN_LONGER = 1.5  # times the steps of a test that showed nothing, or it is not repeated


@dataclass(frozen=True)
class LrTestPlan:
    """steps, of `batch` images each. lr_scale: the LR for the recipe's batch that corresponds to an
    LR of 1 for `batch`."""

    steps: int
    batch: int
    lr_scale: float = 1.0

    @property
    def images(self) -> int:
        return self.steps * self.batch


def plan_lr_test(job: Job) -> LrTestPlan | None:
    """The LR test of a training: at most a tenth of the training's images.

    On a CPU as many steps as an epoch has, but 50 to 200; if that is too much, at least 50 steps,
    then smaller batches, whose LRs are scaled to the recipe's batch: in proportion for SGD, with
    the square root for Adam and Muon (Goyal et al., arXiv:1706.02677; Malladi et al.,
    arXiv:2205.10287). None if there are too few images even for that. A GPU always does 50 to 200
    steps of the recipe's batch: they take a second, new recordings would take longer.
    """
    batch = job.batch_images(0)
    images = int(MAX_SHARE * job.epoch_images() * job.recipe.schedule.epochs)
    most = max(MIN_STEPS, min(MAX_STEPS, job.steps_per_epoch)) if job.runtime.on_cpu else MAX_STEPS
    steps = min(most, images // batch)
    if steps >= MIN_STEPS or not job.runtime.on_cpu:
        return LrTestPlan(max(steps, MIN_STEPS), batch)
    smaller = _whole_pieces(job, images // MIN_STEPS)
    if smaller >= min(MIN_BATCH, batch):
        return _scaled(job, MIN_STEPS, smaller)
    smaller = _whole_pieces(job, min(MIN_BATCH, batch))
    steps = images // smaller
    return _scaled(job, steps, smaller) if steps >= MIN_STEPS_OF_MIN_BATCH else None


def too_few(job: Job) -> str:
    """Why a training has no LR test."""
    images = int(MAX_SHARE * job.epoch_images() * job.recipe.schedule.epochs)
    return f"an LR test may take a tenth of the training, here {images:,} images in all: too few"


def smallest_plan(job: Job) -> LrTestPlan:
    """For someone who asks for an LR test of however few images."""
    return _scaled(job, MIN_STEPS, _whole_pieces(job, min(MIN_BATCH, job.batch_images(0))))


def longer(plan: LrTestPlan, job: Job) -> LrTestPlan | None:
    """The plan of a second LR test after a first that showed nothing, within the same limit; None
    if no images are left for one with more steps."""
    left = int(MAX_SHARE * job.epoch_images() * job.recipe.schedule.epochs) - plan.images
    steps = min(MAX_STEPS, left // plan.batch)
    enough = steps >= MIN_LONGER * plan.steps
    return LrTestPlan(steps, plan.batch, plan.lr_scale) if enough else None


def _whole_pieces(job: Job, images: int) -> int:
    """`images`, rounded down to whole pieces of the recipe's `norm_batch` if it has more."""
    piece = job.recipe.train.norm_batch
    return images - images % piece if 0 < piece < images else images


def _scaled(job: Job, steps: int, batch: int) -> LrTestPlan:
    ratio = job.batch_images(0) / batch
    return LrTestPlan(steps, batch, ratio**job.recipe.optimizer.lr_batch_power)
