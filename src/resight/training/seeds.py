"""`train_seeds()`: a recipe trained with several seeds, one run per seed."""

from __future__ import annotations

import signal
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resight.data.types import ImageData
from resight.engine.runtime import RuntimeOptions
from resight.errors import ResightError
from resight.files import exclusive
from resight.progress import Reporter, duration
from resight.recipe.recipe import Recipe
from resight.runs.commands import resume_command
from resight.runs.folders import check_out, new_folder
from resight.runs.run import Run
from resight.runs.seeds import SeedsPlan, SeedsResult, read_summary, seed_folder, write_summary
from resight.training.epochs import NonFiniteLoss
from resight.training.interrupt import Interrupted, StopRequested
from resight.training.request import Request
from resight.training.resume import load_again, refuse_differences
from resight.training.session import Session
from resight.training.train import train

USUAL_SEEDS = 5
MAX_SEEDS = 10_000


def train_seeds(
    recipe: str | Path | Recipe | None = None,
    data: str | Path | ImageData | None = None,
    *,
    seeds: int | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    minutes: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    executor: str = "auto",
    deterministic: bool = False,
    skip_bad: bool = False,
    report: bool = True,
    reporter: Reporter | None = None,
    started: float | None = None,
    **changes: Any,
) -> SeedsResult:
    """Train `recipe` with `seeds` consecutive seeds (5 by default), one after another, starting at
    the recipe's own.

    Each seed becomes the run that `train` would make, `seed-0` and so on, in one folder (`out`)
    with `seeds.json`, which holds the statistics. The images are decoded once. minutes: per seed.
    report: write the first seed's report at its end; call `report` for the others. resume: a folder
    of seeds to resume: finished and failed seeds stay as they are, an interrupted run is resumed,
    the rest are trained. Everything else as in `train`.

    A seed that fails (a loss that is not finite) is listed in `failures`, and the
    others are still trained. Raises `ResightError` and `Interrupted` as `train` does.
    """
    options = RuntimeOptions(device, precision, executor, deterministic)
    request = Request(recipe, data, changes, options, out, minutes, skip_bad)
    with Session(reporter, started) as session:
        try:
            if resume is None:
                begun = _begin(request, session, seeds=seeds, report=report)
            else:
                reopened = _reopen(Path(resume), request, session, seeds=seeds, report=report)
                if isinstance(reopened, SeedsResult):
                    session.say(f"{reopened.path} is already finished: nothing to do")
                    return reopened
                begun = reopened
        except StopRequested:
            message = "stopped before training began: nothing was written"
            raise session.interrupted(message) from None
    with exclusive(begun.path / ".lock"):
        return _train_all(begun, session)


@dataclass(frozen=True)
class _Begun:
    """Seeds to train or to resume. failures: messages of earlier ones, by seed."""

    path: Path
    plan: SeedsPlan
    images: ImageData
    failures: dict[int, str] = field(default_factory=dict)
    resumed: bool = False


def _begin(request: Request, session: Session, *, seeds: int | None, report: bool) -> _Begun:
    """A new folder. With `minutes`, all seeds train for the epochs that fit for one."""
    check_out(request.out)
    choice = request.new_recipe()
    recipe = choice.recipe
    chosen = _chosen(recipe, USUAL_SEEDS if seeds is None else seeds)
    runtime = session.choose(request.options)
    images = session.load(request.data, _without_val(recipe), skip_bad=request.skip_bad)
    divided = session.load(images, recipe, skip_bad=False)
    choice = request.settled(choice, divided)
    job = session.build(choice.recipe, divided, runtime)
    job = session.announce(job, request.minutes, choice)
    if len(chosen) > 1:
        session.say(f"{len(chosen)} seeds ({chosen[0]} to {chosen[-1]}), each at this cost")
    plan = SeedsPlan(
        recipe=job.recipe,
        seeds=chosen,
        how=dict(vars(request.options)),
        skip_bad=request.skip_bad,
        report=report,
        images={"source": images.source, "fingerprint": images.fingerprint},
    )
    return _Begun(new_folder(request.out, f"{recipe.name}-seeds"), plan, images)


def _without_val(recipe: Recipe) -> Recipe:
    """For the images that all seeds share: each run holds out its own validation split."""
    return recipe.with_changes({"data.val_fraction": 0.0})


