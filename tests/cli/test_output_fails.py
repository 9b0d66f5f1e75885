"""Output to a full disk, to nobody, or to a terminal that is gone: trainings go on, other verbs say
so in a line."""

from __future__ import annotations

import errno
import io
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from resight.cli.app import app
from resight.progress import Enduring, Lines, Live, Quiet, StepInfo, default_reporter
from resight.runs.run import load_run

FULL = Path("/dev/full")
TRAIN = ("train", "--recipe", "digits", "--epochs", "1", "--no-report", "--set", "model.width=2")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")


class Broken(io.StringIO):
    """Fails from its second write on."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        if self.writes > 1:
            raise OSError(5, "Input/output error")
        return super().write(text)


def resight(*words: str, cwd: Path, redirect: str = "") -> subprocess.CompletedProcess[str]:
    command = f'exec "{sys.executable}" -m resight "$@" {redirect}'
    return subprocess.run(
        ["bash", "-c", command, "resight", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@needs_full
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-", ">/dev/full 2>/dev/full", ">&- 2>&-"])
def test_a_training_does_not_need_its_output(redirect: str, tmp_path: Path) -> None:
    done = resight(*TRAIN, "--out", "run", cwd=tmp_path, redirect=redirect)
    lost = "warning: the output can't be written (No space left on device): what the training "
    lost += "printed is lost, its files are whole\n"
    assert (done.returncode, done.stderr) == (0, lost * (redirect == ">/dev/full"))
    assert load_run(tmp_path / "run").done(report=False)


@needs_full
@pytest.mark.parametrize("words", [("--help",), ("--version",), ("recipes",), ("summary",)])
def test_other_verbs_say_that_their_output_fails(words: tuple[str, ...], tmp_path: Path) -> None:
    done = resight(*words, cwd=tmp_path, redirect=">/dev/full")
    assert done.returncode == 2
    assert done.stderr == "error: the output can't be written: No space left on device\n"


@needs_full
def test_a_result_as_json_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    done = resight(*TRAIN, "--out", "run", "--json", cwd=tmp_path, redirect=">/dev/full")
    assert done.returncode == 2
    assert done.stderr.endswith("error: the output can't be written: No space left on device\n")
    assert load_run(tmp_path / "run").finished


@pytest.mark.parametrize("words", [(*TRAIN, "--out", "run", "--json"), ("recipes",), ("--help",)])
def test_a_closed_stdout_takes_no_result(words: tuple[str, ...], tmp_path: Path) -> None:
    done = resight(*words, cwd=tmp_path, redirect=">&-")
    assert done.returncode == 2
    assert done.stderr.endswith("error: the output can't be written: Bad file descriptor\n")


@pytest.mark.parametrize(
    "words",
    [
        (*TRAIN, "--out", "locked/run"),
        (*TRAIN, "--seeds", "2", "--out", "locked/run"),
        ("train", "--resume", "locked/run"),
        ("train", "--data", "locked/images"),
        ("evaluate", "locked/run"),
        ("evaluate", "locked/run", "--csv", "locked/rows.csv"),
        ("find-lr", "--recipe", "digits", "--plot", "locked/curve.png"),
        ("data", "digits", "--page", "locked/page.html"),
    ],
)
def test_a_folder_that_can_not_be_searched_is_one_line(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").mkdir()
    stat = os.stat

    def refusing(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str | Path) and "locked" in Path(path).parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refusing)  # a superuser may search any
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert "Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_hangs_up_saves_the_training(ignored: bool, tmp_path: Path) -> None:
    """ignored: as nohup starts a command; whoever runs this test may have been started so."""
    ours, theirs = pty.openpty()
    words = (*TRAIN[:4], "500", *TRAIN[5:], "--out", "cut")
    how = signal.SIG_IGN if ignored else signal.SIG_DFL
    with subprocess.Popen(
        [sys.executable, "-m", "resight", *words],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, how),
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        seen = b""
        while b"epoch   2/500" not in seen:
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGHUP)
        while ignored and b"epoch   4/500" not in seen:
            seen += os.read(ours, 4096)
        os.close(ours)  # whatever it prints from now on fails
        if ignored:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == (143 if ignored else 129)
    saved = load_run(tmp_path / "cut").checkpoint()
    assert saved is not None
    assert saved["step"] > 0


def test_what_fails_once_is_silent_from_then_on() -> None:
    broken = Broken()
    reporter = Lines(Enduring(broken))  # type: ignore[arg-type]
    for line in "abc":
        reporter.say(line)
    assert broken.getvalue() == "a"
    assert broken.writes == 2


def test_a_bar_on_a_terminal_that_is_gone_does_not_raise() -> None:
    console = Console(file=Enduring(Broken()), force_terminal=True)  # type: ignore[arg-type]
    reporter = Live(console)
    for done in range(1, 4):
        reporter.step(StepInfo(1, 1, done, 3, 1.0, 0.5, 0.1, 10.0, 1.0))
        reporter.say("a line")
    reporter.close()


def test_without_a_stream_nothing_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert type(default_reporter()) is Quiet
