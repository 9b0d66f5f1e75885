"""The verb: a run, finished or not, looked through for what went wrong without a word."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from resight.data.types import ImageData
from resight.diagnosis import image_checks as inputs
from resight.diagnosis import net_checks as probes
from resight.diagnosis import record_checks as checks
from resight.diagnosis.evidence import Evidence
from resight.diagnosis.watch import judged_from
from resight.errors import ResightError, ResightWarning
from resight.findings import Diagnosis, Finding
from resight.look.open_run import Material, gather
from resight.progress import Reporter
from resight.runs.commands import find_lr_command
from resight.runs.run import Run


def diagnose(
    run: str | Path | Run,
    data: str | Path | ImageData | None = None,
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Diagnosis:
    """Look for silent failures in a run; what was found is kept in its `diagnosis.json`.

    data: its images, where they have moved. Raises `ResightError` where there is no run.
    """
    return examine(gather(run, data, device=device, reporter=reporter))


def examine(material: Material) -> Diagnosis:
    """Every check that `material` allows; the result is written into the run's folder."""
    skipped: list[str] = []
    findings = checks.check(evidence_of(material))
    if material.data is None:
        skipped.append(f"the images: {material.missing}")
    else:
        findings += inputs.split_statistics(material.data)
        findings += inputs.leakage(material.duplicates, len(material.data.test))
        if material.model is None:
            skipped.append("the net: the run has not finished")
        else:
            findings += _probe(material)
    if material.predictions is None:
        skipped.append("predictions: the run has not finished")
    diagnosis = Diagnosis.of(findings, skipped)
    try:
        material.run.write("diagnosis.json", diagnosis.to_dict())
    except ResightError as error:  # the findings are there all the same
        warnings.warn(str(error), ResightWarning, stacklevel=2)
    return diagnosis


def evidence_of(material: Material) -> Evidence:
    """What the run's files say."""
    run = material.run
    resolved = run.resolved
    return Evidence(
        recipe=run.recipe,
        classes=tuple(resolved["data"]["classes"]),
        class_counts=material.class_counts,
        metrics=run.metrics,
        find_lr=find_lr_command(run),
        watched_images=resolved["data"]["val"] or resolved["data"]["test"],
        judged_from=_judged_from(run),
        lr_max=resolved.get("schedule", {}).get("lr_max"),
        lr_test=run.lr_test,
        predictions=material.predictions,
        failure=run.failure or None,
        finished=run.finished,
    )


def _judged_from(run: Run) -> int:
    return judged_from(run.recipe.schedule, run.resolved["steps_per_epoch"])


def _probe(material: Material) -> list[Finding]:
    assert material.model is not None
    images, labels = material.augmented(probes.PROBE_IMAGES)
    with torch.no_grad(), material.runtime.autocast():
        return [
            *probes.batch_norm(material.model, images, labels),
            *probes.dead_channels(material.model, images),
        ]
