"""Accuracy and seconds of n whole trainings, each in its own process, optionally next to a peer's.

    python benchmarks/time_to_accuracy.py --recipe fast --n 10 [--data DIR] [--target 0.906]
        [--peer 'python airbench94.py' --peer-accuracy 'REGEX' --peer-seconds 'REGEX']

Ours is `resight train --recipe R --seed i --no-report --json`, i from 0. The peer's command takes
turns with it, once per training; `{seed}` in it becomes i. Its accuracy (a percentage or a
fraction) and its training seconds are the last match of a regular expression in its output (group
1, if there is one). "Command to result" is wall time, from the start of the process to its exit.
--fresh-cache: nothing is cached, neither decoded images nor compiled kernels, on either side (the
operating system's file cache stays). Ratios are ours over the peer's, of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
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

CACHES = ("RESIGHT_CACHE", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")


@dataclass(frozen=True)
class Training:
    """One process: wall seconds; accuracy in [0, 1] and training seconds, if they are known."""

    wall_seconds: float
    accuracy: float | None
    train_seconds: float | None
    device: str | None = None
    parts: dict[str, float] | None = None  # how our time was spent, from the run's result


def our_training(options: argparse.Namespace, seed: int) -> Training:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "resight", "train", "--recipe", options.recipe]
        words += ["--data", options.data] if options.data else []
        words += ["--seed", str(seed), "--no-report", "--json", "--out", f"{folder}/run"]
        words += shlex.split(options.options)
        seconds, output = timed(words, fresh_cache=options.fresh_cache)
    result = json.loads(output.strip().splitlines()[-1])
    if result["fallback"]:
        raise ResightError(f"{shlex.join(words)}: {result['fallback']}")
    return Training(
        seconds,
        result["test_accuracy"],
        result["train_seconds"],
        result["device"],
        result["timings"],
    )


def their_training(options: argparse.Namespace, seed: int) -> Training:
    words = [word.replace("{seed}", str(seed)) for word in shlex.split(options.peer)]
    seconds, output = timed(words, fresh_cache=options.fresh_cache, with_errors=True)
    accuracy = last_number(options.peer_accuracy, output, "--peer-accuracy")
    if accuracy is not None and accuracy > 1:
        accuracy /= 100
    return Training(seconds, accuracy, last_number(options.peer_seconds, output, "--peer-seconds"))


def timed(
    words: Sequence[str], *, fresh_cache: bool, with_errors: bool = False
) -> tuple[float, str]:
    """Wall seconds of a command and what it printed; `with_errors` includes its stderr.

    Raises `ResightError` if it can't be started or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: str(Path(folder) / name.lower()) for name in CACHES if fresh_cache}
        began = time.perf_counter()
        try:
            done = subprocess.run(
                words,
                env={**os.environ, **caches},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if with_errors else subprocess.PIPE,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise ResightError(f"{shlex.join(words)}: {error.strerror or error}") from None
        seconds = time.perf_counter() - began
    if done.returncode:
        said = (done.stderr or done.stdout or "").strip().splitlines() or ["it printed nothing"]
        raise ResightError(f"{shlex.join(words)}: exit {done.returncode}: {said[-1]}")
    return seconds, done.stdout


def last_number(pattern: re.Pattern[str] | None, output: str, option: str) -> float | None:
    """The number in the last match; None without a pattern."""
    if pattern is None:
        return None
    matches = list(pattern.finditer(output))
    try:
        return float(matches[-1].group(1 if pattern.groups else 0))
    except IndexError:
        end = (output.strip().splitlines() or ["nothing"])[-1]
        raise ResightError(
            f"{option} '{pattern.pattern}' matches nothing that the peer printed (its last line: "
            f"{end})"
        ) from None
    except (TypeError, ValueError):
        raise ResightError(
            f"{option} '{pattern.pattern}' matches '{matches[-1].group()}', which is not a number; "
            "put the number in a group"
        ) from None


def summarized(trainings: Sequence[Training], target: float | None) -> dict[str, Any]:
    """Mean and sample standard deviation of the accuracies, share at the target; medians of the
    seconds."""
    accuracies = [t.accuracy for t in trainings if t.accuracy is not None]
    seconds = [t.train_seconds for t in trainings if t.train_seconds is not None]
    reached = [a >= target for a in accuracies] if target is not None else []
    return {
        "trainings": [asdict(t) for t in trainings],
        "accuracy_mean": statistics.fmean(accuracies) if accuracies else None,
        "accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "share_at_target": sum(reached) / len(reached) if reached else None,
        "train_seconds": Spread.of(seconds).to_dict() if seconds else None,
        "wall_seconds": Spread.of(t.wall_seconds for t in trainings).to_dict(),
    }


def ratios(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float | None]:
    """Ours over the peer's, of medians; None if a side has none."""
    return {
        key: ours[key]["median"] / theirs[key]["median"] if ours[key] and theirs[key] else None
        for key in ("train_seconds", "wall_seconds")
    }


def say(sides: Mapping[str, Mapping[str, Any]], target: float | None) -> None:
    goal = "" if target is None else f"at {target:.2%}"
    rows = []
    for name, side in sides.items():
        mean, std, share = side["accuracy_mean"], side["accuracy_std"], side["share_at_target"]
        accuracy = "" if mean is None else f"{mean:.2%}" + (f" ± {100 * std:.2f}" if std else "")
        training = side["train_seconds"]
        rows.append(
            (
                name,
                accuracy,
                "" if share is None else f"{share:.0%}",
                "" if training is None else f"{training['median']:.2f}",
                str(Spread(**side["wall_seconds"])),
            )
        )
    print_table(("", "test accuracy", goal, "training s", "command to result s"), rows)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--recipe", default="fast", help="a name or a file")
    parser.add_argument("--data", help="as `resight train --data`")
    parser.add_argument("--options", default="", help="more options of `resight train`, quoted")
    parser.add_argument("--n", type=whole_number, default=10, help="trainings per side")
    parser.add_argument("--target", type=_fraction, help="an accuracy, e.g. 0.906")
    parser.add_argument("--fresh-cache", action="store_true", help="empty caches for each process")
    parser.add_argument("--peer", metavar="COMMAND", help="run this in turn with ours")
    parser.add_argument(
        "--peer-accuracy", type=_pattern, metavar="REGEX", help="finds it in the peer's output"
    )
    parser.add_argument(
        "--peer-seconds", type=_pattern, metavar="REGEX", help="finds them in the peer's output"
    )
    options = parser.parse_args(argv)
    if options.peer is None and (options.peer_accuracy or options.peer_seconds):
        parser.error("--peer-accuracy and --peer-seconds read the output of --peer: give it too")
    kinds: dict[str, Callable[[argparse.Namespace, int], Training]] = {"resight": our_training}
    if options.peer:
        kinds["peer"] = their_training
    done: dict[str, list[Training]] = {name: [] for name in kinds}
    for seed in range(options.n):
        for name in kinds if seed % 2 == 0 else reversed(kinds):
            done[name].append(kinds[name](options, seed))
            print(_line(name, seed, done[name][-1]), file=sys.stderr)
    sides = {name: summarized(trainings, options.target) for name, trainings in done.items()}
    device = done["resight"][0].device
    fresh = ", nothing cached" if options.fresh_cache else ""
    print(f"{options.recipe} on {device}, n = {options.n}{fresh}")
    say(sides, options.target)
    figures: dict[str, Any] = {
        "benchmark": "time_to_accuracy",
        "recipe": options.recipe,
        "data": options.data,
        "options": options.options,
        "n": options.n,
        "target": options.target,
        "fresh_cache": options.fresh_cache,
        "peer_command": options.peer,
        **sides,
    }
    if options.peer:
        figures["ratio"] = ratios(sides["resight"], sides["peer"])
        for key, ratio in figures["ratio"].items():
            if ratio is not None:
                print(f"ratio resight/peer of the median {key.replace('_', ' ')}: {ratio:.3g}")
    write_figures(options.json, figures)


def _line(name: str, seed: int, training: Training) -> str:
    accuracy = "" if training.accuracy is None else f", accuracy {training.accuracy:.2%}"
    return f"{name}, seed {seed}: {training.wall_seconds:.1f} s{accuracy}"


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a fraction, e.g. 0.906")
    return value


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.MULTILINE)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text}: not a regular expression: {error}") from None


if __name__ == "__main__":
    main()
