"""The project's pages: the README's Python runs as it stands, commands and links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import typer

from helpers import picture
from resight.cli.app import app
from resight.recipe.overrides import parse_setting
from resight.recipe.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCREEN = 60  # lines: more is a flood


def code_after(heading: str) -> str:
    """The first indented block below a heading."""
    below = README.split(f"\n{heading}\n", 1)[1]
    found = re.search(r"(?:^    .*\n|^\n)+", below, re.MULTILINE)
    assert found is not None
    return textwrap.dedent(found[0]).strip()


def in_blocks(page: str) -> list[list[str]]:
    """The words of each command in a page's code blocks, after `resight`."""
    lines = re.findall(r"^    (resight .*)$", page, re.MULTILINE)
    split = [re.split(r"[>|…]", line)[0] for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in split]


def in_text(page: str) -> list[list[str]]:
    """Those in the text, which may have placeholders and gaps."""
    return [line.split()[1:] for line in re.findall(r"`(resight [^`]+)`", page)]


def test_the_python_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("cat", "dog")):
        for i in range(8):
            picture(tmp_path / "photos" / name / f"{i}.png", 100 * k + i)
    names: dict[str, object] = {}
    for statement in ast.parse(code_after("## In Python")).body:
        text, said = ast.unparse(statement), io.StringIO()
        with contextlib.redirect_stdout(said):
            if isinstance(statement, ast.Expr):
                value = eval(text, names)
                assert value is not None or text.startswith("print("), text
            else:
                exec(text, names)
        assert len(said.getvalue().splitlines()) <= SCREEN, text
    assert names["maps"].shape == (4, 4, 4)  # an example that shows something


def test_each_command_of_the_readme_is_understood() -> None:
    group = typer.main.get_command(app)
    for words in in_blocks(README):
        name, *rest = words
        if name.startswith("-"):  # of the command itself, which would do it
            assert name in {option for param in group.params for option in param.opts}
        else:
            group.commands[name].make_context(name, rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_each_verb_and_option_of_a_page_exists(page: Path) -> None:
    group = typer.main.get_command(app)
    for words in in_text(page.read_text(encoding="utf-8")):
        verb = group.commands.get(words[0])
        assert verb is not None or words[0].startswith("-"), words
        options = {option for param in (verb or group).params for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_each_setting_of_the_readme_exists() -> None:
    settings = [
        parse_setting(words[i + 1])
        for words in in_blocks(README)
        for i, word in enumerate(words)
        if word == "--set"
    ]
    assert settings
    for setting in settings:
        Recipe().with_changes(dict([setting]))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_each_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    for target in targets:
        assert "://" in target or (page.parent / target).exists(), target


def test_the_pictures_are_small() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert len(pictures) == 2
    for path in pictures:
        assert (ROOT / path).stat().st_size <= 200_000
