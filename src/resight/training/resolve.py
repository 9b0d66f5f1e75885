"""The recipe's schedule in numbers: LRs that it leaves to an LR test are found, once for a run."""

from __future__ import annotations

from resight.engine.job import Job
from resight.errors import ResightError
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Schedule
from resight.runs.lr_test import LrTest, without_advice
from resight.runs.run import Run
from resight.training.find_lr import run_range_test
from resight.training.lr_test_plan import plan_lr_test, too_few
from resight.training.session import Session
from resight.training.timings import count_recording

USUAL_RISE = 25  # from `lr_min` to `lr_max` where no LR test tells, as in torch's OneCycleLR


def resolve(job: Job, run: Run, session: Session) -> Schedule:
    """The schedule of `run` with all LRs as numbers: from its `resolved.json`, or found now and
    written there."""
    resolved = run.resolved
    if "found" not in resolved:
        found, usual = dict[str, float](), False
        if job.recipe.schedule.needs_lr_test:
            with count_recording(job, session.timings, "lr_test"):
                found, usual = _find(job, run, session)
        schedule = _in_numbers(job.recipe, found)
        resolved |= {"found": found, "usual": usual, "schedule": schedule.model_dump(mode="json")}
        run.write("resolved.json", resolved)
    return _in_numbers(job.recipe, resolved["found"])


def _find(job: Job, run: Run, session: Session) -> tuple[dict[str, float], bool]:
    """The LRs that the recipe leaves to the LR test, by setting, and whether they are the
    optimizer's usual ones; the test's curve is kept.

    They are that where no test is worth its time, or its curve shows nothing, and it is said.
    """
    plan = plan_lr_test(job)
    if plan is None:
        return _usual(job, session, too_few(job)), True
    test = run_range_test(job, plan, progress=session.counting("LR test"))
    run.write("lr_test.json", test.to_dict())
    try:
        found = _read_off(test, job.recipe.schedule)
    except ResightError as error:
        return _usual(job, session, without_advice(error)), True
    scaled = f" of {plan.batch} images, LRs scaled" if plan.lr_scale != 1.0 else ""
    session.say(f"LR found: {_listed(found)} ({len(test.lrs)} steps{scaled}, {test.stop})")
    return found, False


def _read_off(test: LrTest, schedule: Schedule) -> dict[str, float]:
    """Raises `ResightError` if the curve shows no LR."""
    lr_max = schedule.lr_max if isinstance(schedule.lr_max, float) else test.suggest()
    found = {"lr_max": lr_max} if schedule.lr_max == "find" else {}
    if getattr(schedule, "lr_min", None) == "find":
        found["lr_min"] = test.suggest_lr_min(lr_max)
    return found


def _usual(job: Job, session: Session, why: str) -> dict[str, float]:
    schedule, optimizer = job.recipe.schedule, job.recipe.optimizer
    found = {}
    lr_max = schedule.lr_max
    if not isinstance(lr_max, float):
        lr_max = found["lr_max"] = optimizer.usual_lr(job.batch_images(0))
    if getattr(schedule, "lr_min", None) == "find":
        found["lr_min"] = lr_max / USUAL_RISE
    what = "LR" if "lr_max" in found else "LR min"
    usual = f"using what is usual for {optimizer.name}: {_listed(found)}"
    session.say(f"no {what} found ({why}): {usual}")
    return found


def _listed(found: dict[str, float]) -> str:
    return " · ".join(f"{key} {value:.3g}" for key, value in found.items())


def _in_numbers(recipe: Recipe, found: dict[str, float]) -> Schedule:
    """The recipe's schedule with the LRs that were found. Raises `ResightError` if they don't
    fit."""
    fields = {f"schedule.{key}": value for key, value in found.items()}
    return recipe.with_changes(fields).schedule if fields else recipe.schedule
