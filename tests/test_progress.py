"""What is said while something runs."""

from __future__ import annotations

import io
import os

import pytest
from rich.console import Console

from resight.progress import Lines, Live, StepInfo, default_reporter, epoch_line

ROW = {
    "epoch": 7,
    "train_loss": 1.0018,
    "train_accuracy": 0.9508,
    "test_loss": 0.4879,
    "test_accuracy": 0.9052,
    "lr": 0.000378,
    "train_seconds": 1060.5,
    "images_per_second": 1827.0,
}


def test_lines_fall_silent_when_nobody_listens() -> None:
    read, write = os.pipe()
    os.close(read)
    lines = default_reporter(os.fdopen(write, "w", buffering=1))
    lines.say("a")
    lines.say("b")


def test_an_epoch_is_one_line_of_a_terminal() -> None:
    whole = epoch_line(ROW, 100)
    assert whole == (
        "epoch   7/100  train loss 1.0018 acc 95.08%  test loss 0.4879 acc 90.52%  LR 0.000378  "
        "1060.5 s  1,827 img/s"
    )
    assert epoch_line(ROW, 100, 120) == whole
    assert epoch_line(ROW, 100, 100) == whole.removesuffix("  1,827 img/s")
    assert epoch_line(ROW, 24, 80) == (
        "epoch  7/24  train loss 1.0018 acc 95.08%  test loss 0.4879 acc 90.52%  1060.5 s"
    )


def test_an_epoch_in_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, most in {None: 80, "120": 120}.items():
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)
        pipe = io.StringIO()
        default_reporter(pipe).epoch(ROW, 24)
        assert pipe.getvalue() == epoch_line(ROW, 24, most) + "\n"
        assert len(pipe.getvalue()) <= most + 1


def test_what_is_said_is_broken_between_words_on_a_terminal_and_nowhere_else() -> None:
    said = "note: 20% of each class held out  (seed 0)"
    terminal, pipe = io.StringIO(), io.StringIO()
    Live(Console(file=terminal, force_terminal=True, width=20)).say(f"{said}\n\nnext")
    Lines(pipe, 20).say(said)
    assert terminal.getvalue().split("\n") == [
        *("note: 20% of each", "class held out", "(seed 0)", "", "next", "")
    ]
    assert pipe.getvalue() == said + "\n"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_bar_is_one_line_of_a_terminal(columns: int) -> None:
    stream = io.StringIO()
    live = Live(Console(file=stream, force_terminal=True, width=columns))
    info = StepInfo(24, 24, 99, 100, 2.345, 0.6789, 0.000378, 1827.0, 3599.0)
    live.step(info)
    live.close()
    shown = stream.getvalue().replace("\r", "\n")
    lines = [Console(file=io.StringIO()).render_str(line).plain for line in shown.splitlines()]
    bars = [line for line in lines if "loss" in line]
    assert bars
    assert all("loss 2.345 · acc 67.9%" in bar and "1 h 0 min left" in bar for bar in bars)
    assert all(("img/s" in bar) == (columns == 120) for bar in bars)
