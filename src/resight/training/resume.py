"""Resuming a run: the same recipe on the same data, from the step of its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resight.data.types import ImageData
from resight.engine.job import Job
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from resight.recipe.recipe import Recipe
from resight.runs.checkpoints import LAST, not_a_checkpoint
from resight.runs.own_images import check_own, not_found_again
from resight.runs.run import Run, load_run
from resight.runs.schemas import check_rows
from resight.training.request import Request
from resight.training.session import Session


def run_to_resume(path: str | Path, request: Request) -> Run:
    """The run at `path`. Raises `ResightError` if there is none, or if the request differs from it,
    naming the fields."""
    request.check_resumes("a resumed run")
    run = load_run(path)
    refuse_differences(run.path, request.differences(run.recipe))
    return run


def refuse_differences(path: Path, differ: list[str]) -> None:
    if differ:
        raise ResightError(
            f"{path}: the request differs from what was started there ({'; '.join(differ)}); leave "
            "the change out to resume, or start a new run without --resume"
        )


def reopen(
    run: Run, request: Request, session: Session, *, announce: bool
) -> tuple[Job, Run, dict[str, Any] | None]:
    """A job for `run`, held by the session, and what to restore (None: start at the first step).
    announce: estimate the cost of the rest and report it.

    Raises `ResightError` for images different from those it was trained on, and for a damaged
    checkpoint.
    """
    session.hold_run(run)
    runtime = Runtime.like(run.environment.get("runtime"), request.options, run=run.path)
    runtime.apply()
    run.sweep()
    facts, saved = run.resolved.get("data", {}), run.checkpoint()
    images = load_again(run.path, facts, run.recipe, request, session)
    job = session.build(run.recipe, images, runtime)
    _check_fits(job, run, saved)
    step = saved["step"] if saved else 0
    session.say(
        f"resuming {run.path} at step {step} of {job.total_steps}"
        if saved
        else f"starting {run.path} at its first step"
    )
    if why := run.failure.get("message"):
        session.say(f"it stopped by itself, and will most likely do so again: {why}")
    if announce:
        session.announce_rest(job, saved)
    return job, run, saved


def _check_fits(job: Job, run: Run, saved: dict[str, Any] | None) -> None:
    """Raise `ResightError` if a checkpoint is not one of this training."""
    if saved is None:
        return
    path, epochs = run.path / LAST, job.recipe.schedule.epochs
    if why := job.state.fault(saved, epochs=epochs):
        raise not_a_checkpoint(path, why)
    check_rows(saved["history"], path)


def load_again(
    path: Path, facts: dict[str, Any], recipe: Recipe, request: Request, session: Session
) -> ImageData:
    """The images that the training began with, from their old place or from the request's `data`.

    facts: their `source`, `fingerprint` and `bad`, as far as known. Raises `ResightError` if the
    images have changed.
    """
    source = facts.get("source") if request.data is None else request.data
    try:
        images = session.load(source, recipe, skip_bad=bool(facts.get("bad")))
    except ResightError as error:
        raise not_found_again(error) from None
    if "fingerprint" in facts:
        advice = "put them back, or pass their folder with --data"
        check_own(facts, images, run=path, advice=advice)
    return images
