"""`train_seeds()`: a recipe trained with several seeds, each a run of its own."""

from __future__ import annotations

import shlex
import signal
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resight.data.types import ImageData
from resight.engine.job import build_job, open_data
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from resight.files import exclusive
from resight.progress import Reporter, default_reporter, duration
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import changed
from resight.recipe.recipe import Recipe
from resight.runs.folders import check_out, new_folder
from resight.runs.run import Run
from resight.runs.seeds import Plan, SeedsResult, read_summary, seed_folder, write_summary
from resight.training import costs
from resight.training.epochs import NonFiniteLoss
from resight.training.interrupt import Interrupted, Progress, StopRequested, StopSignals
from resight.training.timings import Timings
from resight.training.train import LrNotFound, train

USUAL = 5  # seeds, unless told


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
    """Train `recipe` with `seeds` seeds (5 unless given), from its own on, one after another.

    Each is the run that `train` makes of it; they lie in one folder (`out`) as `seed-0` and so on,
    beside `seeds.json` with what follows from them. The images are decoded once. minutes: for each
    seed. report: write the first seed's at its end; the others' are for `report` to write. resume:
    a folder of seeds to go on with: what finished or failed stays, a run that was cut goes on, the
    rest is trained. All else as in `train`.

    A seed that stops by itself (a loss that is not finite, no LR found) is named in `failures` and
    the others are trained. Raises `ResightError` and `Interrupted` as `train` does.
    """
    started = time.perf_counter() if started is None else started
    timings = Timings(started)
    reporter = reporter or default_reporter()
    how: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "executor": executor,
        "deterministic": deterministic,
    }
    before: SeedsResult | None = None
    with StopSignals() as stop:
        decoding = stop.checking(reporter.counting("decoding images"))
        try:
            if resume is not None:
                if minutes is not None or out is not None or skip_bad:
                    raise ResightError("resumed seeds keep their own --minutes, --out, --skip-bad")
                path = Path(resume)
                plan, before, told = read_summary(path)
                _check_plan(path, plan, recipe, seeds, changes)
                if before.complete:
                    if not told:
                        write_summary(path, plan, before)
                    reporter.say(f"{path} has finished already: nothing to do")
                    return before
                given = {key: value for key, value in how.items() if value not in ("auto", False)}
                plan = replace(plan, how=plan.how | given, report=plan.report and report)
                Runtime.choose(**plan.how)  # what is not here is refused before images are read
                with timings("data"):
                    images = _open_again(path, plan, data, decoding)
            else:
                costs.check_minutes(minutes)
                check_out(out)
                asked = changed(find_recipe("custom-resnet" if recipe is None else recipe), changes)
                chosen = _chosen(asked, USUAL if seeds is None else seeds)
                plan = Plan(asked, chosen, how, skip_bad, report)
                with timings("start"):
                    runtime = Runtime.choose(**how)
                    runtime.apply()
                with timings("data"):
                    images = _open(plan, data, decoding)
                plan = _priced(plan, images, runtime, minutes, reporter, timings)
                path = new_folder(out, f"{asked.name}-seeds")
        except StopRequested:
            assert stop.received is not None
            message = "stopped before the training began: nothing was written"
            raise Interrupted(message, None, stop.received) from None
        finally:
            reporter.close()
    with exclusive(path / ".lock"):
        return _train_all(path, plan, images, reporter, timings, started, before)


def _train_all(
    path: Path,
    plan: Plan,
    images: ImageData,
    reporter: Reporter,
    timings: Timings,
    started: float,
    before: SeedsResult | None,
) -> SeedsResult:
    """Train each seed that is left, and keep `seeds.json` up to date."""
    took: list[float] = []
    failures = dict(before.failures) if before else {}
    on = f"go on with: resight train --resume {shlex.quote(str(path))}"

    def keep() -> SeedsResult:
        wall = time.perf_counter() - started
        result = replace(
            SeedsResult.of(path, plan.seeds, failures),
            wall_seconds=wall,
            timings=timings.parts(wall),
            resumed=before is not None,
        )
        write_summary(path, plan, result)
        return result

    seed = plan.seeds[0]
    try:
        result = keep()
        for number, seed in enumerate(plan.seeds):
            run = Run(seed_folder(path, seed))
            if run.finished or seed in failures:  # which would fail again: a seed repeats itself
                continue
            said = f"seed {seed}, {number + 1} of {len(plan.seeds)}: {run.path}"
            left = len(plan.seeds) - number
            if took:
                said += f", about {duration(left * statistics.fmean(took))} left for all"
            reporter.say(said)
            began = time.perf_counter()
            try:
                _train_one(run, plan, seed, images, reporter)
            except (NonFiniteLoss, LrNotFound) as error:
                failures[seed] = str(error)
                reporter.say(f"seed {seed} failed: {error}")
            else:
                took.append(time.perf_counter() - began)
                timings.add(run.result["timings"])
            result = keep()
        return result
    except KeyboardInterrupt as stopped:  # Interrupted is one
        done = keep().n
        number = getattr(stopped, "signal_number", signal.SIGINT)
        message = f"stopped at seed {seed}, {done} of {len(plan.seeds)} seeds are done; {on}"
        raise Interrupted(message, path, number) from None
    except ResightError as error:
        raise ResightError(f"seed {seed}: {error} (what is done is kept; {on})") from None


