"""Any text in Markdown is read as itself."""

from __future__ import annotations

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from reading import shown
from resight.render.markdown import code, escaped, table


@given(st.text(max_size=30))
@example("1. no list")
@example("- no list")
@example("# no heading")
@example("=== ")
@example("\\|")
@example("&lt;&#124;")
@example("http://a.b")
@example("![x](y)")
@example("[x]: y")
@example("\udcff")
def test_an_escaped_text_is_plain_text(text: str) -> None:
    kinds = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": "", "Cs": "\ufffd"}
    wanted = " ".join("".join(kinds.get(unicodedata.category(c), c) for c in text).split())
    inside = escaped(text)
    inside.encode()
    cells = MarkdownIt("commonmark").enable("table").parse(f"| a |\n| --- |\n| {inside} |")
    (line,) = [t for t in cells if t.type == "inline"][1:]
    assert "".join(part.content for part in line.children or []) == wanted
    assert {part.type for part in line.children or []} <= {"text", "text_special"}
    paragraph = [token.type for token in MarkdownIt("commonmark").parse(inside)]
    assert paragraph == (["paragraph_open", "inline", "paragraph_close"] if wanted else [])
    (picture, *_) = MarkdownIt("commonmark").parse(f"![{inside}](images/x.png)")[1].children or []
    assert picture.type == "image"
    assert "".join(part.content for part in picture.children or []) == wanted


@given(st.text(max_size=30))
@example("```")
@example("a\n````\nb")
def test_code_stays_in_its_block(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(code(text, "sh") + "\n\nafter")
    assert [token.type for token in tokens[:2]] == ["fence", "paragraph_open"]
    assert tokens[0].info == "sh"
    assert len(tokens) == 4


def test_no_link_is_made_that_nobody_wrote() -> None:
    assert "://" not in escaped("see http://a.b")
    assert shown(escaped("see http://a.b")) == "see http://a.b"


def test_a_table_has_its_numbers_flush_right() -> None:
    made = table(("class", "images"), [("a|b", 3)], numbers_from=1)
    assert made == "| class | images |\n| --- | ---: |\n| a&#124;b | 3 |"
