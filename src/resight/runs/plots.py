"""The figures of one run: what `Run.plot_*` draws, and what to do where a run has no facts yet."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from resight.runs.commands import find_lr_command
from resight.errors import ResightError
from resight.render import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resight.data.types import ImageData
    from resight.runs.predictions import Predictions
    from resight.runs.run import Run


def curves(run: Run) -> Figure:
    metrics = run.metrics
    if not metrics:
        raise ResightError(
            f"{run.path}: no epoch is done yet, so there are no curves; {_go_on(run)}"
        )
    return charts.curves(metrics)


def schedule(run: Run) -> Figure:
    from resight.reporting.facts import base_facts

    facts = base_facts(run)["schedule"]
    if facts is None:  # the LR is not found, or plateau's follows losses that are not there
        raise ResightError(f"{run.path}: its learning rates are not known yet; {_go_on(run)}")
    return charts.lr_schedule(facts)


def lr_test(run: Run) -> Figure:
    test = run.lr_test
    if test is None:
        command = find_lr_command(run)
        hint = f"; `{command}` shows one" if command else ""
        raise ResightError(f"{run.path}: no LR test was made for it, its LR was given{hint}")
    return test.plot()


def confusion(run: Run) -> Figure:
    predictions = _predictions(run)
    return charts.confusion(predictions.confusion.tolist(), predictions.classes)


def per_class(run: Run) -> Figure:
    return charts.per_class(_predictions(run).per_class())


def reliability(run: Run) -> Figure:
    from resight.runs.calibration import calibration

    measured = calibration(_predictions(run))
    return charts.reliability({"bins": measured.rows, "ece": measured.ece})


def mistakes(run: Run, limit: int, data: str | Path | ImageData | None) -> Figure:
    from resight.look.evaluate import reload_data
    from resight.render import tiles

    if not isinstance(limit, int) or limit < 1:
        raise ResightError(f"limit = {limit!r} must be a whole number of at least 1")
    predictions = _predictions(run)
    rows = predictions.mistakes(limit)
    if not len(rows):
        raise ResightError(f"{run.path}: no test image is misclassified, so there is none to show")
    images = reload_data(run, data=data).test.images
    classes = predictions.classes
    return tiles.mistakes(
        images[rows],
        [classes[label] for label in predictions.labels[rows]],
        [classes[label] for label in predictions.predicted[rows]],
        predictions.confidence[rows].tolist(),
        predictions.ids[rows].tolist(),
    )


def _predictions(run: Run) -> Predictions:
    if not run.finished:
        raise ResightError(f"{run.path}: not finished, so nothing is measured yet; {_go_on(run)}")
    return run.predictions


def _go_on(run: Run) -> str:
    return (
        f"wait for it, or go on with `resight train --resume {shlex.quote(str(run.path))}` if it "
        "has stopped"
    )
