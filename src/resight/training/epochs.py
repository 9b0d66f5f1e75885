"""The epochs of a training: steps, readings of the losses, evaluations, checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resight.data.plan import generator
from resight.engine.fitting import piece_size
from resight.engine.forward import predict
from resight.engine.job import Job
from resight.engine.norms import renew_norms
from resight.engine.rates import Rates, epoch_rates
from resight.errors import ResightError
from resight.progress import StepInfo
from resight.recipe.catalog import lower_lr
from resight.recipe.schedule import epoch_lr
from resight.records import best_epoch
from resight.runs.checkpoints import Checkpointer
from resight.runs.predictions import Predictions
from resight.training.interrupt import StopRequested, StopSignals
from resight.training.under_way import Training

MIN_EVALUATED_CUDA = 250  # images per pass


class NonFiniteLoss(ResightError):
    """A loss or weight became inf or nan; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Seen:
    """The steps of the current epoch so far: loss and correct predictions per step, and mean loss
    and accuracy over all of them."""

    losses: Tensor  # float64 (done,), on the CPU
    correct: Tensor
    images: Tensor
    loss: float
    accuracy: float


def fit_epochs(training: Training) -> Predictions | None:
    """Train the remaining epochs, with `last.pt` never more than 30 s old; fewer with early
    stopping, a function of the rows so far, so that a resumed training stops where it would have.

    Findings of the watch are reported at once. Returns the predictions for the monitored split
    after the last epoch; None if no epoch was left to train.
    """
    state, checkpoints = training.job.state, Checkpointer(training.run.write_files)
    predictions = None
    try:
        while training.epoch < training.schedule.epochs and not training.stopped:
            seen = _train_epoch(training, checkpoints)
            predictions = _end_epoch(training, seen)
            for finding in training.watch.epoch(state.history):
                training.session.reporter.finding(finding)
        _write_last(checkpoints, training)
        return predictions
    except StopRequested:  # raised between two steps: the state is consistent
        _write_last(checkpoints, training)
        raise
    finally:
        checkpoints.close()


def _train_epoch(training: Training, checkpoints: Checkpointer) -> Seen:
    """The remaining steps of the current epoch, of which there may be none. Returns what was seen
    in all of its steps."""
    job, stop, clock = training.job, training.session.stop, training.session.clock
    state, steps = job.state, job.steps_per_epoch
    rates = _rates(training)
    first = state.step - training.epoch * steps
    job.executor.begin(job.plan(training.epoch), rates, first)
    if state.step == 0:  # not earlier: a GPU's steps are recorded without anything beside it
        checkpoints.save(state.host_snapshot())
    seen = None
    began = clock()
    for position in range(first, steps):
        job.executor.step(position)
        clock()
        done, due = position + 1, checkpoints.due()
        if done % job.log_interval and done < steps and not due and stop.received is None:
            continue
        seen = _look(training, done)
        state.epoch_seconds += clock() - began
        _report(training, seen, done, lr=rates.lr[position])
        stop.check()
        if due:
            checkpoints.save(state.host_snapshot())
        began = clock()
    return seen or _look(training, steps)


def _report(training: Training, seen: Seen, done: int, *, lr: float) -> None:
    """Report the current epoch's progress, and what the watch finds in its steps."""
    job, reporter = training.job, training.session.reporter
    images = min(done * job.recipe.train.batch_size, len(job.train))
    reporter.step(
        StepInfo(
            epoch=training.epoch + 1,
            epochs=training.schedule.epochs,
            done=done,
            total=job.steps_per_epoch,
            loss=seen.loss,
            accuracy=seen.accuracy,
            lr=lr,
            images_per_second=images / max(job.state.epoch_seconds, 1e-9),
            seconds_left=training.forecast.seconds_left(),
        )
    )
    first = training.epoch * job.steps_per_epoch
    for finding in training.watch.steps(first, seen.losses, seen.correct, seen.images):
        reporter.finding(finding)
    if line := training.forecast.correction():
        reporter.say(line)


def _rates(training: Training) -> Rates:
    """The rates of the current epoch's steps: a function of the schedule and of the epochs so
    far."""
    job, schedule = training.job, training.schedule
    return epoch_rates(
        job.state,
        job.recipe,
        schedule,
        epoch=training.epoch,
        steps=job.steps_per_epoch,
        flat=epoch_lr(schedule, _watched(job.state.history)),
    )


