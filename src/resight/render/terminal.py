"""Tables and lines of a given width for a terminal, from text that may contain anything."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from resight.characters import printable

GAP = 2  # between two columns of a table


def aligned(table: Sequence[Sequence[str]], columns: int) -> list[str]:
    """The lines of a table, whose first row is its head; columns of numbers right-aligned. Where it
    is too wide, their headings are broken first, then texts, then numbers."""
    console = Console(file=io.StringIO(), width=columns, color_system=None, legacy_windows=False)
    shown = [[printable(cell) for cell in row] for row in table]
    if _width(shown, folded=False) > columns:
        shown = _narrow_headings(shown)
    numbers = numeric(shown)
    whole = _width(shown, folded=True) <= columns
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading, right in zip(shown[0], numbers, strict=True):
        side: JustifyMethod = "right" if right else "left"
        grid.add_column(Text(heading), justify=side, overflow="fold", no_wrap=right and whole)
    for row in shown[1:]:
        grid.add_row(*map(Text, row))
    with console.capture() as captured:
        console.print(grid)
    return [line.rstrip() for line in captured.get().splitlines()]


def _width(table: Sequence[Sequence[str]], *, folded: bool) -> int:
    """Of a table in columns. folded: with texts in the width of their longest words."""
    widths = []
    for right, *cells in zip(numeric(table), *table, strict=True):
        parts = [part for cell in cells for part in cell.split("\n")]
        if folded and not right:
            parts = [word for part in parts for word in part.split()]
        widths.append(max(map(cell_len, parts), default=0))
    return sum(widths) + GAP * (len(widths) - 1)


def _narrow_headings(table: list[list[str]]) -> list[list[str]]:
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
    indent = cell_len(start)
    said = Text(printable(text), overflow="fold").wrap(Console(), columns - indent)
    lines = [line.plain.rstrip() for line in said]
    return [(" " * indent if i else start) + line for i, line in enumerate(lines)]
