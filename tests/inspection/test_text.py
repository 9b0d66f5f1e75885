"""What is printed: 80 columns, a few names, and only what is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from rich.cells import cell_len

from helpers import folder
from odd_folders import SIDE, odd_folder
from resight.inspection.cases import Case, DataFinding
from resight.inspection.inspect import inspect_data
from resight.inspection.sizes import FileFacts, Range
from resight.inspection.text import class_table, file_facts, finding_lines


def widest(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_it_fits_80_columns(tmp_path: Path, fit: str) -> None:
    root = odd_folder(tmp_path / ("long name " * 12) / "一二三")
    long = root / "train" / "cat" / ("很长的名字" * 12 + ".jpg")
    long.write_bytes(b"no image")
    text = str(inspect_data(root, image_size=SIDE, **{"data.fit": fit}))

    assert widest(text) <= 80
    assert "borders" in text if fit == "pad" else "cuts off" in text or "squashed" in text


def test_few_classes_are_all_there_and_of_many_the_largest_and_smallest() -> None:
    few = class_table(["cat", "dog"], {"train": [1000, 2], "test": [3, 4]})
    assert few == [
        ["class", "train", "test"],
        ["cat", "1,000", "3"],
        ["dog", "2", "4"],
        ["all 2 classes", "1,002", "7"],
    ]
    names = [f"c{k}" for k in range(1000)]
    many = class_table(names, {"all": [k % 500 for k in range(1000)]})
    assert [row[0] for row in many] == [
        *("class", "c499", "c999", "c498", "c998", "c497", "… 990 more"),
        *("c502", "c1", "c501", "c0", "c500", "all 1,000 classes"),
    ]
    assert many[6] == ["… 990 more", "–"]


def test_a_finding_names_three_cases_and_counts_the_others() -> None:
    cases = tuple(Case((f"{i}.png", f"copy of {i}.png"), "pixel for pixel") for i in range(5))
    finding = DataFinding("repeated", "note", "twice", "5 pairs", "1 pair", "remove them", cases)

    assert finding_lines(finding) == [
        "note:    twice: 5 pairs",
        "         - 0.png and copy of 0.png (pixel for pixel)",
        "         - 1.png and copy of 1.png (pixel for pixel)",
        "         - 2.png and copy of 2.png (pixel for pixel)",
        "         - and 2 more (--json has all)",
        "         remove them",
    ]
    four = finding_lines(dataclasses.replace(finding, cases=cases[:4]))
    assert four[4] == "         - 3.png and copy of 3.png (pixel for pixel)"
    assert len(finding.to_dict()["cases"]) == 5


def test_files_are_described_in_four_lines() -> None:
    facts = FileFacts(
        count=12,
        width=Range(100, 200, 4000),
        height=Range(100, 150, 3000),
        shapes={"square": 0, "portrait": 2, "landscape": 10},
        outside=(0.25, 0.625),
        smaller=3,
        formats={"JPEG": 11, "PNG": 1},
        modes={"RGB": 12},
        turned=2,
        frames=0,
    )
    assert dict(file_facts(facts, "crop", 128)) == {
        "size": "width 100 / 200 / 4,000, height 100 / 150 / 3,000 px (min / median / max); "
        "3 smaller than 128 px",
        "shape": "2 portrait · 10 landscape; the crop cuts off 25% (median), 62% at most",
        "format": "11 JPEG · 1 PNG",
        "mode": "12 RGB; 2 turned upright by EXIF",
    }
    assert "borders fill 25% (median)" in dict(file_facts(facts, "pad", 128))["shape"]
    assert "squashed to 75%" in dict(file_facts(facts, "squash", 128))["shape"]


def test_of_images_of_one_size_there_is_no_range_and_no_loss(tmp_path: Path) -> None:
    lines = str(inspect_data(folder(tmp_path), image_size=8)).splitlines()
    assert "size    width 8, height 8 px" in lines
    assert "shape   24 square" in lines


def test_a_name_with_a_line_break_stays_on_its_line(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "train" / "cat" / "a\nnote: b\x1b[2J.png").write_bytes(b"no image")
    text = str(inspect_data(root, image_size=8))
    assert "\x1b" not in text
    assert "- train/cat/a\\nnote: b\\x1b[2J.png (not an image)" in text
