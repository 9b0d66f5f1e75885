"""How findings are printed: in lines of 80 columns, with commands that can be pasted."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from resight.findings import Diagnosis, Finding, folded

COMMAND = (
    "resight find-lr --recipe '/a folder/with a/very long path/to the/run of today/recipe.json'"
)
FINDING = Finding(
    name="diverged",
    severity="problem",
    title="the training diverged",
    evidence="the training loss was 0.500 after epoch 1 and is 1.110 after epoch 2 " * 2,
    threshold="more than 1.5 × the lowest loss",
    advice="train again with a lower LR, such as --lr 0.05, or one found by an LR test",
    command=COMMAND,
)


def test_lines_are_at_most_80_columns_wide_and_commands_are_whole() -> None:
    partly = Diagnosis((FINDING,), ("the images: " + "no such folder " * 9,))
    for text in (str(FINDING), str(partly)):
        others = [line for line in text.splitlines() if line.strip() != COMMAND]
        assert len(others) == len(text.splitlines()) - 1
        assert 70 < max(map(len, others)) <= 80


@pytest.mark.parametrize("start", ["", "error: "])
def test_wide_characters_count_twice_and_commands_stay_whole(start: str) -> None:
    command = "`resight train --resume 'runs/a folder'`"
    text = f"{'日本語 ' * 30}resume with {command}, or leave it {'🐈 ' * 40}"
    lines = folded(text, start, 80)
    assert 70 < max(map(cell_len, lines)) <= 80
    assert sum(command in line for line in lines) == 1
    assert " ".join(line.strip() for line in lines) == (start + text).strip()
    assert all(line.startswith(" " * len(start)) for line in lines[1:])


def test_a_finding_says_what_was_seen_and_what_to_do() -> None:
    lines = str(FINDING).splitlines()
    assert lines[0].startswith("problem: the training diverged: the training loss was 0.500 after")
    assert all(line.startswith(" " * len("problem: ")) for line in lines[1:])


def test_that_nothing_was_found_says_whether_all_was_looked_at() -> None:
    assert str(Diagnosis(())) == "no problem found"
    partly = Diagnosis((), ("the images: gone",))
    assert str(partly).splitlines() == [
        "no problem found in what could be checked",
        "not checked: the images: gone",
    ]
    assert Diagnosis((FINDING,), ("the images: gone",)).verdict is None
