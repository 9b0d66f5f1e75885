"""One person's photos stay on one side, whichever verb splits them again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import resight
from helpers import picture
from resight.cli.app import app
from resight.data import sources
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.progress import Quiet
from resight.runs.run import Run, load_run
from trainings import StopAt, assert_same_run, interrupt

PERSON = "([a-z]+)[-]"  # brackets, which a recipe's own parser would take for a list
PEOPLE = ("anna", "ben", "cleo", "dora", "emil", "finn", "gina", "hugo", "ida", "jan")
SMALL = ["--recipe", "digits", "--image-size", "8", "--batch-size", "16", "--epochs", "2"]
SMALL += ["--set", "model.width=4", "--lr", "0.02", "--no-report", "--data", "photos"]
runner = CliRunner()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "the-cache"))


def photos(*splits: str) -> None:
    """Three photos of each person in each of two classes; in a test split, of other people."""
    for s, split in enumerate(splits or ("",)):
        for k, label in enumerate(("cat", "dog")):
            for p, person in enumerate(PEOPLE):
                for i in range(3):
                    name = f"{'x' * s}{person}-{i}.png"
                    picture(Path("photos") / split / label / name, 100 * k + 10 * p + i + s)


def run(*words: str) -> str:
    result = runner.invoke(app, list(words))
    assert result.exit_code == 0, f"resight {shlex.join(words)}: {result.output}"
    return result.output


def people(split: object) -> set[str]:
    ids = split.ids.tolist()  # type: ignore[attr-defined]
    return {one.split("/")[-1].split("-")[0] for one in ids}


def divided(data: ImageData) -> int:
    """People on both sides of a split."""
    sides = [people(split) for split in (data.train, data.val, data.test) if split is not None]
    return sum(map(len, sides)) - len(set.union(*sides))


@pytest.mark.parametrize(("splits", "sides"), [((), (6, 2, 2)), (("train", "test"), (7, 3, 10))])
def test_every_verb_splits_the_images_as_the_training_did(
    splits: tuple[str, ...],
    sides: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos(*splits)
    loads = []
    load = sources.load_data
    monkeypatch.setattr(sources, "load_data", lambda *a, **o: loads.append(1) or load(*a, **o))
    output = run("train", *SMALL, "--group", PERSON, "--val", "0.25", "--out", "a")
    assert loads == [1]  # begun in a thread, for that very split
    assert "in whole groups" in output
    trained = load_run("a")
    data = trained.images()
    assert data.val is not None
    assert tuple(len(people(split)) for split in (data.train, data.val, data.test)) == sides
    assert divided(data) == 0
    assert sorted(trained.predictions.ids) == sorted(data.test.ids)
    before = trained.predictions.logits
    for split in ("test", "val", "train"):
        run("evaluate", "a", "--split", split)
    assert (load_run("a").predictions.logits == before).all()
    run("diagnose", "a")
    run("report", "a")
    whole = resume_of(trained)
    assert_same_run(Path("a"), whole)
    assert trained.recipe.data.group == PERSON
    repeat = trained.repeat_command()
    assert repeat is not None
    verb, *words = shlex.split(repeat)[1:]
    run(verb, *words, "--out", "again", "--no-report")
    assert_same_run(Path("a"), Path("again"))
    run("compare", "a", "again")


def resume_of(trained: Run) -> Path:
    """The same training, interrupted and resumed from its folder alone."""
    settings = {"out": "cut", "report": False}
    with pytest.raises(resight.Interrupted):
        resight.train(trained.recipe, "photos", reporter=StopAt(5, interrupt), **settings)
    resight.train(resume="cut", report=False, reporter=Quiet())
    return Path("cut")


def test_other_groups_are_other_images() -> None:
    photos()
    run("train", *SMALL, "--group", PERSON, "--out", "a")
    with pytest.raises(ResightError, match=r"data\.group: \(\[a-z\]\+\)\[-\] → cat"):
        resight.train(resume="a", group="cat", reporter=Quiet())
    plain, grouped = (
        sources.load_data("photos", image_size=8, group=group) for group in ("", PERSON)
    )
    assert load_run("a").resolved["data"]["fingerprint"] == grouped.fingerprint
    assert plain.fingerprint != grouped.fingerprint


def test_seeds_share_the_groups_on_each_side() -> None:
    photos()
    run("train", *SMALL, "--group", PERSON, "--val", "0.25", "--seeds", "2", "--out", "two")
    first, second = (load_run(f"two/seed-{seed}").images() for seed in (0, 1))
    assert first.fingerprint == second.fingerprint
    assert first.val is not None
    assert second.val is not None
    assert first.val.ids.tolist() == second.val.ids.tolist()
    assert divided(first) == divided(second) == 0


@pytest.mark.parametrize("verb", ["train", "find-lr", "data"])
def test_an_invalid_pattern_is_one_line_of_every_verb(verb: str) -> None:
    photos()
    words = ["data", "photos"] if verb == "data" else [verb, "--data", "photos"]
    result = runner.invoke(app, [*words, "--group", "(["])
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert "group = '([' must be a regular expression: unterminated" in result.output
