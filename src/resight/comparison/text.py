"""A comparison for a terminal, as Markdown, and as HTML for a notebook."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resight.comparison.tables import Section
from resight.render.markdown import escaped

COLUMNS = 100
MAX_NAME_CHARACTERS = 56  # of all names together; letters replace longer ones


def labels(names: tuple[str, ...]) -> tuple[str, ...]:
    """What the runs are called in a table: their names, or letters if the names are long."""
    if sum(map(len, names)) <= MAX_NAME_CHARACTERS:
        return names
    few = len(names) <= 26
    return tuple(chr(ord("A") + i) if few else str(i + 1) for i in range(len(names)))


def as_text(first_line: str, sections: Sequence[Section], names: Mapping[str, str]) -> str:
    """At most 100 columns wide. names: label → name, listed if they differ."""
    lines = _wrapped(first_line)
    for label, name in names.items():
        lines += [] if label == name else _wrapped(name, f"{label}  ")
    for section in sections:
        lines += ["", section.heading, *(_aligned(section.table) if section.table else [])]
        lines += [line for text in section.lines for line in _wrapped(text, "- ")]
    return "\n".join(lines)


def as_markdown(first_line: str, sections: Sequence[Section]) -> str:
    """GitHub Markdown, with each name escaped."""
    parts = [escaped(first_line)]
    for section in sections:
        parts.append(f"### {section.heading}")
        if section.table:
            first, *rows = [[escaped(cell) for cell in row] for row in section.table]
            rule = ["---:" if right else "---" for right in _numeric(section.table)]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in [first, rule, *rows]))
        if section.lines:
            parts.append("\n".join(f"- {escaped(line)}" for line in section.lines))
    return "\n\n".join(parts) + "\n"


def as_html(first_line: str, sections: Sequence[Section]) -> str:
    """A fragment for a notebook."""
    parts = [_tag("p", first_line)]
    for section in sections:
        parts.append(_tag("h4", section.heading))
        if section.table:
            first, *rows = section.table
            head = "".join(_tag("th", cell) for cell in first)
            body = "".join(f"<tr>{''.join(_tag('td', cell) for cell in row)}</tr>" for row in rows)
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        if section.lines:
            parts.append(f"<ul>{''.join(_tag('li', line) for line in section.lines)}</ul>")
    return f"<div>{''.join(parts)}</div>"


def _numeric(table: list[list[str]]) -> list[bool]:
    """Which columns contain only numbers."""
    columns = zip(*table[1:], strict=True)
    return [all(re.match(r"[-+<–\d]", cell) for cell in cells) for cells in columns]


def _aligned(table: list[list[str]]) -> list[str]:
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading, right in zip(table[0], _numeric(table), strict=True):
        grid.add_column(
            Text(_printable(heading)), justify="right" if right else "left", overflow="fold"
        )
    for row in table[1:]:
        grid.add_row(*(Text(_printable(cell)) for cell in row))
    console = Console(file=io.StringIO(), width=COLUMNS, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(grid)
    return [line.rstrip() for line in captured.get().splitlines()]


def _wrapped(text: str, start: str = "") -> list[str]:
    """Lines of at most 100 columns, the first after `start`, the others indented as far."""
    said = Text(_printable(text), overflow="fold").wrap(Console(), COLUMNS - len(start))
    lines = [line.plain.rstrip() for line in said]
    return [(" " * len(start) if i else start) + line for i, line in enumerate(lines)]


def _printable(text: str) -> str:
    """`text` without characters that could move a terminal's cursor or can't be written."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _tag(name: str, text: str) -> str:
    return f"<{name}>{html.escape(_printable(text))}</{name}>"
