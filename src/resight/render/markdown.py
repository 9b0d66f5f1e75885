"""Markdown as GitHub renders it, from text that may contain anything."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_ESCAPES = {c: f"\\{c}" for c in "*_[]#~"}
_ESCAPES |= {c: f"&#{ord(c)};" for c in "&<>|`\\$"}  # in a table "\\|" means something else


def escaped(value: object) -> str:
    """`value` on one line that renders as itself: in a paragraph, a list, a cell or an alt text."""
    text = "".join(_ESCAPES.get(c, c) for c in " ".join(_visible(str(value)).split()))
    text = text.replace("://", "&#58;//")  # no accidental link
    text = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)  # nor list
    return re.sub(r"^([-+=])", r"\\\1", text)


def code(value: object, language: str = "") -> str:
    """A fenced block; its fence is longer than any run of backticks inside."""
    text = "\n".join(_visible(line) for line in str(value).split("\n"))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers_from: int) -> str:
    """A table, escaped; its columns from `numbers_from` on are right-aligned."""
    marks = ["---" if i < numbers_from else "---:" for i in range(len(head))]
    lines = [[escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [[*map(escaped, head)], marks, *lines])


def picture(name: str, alt: str) -> str:
    return f"![{escaped(alt)}](images/{name}.png)"


def _visible(line: str) -> str:
    """With spaces for control characters and line separators, without those that change the text
    direction; lone surrogates, which can't be written to a file, replaced."""
    stand_ins = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": "", "Cs": "\ufffd"}
    return "".join(stand_ins.get(unicodedata.category(c), c) for c in line)
