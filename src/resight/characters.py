"""Text from file names and files, fit to be shown: nothing in it moves a cursor or turns a line."""

from __future__ import annotations

import unicodedata

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, formats, lone surrogates, line separators
JOINERS = "\u200c\u200d"  # without which words of some languages, and some emoji, fall apart


def printable(text: str, keep: str = "") -> str:
    r"""`text` with control characters, direction overrides, invisible and undecodable characters
    and line separators as Python would write them: `\x1b`. keep: those that stay, such as a page's
    line feeds.

    >>> printable("cat\x1b[2J")
    'cat\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or not _unseen(c) else _written(c) for c in text)


def is_utf8(name: str) -> bool:
    """Whether a file's name is text, and not bytes that Python had to escape."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN and character not in JOINERS


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
