"""Pieces of HTML for notebooks: lines, tables and figures; displaying them never raises."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from resight.characters import printable
from resight.errors import ResightError
from resight.render.drawing import WIDTH_PX, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CHARACTERS = 500  # per text; a recipe's longest section has 330


def joined(*parts: Callable[[], str]) -> str:
    """The parts one below the other; for one that fails, the reason: a repr must not raise."""
    made = []
    for part in parts:
        try:
            made.append(part())
        except Exception as error:
            kind = "" if isinstance(error, ResightError) else f"{type(error).__name__}: "
            made.append(line(f"{kind}{error}"))
    return f"<div>{''.join(made)}</div>"


def line(text: object, tag: str = "span") -> str:
    return f"<div><{tag}>{escaped(text)}</{tag}></div>"


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escaped(cell)}</th>' for cell in head)}</tr>"] if head else []
    for row in rows:
        cells = "".join(f'<td style="text-align:left">{escaped(cell)}</td>' for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def image(figure: Figure, alt: str) -> str:
    content = base64.b64encode(png(figure)).decode("ascii")
    return f'<img src="data:image/png;base64,{content}" width="{WIDTH_PX}" alt="{escaped(alt)}">'


def escaped(text: object) -> str:
    """`text`, printable and shortened."""
    words = printable(str(text))
    words = words if len(words) <= MAX_CHARACTERS else f"{words[:MAX_CHARACTERS]}…"
    return html.escape(words)
