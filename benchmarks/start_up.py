"""Seconds from a command to its output: Python itself, torch, and what `resight` adds.

    python benchmarks/start_up.py [--n 5]

Each command is timed as a process, from its start to its exit, n times in turn; ratios are to
`import torch` in the same round. The training is `resight train --recipe digits --epochs 1
--no-report`. Its time to the result is what the run itself records, from the start of the process
until the accuracy is known; its time to the first step is that without training steps, evaluation
and saving, so it includes the LR test.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import (
    Spread,
    Work,
    one_line_errors,
    options_parser,
    print_table,
    take_turns,
    whole_number,
    write_figures,
)
from resight.errors import ResightError

RESIGHT = [sys.executable, "-m", "resight"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "resight --version": [*RESIGHT, "--version"],
    "resight --help": [*RESIGHT, "--help"],
    "import resight": [sys.executable, "-c", "import resight"],
    "import torch": [sys.executable, "-c", "import torch"],
}
AFTER = ("steps", "evaluate", "save")  # the parts of a training's time from its first step on
TRAIN = [*RESIGHT, "train", "--recipe", "digits", "--epochs", "1", "--no-report"]


def command(words: Sequence[str]) -> Work:
    def work() -> None:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["it printed nothing"]
            raise ResightError(f"{' '.join(words)}: exit {done.returncode}: {said[-1]}")

    return work


def training(runs: list[dict[str, Any]], more: Sequence[str]) -> Work:
    """A digits training; the timings in its run folder are added to `runs`."""

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            command([*TRAIN, *more, "--out", str(run)])()
            result = json.loads((run / "result.json").read_text(encoding="utf-8"))
            environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        parts = result["timings"]
        after = sum(parts.get(part, 0.0) for part in AFTER)
        before = result["wall_seconds"] - after
        runs.append(
            {"before": before, "result": result["wall_seconds"], "parts": parts, **environment}
        )

    return work


def measure(n: int, *, more: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds per round of each command, and their ratios to those of `import torch`."""
    runs: list[dict[str, Any]] = []
    works = {name: command(words) for name, words in COMMANDS.items()}
    seconds = take_turns({**works, "train digits, to its exit": training(runs, more)}, n)
    timed = runs[-n:]  # the first warmed up
    seconds["train digits, to the first step"] = [run["before"] for run in timed]
    seconds["train digits, to the result"] = [run["result"] for run in timed]
    torch = seconds["import torch"]
    return {
        "train_parts": [run["parts"] for run in timed],
        "runtime": timed[0]["runtime"],
        "python": timed[0]["python"],
        "seconds": seconds,
        "medians": {name: statistics.median(values) for name, values in seconds.items()},
        "over_import_torch": {
            name: Spread.of_ratios(values, torch).to_dict() for name, values in seconds.items()
        },
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "--n", type=whole_number, default=5, help="rounds, after one round to warm up"
    )
    parser.add_argument(
        "--set", action="append", default=[], help="set a field of the training's recipe"
    )
    arguments = parser.parse_args(argv)
    more = [word for pair in arguments.set for word in ("--set", pair)]
    figures = measure(arguments.n, more=more)
    runtime = figures["runtime"]
    print(f"{runtime['device_name']}, torch {runtime['torch']}, n = {arguments.n}")
    rows = [
        (name, str(Spread.of(values)), str(Spread(**figures["over_import_torch"][name])))
        for name, values in figures["seconds"].items()
    ]
    print_table(("command", "seconds", "over import torch"), rows)
    write_figures(arguments.json, {"benchmark": "start_up", "n": arguments.n, **figures})


if __name__ == "__main__":
    main()
