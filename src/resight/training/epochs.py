"""The epochs of a training: steps, looks at the losses, measurements, checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resight.diagnosis.watch import Watch
from resight.engine.forward import predict
from resight.engine.job import Job
from resight.engine.rates import Rates, epoch_rates
from resight.errors import ResightError
from resight.progress import Reporter, StepInfo
from resight.recipe.schedule import plateau_lr
from resight.recipe.settings import Plateau, Schedule
from resight.runs.checkpoints import Checkpointer
from resight.runs.predictions import Predictions
from resight.runs.run import Run
from resight.training.interrupt import StopRequested, StopSignals


class NonFiniteLoss(ResightError):
    """A loss or weight became infinite or nan; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Seen:
    """The steps of the running epoch so far: loss and right images of each, and of all of them
    together the mean loss and the accuracy."""

    losses: Tensor  # float64 (done,), on the CPU
    correct: Tensor
    images: Tensor
    loss: float
    accuracy: float


def fit_epochs(
    job: Job, run: Run, schedule: Schedule, reporter: Reporter, stop: StopSignals, watch: Watch
) -> Predictions | None:
    """Train the epochs that are left, keeping `last.pt` at most 30 s behind.

    What `watch` finds is said at once. Returns the watched split's predictions after the last
    epoch; None if none was left to train.
    """
    state, checkpoints = job.state, Checkpointer(run.path / "last.pt")
    predictions = None
    try:
        if state.step == 0:
            checkpoints.save(state.snapshot())
        while len(state.history) < schedule.epochs:
            _train_epoch(job, schedule, reporter, stop, checkpoints, watch)
            predictions = _end_epoch(job, run, schedule, reporter, stop)
            for finding in watch.epoch(state.history):
                reporter.finding(finding)
        _write_last(checkpoints, job)
        return predictions
    except StopRequested:  # between two steps: the state is whole
        _write_last(checkpoints, job)
        raise
    finally:
        checkpoints.close()


def _train_epoch(
    job: Job,
    schedule: Schedule,
    reporter: Reporter,
    stop: StopSignals,
    checkpoints: Checkpointer,
    watch: Watch,
) -> None:
    """The steps of the running epoch that are left."""
    state, steps, epoch = job.state, job.steps_per_epoch, len(job.state.history)
    rates = _rates(job, schedule, epoch)
    first = state.step - epoch * steps
    job.executor.begin(job.plan(epoch), rates, first)
    began = time.perf_counter()
    for position in range(first, steps):
        loss, correct = job.executor.step(position)
        state.trace.losses[position], state.trace.correct[position] = loss, correct
        done, due = position + 1, checkpoints.due()
        if done % job.log_interval and done < steps and not due and stop.received is None:
            continue
        seen = _look(job, schedule, epoch, done)
        state.epoch_seconds += time.perf_counter() - began
        images = min(done * job.recipe.train.batch_size, len(job.train))
        rate = images / max(state.epoch_seconds, 1e-9)
        reporter.step(
            StepInfo(
                epoch=epoch + 1,
                epochs=schedule.epochs,
                done=done,
                total=steps,
                loss=seen.loss,
                accuracy=seen.accuracy,
                lr=rates.lr[position],
                images_per_second=rate,
                seconds_left=_seconds_left(job, done),
            )
        )
        for finding in watch.steps(epoch * steps, seen.losses, seen.correct, seen.images):
            reporter.finding(finding)
        stop.check()
        if due:
            checkpoints.save(state.snapshot())
        began = time.perf_counter()


def _rates(job: Job, schedule: Schedule, epoch: int) -> Rates:
    """The rates of an epoch's steps, a function of the schedule and of the epochs before."""
    flat = None
    if isinstance(schedule, Plateau):
        flat = plateau_lr(schedule, _watched(job.state.history))
    steps = job.steps_per_epoch
    return epoch_rates(job.state, job.recipe, schedule, epoch=epoch, steps=steps, flat=flat)


