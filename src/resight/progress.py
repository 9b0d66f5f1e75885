"""What a training prints while it runs: a live bar on a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
)

from resight.characters import printable
from resight.findings import COLUMNS, Finding, folded

WIDE = 100  # columns, from which the bar also shows LR and speed


@dataclass(frozen=True)
class StepInfo:
    """A training at a step: `done` of `total` steps; loss and accuracy of the epoch so far."""

    epoch: int
    epochs: int
    done: int
    total: int
    loss: float
    accuracy: float
    lr: float
    images_per_second: float
    seconds_left: float  # of the whole training


class Reporter(Protocol):
    """Where a training's messages go."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def counting(self, what: str) -> Callable[[int, int | None], None]:
        """A function `(done, total)` that shows the progress of `what`."""

    def step(self, info: StepInfo) -> None: ...

    def epoch(self, row: dict[str, Any], epochs: int) -> None: ...

    def finding(self, finding: Finding) -> None:
        """Report something that is going wrong."""

    def close(self) -> None: ...


class Quiet:
    """Prints nothing."""

    def say(self, line: str) -> None:
        pass

    def counting(self, what: str) -> Callable[[int, int | None], None]:
        return lambda done, total: None

    def step(self, info: StepInfo) -> None:
        pass

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        pass

    def finding(self, finding: Finding) -> None:
        pass

    def close(self) -> None:
        pass


class Lines(Quiet):
    """One line per epoch, of at most `columns`, for logs and pipes; slow tasks show their progress
    every 10 s."""

    def __init__(self, stream: IO[str], columns: int = COLUMNS) -> None:
        self._stream, self._columns = stream, columns

    def say(self, line: str) -> None:
        print(printable(line, "\n"), file=self._stream, flush=True)

    def counting(self, what: str) -> Callable[[int, int | None], None]:
        last = time.monotonic()

        def show(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                self.say(f"{what}: {done:,}" + (f" of {total:,}" if total else ""))

        return show

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        self.say(epoch_line(row, epochs, self._columns))

    def finding(self, finding: Finding) -> None:
        self.say(str(finding))


class Live(Quiet):
    """A bar on a terminal, with one row per epoch above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            console=console,
            transient=True,
        )
        self._task: tuple[str, TaskID] | None = None

    def say(self, line: str) -> None:
        shown = "\n".join(
            part
            for one in line.split("\n")
            for part in folded(one, columns=self._console.width) or [""]
        )
        self._console.print(shown, markup=False, highlight=False, soft_wrap=True)

    def counting(self, what: str) -> Callable[[int, int | None], None]:
        began = time.monotonic()

        def show(done: int, total: int | None) -> None:
            left = (time.monotonic() - began) / max(done, 1) * ((total or done) - done)
            self._show(what, what, done, total, f"{duration(left)} left")
            if total and done >= total:
                self.close()

        return show

    def step(self, info: StepInfo) -> None:
        facts = [f"loss {info.loss:.3f}", f"acc {info.accuracy:.1%}"]
        if self._console.width >= WIDE:
            facts += [f"LR {info.lr:.3g}", f"{info.images_per_second:,.0f} img/s"]
        facts.append(f"{duration(info.seconds_left)} left")
        name = f"epoch {info.epoch}/{info.epochs}"
        self._show("train", name, info.done, info.total, " · ".join(facts))

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        self.say(epoch_line(row, epochs, self._console.width))

    def finding(self, finding: Finding) -> None:
        style = "bold red" if finding.severity == "problem" else "yellow"
        self._console.print(
            str(finding), markup=False, highlight=False, soft_wrap=True, style=style
        )

    def close(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task[1])
            self._task = None
        self._bar.stop()

    def _show(self, key: str, name: str, done: int, total: int | None, facts: str) -> None:
        if self._task is None or self._task[0] != key:
            self.close()
            self._bar.start()
            self._task = (key, self._bar.add_task(name, total=total, completed=done, facts=facts))
        self._bar.update(self._task[1], description=name, completed=done, total=total, facts=facts)


class Enduring(io.TextIOBase):
    """A stream for output that may fail, on a full disk or a terminal that is gone, while the work
    goes on: from then on it is silent. error: why; None if nothing was lost."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def _attempt(self, work: Callable[[], object]) -> None:
        if self.error is not None:
            return
        try:
            work()
        except (OSError, ValueError) as error:  # the latter of a stream that was closed
            self.error = error


def default_reporter(stream: IO[str] | Enduring | None = None) -> Reporter:
    """`Live` if `stream` (stdout by default) is a terminal, else `Lines`; nothing where it is
    closed. What can't be written is left out."""
    stream = stream or sys.stdout
    if stream is None:
        return Quiet()
    enduring = stream if isinstance(stream, Enduring) else Enduring(stream)
    console = Console(file=enduring)  # type: ignore[arg-type]
    if console.is_terminal:
        return Live(console)
    return Lines(enduring, console.width)  # type: ignore[arg-type] # $COLUMNS, or 80


def epoch_line(row: dict[str, Any], epochs: int, columns: int | None = None) -> str:
    """An epoch's row as one line for a log; without speed and LR where they exceed `columns`."""
    width = len(str(epochs))
    parts = [
        f"{split} loss {row[f'{split}_loss']:.4f} acc {row[f'{split}_accuracy']:6.2%}  "
        for split in ("train", "val", "test")
        if f"{split}_loss" in row  # train only, if the recipe evaluates at the end
    ]
    begin = f"epoch {row['epoch']:>{width}}/{epochs}  {''.join(parts)}"
    lr, seconds = f"LR {row['lr']:.3g}", f"{row['train_seconds']:.1f} s"
    speed = f"{row['images_per_second']:,.0f} img/s"
    lines = ["  ".join(facts) for facts in ((lr, seconds, speed), (lr, seconds), (seconds,))]
    fitting = (line for line in lines if columns is None or len(begin) + len(line) <= columns)
    return begin + next(fitting, lines[-1])


def duration(seconds: float) -> str:
    """An approximate duration in words: `45 s`, `6 min 30 s`, `2 h 14 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    tens = 10 * round(seconds / 10)
    if tens < 600:
        return f"{tens // 60} min" + (f" {tens % 60} s" if tens % 60 else "")
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
