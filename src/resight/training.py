"""`train()`: from a recipe and data to a run folder. Read this module first; it is the whole story.

prepare ─▶ say what it costs ─▶ run folder ─▶ find the LR ─▶ epochs ─▶ measure the test split
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from resight import costs
from resight import resume as resuming
from resight.data.types import ImageData
from resight.epochs import fit_epochs, measure
from resight.interrupt import Interrupted, StopRequested, StopSignals
from resight.job import Job, build_job, needs_lr_test, prepare
from resight.predictions import Predictions
from resight.progress import Reporter, default_reporter
from resight.range_test import run_range_test
from resight.recipe import Recipe
from resight.run import Run, create_run, describe_environment
from resight.runtime import Runtime
from resight.settings import Schedule
from resight.weights import save_model


def train(
    recipe: str | Path | Recipe | None = None,
    data: str | Path | ImageData | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    minutes: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    deterministic: bool = False,
    skip_bad: bool = False,
    reporter: Reporter | None = None,
    started: float | None = None,
    **changes: Any,
) -> Run:
    """Train `recipe` ("custom-resnet" unless given) on `data` (the recipe's own unless given).

    recipe: a name, a TOML or JSON file, or a `Recipe`. data: "cifar10", "cifar100", "digits", a
    folder, or an `ImageData`. changes: `epochs`, `batch_size`, `lr` ("find" or a number), `seed`,
    `val` (fraction of train), and any field, as `optimizer={"weight_decay": 0}`. minutes: train as
    many whole epochs as fit, at most the recipe's. resume: a run folder to go on with, its recipe
    unless `recipe` or changes name the same one. started: `time.perf_counter()` from which
    `wall_seconds` counts, this call unless given.

    Raises `ResightError` for what the user can mend and `Interrupted` (a KeyboardInterrupt) after
    Ctrl-C or SIGTERM, once the state is saved.
    """
    started = time.perf_counter() if started is None else started
    reporter = reporter or default_reporter()
    run: Run | None = None
    with StopSignals() as stop:
        try:
            if resume is not None:
                run, job, saved = resuming.reopen(
                    resume,
                    recipe,
                    data,
                    changes,
                    reporter,
                    device=device,
                    precision=precision,
                    deterministic=deterministic,
                    minutes=minutes,
                    out=out,
                )
                if run.finished:
                    reporter.say(f"{run.path} has finished already: nothing to do")
                    return run
            else:
                job = prepare(
                    recipe if recipe is not None else "custom-resnet",
                    data,
                    Runtime.choose(device, precision, deterministic=deterministic),
                    changes=changes,
                    skip_bad=skip_bad,
                    decoding=reporter.counting("decoding images"),
                )
                stop.check()
                job = _announce(job, minutes, reporter)
                run, saved = create_run(out, job.recipe), None
            run.write("environment.json", describe_environment(job.runtime.to_dict()))
            schedule = _resolve(job, run, reporter, stop)
            if saved is not None:
                job.state.restore(saved)
            run.rewrite_metrics(job.state.history)
            last = fit_epochs(job, run, schedule, reporter, stop)
            return _finish(job, run, last, stop, started)
        except StopRequested:
            assert stop.received is not None
            path = run.path if run else None
            raise Interrupted(_farewell(run), path, stop.received) from None
        finally:
            reporter.close()


def resolve_schedule(schedule: Schedule, found: dict[str, float]) -> Schedule:
    """`schedule` with each "find" replaced by the number in `found` (lr_max, lr_min)."""
    numbers = {key: value for key, value in found.items() if getattr(schedule, key, "") == "find"}
    return schedule.model_copy(update=numbers)


def _announce(job: Job, minutes: float | None, reporter: Reporter) -> Job:
    """Say what will be done and what it costs; with `minutes`, cut the epochs to what fits."""
    for note in job.data.notes:
        reporter.say(f"note: {note}")
    cost = costs.measure(job)
    if minutes is not None:
        epochs = costs.epochs_that_fit(job, cost, minutes)
        if epochs < job.recipe.schedule.epochs:
            job = build_job(job.recipe.with_epochs(epochs), job.data, job.runtime)
    for line in costs.announcement(job, cost, minutes):
        reporter.say(line)
    return job


def _resolve(job: Job, run: Run, reporter: Reporter, stop: StopSignals) -> Schedule:
    """The schedule in numbers: from `resolved.json`, else found now and written there."""
    resolved = run.resolved
    if not resolved:
        resolved = {
            "data": resuming.data_facts(job.data),
            "steps_per_epoch": job.steps_per_epoch,
            "found": {},
            "lr_test": None,
        }
        if needs_lr_test(job.recipe):
            count = reporter.counting("LR test")

            def progress(done: int, total: int) -> None:
                count(done, total)
                stop.check()

            test = run_range_test(job, progress=progress)
            resolved["lr_test"] = test.to_dict()
            run.write("lr_test.json", test.to_dict())
            lr_max = job.recipe.schedule.lr_max
            if lr_max == "find":
                lr_max = test.suggest()
            found = {"lr_max": lr_max, "lr_min": test.suggest_lr_min(lr_max)}
            schedule = resolve_schedule(job.recipe.schedule, found)
            resolved["found"] = {k: v for k, v in found.items() if hasattr(schedule, k)}
            words = " · ".join(f"{k} {v:.3g}" for k, v in resolved["found"].items())
            reporter.say(f"LR found: {words} ({len(test.lrs)} steps, {test.stop})")
        schedule = resolve_schedule(job.recipe.schedule, resolved["found"])
        resolved["schedule"] = schedule.model_dump(mode="json")
        run.write("resolved.json", resolved)
    return resolve_schedule(job.recipe.schedule, resolved["found"])


def _finish(job: Job, run: Run, last: Predictions | None, stop: StopSignals, started: float) -> Run:
    """Measure the test split with the weights that stay, and write what is left to write.

    With validation those of its best epoch stay, else the last epoch's, whose pass over the test
    split (`last`) then serves.
    """
    model = job.state.eval_model
    if job.data.val is not None:
        run.load_best(model)
    predictions = last if last and last.split == "test" else measure(job, "test", stop)
    save_model(run.path / "model.safetensors", model, job.recipe, job.data)
    predictions.save(run.path / "predictions.npz")
    low, high = predictions.accuracy_interval
    seconds = math.fsum(row["train_seconds"] for row in job.state.history)
    result = {
        "run": str(run.path),
        "recipe": job.recipe.name,
        "data": job.data.name,
        "seed": job.recipe.train.seed,
        "epochs": job.recipe.schedule.epochs,
        "lr_max": run.resolved["schedule"]["lr_max"],
        "weights": "best validation epoch" if job.data.val else "last epoch",
        "test_accuracy": predictions.accuracy,
        "test_accuracy_95": [low, high],
        "test_loss": predictions.loss,
        "test_images": len(predictions),
        "train_accuracy": job.state.history[-1]["train_accuracy"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_seconds": seconds,
        "wall_seconds": time.perf_counter() - started,
        "images_per_second": job.epoch_images() * len(job.state.history) / max(seconds, 1e-9),
        "device": job.runtime.name,
        "precision": job.runtime.precision,
    }
    run.write("result.json", result)
    return run


def _farewell(run: Run | None) -> str:
    if run is None:
        return "stopped before the training began: nothing was written"
    saved = "saved" if (run.path / "last.pt").exists() else "no step done yet"
    return f"stopped ({saved}); go on with: resight train --resume {run.path}"
