"""`train()`: from a recipe and data to a run folder. Read this module first; it is the whole story.

prepare ─▶ say what it costs ─▶ run folder ─▶ find the LR ─▶ epochs ─▶ measure the test split ─▶
look for what went wrong ─▶ report
"""

from __future__ import annotations

import contextlib
import math
import shlex
import time
import warnings
from pathlib import Path
from typing import Any

from resight.data.types import ImageData, data_facts
from resight.diagnosis.diagnose import evidence_of, examine
from resight.diagnosis.image_checks import split_statistics
from resight.diagnosis.watch import Watch
from resight.engine.job import Job, build_job, needs_lr_test, open_data
from resight.engine.runtime import Runtime
from resight.errors import ResightError, ResightWarning
from resight.look.open_run import OpenRun
from resight.progress import Reporter, default_reporter, duration
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import changed
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Schedule
from resight.reporting.facts import base_facts
from resight.reporting.gallery import collect
from resight.reporting.live import LiveReport, serve
from resight.reporting.report import write_report
from resight.runs.folders import check_out, create_run, describe_environment
from resight.runs.predictions import Predictions
from resight.runs.run import Run, load_run
from resight.runs.weights import save_model
from resight.training import costs
from resight.training import resume as resuming
from resight.training.epochs import NonFiniteLoss, fit_epochs, measure
from resight.training.find_lr import run_range_test
from resight.training.interrupt import Interrupted, StopRequested, StopSignals
from resight.training.timings import Timings, count_report, epochs_told_apart


class LrNotFound(ResightError):
    """The LR test's curve bears no LR that the schedule wants."""


def train(
    recipe: str | Path | Recipe | None = None,
    data: str | Path | ImageData | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    minutes: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    executor: str = "auto",
    deterministic: bool = False,
    skip_bad: bool = False,
    report: bool = True,
    live: bool = False,
    announce: bool = True,
    reporter: Reporter | None = None,
    started: float | None = None,
    **changes: Any,
) -> Run:
    """Train `recipe` ("custom-resnet" unless given) on `data` (the recipe's own unless given).

    recipe: a name, a TOML or JSON file, or a `Recipe`. data: "cifar10", "cifar100", "digits", a
    folder, or an `ImageData`. changes: `epochs`, `batch_size`, `lr` ("find" or a number), `seed`,
    `val` (fraction of train), and any field, as `optimizer={"weight_decay": 0}`. minutes: train as
    many whole epochs as fit, at most the recipe's. resume: a run folder to go on with, its recipe
    unless `recipe` or changes name the same one. report: write the report at the end; what went
    wrong is looked for and named without it too. live: show the report on 127.0.0.1 meanwhile.
    executor: "eager" or "captured" (CUDA graphs); "auto" captures where it can.
    announce: measure first what it will cost here, and say so. started: `time.perf_counter()` from
    which `wall_seconds` counts, this call unless given.

    Raises `ResightError` for what the user can mend and `Interrupted` (a KeyboardInterrupt) after
    Ctrl-C or SIGTERM, once the state is saved.
    """
    started = time.perf_counter() if started is None else started
    timings = Timings(started)
    reporter = reporter or default_reporter()
    costs.check_minutes(minutes)
    run: Run | None = None
    with StopSignals() as stop, contextlib.ExitStack() as held:
        decoding = stop.checking(reporter.counting("decoding images"))
        try:
            if resume is not None:
                if minutes is not None or out is not None or skip_bad:
                    raise ResightError(
                        "a resumed run keeps its own --minutes, --out and --skip-bad"
                    )
                run = load_run(resume)
                resuming.check_recipe(run, recipe, changes)
                if run.finished:
                    reporter.say(f"{run.path} has finished already: nothing to do")
                    return run
                held.enter_context(run.lock())
                runtime = Runtime.like(
                    run.environment.get("runtime"),
                    device,
                    precision,
                    executor=executor,
                    deterministic=deterministic,
                    run=run.path,
                )
                with timings("data"):
                    job, saved = resuming.reopen(run, data, runtime, reporter, decoding)
            else:
                check_out(out)
                asked = changed(find_recipe("custom-resnet" if recipe is None else recipe), changes)
                with timings("start"):
                    runtime = Runtime.choose(
                        device, precision, executor=executor, deterministic=deterministic
                    )
                    runtime.apply()
                with timings("data"):
                    loaded = open_data(data, asked, skip_bad=skip_bad, decoding=decoding)
                with timings("build"):
                    job = build_job(asked, loaded, runtime)
                if announce or minutes is not None:
                    with timings("cost"):
                        job = costs.say(job, minutes, reporter)
                run, saved = create_run(out, job.recipe), None
                held.enter_context(run.lock())
                facts = data_facts(job.data)
                run.write("resolved.json", {"data": facts, "steps_per_epoch": job.steps_per_epoch})
            run.write("environment.json", describe_environment(job.runtime.to_dict()))
            if live:
                reporter, address = held.enter_context(serve(run, reporter))
                reporter.say(f"live at {address}")
            schedule = _resolve(job, run, reporter, stop, timings)
            if saved is not None:
                job.state.restore(saved)
            run.rewrite_metrics(job.state.history)
            first = job.state.step if resume is not None else None
            with timings("checks"):
                watch = _watch(job, run, reporter)
            with epochs_told_apart(job, timings):
                last = fit_epochs(job, run, schedule, reporter, stop, watch)
            predictions = _finish(job, run, last, stop, started, timings, resumed_from=first)
            reporter.say(predictions.headline)
            _look_into(job, run, reporter, stop, report=report)
            count_report(run, started)
            return run
        except NonFiniteLoss as error:
            assert run is not None
            run.write("failure.json", {"message": str(error)})
            with contextlib.suppress(StopRequested):  # the failure is what has to be said
                _look_into(job, run, reporter, stop, report=report)
            raise
        except StopRequested:
            assert stop.received is not None
            path = run.path if run else None
            raise Interrupted(_farewell(run), path, stop.received) from None
        finally:
            reporter.close()


