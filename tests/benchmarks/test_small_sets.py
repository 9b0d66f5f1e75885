"""The benchmark of small sets: each is what its name says, and the cells are the runs' figures."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers import ROOT, picture

sys.path.insert(0, str(ROOT / "benchmarks"))

import small_sets

CLASSES = ("ant", "bee", "cow", "dog", "elk")


def counts(folder: Path) -> dict[str, list[int]]:
    """Files per class of each split."""
    return {
        split: [len(list(each.iterdir())) for each in sorted((folder / split).iterdir())]
        for split in ("train", "test")
    }


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    root = tmp_path / "cifar"
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            for number in range(8):
                picture(root / split / name / f"{number}.png", 10 * label + number)
    return root


def test_a_set_has_the_first_images_of_the_first_classes(tmp_path: Path, cifar: Path) -> None:
    small_sets.some_classes(cifar, tmp_path / "small", [3, 3], [5, 5])
    assert counts(tmp_path / "small") == {"train": [3, 3], "test": [5, 5]}
    same = [folder / "train" / "bee" / "2.png" for folder in (cifar, tmp_path / "small")]
    assert same[0].read_bytes() == same[1].read_bytes()


def test_photos_to_test_are_not_trained_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(small_sets, "PHOTO_TEST", 3)
    for name in ("cat", "dog"):
        for number in range(8):
            picture(tmp_path / "photos" / name / f"{number}.png", number)
    small_sets.some_photos(tmp_path / "photos", tmp_path / "small", 5)
    assert counts(tmp_path / "small") == {"train": [5, 5], "test": [3, 3]}
    names = [
        sorted(p.name for p in (tmp_path / "small" / s / "cat").iterdir())
        for s in ("train", "test")
    ]
    assert not set(names[0]) & set(names[1])
    with pytest.raises(small_sets.ResightError, match="fewer than 9"):
        small_sets.some_photos(tmp_path / "photos", tmp_path / "larger", 6)


def test_mixed_files_have_every_format(tmp_path: Path, cifar: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(small_sets, "MIXED", 6)
    monkeypatch.setattr(small_sets, "TEST_PER_CLASS", 2)
    small_sets.mixed_files(cifar, tmp_path / "mixed")
    assert counts(tmp_path / "mixed") == {"train": [6] * 5, "test": [2] * 5}
    files = list((tmp_path / "mixed" / "train").rglob("*.*"))
    assert Counter(file.suffix for file in files) == dict.fromkeys(
        (".jpg", ".png", ".webp", ".bmp", ".gif", ".tif"), 5
    )
    with_sizes = {Image.open(file).size for file in files}
    assert len(with_sizes) > 20
    assert all(40 <= side < 240 for size in with_sizes for side in size)
    assert {Image.open(file).mode for file in files} >= {"RGB", "L", "P", "CMYK"}


def test_few_digits(tmp_path: Path) -> None:
    small_sets.few_digits(tmp_path / "digits")
    assert counts(tmp_path / "digits") == {"train": [10] * 10, "test": [100] * 10}


def test_a_set_that_was_interrupted_is_made_anew(tmp_path: Path, cifar: Path) -> None:
    def interrupted(to: Path) -> None:
        to.mkdir(parents=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_sets.made("a, b × 2", small_sets.Set(interrupted), tmp_path)
    whole = small_sets.Set(lambda to: small_sets.some_classes(cifar, to, [1, 1], [1, 1]))
    assert counts(small_sets.made("a, b × 2", whole, tmp_path)) == {"train": [1, 1], "test": [1, 1]}
    assert [path.name for path in tmp_path.iterdir() if path != cifar] == ["a-b-x-2"]


def test_cells_are_of_the_runs_and_no_run_is_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    accuracies = iter([0.9, 0.8, 0.7])

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        result = (
            f'{{"test_accuracy": {next(accuracies)}, "wall_seconds": {len(asked)}, '
            '"test_images": 1000, "guess_accuracy": 0.1}'
        )
        return subprocess.CompletedProcess(command, 0, f"a line\n{result}\n", "")

    monkeypatch.setattr(small_sets.subprocess, "run", run)
    words = ["--out", str(tmp_path), "--sets", "digits, 10 per class", "--recipes", "manual"]
    small_sets.main([*words, "--seeds", "3"])
    said = capsys.readouterr().out
    assert "80.0 ± 10.0 %, 2 s" in said
    assert "100 / 1,000" in said
    assert [command[command.index("--seed") + 1] for command in asked] == ["0", "1", "2"]
    assert asked[0][asked[0].index("--batch-size") + 1] == "32"
    small_sets.main([*words, "--seeds", "1"])
    assert "90.0 %, 1 s" in capsys.readouterr().out
    assert len(asked) == 3

    mixup = "fast --set augment.mixup=0.2"
    words[-1:] = ["manual", mixup]
    accuracies = iter([0.6])
    small_sets.main([*words, "--seeds", "1"])
    rows = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows[0] == ["set", "digits, 10 per class"]
    assert rows[-2:] == [["manual", "90.0 %, 1 s"], [mixup, "60.0 %, 4 s"]]
    place = asked[-1].index("--recipe")
    assert asked[-1][place : place + 4] == ["--recipe", "fast", "--set", "augment.mixup=0.2"]


def test_unknown_sets_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        small_sets.main(["--out", str(tmp_path), "--sets", "cats"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: --sets 'cats': expected one of digits, 10 per class\n"
    )
