"""A comparison for a terminal, as Markdown, and as HTML for a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from resight.characters import printable
from resight.comparison.tables import Section
from resight.render.markdown import escaped
from resight.render.terminal import aligned, numeric, wrapped

COLUMNS = 80
MAX_NAME_CHARACTERS = 36  # of all names together; letters replace longer ones


def labels(names: tuple[str, ...]) -> tuple[str, ...]:
    """What the runs are called in a table: their names, or letters if the names are long."""
    if sum(map(len, names)) <= MAX_NAME_CHARACTERS:
        return names
    few = len(names) <= 26
    return tuple(chr(ord("A") + i) if few else str(i + 1) for i in range(len(names)))


def as_text(first_line: str, sections: Sequence[Section], names: Mapping[str, str]) -> str:
    """At most 80 columns wide. names: label → name, listed if they differ."""
    lines = wrapped(first_line, COLUMNS)
    for label, name in names.items():
        lines += [] if label == name else wrapped(name, COLUMNS, f"{label}  ")
    for section in sections:
        lines += ["", section.heading, *(aligned(section.table, COLUMNS) if section.table else [])]
        lines += [line for text in section.lines for line in wrapped(text, COLUMNS, "- ")]
    return "\n".join(lines)


def as_markdown(first_line: str, sections: Sequence[Section]) -> str:
    """GitHub Markdown, with each name escaped."""
    parts = [escaped(first_line)]
    for section in sections:
        parts.append(f"### {section.heading}")
        if section.table:
            first, *rows = [[escaped(cell) for cell in row] for row in section.table]
            rule = ["---:" if right else "---" for right in numeric(section.table)]
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


def _tag(name: str, text: str) -> str:
    return f"<{name}>{html.escape(printable(text))}</{name}>"
