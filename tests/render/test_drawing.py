"""A name is cut to one line that can be drawn."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties, findfont
from PIL import ImageFont

from resight.render.drawing import can_draw, text


@given(st.text(max_size=60), st.integers(4, 30))
@example("W" * 30, 8)
@example("i" * 30, 8)
def test_a_name_is_cut_to_one_line_that_can_be_drawn(name: str, most: int) -> None:
    line = text(name, most)
    assert can_draw(line)
    assert "\n" not in line
    font = ImageFont.truetype(findfont(FontProperties()), 100, layout_engine=ImageFont.Layout.BASIC)
    assert font.getlength(line) <= 55 * most * 1.02  # the same widths, by another library
    plain = " ".join(name.split())
    if plain.isprintable() and can_draw(plain) and font.getlength(plain) < 55 * most * 0.98:
        assert line == plain


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert text("o" * 20 + "end", 12) == "ooooo…oend"
    assert text("test/airplane/0001.jpg", 15) == "test/air…01.jpg"
