"""The tab key, asked as bash and zsh ask: through variables of the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resight.cli.app import app
from resight.cli.complete import run_folders
from resight.recipe.catalog import RECIPES

ENTRY = "import sys; sys.argv[0] = 'resight'; from resight.cli.app import main; main()"
BASH = shutil.which("bash")


def asked(line: str, shell: str = "bash", cwd: Path | None = None) -> list[str]:
    """The lines that the command answers when the tab key is pressed at the end of `line`."""
    words = line.split(" ")
    protocol = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
    }[shell]
    done = subprocess.run(
        [sys.executable, "-c", ENTRY],
        env={**os.environ, **protocol, "_RESIGHT_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    return [answer for answer in done.stdout.splitlines() if answer]


def make_run(folder: Path, name: str = "recipe.json") -> None:
    folder.mkdir(parents=True)
    (folder / name).touch()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("resight eva", ["evaluate"]),
        ("resight train --early", ["--early-stop"]),
        ("resight train --recipe custom-resnet-f", ["custom-resnet-fast"]),
        ("resight recipes au", ["auto"]),
        ("resight train --data ci", ["cifar10", "cifar100"]),
        ("resight data d", ["digits"]),
        ("resight train --device ", ["auto", "cpu", "cuda"]),
        ("resight evaluate RUN --split v", ["val"]),
        ("resight train --data photo", []),  # so that bash offers files
    ],
)
def test_bash_is_offered(line: str, expected: list[str]) -> None:
    assert asked(line) == expected


def test_runs_are_offered_where_a_run_is_wanted(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "digits-1")
    make_run(tmp_path / "runs" / "seeds-1", "seeds.json")
    (tmp_path / "runs" / "other").mkdir()
    both = ["runs/digits-1", "runs/seeds-1"]
    assert asked("resight compare runs/digits-1 ", cwd=tmp_path) == both
    assert asked("resight train --resume runs/s", cwd=tmp_path) == ["runs/seeds-1"]
    (line,) = asked("resight report ru", "zsh", cwd=tmp_path)[1:]
    assert line == '"runs/seeds-1"))\''


def test_a_run_or_net_or_recipe_is_offered_for_a_summary(tmp_path: Path) -> None:
    make_run(tmp_path / "resting")
    offered = asked("resight summary res", cwd=tmp_path)
    assert offered == ["resnet18", "resnet18-gn", "resting"]


def test_names_that_a_shell_would_take_apart_are_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a-1", "a 2", "a$(id)", "[a]"):
        make_run(Path(name))
    assert run_folders("") == ["a-1"]
    assert run_folders("[") == []
    assert run_folders("no/such/") == []
    assert run_folders(f"{tmp_path}/a") == [f"{tmp_path}/a-1"]


@pytest.mark.skipif(BASH is None, reason="no bash")
def test_a_real_bash_completes_with_the_script_that_is_printed(tmp_path: Path) -> None:
    command = tmp_path / "resight"
    command.write_text(f"#!{sys.executable}\n{ENTRY.replace('; ', chr(10))}\n")
    command.chmod(0o755)
    typed = (
        'eval "$(resight --show-completion bash)"; COMP_WORDS=(resight find); COMP_CWORD=1; '
        '_resight_completion resight; echo "${COMPREPLY[@]}"; complete -p resight'
    )
    done = subprocess.run(
        [str(BASH), "--norc", "-c", typed],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "find-lr",
        "complete -o default -F _resight_completion resight",
    ]


def test_help_has_one_line_for_it() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    assert "--install-completion" in output
    assert "--show-completion" not in output


def test_offering_recipes_loads_no_torch() -> None:
    code = (
        "import sys\nfrom resight.cli.complete import recipe_names, nets_recipes_and_runs\n"
        f"assert recipe_names('') == ['auto', *{list(RECIPES)}]\n"
        "nets_recipes_and_runs('')\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
