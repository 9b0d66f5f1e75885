"""`report`: write a run's page and README into its folder."""

from __future__ import annotations

from pathlib import Path

from resight.data.types import ImageData
from resight.diagnosis.diagnose import examine
from resight.engine.runtime import kept_threads
from resight.errors import ResightError
from resight.files import make_folder, write_atomically
from resight.findings import Diagnosis
from resight.look.cam import Method
from resight.look.open_run import OpenRun, open_run
from resight.progress import Reporter, default_reporter
from resight.render.page import render_run
from resight.reporting.facts import Facts, run_facts, summary_facts
from resight.reporting.gallery import Gallery, collect
from resight.reporting.readme import write_readme
from resight.runs.run import Run

PAGE = "report/index.html"  # in the run folder


@kept_threads()
def report(
    run: str | Path | Run,
    data: str | Path | ImageData | None = None,
    *,
    layer: str | None = None,
    method: Method = "gradcam",
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Path:
    """Write `report/index.html`, one file that opens offline, and `report/README.md` with its
    pictures into the run folder, and diagnose the run on the way. Returns the page's path.

    data: the run's images, if they have moved. layer, method: of the maps, as in `grad_cam`. A run
    that has not finished gets a report of what there is so far. Raises `ResightError`.
    """
    reporter = reporter or default_reporter()
    try:
        opened = open_run(run, data, device=device, reporter=reporter)
        if opened.missing and _has_pictures(opened.run.path):
            raise ResightError(
                f"{opened.missing}; the report that is there stays, since a new one would have no "
                "pictures (remove it to get one all the same)"
            )
        progress = reporter.counting("Grad-CAM")
        gallery = collect(opened, progress, layer=layer, method=method)
        write_report(opened, examine(opened), gallery)
        return opened.run.path / PAGE
    finally:
        reporter.close()


def _has_pictures(run: Path) -> bool:
    """Whether the run's report shows images."""
    page = run / PAGE
    return page.is_file() and (page.parent / "images" / "augmented.png").is_file()


def write_report(
    opened: OpenRun,
    diagnosis: Diagnosis,
    gallery: Gallery | None,
) -> Facts:
    """Write the report of `opened` and return its facts."""
    facts = run_facts(opened, diagnosis, gallery)
    facts["summary"] = summary_facts(opened.run)
    page = opened.run.path / PAGE
    make_folder(page.parent)
    write_atomically(page, render_run(dict(facts)).encode())
    write_readme(page.parent, facts, gallery)
    return facts