def _resolve(
    job: Job, run: Run, reporter: Reporter, stop: StopSignals, timings: Timings
) -> Schedule:
    """The schedule in numbers: from `resolved.json`, else found now and written there."""
    resolved = run.resolved
    if "found" not in resolved:
        found = {}
        if needs_lr_test(job.recipe):
            with timings("lr_test"):
                found = _find(job, run, reporter, stop)
            if recording := job.executor.recording_seconds:
                timings.add({"capture": recording}, out_of="lr_test")
        schedule = _in_numbers(job.recipe, found)
        resolved |= {"found": found, "schedule": schedule.model_dump(mode="json")}
        run.write("resolved.json", resolved)
    return _in_numbers(job.recipe, resolved["found"])


def _find(job: Job, run: Run, reporter: Reporter, stop: StopSignals) -> dict[str, float]:
    """What the LR test says for each LR that is to be found; its curve is kept."""
    test = run_range_test(job, progress=stop.checking(reporter.counting("LR test")))
    run.write("lr_test.json", test.to_dict())
    schedule, found = job.recipe.schedule, {}
    try:
        lr_max = schedule.lr_max if isinstance(schedule.lr_max, float) else test.suggest()
        if schedule.lr_max == "find":
            found["lr_max"] = lr_max
        if getattr(schedule, "lr_min", None) == "find":
            found["lr_min"] = test.suggest_lr_min(lr_max)
    except ResightError as error:
        raise LrNotFound(f"{error} (a new run; {run.path} holds the curve only)") from None
    words = " · ".join(f"{key} {value:.3g}" for key, value in found.items())
    reporter.say(f"LR found: {words} ({len(test.lrs)} steps, {test.stop})")
    return found


def _in_numbers(recipe: Recipe, found: dict[str, float]) -> Schedule:
    """The recipe's schedule with the found LRs. Raises `ResightError` if they don't fit."""
    fields = {f"schedule.{key}": value for key, value in found.items()}
    return recipe.with_changes(fields).schedule if fields else recipe.schedule


def _watch(job: Job, run: Run, reporter: Reporter) -> Watch:
    """Say now what is grossly wrong with the images, and what later steps are watched for."""
    run.forget_failure()
    for finding in split_statistics(job.data):
        reporter.finding(finding)
    return Watch(evidence_of(OpenRun(run, job.data, job.runtime)))


