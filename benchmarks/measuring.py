"""Shared by the benchmarks: turns, medians with their spread, options, tables, JSON. No torch."""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resight.errors import ResightError

Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """The median of some figures, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        known = list(figures)
        return cls(statistics.median(known), min(known), max(known))

    @classmethod
    def of_ratios(cls, over: Iterable[float], under: Iterable[float]) -> Spread:
        """Of over / under, pair by pair (each pair from one round)."""
        return cls.of(a / b for a, b in zip(over, under, strict=True))

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.median:.3g} (from {self.low:.3g} to {self.high:.3g})"


def seconds_of(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def take_turns(
    works: Mapping[str, Work], rounds: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each work in each round, after `warm_up` untimed rounds.

    Every other round goes backwards, so that a drift in the machine's speed favours none.
    """
    names = list(works)
    for _ in range(warm_up):
        for name in names:
            works[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(seconds_of(works[name]))
    return seconds


def one_line_errors(main: Callable[..., None]) -> Callable[..., None]:
    """A `main` that reports what the user can fix in one line and exits 2."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except ResightError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return run


def options_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the module's docstring as its help, and `--json`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", type=_new_file, metavar="FILE", help="also write the figures to this file"
    )
    return parser


def whole_number(text: str) -> int:
    """An integer ≥ 1; `1e5` is one, too."""
    number = float(text)
    if not number.is_integer() or number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be an integer ≥ 1")
    return int(number)


def _new_file(text: str) -> Path:
    """A missing folder is refused before the measurements, not after."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: must be a file in a folder that exists")
    return path


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The first column is left-aligned, the others right-aligned."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for first, *others in lines:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  ".join((first.ljust(widths[0]), *cells)).rstrip())


def write_figures(path: Path | None, figures: Mapping[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