def _reopen(
    path: Path, request: Request, session: Session, *, seeds: int | None, report: bool
) -> _Begun | SeedsResult:
    """What is left to train in a folder of seeds; the result if nothing is left."""
    request.check_resumes("a folder of seeds")
    plan, before, told = read_summary(path)
    differ = request.differences(plan.recipe)
    if seeds is not None and seeds != len(plan.seeds):
        differ.append(f"seeds: {len(plan.seeds)} → {seeds}")
    refuse_differences(path, differ)
    plan = replace(plan, how=plan.how | request.options.given, report=plan.report and report)
    if before.complete and all(run.done(report=plan.reports(run)) for run in before.runs):
        if not told or Run(path).leftovers:
            with exclusive(path / ".lock"):
                Run(path).sweep()
                write_summary(path, plan, before)
        return before
    RuntimeOptions(**plan.how).choose()  # refuses a missing device before images are read
    facts = {**plan.images, "bad": plan.skip_bad}
    images = load_again(path, facts, _without_val(plan.recipe), request, session)
    return _Begun(path, plan, images, dict(before.failures), resumed=True)


def _train_all(begun: _Begun, session: Session) -> SeedsResult:
    """Train each remaining seed, and keep `seeds.json` up to date."""
    path, plan, failures = begun.path, begun.plan, begun.failures
    took: list[float] = []
    on = f"resume with: {resume_command(path)}"

    def keep() -> SeedsResult:
        wall = time.perf_counter() - session.started
        result = replace(
            SeedsResult.of(path, plan.seeds, failures),
            wall_seconds=wall,
            timings=session.timings.parts(wall),
            resumed=begun.resumed,
        )
        write_summary(path, plan, result)
        return result

    seed = plan.seeds[0]
    Run(path).sweep()
    try:
        result = keep()
        for number, seed in enumerate(plan.seeds):
            run = Run(seed_folder(path, seed))
            if run.done(report=plan.reports(run)) or seed in failures:
                run.sweep()
                continue  # a seed that failed would fail again
            said = f"seed {seed} ({number + 1} of {len(plan.seeds)}): {run.path}"
            left = len(plan.seeds) - number
            if took:
                said += f", about {duration(left * statistics.fmean(took))} left in total"
            session.say(said)
            start = time.perf_counter()
            try:
                _train_one(run, begun, seed, session.reporter)
            except NonFiniteLoss as error:
                failures[seed] = str(error)
                session.say(f"seed {seed} failed: {error}")
            else:
                report = run.result["timings"].get("report", 0.0)  # of one seed alone
                took.append(time.perf_counter() - start - report)
                session.timings.add(run.result["timings"])
            result = keep()
        return result
    except KeyboardInterrupt as stopped:  # Interrupted is one
        done = keep().n
        number = getattr(stopped, "signal_number", signal.SIGINT)
        message = f"stopped at seed {seed} with {done} of {len(plan.seeds)} seeds done; {on}"
        raise Interrupted(message, path, number) from None
    except ResightError as error:
        raise ResightError(f"seed {seed}: {error} (finished seeds are kept; {on})") from None


def _train_one(run: Run, begun: _Begun, seed: int, reporter: Reporter) -> None:
    """The run of a seed, from its start or from where it was interrupted."""
    plan = begun.plan
    run.sweep()
    there = run.begun
    train(
        None if there else plan.recipe.with_changes({"train.seed": seed}),
        begun.images,
        out=None if there else run.path,
        resume=run.path if there else None,
        report=plan.reports(run),
        announce=False,
        reporter=reporter,
        **plan.how,
    )


def _chosen(recipe: Recipe, count: int) -> tuple[int, ...]:
    """`count` consecutive seeds, starting at the recipe's."""
    if not isinstance(count, int) or not 1 <= count <= MAX_SEEDS:
        raise ResightError(
            f"seeds = {count} must be an integer from 1 to {MAX_SEEDS:,}; at least 2 are needed to "
            "estimate the spread"
        )
    first = recipe.train.seed
    recipe.with_changes({"train.seed": first + count - 1})  # refused where it is too large
    return tuple(range(first, first + count))
