"""The page of an inspection: what was found, the images that show it, and some of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.data.decode import GREY
from resight.data.table import decoding_threads
from resight.data.workers import decode_rows
from resight.errors import ResightError
from resight.files import write_atomically
from resight.inspection.cases import DataFinding
from resight.inspection.result import Inspection
from resight.inspection.seen import Rows, Seen
from resight.inspection.text import class_table
from resight.progress import Quiet, Reporter
from resight.render.page import render_page
from resight.render.sprites import sheet
from resight.version import __version__

SCRIPTS = ("images.js", "data.js")
CELL_PX = 144  # at most: a whole image, its longer side that long
SMALLER_PX = (96, 64)  # where the bytes are not enough for that
MAX_CASES = 24  # of a finding, with their images
MAX_NAMED = 200  # of a finding, by their names alone
MAX_IMAGES = 600  # of all classes together
MIN_EACH, MAX_EACH = 6, 48  # of a class
SHEET_BYTES = 3_600_000  # of all sheets; a third more as base64: a page of 5 MB at most

Images = npt.NDArray[np.uint8]


def write_page(
    inspection: Inspection, path: str | Path, *, reporter: Reporter | None = None
) -> Path:
    """Write one self-contained HTML file: counts, findings with the images that they name, and some
    images of each class, whole, with the square that the net will see. Returns its path.

    The images shown are read again, since the decoded ones lack what a crop cuts off. Raises
    `ResightError` if `path` can't be written.
    """
    path = check_page(path)
    progress = (reporter or Quiet()).counting("reading the images shown")
    page = render_page("data.html", page_facts(inspection, progress), SCRIPTS)
    write_atomically(path, page.encode())
    return path


def check_page(path: str | Path) -> Path:
    """Raises `ResightError` if there is no folder for it."""
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise ResightError(f"there is no folder {path.parent} for the page: create it first")
    return path


def page_facts(inspection: Inspection, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Plain JSON values without NaN."""
    seen = inspection.seen
    named = {
        row: None
        for finding in inspection.findings
        for case in finding.cases[:MAX_CASES]
        for row in case.rows
    }
    each = max(MIN_EACH, min(MAX_EACH, MAX_IMAGES // len(inspection.classes)))
    shown = range(min(len(inspection.classes), MAX_IMAGES // each))
    samples = [_sample(seen, k, each) for k in shown]
    done, total = 0, len(named) + sum(map(len, samples))

    def pictures(rows: Sequence[int], budget: int) -> dict[str, Any]:
        nonlocal done
        drawn = _pictures(seen, rows, budget)
        done += len(rows)
        progress(done, total)
        return drawn

    groups = [pictures(rows, SHEET_BYTES * 2 // 3 // len(samples)) for rows in samples]
    return {
        "title": f"{Path(inspection.source).name} before training",
        "resight": __version__,
        "about": inspection.first_line,
        "notes": list(inspection.notes),
        "why": list(inspection.why),
        "next": inspection.next_command,
        "fit": seen.fit,
        "counts": class_table(inspection.classes, inspection.counts),
        "facts": [list(fact) for fact in inspection.facts],
        "findings": [_finding(finding, [*named]) for finding in inspection.findings],
        "named": pictures([*named], SHEET_BYTES // 3),
        "classes": [
            {"name": inspection.classes[k], "count": len(_of_class(seen, k)), **groups[k]}
            for k in shown
        ],
        "hidden_classes": len(inspection.classes) - len(shown),
    }


def _finding(finding: DataFinding, named: Sequence[int]) -> dict[str, Any]:
    """With its cases: each the numbers of its images among `named`, or their ids alone."""
    place = {row: i for i, row in enumerate(named)}
    values = finding.to_dict()
    cases = [
        {"shown": [place[row] for row in case.rows if row in place and i < MAX_CASES], **told}
        for i, (case, told) in enumerate(zip(finding.cases, values["cases"], strict=True))
    ]
    return values | {"cases": cases[:MAX_NAMED], "total": len(cases)}


def _sample(seen: Seen, label: int, most: int) -> list[int]:
    """Evenly spaced rows of a class among the images to train on."""
    rows = _of_class(seen, label)
    places = np.linspace(0, len(rows) - 1, min(most, len(rows)), dtype=np.int64)
    return [int(row) for row in rows[places]]


def _of_class(seen: Seen, label: int) -> Rows:
    return np.asarray(seen.train[seen.table.labels[seen.train] == label])


def _pictures(seen: Seen, rows: Sequence[int], budget: int) -> dict[str, Any]:
    """The whole images of `rows` in a sheet, each in a square cell between borders, with their ids
    and sizes."""
    headers = seen.headers
    sizes = [
        (seen.image_size, seen.image_size)
        if headers is None or (header := headers[row]) is None
        else (header.width, header.height)
        for row in rows
    ]
    cell_px = min(CELL_PX, max((max(size) for size in sizes), default=CELL_PX))
    return {
        "sheet": _sheet(_cells(seen, rows, cell_px), budget),
        "id": [str(seen.table.ids[row]) for row in rows],
        "class": [seen.class_name(row) for row in rows],
        "size": [list(size) for size in sizes],
    }


def _sheet(cells: Images, budget: int) -> dict[str, Any] | None:
    drawn = None
    for px in (CELL_PX, *SMALLER_PX):
        drawn = sheet(cells, max_bytes=budget, cell_px_limit=px)
        if drawn is None or len(drawn["src"]) * 3 // 4 <= budget:
            break
    return drawn


def _cells(seen: Seen, rows: Sequence[int], px: int) -> Images:
    """uint8 (n, px, px, C); images that are in no files have their own size."""
    if seen.paths is None:
        return np.ascontiguousarray(seen.table.images[list(rows)])
    cells = np.full((len(rows), px, px, 3), GREY, dtype=np.uint8)
    paths = [seen.paths[row] for row in rows]

    def read(i: int) -> None:
        decode_rows([paths[i]], i, cells[i : i + 1], "pad")

    with decoding_threads() as pool:
        list(pool.map(read, range(len(rows))))
    return cells
