"""How wrong the announced cost of a training is: whole trainings, idle and beside a busy process.

    python benchmarks/estimate.py "--recipe digits" "--recipe fast --data DIR" … [--n 3] [--busy]

Each case is a line of options of `resight train`. The estimate is what the training announces
before its first step; it took what its LR test, steps and evaluations took. --busy: one process
that computes all the time runs beside each training. Errors are of the estimate, as a share of the
time that it took, per training.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from measuring import (
    Spread,
    one_line_errors,
    options_parser,
    print_table,
    whole_number,
    write_figures,
)
from resight.errors import ResightError

ESTIMATED = ("lr_test", "steps", "evaluate", "epochs", "capture")  # parts of the timings
BUSY = [sys.executable, "-c", "while True: pass"]


@contextlib.contextmanager
def beside(*, busy: bool) -> Iterator[None]:
    """With a process that computes all the time, if `busy`."""
    if not busy:
        yield
        return
    with subprocess.Popen(BUSY) as process:
        try:
            yield
        finally:
            process.kill()


def trained(case: str) -> dict[str, Any]:
    """The result of `resight train` with the options of `case`."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "resight", "train", *shlex.split(case)]
        words += ["--no-report", "--json", "--out", f"{folder}/run"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise ResightError(f"{case}: exit {done.returncode}: {said[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def compared(result: dict[str, Any]) -> dict[str, float]:
    """Seconds estimated, taken and spent on the estimate, and the estimate's error as a share."""
    timings = result["timings"]
    took = sum(timings.get(part, 0.0) for part in ESTIMATED)
    estimated = result["estimated_seconds"]
    return {
        "estimated": estimated,
        "took": took,
        "error": estimated / took - 1,
        "cost": timings["cost"],
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("cases", nargs="+", metavar="OPTIONS")
    parser.add_argument("--n", type=whole_number, default=1)
    parser.add_argument("--busy", action="store_true")
    arguments = parser.parse_args(argv)
    with beside(busy=arguments.busy):
        figures = {
            case: [compared(trained(case)) for _ in range(arguments.n)] for case in arguments.cases
        }
    rows = []
    for case, all_of_it in figures.items():
        columns = {key: [one[key] for one in all_of_it] for key in all_of_it[0]}
        errors = Spread.of(100 * error for error in columns.pop("error"))
        seconds = (f"{Spread.of(values).median:.1f}" for values in columns.values())
        rows.append((case, *seconds, str(errors)))
    print(f"{'beside a busy process' if arguments.busy else 'idle'}, n = {arguments.n}")
    print_table(("training", "estimated s", "took s", "estimating s", "error, percent"), rows)
    write_figures(arguments.json, {"benchmark": "estimate", "busy": arguments.busy, **figures})


if __name__ == "__main__":
    main()
