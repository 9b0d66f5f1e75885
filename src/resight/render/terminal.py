"""Tables and lines of a given width for a terminal, from text that may contain anything."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resight.characters import printable


def aligned(table: Sequence[Sequence[str]], columns: int) -> list[str]:
    """The lines of a table, whose first row is its head; columns of numbers right-aligned."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading, right in zip(table[0], numeric(table), strict=True):
        grid.add_column(
            Text(printable(heading)), justify="right" if right else "left", overflow="fold"
        )
    for row in table[1:]:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=io.StringIO(), width=columns, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(grid)
    return [line.rstrip() for line in captured.get().splitlines()]


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
