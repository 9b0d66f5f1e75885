"""Errors that a user can fix: one clear line each, with the closest valid name if there is one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from resight.characters import printable


class ResightError(ValueError):
    """Something the user can fix, in one line: what, where, what is allowed, what to do."""

    def __init__(self, message: str) -> None:
        # a name quoted in the message may contain anything
        super().__init__(printable(" ".join(message.splitlines())))


class ResightWarning(UserWarning):
    """A setting that has no effect, or a difference that matters to the result."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.splitlines())))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def described(error: BaseException) -> str:
    """`KeyError: 'x'`: an error of somebody else's code in one line."""
    return f"{type(error).__name__}: {first_line(error)}"


def listed(names: Iterable[str]) -> str:
    """`a, b and c`; "none" if there are none."""
    *first, last = [*names] or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def shortened(names: Sequence[str], most: int = 10) -> str:
    """The first names, quoted: `'a', 'b', … (40 in all)`."""
    first = ", ".join(f"'{name}'" for name in names[:most])
    return first + f", … ({len(names)} in all)" * (len(names) > most)


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean 'x'?` if something in `known` is close to `name`, else the whole list.

    prefix: said before x, for names that are known within something.

    >>> did_you_mean("digts", ["digits", "cifar10"])
    "; did you mean 'digits'?"
    """
    names = [str(k) for k in known]
    lower = {n.lower(): n for n in names}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{prefix}{lower[near[0]]}'?"
    return f"; known: {', '.join(names)}"