def _look(job: Job, schedule: Schedule, epoch: int, done: int) -> Seen:
    """Loss and accuracy of the epoch's first `done` steps, means over images: one transfer.

    Raises `NonFiniteLoss` naming the first step whose loss is not finite.
    """
    trace, batch = job.state.trace, job.recipe.train.batch_size
    both = torch.stack([trace.losses[:done].double(), trace.correct[:done].double()]).cpu()
    losses, correct = both[0], both[1]
    if not bool(torch.isfinite(losses).all()):
        position = int((~torch.isfinite(losses)).nonzero()[0])
        step = epoch * job.steps_per_epoch + position
        lr = _rates(job, schedule, epoch).lr[position]
        what = f"the loss became {float(losses[position])}"
        raise _not_finite(job, what, step, epoch, lr, schedule)
    sizes = torch.full((done,), float(batch), dtype=torch.float64)
    sizes[-1] = min(batch, len(job.train) - (done - 1) * batch)
    images = float(sizes.sum())
    return Seen(
        losses,
        correct,
        sizes,
        loss=float((losses * sizes).sum()) / images,
        accuracy=float(correct.sum()) / images,
    )


def _end_epoch(
    job: Job, run: Run, schedule: Schedule, reporter: Reporter, stop: StopSignals
) -> Predictions | None:
    """Measure the split that is watched, add the epoch's row, keep the best with validation.

    With `evaluate.when = "end"` only the last epoch is measured.
    """
    state, split, steps = job.state, job.monitors, job.steps_per_epoch
    epoch = len(state.history)
    seen = _look(job, schedule, epoch, steps)
    lr = _rates(job, schedule, epoch).lr[-1]
    row = {
        "epoch": epoch + 1,
        "step": state.step,
        "lr": lr,
        "train_loss": seen.loss,
        "train_accuracy": seen.accuracy,
        "train_seconds": state.epoch_seconds,
        "images_per_second": job.epoch_images() / max(state.epoch_seconds, 1e-9),
    }
    measured = None
    if job.recipe.evaluate.when == "each-epoch" or epoch + 1 == schedule.epochs:
        began = time.perf_counter()
        measured = measure(job, split, stop)
        if not math.isfinite(measured.loss):
            what = f"the {split} loss became {measured.loss}"
            raise _not_finite(job, what, state.step, epoch, lr, schedule)
        row[f"{split}_loss"], row[f"{split}_accuracy"] = measured.loss, measured.accuracy
        row["evaluate_seconds"] = time.perf_counter() - began
    best = max((r["val_accuracy"] for r in state.history if "val_accuracy" in r), default=-1.0)
    state.end_epoch(row)
    run.append_metrics(row)
    reporter.epoch(row, job.recipe.schedule.epochs)
    if measured and split == "val" and measured.accuracy > best:
        run.write_best(state.eval_model, epoch + 1)
    return measured


def measure(job: Job, split: str, stop: StopSignals) -> Predictions:
    """Predictions of a split of the job with the weights that are evaluated."""
    logits = predict(
        job.state.eval_model,
        job.monitor if split == job.monitors else job.test,
        job.runtime,
        tta=job.recipe.evaluate.tta,
        between=stop.check,
        forwards=job.forwards,
    )
    images = getattr(job.data, split)
    return Predictions(logits.numpy(), images.labels, images.ids, job.data.classes, split)


def _seconds_left(job: Job, done: int) -> float:
    """What the training still takes, if its steps and measurements go on as they went."""
    state = job.state
    step = state.epoch_seconds / done
    measuring = state.history[-1].get("evaluate_seconds", 0.0) if state.history else 0.0
    epochs = job.recipe.schedule.epochs - len(state.history)
    return step * (job.total_steps - state.step) + float(measuring) * epochs


def _watched(history: list[dict[str, Any]]) -> list[float]:
    """The losses that plateau follows: of validation where there is one, else of training."""
    return [row.get("val_loss", row["train_loss"]) for row in history]


def _not_finite(
    job: Job, what: str, step: int, epoch: int, lr: float, schedule: Schedule
) -> NonFiniteLoss:
    lower = f"{float(schedule.lr_max) / 10:.2g}"
    if job.runtime.precision == "fp16":
        lower += ", or without --precision fp16"
    return NonFiniteLoss(
        f"{what} at step {step} (epoch {epoch + 1}) at LR {lr:.3g}: training stopped, the last "
        f"good checkpoint is kept; start anew with --lr {lower}, or see `resight find-lr`"
    )


def _write_last(checkpoints: Checkpointer, job: Job) -> None:
    if not checkpoints.save_and_wait(job.state.snapshot()):
        raise NonFiniteLoss(
            f"the weights are not finite after step {job.state.step}: the last good checkpoint is "
            "kept; try a lower --lr"
        )
