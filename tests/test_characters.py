"""No text from a stranger moves a cursor, turns a line around or can't be written."""

from __future__ import annotations

import unicodedata
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.characters import printable
from resight.errors import ResightError, ResightWarning
from resight.findings import Finding

ANY = st.text(st.characters(exclude_categories=()), max_size=30)  # lone surrogates as well
HOSTILE = "cat\x1b[2J\x9b\r\u202e\u2028\u2066\udc80dog"


@given(ANY)
def test_what_is_printed_can_do_nothing(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert not any(unicodedata.bidirectional(c) in ("RLO", "LRO", "RLI", "LRI") for c in shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert printable(shown) == shown


@given(ANY)
def test_it_can_be_told_what_was_there(text: str) -> None:
    if "\\" not in text:
        back = printable(text).encode("raw_unicode_escape").decode("unicode_escape")
        assert back.encode("utf-8", "surrogatepass") == text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    "name", ["Katze ß", "犬", "👨\u200d👩\u200d👧", "می\u200cخواهم", "9.41\u202fAM"]
)
def test_names_of_any_language_stay(name: str) -> None:
    assert printable(name) == name


def test_line_feeds_stay_where_they_are_wanted() -> None:
    assert printable("a\nb\x1b", "\n") == "a\nb\\x1b"


def test_errors_warnings_and_findings_are_printable() -> None:
    assert str(ResightError(HOSTILE)).isprintable()
    with pytest.warns(ResightWarning) as caught:
        warnings.warn(HOSTILE, ResightWarning, stacklevel=1)
    assert str(caught[0].message).isprintable()
    finding = Finding("x", "note", HOSTILE, HOSTILE, "", HOSTILE, HOSTILE)
    assert all(line.isprintable() for line in str(finding).split("\n"))
