"""What a verb prints as the next command is run, to the letter, where it was printed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers import folder, picture
from resight.cli.app import app
from resight.recipe.recipe import Recipe
from resight.runs.run import load_run

runner = CliRunner()
DIGITS = ["--recipe", "digits", "--set", "model.width=4", "--batch-size", "128", "--lr", "0.02"]
SHORT = ["--epochs", "1", "--no-report", "--set", "model.width=8", "--out", "next"]
AHEAD = re.compile(r"^next:? +(resight .*(?:\n {8}resight .*)*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> str:
    """What a command prints; it must succeed."""
    result = runner.invoke(app, list(words))
    assert result.exit_code == 0, f"resight {shlex.join(words)}: {result.output}"
    return result.output


def next_commands(output: str) -> list[list[str]]:
    """The commands after `next`, each without `resight`."""
    (lines,) = AHEAD.findall(output)
    parts = re.split(r", or |, then edit it, then | {4}# [^\n]*|\n {8}", lines)
    commands = [shlex.split(part) for part in parts if part.startswith("resight ")]
    assert commands, lines
    return [words[1:] for words in commands]


def photos(each: int = 12) -> Path:
    """A folder without a split, one of whose files is no image."""
    for k, name in enumerate(("cat", "dog")):
        for i in range(each):
            picture(Path("my photos") / name / f"{i}.png", 100 * k + i, (40, 48))
    (Path("my photos") / "cat" / "broken.jpg").write_bytes(b"no image")
    return Path("my photos")


@pytest.mark.parametrize("size", [None, 16])
def test_of_data(size: int | None) -> None:
    given = [] if size is None else ["--image-size", str(size), "--group", "([0-9]+)[.]"]
    ((verb, *words),) = next_commands(run("data", str(photos()), "--skip-bad", *given))
    assert verb == "train"
    run(verb, *words, *SHORT)
    trained = load_run("next")
    assert trained.resolved["data"]["bad"] == ["cat/broken.jpg"]
    assert trained.recipe.name == "auto"
    assert trained.recipe.data.image_size == (40 if size is None else size)
    assert trained.recipe.data.group == ("" if size is None else "([0-9]+)[.]")


def test_of_data_with_settings_and_a_bad_file_that_was_not_asked_about() -> None:
    given = ["--image-size", "16", "--val", "0.25", "--set", "data.fit=pad"]
    ((verb, *words),) = next_commands(run("data", str(photos()), *given))
    run(verb, *words, *SHORT)
    trained = load_run("next")
    assert trained.resolved["data"]["bad"] == ["cat/broken.jpg"]
    assert trained.resolved["data"]["val"] == 6
    assert (trained.recipe.data.fit, trained.recipe.data.image_size) == ("pad", 16)


def test_of_data_of_digits() -> None:
    ((verb, *words),) = next_commands(run("data", "digits", "--image-size", "12"))
    run(verb, *words, *SHORT, "--lr", "0.02")
    recipe = load_run("next").recipe
    assert (recipe.name, recipe.data.image_size) == ("digits", 12)


def test_of_data_that_a_training_would_refuse() -> None:
    (photos() / "owl").mkdir()
    for _ in range(2):  # the next command is the same until the folder is fixed
        (command,) = next_commands(run("data", "my photos", "--image-size", "16"))
        assert command == ["data", "my photos", "--skip-bad", "--image-size", "16"]
        assert "class 'owl'" in run(*command)


def test_of_find_lr() -> None:
    folder(Path("photos"), each=12)
    options = ["--data", "photos", "--recipe", "fast", "--batch-size", "12", "--seed", "3"]
    options += ["--group", "([0-9])[.]"]
    sized = ["--image-size", "16", "--set", "augment.crop_pad_px=1"]
    ((verb, *words),) = next_commands(run("find-lr", *options, *sized))
    run(verb, *words, *SHORT)
    recipe = load_run("next").recipe
    assert (recipe.data.image_size, recipe.train.batch_size, recipe.train.seed) == (16, 12, 3)
    assert recipe.augment.crop_pad_px == 1
    assert recipe.data.group == "([0-9])[.]"


def test_of_recipes() -> None:
    show, train = next_commands(run("recipes"))
    assert show[-2:] == [">", "mine.toml"]
    Path("mine.toml").write_text(run(*show[:-2]))
    assert train == ["train", "--recipe", "mine.toml"]
    assert Recipe.load("mine.toml").name == "fast"


@pytest.mark.parametrize("report", [True, False])
def test_of_train(report: bool) -> None:
    without = [] if report else ["--no-report"]
    output = run("train", *DIGITS, "--epochs", "1", "--out", "a run", *without)
    first, *others = next_commands(output)
    picture(Path("IMAGES") / "0.png", 0)
    run(*first)
    if not report:
        assert (Path("a run") / "report" / "index.html").is_file()
        return
    run("train", *DIGITS, "--epochs", "1", "--out", "OTHER_RUN", "--no-report")
    (compare,) = others
    for command in next_commands(run(*compare)):
        run(*command)
    assert Path("compare.html").is_file()


def test_of_seeds() -> None:
    output = run("train", *DIGITS, "--epochs", "1", "--seeds", "2", "--out", "two")
    compare, report = next_commands(output)
    assert compare == ["compare", "two/seed-*"]  # the shell expands it
    run("compare", *sorted(map(str, Path("two").glob("seed-*"))))
    run(*report)


@pytest.mark.parametrize("recipe", ["digits", "own.toml"])
def test_of_diagnose_where_classes_are_unequal(recipe: str) -> None:
    for name, each in (("cat", 20), ("dog", 4)):
        for i in range(each):
            picture(Path("my photos") / name / f"{name}{i // 2}-{i}.png", 10 * each + i)
    (Path("my photos") / "cat" / "broken.jpg").write_bytes(b"no image")
    Path("own.toml").write_text(run("recipes", "digits").replace('"digits"', '"own"', 1))
    words = ["--recipe", recipe, "--data", "my photos", "--skip-bad", "--group", "([a-z]+[0-9]+)-"]
    words += ["--image-size", "8", "--batch-size", "8", "--lr", "0.02", "--set", "model.width=4"]
    run("train", *words, "--epochs", "1", "--no-report", "--out", "a run")
    (finding,) = unequal(run("diagnose", "a run", "--json"))
    assert finding["command"] == (
        f"resight train --recipe 'a run/recipe.json' --data '{Path('my photos').absolute()}' "
        "--skip-bad --set train.sampling=balanced"
    )
    assert finding["command"] in run("diagnose", "a run")
    _, verb, *words = shlex.split(finding["command"])
    run(verb, *words, "--out", "next", "--no-report")
    first, second = load_run("a run"), load_run("next")
    assert second.recipe == first.recipe.with_changes({"train.sampling": "balanced"})
    assert second.resolved["data"]["fingerprint"] == first.resolved["data"]["fingerprint"]
    (finding,) = unequal(run("diagnose", "next", "--json"))
    assert finding["command"] is None


def unequal(output: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(output)["findings"]
    return [finding for finding in found if finding["name"] == "class-imbalance"]
