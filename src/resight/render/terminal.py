"""Tables and lines of a given width for a terminal, from text that may contain anything."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from resight.characters import printable

MAX_COLUMNS = 10_000  # of a table as it would like to be


def aligned(table: Sequence[Sequence[str]], columns: int) -> list[str]:
    """The lines of a table, whose first row is its head; columns of numbers right-aligned. Where it
    is too wide, their headings are broken first, then texts, then numbers."""
    console = Console(file=io.StringIO(), width=columns, color_system=None, legacy_windows=False)
    wide = console.options.update(max_width=MAX_COLUMNS)
    grid = _grid(table)
    if Measurement.get(console, wide, grid).maximum > columns:
        table = _narrow_headings(table)
        grid = _grid(table, whole_numbers=True)
        if Measurement.get(console, wide, grid).minimum > columns:
            grid = _grid(table)
    with console.capture() as captured:
        console.print(grid)
    return [line.rstrip() for line in captured.get().splitlines()]


def _grid(table: Sequence[Sequence[str]], *, whole_numbers: bool = False) -> Table:
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading, right in zip(table[0], numeric(table), strict=True):
        side: JustifyMethod = "right" if right else "left"
        whole = right and whole_numbers
        text = Text(printable(heading, "\n"))
        grid.add_column(text, justify=side, overflow="fold", no_wrap=whole)
    for row in table[1:]:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    return grid


def _narrow_headings(table: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The table with the headings of numbers broken into lines no wider than what is below."""
    head, *rows = table
    broken = []
    for heading, right, *cells in zip(head, numeric(table), *rows, strict=True):
        widest = max(map(cell_len, [*heading.split(), *cells]))
        broken.append("\n".join(wrapped(heading, widest)) if right else heading)
    return [broken, *rows]


def numeric(table: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns contain only numbers."""
    columns = zip(*table[1:], strict=True)
    return [all(re.match(r"[-+<–\d]", cell) for cell in cells) for cells in columns]


def width_of(text: str) -> int:
    """The columns that it takes; some characters take two."""
    return cell_len(text)


def padded(text: str, columns: int) -> str:
    """With spaces behind it up to `columns`."""
    return text + " " * (columns - cell_len(text))


def cut_to(text: str, columns: int) -> str:
    """At most `columns` wide, its end kept: of a path that is the file."""
    if cell_len(text) <= columns:
        return text
    kept = len(text)
    while cell_len(text[-kept:]) > columns - 1:
        kept -= 1
    return f"…{text[-kept:]}"


def wrapped(text: str, columns: int, start: str = "") -> list[str]:
    """Lines of at most `columns`, the first after `start`, the others indented as far."""
    said = Text(printable(text), overflow="fold").wrap(Console(), columns - len(start))
    lines = [line.plain.rstrip() for line in said]
    return [(" " * len(start) if i else start) + line for i, line in enumerate(lines)]
