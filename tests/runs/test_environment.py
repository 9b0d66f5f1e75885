"""The commit of a development install, as git has it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from resight.runs.environment import command_of, commit_of

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(*words: str, cwd: Path) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *who, *words], cwd=cwd, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@needs_git
def test_the_commit_is_the_one_that_is_checked_out(tmp_path: Path) -> None:
    repository, file = tmp_path / "r", tmp_path / "r" / "src" / "resight" / "runs" / "a.py"
    file.parent.mkdir(parents=True)
    file.touch()
    assert commit_of(file) is None
    git("init", "-q", "-b", "main", cwd=repository)
    assert commit_of(file) is None  # nothing is committed yet
    git("add", "-A", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    first = git("rev-parse", "HEAD", cwd=repository)
    assert commit_of(file) == first
    git("worktree", "add", "-q", "-b", "other", str(tmp_path / "w"), cwd=repository)
    assert commit_of(tmp_path / "w" / "src" / "resight" / "runs" / "a.py") == first
    git("pack-refs", "--all", cwd=repository)
    assert commit_of(file) == first
    git("checkout", "-q", "--detach", cwd=repository)
    assert commit_of(file) == first


def test_an_installed_package_has_none(tmp_path: Path) -> None:
    assert commit_of(tmp_path / "site-packages" / "resight" / "runs" / "a.py") is None


@needs_git
def test_a_package_installed_below_somebody_elses_src_has_none(tmp_path: Path) -> None:
    file = tmp_path / "src" / "venv" / "site-packages" / "resight" / "runs" / "a.py"
    file.parent.mkdir(parents=True)
    file.touch()
    git("init", "-q", cwd=tmp_path)
    git("add", "-A", cwd=tmp_path)
    git("commit", "-qm", "theirs", cwd=tmp_path)
    assert commit_of(file) is None


@pytest.mark.parametrize(
    "program", ["/usr/bin/resight", "resight.exe", "/a/site-packages/resight/__main__.py"]
)
def test_the_command_is_known_however_it_was_started(program: str) -> None:
    assert command_of([program, "train", "--epochs", "2"]) == ["resight", "train", "--epochs", "2"]


@pytest.mark.parametrize("program", ["", "train.py", "/a/ipykernel/__main__.py"])
def test_a_script_or_notebook_is_no_command(program: str) -> None:
    assert command_of([program, "-f", "x"]) is None
