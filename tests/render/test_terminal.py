"""Tables and lines in the columns of a terminal."""

from __future__ import annotations

from collections import Counter

import pytest
from rich.cells import cell_len

from resight.render.terminal import aligned, wrapped

NAMES = ["日本語の名前", "cat 🐈", "ａｂｃ", "Café", "plain"]
TABLE = [
    ["run", "test (95% CI)", "best test (epoch)", "best val (epoch)", "train"],
    ["auto-1", "56.67 (44.10 to 68.43)", "75.00 (2)", "61.00 (3)", "87.50"],
]
ROW = "auto-1  56.67 (44.10 to 68.43)  75.00 (2)  61.00 (3)  87.50"


def test_names_of_double_width_keep_tables_and_lines_aligned() -> None:
    lines = aligned([["class", "train"], *([name, f"{k}"] for k, name in enumerate(NAMES))], 80)
    assert {cell_len(line) for line in lines} == {cell_len(lines[1])}
    assert wrapped("aa bb", 9, "名前  ") == ["名前  aa", "      bb"]


def test_a_line_feed_in_a_name_starts_no_line() -> None:
    assert aligned([["a\nb"], ["c\nd"]], 80) == ["a\\nb", "────", "c\\nd"]


def test_a_table_that_fits_is_left_as_it_is() -> None:
    assert aligned(TABLE, 80)[0] == (
        "run              test (95% CI)  best test (epoch)  best val (epoch)  train"
    )


@pytest.mark.parametrize("columns", [len(ROW), 65, 73])
def test_headings_break_before_numbers_do(columns: int) -> None:
    assert aligned(TABLE, columns)[-1] == ROW


@pytest.mark.parametrize("columns", [30, 40, len(ROW) - 1])
def test_nothing_is_cut_off_where_nothing_fits(columns: int) -> None:
    lines = aligned(TABLE, columns)
    assert max(map(cell_len, lines)) <= columns
    written = Counter("".join(lines)) - Counter("─ " * 9999)
    assert written == Counter("".join(map("".join, TABLE)).replace(" ", ""))