def _train_one(run: Run, plan: Plan, seed: int, images: ImageData, reporter: Reporter) -> None:
    """The run of a seed, from its start or from where it was cut."""
    run.sweep()
    begun = (run.path / "recipe.json").is_file()
    train(
        None if begun else plan.recipe.with_changes({"train.seed": seed}),
        images,
        out=None if begun else run.path,
        resume=run.path if begun else None,
        report=plan.report and seed == plan.seeds[0],
        announce=False,
        reporter=reporter,
        **plan.how,
    )


def _chosen(recipe: Recipe, count: int) -> tuple[int, ...]:
    """`count` seeds from the recipe's on."""
    if not isinstance(count, int) or count < 1:
        raise ResightError(
            f"seeds = {count} must be a whole number of 1 or more; the accuracy's spread takes 2"
        )
    first = recipe.train.seed
    recipe.with_changes({"train.seed": first + count - 1})  # refused where it is too large
    return tuple(range(first, first + count))


def _priced(
    plan: Plan,
    images: ImageData,
    runtime: Runtime,
    minutes: float | None,
    reporter: Reporter,
    timings: Timings,
) -> Plan:
    """Say what a seed costs here; with `minutes`, every seed has the epochs that fit for one."""
    with timings("build"):
        job = build_job(plan.recipe, open_data(images, plan.recipe), runtime)
    with timings("cost"):
        job = costs.say(job, minutes, reporter)
    if len(plan.seeds) > 1:
        first, last = plan.seeds[0], plan.seeds[-1]
        reporter.say(f"{len(plan.seeds)} seeds, {first} to {last}, each of which costs that")
    facts = {"source": images.source, "fingerprint": images.fingerprint}
    return replace(plan, recipe=job.recipe, images=facts)


def _open(plan: Plan, data: str | Path | ImageData | None, decoding: Progress) -> ImageData:
    """The images, without the validation split that each run holds out by itself."""
    whole = plan.recipe.with_changes({"data.val_fraction": 0.0})
    return open_data(data, whole, skip_bad=plan.skip_bad, decoding=decoding)


def _open_again(
    path: Path, plan: Plan, data: str | Path | ImageData | None, decoding: Progress
) -> ImageData:
    """The images of a plan that was begun. Raises `ResightError` where they are others."""
    try:
        images = _open(plan, plan.images["source"] if data is None else data, decoding)
    except ResightError as error:
        raise ResightError(f"{error} (if the images have moved: --data)") from None
    if images.fingerprint != plan.images["fingerprint"]:
        raise ResightError(
            f"{path}: the images at {images.source} are not those that its runs are trained on; "
            "put them back or give the folder that holds them with --data"
        )
    return images


def _check_plan(
    path: Path,
    plan: Plan,
    recipe: str | Path | Recipe | None,
    seeds: int | None,
    changes: Mapping[str, Any],
) -> None:
    """Raise `ResightError` where a call that resumes asks for something else than was begun."""
    asked = changed(find_recipe(recipe) if recipe is not None else plan.recipe, changes)
    differ = plan.recipe.differences(asked)
    if seeds is not None and seeds != len(plan.seeds):
        differ.append(f"seeds: {len(plan.seeds)} → {seeds}")
    if differ:
        raise ResightError(
            f"{path}: something else than what was begun there ({'; '.join(differ)}); leave the "
            "change out to go on, or start anew without --resume"
        )