def _look_into(job: Job, run: Run, reporter: Reporter, stop: StopSignals, *, report: bool) -> None:
    """Look for what went wrong and write the report. Nothing here fails the training."""
    began = time.perf_counter()
    try:
        opened = OpenRun(run, job.data, job.runtime)
        diagnosis = examine(opened)
        stop.check()
        if report:
            gallery = collect(opened, stop.checking(reporter.counting("Grad-CAM")))
            facts = write_report(opened, diagnosis, gallery, reporter)
            seconds = time.perf_counter() - began
            reporter.say(f"looked into in {duration(seconds)}")
        else:
            facts = base_facts(run)
        if isinstance(reporter, LiveReport):
            reporter.finish(facts, state="finished" if run.finished else "stopped")
    except StopRequested:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        warnings.warn(
            f"the report of {run.path} could not be made ({type(error).__name__}: {reason}); "
            f"{_make_report(run)}",
            ResightWarning,
            stacklevel=2,
        )


def _make_report(run: Run) -> str:
    return f"`resight report {shlex.quote(str(run.path))}` makes it"


def _finish(
    job: Job,
    run: Run,
    last: Predictions | None,
    stop: StopSignals,
    started: float,
    timings: Timings,
    *,
    resumed_from: int | None,
) -> Predictions:
    """Measure the test split with the weights that stay, and write what is left to write.

    With validation those of its best epoch stay, else the last epoch's, whose pass over the test
    split (`last`) then serves.
    """
    model = job.state.eval_model
    with timings("evaluate"):
        if job.data.val is not None:
            _load_best(job, run)
            measure(job, "val", stop).save(run.path / "predictions-val.npz")  # for the report
        predictions = last if last and last.split == "test" else measure(job, "test", stop)
    with timings("save"):
        save_model(run.path / "model.safetensors", model, job.recipe, job.data)
        predictions.save(run.path / "predictions.npz")
    low, high = predictions.accuracy_interval
    seconds = math.fsum(row["train_seconds"] for row in job.state.history)
    wall = time.perf_counter() - started
    each = job.recipe.evaluate.when == "each-epoch"
    result = {
        "run": str(run.path),
        "recipe": job.recipe.name,
        "data": job.data.name,
        "seed": job.recipe.train.seed,
        "epochs": job.recipe.schedule.epochs,
        "lr_max": run.resolved["schedule"]["lr_max"],
        "weights": "best validation epoch" if job.data.val and each else "last epoch",
        "test_accuracy": predictions.accuracy,
        "test_accuracy_95": [low, high],
        "test_loss": predictions.loss,
        "test_images": len(predictions),
        "train_accuracy": job.state.history[-1]["train_accuracy"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_seconds": seconds,
        "wall_seconds": wall,
        "timings": timings.parts(wall),  # of this process; the report's come when it is done
        "resumed_from_step": resumed_from,
        "images_per_second": job.epoch_images() * len(job.state.history) / max(seconds, 1e-9),
        "device": job.runtime.name,
        "precision": job.runtime.precision,
    }
    run.write("result.json", result)
    return predictions


def _load_best(job: Job, run: Run) -> None:
    epoch = run.load_best(job.state.eval_model)
    measured = [row for row in job.state.history if "val_accuracy" in row]
    best = max(measured, key=lambda row: float(row["val_accuracy"]))["epoch"]
    if epoch != best:  # killed between the two files, and resumed where bits are not promised
        warnings.warn(
            f"{run.path / 'best.pt'} is of epoch {epoch}, but epoch {best} was the best in "
            "metrics.jsonl: the result is that of the kept weights",
            ResightWarning,
            stacklevel=2,
        )


def _farewell(run: Run | None) -> str:
    if run is None:
        return "stopped before the training began: nothing was written"
    if run.finished:
        return f"stopped: the run is complete, its report is not; {_make_report(run)}"
    saved = "saved" if (run.path / "last.pt").exists() else "no step done yet"
    return f"stopped ({saved}); go on with: resight train --resume {shlex.quote(str(run.path))}"
