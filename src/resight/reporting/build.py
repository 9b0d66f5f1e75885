"""The verb `report`: a run's page and README, written into its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resight.data.types import ImageData
from resight.diagnosis.diagnose import examine
from resight.diagnosis.findings import Diagnosis
from resight.files import make_folder, write_atomically
from resight.material import Material, gather
from resight.progress import Reporter, default_reporter
from resight.reporting.facts import run_facts, summary_facts
from resight.reporting.gallery import collect
from resight.reporting.page import render_run
from resight.reporting.readme import write_readme
from resight.run import Run

PAGE = "report/index.html"  # in the run's folder


def report(
    run: str | Path | Run,
    data: str | Path | ImageData | None = None,
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Path:
    """Write `report/index.html`, one file that opens offline, and `report/README.md` with its
    pictures into the run's folder, and look for what went wrong on the way. Returns the page.

    data: the run's images, where they have moved. A run that has not finished gets a report of what
    there is. Raises `ResightError`.
    """
    reporter = reporter or default_reporter()
    try:
        material = gather(run, data, device=device, reporter=reporter)
        write_report(material, examine(material), reporter, reporter.counting("Grad-CAM"))
        return material.run.path / PAGE
    finally:
        reporter.close()


def write_report(
    material: Material,
    diagnosis: Diagnosis,
    reporter: Reporter,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write the report of `material`, say how long it took, and return its facts. progress: called
    with (images done, images in all) while the maps are made."""
    began = time.perf_counter()
    gallery = collect(material, progress)
    facts = run_facts(material, diagnosis, gallery)
    facts["summary"] = summary_facts(material.run)
    page = material.run.path / PAGE
    make_folder(page.parent)
    write_atomically(page, render_run(facts).encode())
    write_readme(page.parent, facts, gallery)
    reporter.say(f"report made in {time.perf_counter() - began:.1f} s")
    return facts
