"""Going on with a run: the same recipe on the same data, from the last checkpoint's step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resight.data.types import ImageData
from resight.engine.job import Job, build_job, open_data
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from resight.progress import Reporter
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import changed
from resight.recipe.recipe import Recipe
from resight.runs.run import Run


def check_recipe(run: Run, recipe: str | Path | Recipe | None, changes: Mapping[str, Any]) -> None:
    """Raise `ResightError` for another recipe than the run's, naming the fields."""
    asked = changed(find_recipe(recipe) if recipe is not None else run.recipe, changes)
    differ = run.recipe.differences(asked)
    if differ:
        raise ResightError(
            f"{run.path}: another recipe than the run's ({'; '.join(differ)}); leave the "
            "change out to go on, or start a new run without --resume"
        )


def reopen(
    run: Run,
    data: str | Path | ImageData | None,
    runtime: Runtime,
    reporter: Reporter,
    decoding: Callable[[int, int], None],
) -> tuple[Job, dict[str, Any] | None]:
    """A job for `run`, and what to restore (None: from the first step).

    Raises `ResightError` for other images than it was trained on, and for a damaged checkpoint.
    """
    run.sweep()
    facts, saved = run.resolved.get("data", {}), run.checkpoint()
    runtime.apply()
    try:
        loaded = open_data(
            data if data is not None else facts.get("source"),
            run.recipe,
            skip_bad=bool(facts.get("bad")),
            decoding=decoding,
        )
    except ResightError as error:
        raise ResightError(f"{error} (if the images have moved: --data)") from None
    expected = facts.get("fingerprint", loaded.fingerprint)
    if loaded.fingerprint != expected:
        raise ResightError(
            f"{run.path}: the images at {loaded.source} are not those it was trained on "
            f"(fingerprint {loaded.fingerprint[:12]}, not {expected[:12]}); put them back or give "
            "the folder that holds them with --data"
        )
    job = build_job(run.recipe, loaded, runtime)
    step = saved["step"] if saved else 0
    reporter.say(
        f"going on with {run.path} from step {step} of {job.total_steps}"
        + ("" if saved else ": it had no checkpoint yet")
    )
    return job, saved
