"""What the verbs print: through a reporter while they work, and when they are done."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import math
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resight.characters import printable
from resight.errors import ResightError, ResightWarning
from resight.findings import Finding, folded
from resight.runs.timings import table

if TYPE_CHECKING:
    from resight.progress import Enduring, Reporter
    from resight.runs.answers import Answers
    from resight.runs.predictions import Predictions
    from resight.runs.run import Run
    from resight.runs.seeds import SeedsResult


STDOUT = ("-", "/dev/stdout")
UNWANTED = (errno.EBADF, errno.EPIPE)  # of a stdout that was closed, or whose reader has left
RECORD_CLOCK = ("whitening_seconds", "train_seconds", "last_evaluation_seconds")


def reporter_for(as_json: bool) -> Reporter:
    """On stdout; with `--json` on stderr, so that stdout has only the JSON."""
    from resight.progress import default_reporter

    return default_reporter(sys.stderr if as_json else sys.stdout)


def print_trained(
    result: Run | SeedsResult, timed: Mapping[str, Any] | None, output: Enduring
) -> None:
    """What a training ends with, to `output`, an stdout; timed: the values whose timings are
    wanted. Output that fails fails no training: the run is complete."""
    from resight.runs.seeds import SeedsResult

    with contextlib.redirect_stdout(output):
        if isinstance(result, SeedsResult):
            print_seeds(result)
        else:
            print_result(result)
        if timed is not None:
            print_timings(timed)
    output.flush()
    error = output.error
    if error is None:
        return
    silence(sys.stdout)
    if isinstance(error, OSError) and error.errno not in UNWANTED:
        warnings.warn(
            f"the output can't be written ({error.strerror}): what the training printed is lost, "
            "its files are whole",
            ResightWarning,
            stacklevel=2,
        )


def is_piped(csv: Path | None, *, as_json: bool) -> bool:
    """Whether rows that are wanted as CSV go to stdout. Raises `ResightError` for a file that can't
    be written, before the work that its rows take."""
    piped = csv is not None and str(csv) in STDOUT
    if piped and as_json:
        raise ResightError("--json and --csv both want stdout: leave one out, or name a file")
    if csv is None or piped:
        return piped
    if not csv.absolute().parent.is_dir():
        raise ResightError(f"there is no folder {csv.parent} for --csv: create it first")
    if csv.is_file() and csv.suffix.lower() != ".csv":  # a photo, if the name was forgotten
        raise ResightError(
            f"--csv {csv} is there already and its name does not end in .csv, so it is not "
            "replaced: choose another name"
        )
    return False


def write_out(text: str) -> None:
    """On stdout as it is: in UTF-8, line ends too."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="")
    sys.stdout.write(text)


def silence(stream: IO[str]) -> None:
    """Send what a stream still holds, and what follows, nowhere: Python flushes it at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_classes(predictions: Predictions) -> None:
    from resight.render.terminal import padded, width_of

    rows = predictions.per_class()
    names = [printable(str(row["class"])) for row in rows]
    width = max(map(width_of, names))
    for name, row in zip(names, rows, strict=True):
        if row["support"]:
            share = f"{row['accuracy']:7.2%}  {'█' * round(20 * float(row['accuracy']))}"
        else:
            share = "no images"
        print(f"  {padded(name, width)}  {row['correct']:>5}/{row['support']:<5} {share}")


def answer_lines(answers: Answers, top: int) -> Iterator[str]:
    """A line per image: its name, and the most probable classes. In a terminal, names are shortened
    so that a line fits."""
    from resight.render.terminal import cut_to, padded, width_of
    from resight.runs.answers import NONE_OF_THESE

    rows = answers.rows(top)
    said = [
        [
            f"{printable(name)} {share:.1%}"
            for name, share in ((one["class"], one["probability"]) for one in row["top"])
        ]
        for row in rows
    ]
    if answers.min_confidence:
        for row, line in zip(rows, said, strict=True):
            line.insert(0, printable(row["predicted"] or NONE_OF_THESE))
    answer = max(width_of(line[0]) for line in said)
    rest = max(width_of(" · ".join(line[1:])) for line in said)
    names = [printable(row["id"]) for row in rows]
    room = max(map(width_of, names))
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        room = max(min(room, columns - answer - rest - 4), 12)
    for name, line in zip(names, said, strict=True):
        first = f"{padded(cut_to(name, room), room)}  {padded(line[0], answer)}"
        yield f"{first}  {' · '.join(line[1:])}".rstrip()


def print_result(run: Run) -> None:
    from resight.runs.commands import report_command

    print_findings(run)
    path = shlex.quote(str(run.path))
    print(f"run     {run.path}: model.safetensors, predictions.npz, metrics.jsonl")
    if page := run.report_page:
        print(f"report  {page}: open it in a browser")
        print(f"next    resight predict {path} IMAGES    # what it says of other images")
        print(f"        resight compare {path} OTHER_RUN    # after another training")
    else:
        print(f"next    {report_command(run.path)}")


def print_seeds(result: SeedsResult) -> None:
    from resight.runs.commands import report_command

    print(result)
    seen: dict[tuple[str, str], list[int]] = {}
    first: dict[tuple[str, str], Finding] = {}
    for run in result.runs:
        for finding in run.diagnosis.findings if run.diagnosis else ():
            key = (str(finding.severity), finding.name)
            seen.setdefault(key, []).append(run.recipe.train.seed)
            first.setdefault(key, finding)
    for key in sorted(seen, key=lambda key: key[0] != "problem"):
        seeds = ", ".join(map(str, seen[key]))
        print(f"{key[0]}: {first[key].title} (seed{'s' * (len(seen[key]) > 1)} {seeds})")
    print(f"runs    {result.path}: seeds.json and one folder per seed")
    following = []
    if result.n > 1:
        following.append(f"resight compare {shlex.quote(str(result.path))}/seed-*")
    for run in result.runs:
        if page := run.report_page:
            print(f"report  {page}: open it in a browser")
        else:
            following.append(report_command(run.path))
    if following:
        print(f"next    {', or '.join(following[:2])}")


def print_timings(values: Mapping[str, Any]) -> None:
    """values: those of `result.json`, or `SeedsResult.to_dict()`."""
    parts = values.get("timings")
    if not parts:
        print("no timings were recorded")
        return
    step = values.get("resumed_from_step")
    which = ""
    if step is not None:
        which = f" (this process only, resumed at step {step})"
    elif values.get("resumed"):
        which = " (this process only, resumed)"
    print(f"where the {math.fsum(parts.values()):,.2f} s went{which}")
    for line in table(parts):
        print(line)
    if values.get("last_evaluation_seconds") is not None and step is None:
        # speed records count whitening and test-time augmentation, but nothing before or between
        counted = [values[key] for key in RECORD_CLOCK]
        print(
            f"training as speed records count it: {math.fsum(counted):,.2f} s (whitening "
            f"{counted[0]:,.2f}, steps with their augmentation {counted[1]:,.2f}, the last "
            f"evaluation {counted[2]:,.2f})"
        )


def print_findings(run: Run) -> None:
    """A few lines per finding, problems first; a command that several advise is printed once."""
    diagnosis = run.diagnosis
    if diagnosis is None:
        return
    if diagnosis.verdict:
        print(diagnosis.verdict)
    told: set[str | None] = set()
    for finding in diagnosis.findings:
        print(dataclasses.replace(finding, command=None) if finding.command in told else finding)
        told.add(finding.command)
    for reason in diagnosis.skipped:
        print("\n".join(folded(reason, "not checked: ")))
