"""How long a run's report takes, part by part, how large its page is, how fast Chromium opens it.

    python benchmarks/report.py RUN [--opens 5] [--json FILE]

The run must be finished and its images available; its `diagnosis.json` is written again.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measuring import one_line_errors, options_parser, print_table, write_figures
from resight.diagnosis.diagnose import examine
from resight.look.open_run import open_run
from resight.render.page import render_run
from resight.reporting.facts import run_facts, summary_facts
from resight.reporting.gallery import collect
from resight.reporting.readme import write_readme


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--opens", type=int, default=5)
    options = parser.parse_args(argv)
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - began
        return result

    opened = timed("loading", lambda: open_run(options.run))
    timed("duplicates", lambda: opened.duplicates)
    diagnosis = timed("diagnosis", lambda: examine(opened))
    gallery = timed("Grad-CAM", lambda: collect(opened, lambda done, total: None))
    facts = timed("facts", lambda: run_facts(opened, diagnosis, gallery))
    facts["summary"] = summary_facts(opened.run)
    page = timed("page", lambda: render_run(facts))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.html"
        path.write_text(page, "utf-8")
        timed("README", lambda: write_readme(Path(folder), facts, gallery))
        opened = open_page(path, options.opens)
    print_table(("part", "seconds"), [(name, f"{value:.1f}") for name, value in seconds.items()])
    images = len(gallery.rows) if gallery else 0
    print(f"page {path.name}: {len(page.encode()) / 1e6:.2f} MB, {images} images")
    if opened:
        print(
            f"opened in {statistics.median(opened):.0f} ms "
            f"({min(opened):.0f} to {max(opened):.0f}, n = {len(opened)})"
        )
    figures = {"seconds": seconds, "bytes": len(page.encode()), "open_ms": opened}
    write_figures(options.json, {"benchmark": "report", **figures})


def open_page(path: Path, times: int) -> list[float]:
    """Milliseconds from navigation to the load event, with the page drawn; [] without Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return []
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        took = []
        for _ in range(times):
            page = browser.new_page()
            page.goto(path.as_uri())
            page.wait_for_selector("#headline")
            entry = "performance.getEntriesByType('navigation')[0].loadEventEnd"
            took.append(float(page.evaluate(entry)))
            page.close()
        browser.close()
    return took


if __name__ == "__main__":
    main()
