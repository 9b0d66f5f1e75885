"""What the report's figures share: sizes in pixels, colours, text that the font can draw.

Every figure is 700 px wide at 100 dpi, made without pyplot or a display. Colours are Okabe and
Ito's; dashes, markers, hatches or positions carry the same information without colour.
"""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ft2font import FT2Font

DPI = 100
WIDTH_PX = 700
EM_PX = 100  # the font size at which a letter's width is measured
LETTER_EM = 0.55  # a small letter's width, on average
BLUE, SKY, VERMILION, GREEN = "#0072b2", "#56b4e9", "#d55e00", "#009e73"
PURPLE, ORANGE, GREY = "#cc79a7", "#e69f00", "#7f7f7f"
NAME: dict[str, Any] = {"parse_math": False, "usetex": False}  # a "$" in a name is a dollar sign


def png(figure: Figure) -> bytes:
    """The figure at 100 dpi; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def new_figure(height_px: int) -> Figure:
    """An empty figure, 700 px wide at 100 dpi."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_PX / DPI, height_px / DPI), dpi=DPI)


def place_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a fixed position, in px at 100 dpi: a layout engine takes longer than the drawing.

    So names are shortened before they are drawn.
    """
    full_width, full_height = figure.get_size_inches() * DPI
    return figure.add_axes(
        (left / full_width, bottom / full_height, width / full_width, height / full_height)
    )


def text(name: object, most: int) -> str:
    """`name` on one line, at most as wide as `most` small letters, shortened in the middle.

    Characters that the font lacks become "?": matplotlib would warn about each.
    """
    fonts = _fonts()
    line = " ".join(str(name).split())
    line = "".join(c for c in line if unicodedata.category(c)[0] != "C" or c == "\ufffd")
    line = "".join(c if _advance(c, fonts) is not None else "?" for c in line)
    widths = [_advance(c, fonts) or 0.0 for c in line]
    room = most * LETTER_EM
    if sum(widths) <= room:
        return line
    room -= _advance("…", fonts) or 1.0
    tail = _fitting(widths[::-1], room / 2)
    head = _fitting(widths, room - sum(widths[len(line) - tail :]))
    return f"{line[:head]}…{line[len(line) - tail :]}"


def can_draw(characters: str) -> bool:
    """Whether matplotlib's font has all of them."""
    fonts = _fonts()
    return all(_advance(c, fonts) is not None for c in characters)


def legend_above(axes: Axes, columns: int = 4) -> None:
    """The legend above the axes, where no curve can cross it."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 0.99),
            ncols=columns,
            fontsize=9,
            frameon=False,
            borderaxespad=0.2,
            columnspacing=1.2,
            handlelength=2.2,
        )


def quiet(axes: Axes, *, vertical_grid: bool = False) -> None:
    """Some grid lines in the background, no frame at the top and right."""
    axes.spines[["top", "right"]].set_visible(False)
    values: Literal["x", "y"] = "x" if vertical_grid else "y"
    axes.locator_params(axis=values, nbins=6)  # ticks take half of the drawing time
    axes.grid(axis=values, color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def _fitting(widths: Sequence[float], room: float) -> int:
    """How many of the first `widths` there is room for."""
    return next((i for i, end in enumerate(accumulate(widths)) if end > room), len(widths))


def _fonts() -> tuple[str, ...]:
    """The files that matplotlib draws with."""
    from matplotlib.font_manager import FontProperties, findfont

    return tuple(findfont(FontProperties(family=[f])) for f in FontProperties().get_family())


@functools.lru_cache(maxsize=10_000)
def _advance(character: str, fonts: tuple[str, ...]) -> float | None:
    """How wide it is, in em; None if none of the fonts has it."""
    for face in map(_face, fonts):
        if face.get_char_index(ord(character)):
            return float(face.load_char(ord(character)).linearHoriAdvance) / 65536 / EM_PX
    return None


@functools.lru_cache(maxsize=8)
def _face(font: str) -> FT2Font:
    """Our own copy: matplotlib's is set to the size of the text that it is drawing."""
    from matplotlib.ft2font import FT2Font

    face = FT2Font(font)
    face.set_size(EM_PX, 72)
    return face