def _look(training: Training, done: int) -> Seen:
    """Loss and accuracy of the epoch's first `done` steps, as means over images: one transfer.

    Raises `NonFiniteLoss` naming the first step whose loss is not finite.
    """
    job = training.job
    trace, batch = job.state.trace, job.recipe.train.batch_size
    both = torch.stack([trace.losses[:done].double(), trace.correct[:done].double()]).cpu()
    losses, correct = both[0], both[1]
    if not bool(torch.isfinite(losses).all()):
        position = int((~torch.isfinite(losses)).nonzero()[0])
        step = training.epoch * job.steps_per_epoch + position
        lr = _rates(training).lr[position]
        raise _not_finite(training, f"the loss became {float(losses[position])}", step, lr)
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


def _end_epoch(training: Training, seen: Seen) -> Predictions | None:
    """Evaluate the monitored split, add the epoch's row, and with validation keep the best weights.

    seen: in the epoch's steps. With `evaluate.when = "end"` only the last epoch is evaluated.
    """
    job, run, epochs = training.job, training.run, training.schedule.epochs
    state, split, epoch = job.state, job.monitors, training.epoch + 1
    lr = _rates(training).lr[-1]
    row = {
        "epoch": epoch,
        "step": state.step,
        "lr": lr,
        "train_loss": seen.loss,
        "train_accuracy": seen.accuracy,
        "train_seconds": state.epoch_seconds,
        "images_per_second": job.epoch_images() / max(state.epoch_seconds, 1e-9),
    }
    measured = None
    if job.recipe.evaluate.when == "each-epoch" or epoch == epochs:
        began = training.session.clock()
        if job.recipe.evaluate.norm == "anew":
            drawn = generator(job.recipe.train.seed, training.epoch, "norms")
            order = torch.randperm(len(job.train), generator=drawn)
            renew_norms(
                state.eval_model, job.train, job.runtime, order, training.session.stop.check
            )
        measured = measure(job, split, training.session.stop)
        if not math.isfinite(measured.loss):
            what = f"the {split} loss became {measured.loss}"
            raise _not_finite(training, what, state.step, lr)
        row[f"{split}_loss"], row[f"{split}_accuracy"] = measured.loss, measured.accuracy
        row["evaluate_seconds"] = training.session.clock() - began
    state.end_epoch(row)
    run.append_metrics(row)
    training.session.reporter.epoch(row, epochs)
    if measured and split == "val" and best_epoch(state.history, "val_accuracy") is row:
        run.write_best(state.eval_model, epoch)
    return measured


def measure(job: Job, split: str, stop: StopSignals) -> Predictions:
    """Predictions for a split of the job, with the weights meant for evaluation."""
    logits = predict(
        job.state.eval_model,
        job.monitor if split == job.monitors else job.test,
        job.runtime,
        tta=job.recipe.evaluate.tta,
        between=stop.check,
        forwards=job.forwards,
        batch=_evaluated_at_once(job),
    )
    images = getattr(job.data, split)
    return Predictions(logits.numpy(), images.labels, images.ids, job.data.classes, split)


def _evaluated_at_once(job: Job) -> int | None:
    """Images per pass of an evaluation: on a GPU those of a training's, since a convolution of
    another shape has to be prepared first; None where that would be too few to keep it busy."""
    images = piece_size(job.recipe, job.runtime) or job.recipe.train.batch_size
    return None if job.runtime.on_cpu or images < MIN_EVALUATED_CUDA else images


def _watched(history: list[dict[str, Any]]) -> list[float]:
    """The losses that plateau follows: the validation loss if there is one, else the training
    loss."""
    return [row.get("val_loss", row["train_loss"]) for row in history]


def _not_finite(training: Training, what: str, step: int, lr: float) -> NonFiniteLoss:
    lower = f"{lower_lr(training.job.recipe, float(training.schedule.lr_max)):g}"
    if training.job.runtime.precision == "fp16":
        lower += ", or without --precision fp16"
    test = training.run.find_lr_command()
    return NonFiniteLoss(
        f"{what} at step {step} (epoch {training.epoch + 1}) at LR {lr:.3g}: training stopped, the "
        f"last good checkpoint is kept; start a new run with --lr {lower}"
        + (f"; an LR test finds one: {test}" if test else "")
    )


def _write_last(checkpoints: Checkpointer, training: Training) -> None:
    state = training.job.state
    if not checkpoints.save_and_wait(state.host_snapshot()):
        raise NonFiniteLoss(
            f"the weights are not finite after step {state.step}: the last good checkpoint is "
            "kept; try a lower --lr"
        )
