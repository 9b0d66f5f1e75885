"""`train()`: from a recipe and data to a run folder. Read this module first: it has every stage.

start or reopen a run ─▶ find the LR ─▶ epochs ─▶ evaluate the test split ─▶ diagnose ─▶ report
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
import warnings
from pathlib import Path
from typing import Any

from resight.data.types import ImageData, data_facts
from resight.diagnosis.diagnose import evidence_of, examine
from resight.diagnosis.image_checks import split_statistics
from resight.diagnosis.watch import Watch
from resight.engine.job import Job
from resight.engine.runtime import RuntimeOptions
from resight.errors import ResightError, ResightWarning, described
from resight.look.open_run import OpenRun, open_run
from resight.progress import Reporter, duration
from resight.recipe.recipe import Recipe
from resight.records import best_epoch
from resight.reporting.facts import base_facts
from resight.reporting.gallery import collect
from resight.reporting.live import LiveReport, serve
from resight.reporting.report import write_report
from resight.runs.checkpoints import LAST
from resight.runs.commands import report_command, resume_command
from resight.runs.environment import describe_environment
from resight.runs.folders import begin_run, check_out, new_folder
from resight.runs.manifest import check_files
from resight.runs.predictions import Predictions
from resight.runs.run import Run, metrics_bytes
from resight.runs.weights import model_bytes
from resight.training.epochs import NonFiniteLoss, fit_epochs, measure
from resight.training.forecast import Forecast
from resight.training.interrupt import StopRequested
from resight.training.request import Request
from resight.training.resolve import resolve
from resight.training.resume import reopen, run_to_resume
from resight.training.session import Session
from resight.training.timings import count_epochs, count_report
from resight.training.under_way import Training

BEST_WEIGHTS = "best validation epoch"


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
    """Train `recipe` ("custom-resnet" by default) on `data` (by default the recipe's own).

    recipe: a name, a TOML or JSON file, or a `Recipe`. data: "cifar10", "cifar100", "digits", a
    folder, or an `ImageData`. changes: `epochs`, `batch_size`, `lr` ("find" or a number), `seed`,
    `val` (fraction of train), `group` (a regular expression: images in whose ids its first group is
    the same stay on one side of every split), and any other field, as
    `optimizer={"weight_decay": 0}`. minutes: train as many whole epochs as fit, at most the
    recipe's. resume: a run folder to resume; `recipe` and changes, if given, must match the run's.
    report: write the report at the end; failures are diagnosed without it, too. live: serve the
    report on 127.0.0.1 during training. executor: "eager" or "captured" (CUDA graphs); "auto"
    captures where possible. announce: estimate the cost first and report it. started: the
    `time.perf_counter()` from which `wall_seconds` counts; by default now.

    Raises `ResightError` for what the user can fix, and `Interrupted` (a KeyboardInterrupt) after
    Ctrl-C or SIGTERM once the state is saved.
    """
    options = RuntimeOptions(device, precision, executor, deterministic)
    request = Request(recipe, data, changes, options, out, minutes, skip_bad)
    with Session(reporter, started) as session:
        try:
            begun = None if resume is None else run_to_resume(resume, request)
            if begun is not None and begun.complete:
                return _look_again(begun, request, session, report=report)
            if begun is None:
                job, run, saved = _begin_new(request, session, announce=announce)
            else:
                job, run, saved = reopen(begun, request, session, announce=announce)
            if begun is not None:
                how = describe_environment(job.runtime.to_dict(), job.data.fingerprint)
                run.write("environment.json", how)
            if live:
                session.reporter, address = session.hold(serve(run, session.reporter))
                session.say(f"live at {address}")
            schedule = resolve(job, run, session)
            if saved is not None:
                job.state.restore(saved)
            run.begin_metrics(job.state.history)
            first = None if saved is None else job.state.step
            with session.timings("checks"):
                watch = _watch(job, run, session)
            forecast = Forecast(job, session.cost)
            training = Training(session, job, run, schedule, watch, forecast, resumed_from=first)
            last = _fit(training, report=report)
            if training.stopped:
                session.say(training.stopped)
            predictions = _finish(training, last)
            session.say(predictions.headline)
            if run.result["weights"] == BEST_WEIGHTS:
                kept = run.result["weights_epoch"]
                session.say(f"with the weights of epoch {kept}, the best on validation")
            session.say(predictions.beside_accuracy)
            session.say(_speed(run))
            _diagnose_and_report(training, report=report)
            count_report(run, session.started)
            return run
        except StopRequested:
            raise session.interrupted(_farewell(session.run, report=report)) from None


def _look_again(run: Run, request: Request, session: Session, *, report: bool) -> Run:
    """A finished run, whose diagnosis and report are made if the training was killed before."""
    check_files(run.path)
    done = run.done(report=report)
    if run.leftovers or not done:
        session.hold_run(run)
        run.sweep()
    if done:
        session.say(f"{run.path} is already finished: nothing to do")
    else:
        session.say(f"{run.path} is already finished: looking at it again")
        opened = open_run(
            run, request.data, device=request.options.device, reporter=session.reporter
        )
        _look_into(opened, session, report=report)
    session.say(_speed(run))
    return run


def _begin_new(
    request: Request, session: Session, *, announce: bool
) -> tuple[Job, Run, dict[str, Any] | None]:
    """A job at step 0 in a new run folder, and nothing to restore. announce: estimate the cost
    first and report it."""
    check_out(request.out)
    chosen = request.new_recipe()
    runtime = session.choose(request.options)
    images = session.load(request.data, chosen.recipe, skip_bad=request.skip_bad)
    chosen = request.settled(chosen, images)
    job = session.build(chosen.recipe, images, runtime)
    if announce or request.minutes is not None:
        job = session.announce(job, request.minutes, chosen)
    facts = {"data": data_facts(job.data), "steps_per_epoch": job.steps_per_epoch}
    how = job.runtime.to_dict()
    run = session.hold_run(Run(new_folder(request.out, job.recipe.name)))
    begin_run(run, job.recipe, resolved=facts, runtime=how)
    return job, run, None


def _watch(job: Job, run: Run, session: Session) -> Watch:
    """Report gross faults of the images now; the watch then looks for failures in later steps."""
    run.forget_failure()
    for finding in split_statistics(job.data):
        session.reporter.finding(finding)
    return Watch(evidence_of(OpenRun(run, job.data, job.runtime)))


def _fit(training: Training, *, report: bool) -> Predictions | None:
    """The epochs; a loss that is not finite is recorded, diagnosed and raised."""
    try:
        with count_epochs(training.job, training.session.timings):
            return fit_epochs(training)
    except NonFiniteLoss as error:
        training.run.write("failure.json", {"message": str(error)})
        with contextlib.suppress(StopRequested):  # the failure is what must be reported
            _diagnose_and_report(training, report=report)
        raise


def _diagnose_and_report(training: Training, *, report: bool) -> None:
    """Look for what went wrong and write the report. Nothing here fails the training."""
    opened = OpenRun(training.run, training.job.data, training.job.runtime)
    _look_into(opened, training.session, training.watch, report=report)


def _look_into(
    opened: OpenRun, session: Session, watch: Watch | None = None, *, report: bool
) -> None:
    """The diagnosis and the report of a run. watch: what was found while it trained."""
    run, began = opened.run, time.perf_counter()
    try:
        diagnosis = examine(opened)
        session.stop.check()
        for finding in watch.withdrawn(diagnosis.findings) if watch else ():
            session.say(f"at the end no longer found: {finding.title}")
        if report:
            gallery = collect(opened, session.counting("Grad-CAM"))
            facts = write_report(opened, diagnosis, gallery)
            session.say(f"diagnosis and report took {duration(time.perf_counter() - began)}")
        else:
            facts = base_facts(run)
        if isinstance(session.reporter, LiveReport):
            session.reporter.finish(facts, state="finished" if run.finished else "stopped")
    except StopRequested:
        raise
    except Exception as error:
        why = f": {error}"
        if not isinstance(error, ResightError):
            why = f" ({described(error)}); `{report_command(run.path)}` writes it"
        warnings.warn(
            f"the report of {run.path} could not be written{why}",
            ResightWarning,
            stacklevel=2,
        )


def _finish(training: Training, last: Predictions | None) -> Predictions:
    """Evaluate the test split with the final weights, and write the remaining files.

    The final weights are those of the best epoch on validation, if there is one; else those of the
    last epoch, whose predictions for the test split (`last`) are reused.
    """
    session, job, run = training.session, training.job, training.run
    timings, stop, model = session.timings, session.stop, job.state.eval_model
    with timings("evaluate"):
        kept = training.epoch
        if job.data.val is not None:
            kept = _load_best(job, run)
            val = measure(job, "val", stop)
            run.write_files({"predictions-val.npz": val.to_bytes()})  # for the report
        predictions = last if last and last.split == "test" else measure(job, "test", stop)
    with timings("save"):
        run.write_files(
            {
                "metrics.jsonl": metrics_bytes(job.state.history),
                "model.safetensors": model_bytes(model, job.recipe, job.data),
                "predictions.npz": predictions.to_bytes(),
            }
        )
    low, high = predictions.accuracy_interval
    seconds = math.fsum(row["train_seconds"] for row in job.state.history)
    wall = time.perf_counter() - session.started
    each = job.recipe.evaluate.when == "each-epoch"
    result = {
        "run": str(run.path),
        "recipe": job.recipe.name,
        "data": job.data.name,
        "seed": job.recipe.train.seed,
        "epochs": job.recipe.schedule.epochs,
        "epochs_trained": training.epoch,
        "lr_max": run.resolved["schedule"]["lr_max"],
        "weights": BEST_WEIGHTS if job.data.val and each else "last epoch",
        "weights_epoch": kept,
        "test_accuracy": predictions.accuracy,
        "test_accuracy_95": [low, high],
        "guess_accuracy": predictions.guess_accuracy,
        "balanced_accuracy": predictions.balanced_accuracy,
        "test_classes": predictions.classes_measured,
        "test_loss": predictions.loss,
        "test_images": len(predictions),
        "train_accuracy": job.state.history[-1]["train_accuracy"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_seconds": seconds,
        "whitening_seconds": job.state.whitening_seconds,
        "last_evaluation_seconds": job.state.history[-1].get("evaluate_seconds"),
        "estimated_seconds": session.cost.training(job) if session.cost else None,
        "wall_seconds": wall,
        "timings": timings.parts(wall),  # of this process; `count_report` adds the report's
        "resumed_from_step": training.resumed_from,
        "images_per_second": job.epoch_images() * len(job.state.history) / max(seconds, 1e-9),
        "device": job.runtime.name,
        "precision": job.runtime.precision,
        "executor": "eager" if job.executor.fallback else job.runtime.executor,
        "fallback": job.executor.fallback,
    }
    if job.executor.fallback:
        runtime = dataclasses.replace(
            job.runtime,
            executor="eager",
            reasons={**job.runtime.reasons, "executor": job.executor.fallback},
        )
        run.write("environment.json", run.environment | {"runtime": runtime.to_dict()})
    run.write("result.json", result)
    return predictions


def _speed(run: Run) -> str:
    result = run.result
    trained = f"trained in {duration(result['train_seconds'])}"
    speed = f"at {result['images_per_second']:,.0f} images/s"
    whole = duration(result["wall_seconds"])
    if result.get("resumed_from_step") is None:
        return f"{trained} {speed}; {whole} from start to result"
    return f"{trained} {speed}, interruptions not counted; {whole} from resuming to result"


def _load_best(job: Job, run: Run) -> int:
    """Take the weights of the best epoch on validation; returns which it is."""
    epoch, best = run.load_best(job.state.eval_model), best_epoch(job.state.history, "val_accuracy")
    if best is not None and epoch != best["epoch"]:
        # killed after one of the two files was written, and resumed without the same bits
        warnings.warn(
            f"{run.path / 'best.pt'} holds epoch {epoch}, but in metrics.jsonl epoch "
            f"{best['epoch']} is the best: the result is that of the weights in best.pt",
            ResightWarning,
            stacklevel=2,
        )
    return epoch


def _farewell(run: Run | None, *, report: bool) -> str:
    if run is None:
        return "stopped before training began: nothing was written"
    if run.finished:
        command = report_command(run.path)
        return f"stopped: the run is complete, its report is not; `{command}` writes it"
    saved = "saved" if (run.path / LAST).exists() else "no step done yet"
    words = [] if report else ["--no-report"]
    return f"stopped ({saved}); resume with: {resume_command(run.path, *words)}"
