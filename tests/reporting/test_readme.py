"""The report's README: what it shows, that any name renders as itself, and what lies beside it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from reading import rendered, shown
from resight.models.summary import summarize
from resight.render.sprites import sheet
from resight.reporting import readme as readme_module
from resight.reporting.readme import PICTURES, write_readme
from resight.reporting.readme_text import readme

NASTY = ["<script>alert(1)</script>", "a|b\\|c", "`rm -rf`\n# no\n- list", "*bold* _it_ ~~s~~ $x$"]
SECTIONS = [
    "What was found",
    "Result",
    "Training log",
    "Augmented samples",
    "Learning rate",
    "Curves",
    "Classes",
    "Confusion",
    "Mistakes",
    "Calibration",
    "Model",
    "Notes",
    "Duplicates",
]


def epoch(number: int, split: str = "test") -> dict[str, Any]:
    return {
        "epoch": number,
        "step": 10 * number,
        "lr": 0.0123,
        "train_loss": 1.5,
        "train_accuracy": 0.6181,
        f"{split}_loss": 1.25,
        f"{split}_accuracy": 0.7,
        "train_seconds": 12.34,
        "evaluate_seconds": 1.0,
        "images_per_second": 4321.0,
    }


def make_facts(classes: list[str] | None = None, mistakes: int = 3, px: int = 8) -> dict[str, Any]:
    """Of a finished run, every part there."""
    classes = classes or ["cat", "dog", "frog"]
    k, n = len(classes), mistakes + 1
    images = np.random.default_rng(0).integers(0, 256, (n, px, px, 3), dtype=np.uint8)
    summary = summarize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8))
    cells = base64.b64encode(np.full((n, 2, 2), 99, dtype=np.uint8).tobytes()).decode()
    return {
        "version": 1,
        "title": "custom-resnet on cifar10",
        "run": "runs/custom-resnet-1",
        "resight": "0.1.0",
        "live": None,
        "headline": {
            "accuracy": 0.8065,
            "low": 0.7986,
            "high": 0.8141,
            "beside": "guessing the largest class gives 10.00%",
            "loss": 0.5612,
            "images": 10000,
            "split": "test",
            "weights": "last epoch",
            "train_accuracy": 0.82,
            "epochs": 3,
            "seed": 0,
            "parameters": 6573130,
            "recipe": "custom-resnet",
            "data": "cifar10",
            "train_seconds": 748.2,
            "wall_seconds": 960.0,
            "resumed": False,
            "images_per_second": 200.5,
            "device": "EPYC, 2 threads",
            "precision": "bf16",
            "command": "resight train --recipe custom-resnet",
        },
        "findings": [
            {
                "name": name,
                "severity": severity,
                "title": f"it is {name}",
                "evidence": "accuracy 10%",
                "threshold": "12%",
                "advice": "look again",
                "command": "resight find-lr" if severity == "problem" else None,
            }
            for name, severity in (("odd", "note"), ("broken", "problem"))
        ],
        "diagnosed": True,
        "notes": ["split by the folders' names"],
        "classes": classes,
        "confusion": [[5 + (i == j) for j in range(k)] for i in range(k)],
        "most_confused": [{"true": 0, "predicted": 1, "count": 1200, "share": 0.1234}],
        "per_class": [
            {
                "class": name,
                "support": 1000,
                "correct": 720,
                "accuracy": 0.72,
                "precision": 0.701 if i else None,
                "recall": 0.72,
                "f1": 0.71,
            }
            for i, name in enumerate(classes)
        ],
        "metrics": [epoch(e) for e in (1, 2, 3)],
        "schedule": {"epoch": [0.0, 1.0], "lr": [0.01, 0.02], "shape": "one-cycle"},
        "lr_test": {
            "lrs": [0.001, 0.01, 0.1],
            "losses": [2.0, 1.0, 3.0],
            "smoothed": [2.0, 1.2, 2.0],
            "suggestions": {"valley": 0.01},
            "refused": None,
            "method": "valley",
            "used": 0.0035,
            "stop": "diverged at 1.84",
        },
        "calibration": {
            "bins": [
                {"low": 0.0, "high": 0.5, "count": 0, "correct": 0}
                | {"confidence": None, "accuracy": None},
                {"low": 0.5, "high": 1.0, "count": 4, "correct": 3}
                | {"confidence": 0.8, "accuracy": 0.75},
            ],
            "ece": 0.0312,
            "temperature": {"value": 1.3, "split": "val", "ece_after": 0.0125},
            "temperature_reason": None,
        },
        "summary": {**summary.to_dict(), "text": str(summary)},
        "augmented": {"sheet": sheet(images), "label": [0, 1, 2, 0][:n], "mixed": None},
        "gallery": {
            "sheet": sheet(images),
            "folder": None,
            "photos": [],
            "total_mistakes": 1935,
            "shown_mistakes": mistakes,
            "id": [f"test/{i}.jpg" for i in range(n)],
            "true": [0] * n,
            "predicted": [1] * mistakes + [0],
            "loss": [4.0] * n,
            "confidence": [0.9] * n,
            "top": [[[1, 0.9]]] * n,
            "suspect": [False] * n,
            "maps": {
                "method": "gradcam",
                "layer": "layer2",
                "height": 2,
                "width": 2,
                "predicted": cells,
                "true": cells,
                "predicted_empty": [False] * n,
                "true_empty": [False] * n,
            },
        },
        "duplicates": [
            {
                "test": f"test/{i}.jpg",
                "train": f"train/{i}.jpg",
                "kind": "near",
                "distance": 0.4,
                "test_label": 0,
                "train_label": 1,
            }
            for i in range(23)
        ],
        "duplicates_total": {"exact": 3, "near": 20},
        "suspects_total": 12,
    }


def gallery(facts: dict[str, Any], px: int = 8) -> Any:
    count = len(facts["gallery"]["id"])
    return SimpleNamespace(images=np.zeros((count, px, px, 3), dtype=np.uint8), photos=[])


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def write(folder: Path, facts: dict[str, Any]) -> str:
    write_readme(folder, facts, gallery(facts) if facts["gallery"] else None)
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not drawn, which is what takes the time."""
    monkeypatch.setattr(readme_module, "png", lambda figure: b"a picture")


def test_everything_is_there_in_its_order_with_its_pictures(tmp_path: Path) -> None:
    text = write(tmp_path, make_facts())
    assert text.startswith(
        "# custom-resnet on cifar10\n\n**Test accuracy 80.65%** (95% CI: 79.86% to"
    )
    assert "10,000 images) · loss 0.5612 · weights of the last epoch" in text
    assert "```sh\nresight train --recipe custom-resnet\n```" in text
    assert headings(text) == SECTIONS
    pictures = re.findall(r"!\[(.+)\]\((.+)\)", text)
    assert [target for _, target in pictures] == [f"images/{name}.png" for name in PICTURES]
    assert len({alt for alt, _ in pictures}) == len(pictures)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert written == {"README.md", *(target for _, target in pictures)}
    assert (tmp_path / "images/curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_null_is_left_out(tmp_path: Path) -> None:
    facts = make_facts()
    empty = {**facts, "diagnosed": False, "findings": [], "notes": [], "most_confused": []}
    empty |= {"metrics": [], "duplicates": [], "classes": []}
    for key in ("confusion", "per_class", "schedule", "lr_test", "calibration", "summary"):
        empty[key] = None
    empty |= dict.fromkeys(("augmented", "gallery", "duplicates_total", "suspects_total"))
    empty["headline"] = dict.fromkeys(facts["headline"]) | {"epochs": 24, "split": "test"}
    text = write(tmp_path, empty)
    assert headings(text) == ["Result"]
    assert "Not finished: 0 of 24 epochs are done." in text
    assert "None" not in text
    assert not (tmp_path / "images").exists()


def test_pictures_of_an_older_report_go_and_those_of_others_stay(
    tmp_path: Path, blank: None
) -> None:
    facts = make_facts()
    write(tmp_path, facts)
    own = tmp_path / "images" / "own.png"
    own.write_bytes(b"mine")
    facts["gallery"] = facts["lr_test"] = None
    text = write(tmp_path, facts)
    left = {path.name for path in (tmp_path / "images").iterdir()}
    gone = {"mistakes.png", "grad-cam.png", "lr-test.png"}
    assert left == {"own.png", *(f"{name}.png" for name in PICTURES)} - gone
    assert own.read_bytes() == b"mine"
    assert "Mistakes" not in headings(text)


def test_any_name_renders_as_itself_everywhere() -> None:
    facts = make_facts([*NASTY[:2], "\n".join(NASTY)])
    facts |= {"title": NASTY[0], "notes": NASTY, "run": NASTY[1]}
    facts["headline"] |= {"device": NASTY[3], "command": NASTY[2]}
    facts["findings"][0] |= {"title": NASTY[1], "evidence": NASTY[2], "advice": NASTY[0]}
    facts["duplicates"][0] |= {"test": NASTY[2], "train": NASTY[1]}
    facts["gallery"]["maps"]["layer"] = NASTY[0]
    text = readme(facts)
    plain = readme(make_facts())
    pages = [rendered(t) for t in (text, plain)]
    tags = [re.findall(r"</?[a-z0-9]+", page) for page in pages]
    assert len(set(tags[0]) - set(tags[1])) == 0
    for tag in ("<table", "<tr", "<td", "<img", "<h1", "<h2", "<em", "<strong"):
        assert tags[0].count(tag) == tags[1].count(tag), tag
    assert "<script" not in pages[0]
    for note in NASTY:
        assert " ".join(note.split()) in shown(section(text, "Notes")), note
    assert f"run {NASTY[1]}" in shown(section(text, "Result"))


def test_problems_come_before_notes_with_evidence_threshold_advice_and_command() -> None:
    text = section(readme(make_facts()), "What was found")
    assert text.strip() == (
        "**Problem: it is broken.** Accuracy 10% (threshold: 12%). Look again.\n\n"
        "```sh\nresight find-lr\n```\n\n"
        "**Note: it is odd.** Accuracy 10% (threshold: 12%). Look again."
    )


def test_nothing_found_is_said_only_where_it_was_looked_for() -> None:
    facts = {**make_facts(), "findings": []}
    assert "No problems and nothing to note." in section(readme(facts), "What was found")
    assert "What was found" not in headings(readme({**facts, "diagnosed": False}))


def test_the_log_has_a_row_an_epoch() -> None:
    log = section(readme(make_facts()), "Training log").strip().splitlines()
    assert len(log) == 2 + 3
    assert log[-1] == "| 3 | 0.0123 | 1.5000 | 61.81% | 1.2500 | 70.00% | 12.3 | 4,321 |"
    facts = {**make_facts(), "metrics": [epoch(1, "val")]}
    assert "| val loss |" in section(readme(facts), "Training log")


@pytest.mark.parametrize(
    ("count", "wanted", "said"),
    [
        (50, list(range(1, 51)), ""),
        (51, [*range(2, 51, 2), 51], "Every 2nd epoch and the last."),
        (120, list(range(3, 121, 3)), "Every 3rd epoch and the last."),
        (1000, list(range(20, 1001, 20)), "Every 20th epoch and the last."),
    ],
)
def test_a_long_log_is_thinned_and_says_so(count: int, wanted: list[int], said: str) -> None:
    facts = {**make_facts(), "metrics": [epoch(e) for e in range(1, count + 1)]}
    log = section(readme(facts), "Training log")
    assert [int(e) for e in re.findall(r"^\| (\d+) \|", log, re.MULTILINE)] == wanted
    assert ("Every" in log) == bool(said)
    assert said in log


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    rows = section(readme(make_facts()), "Classes")
    assert "| cat | – | 72.0% | 71.0% | 1,000 |" in rows
    assert "| dog | 70.1% | 72.0% | 71.0% | 1,000 |" in rows


def test_of_very_many_classes_the_weakest_are_listed() -> None:
    facts = make_facts([f"class {i}" for i in range(300)])
    for i, row in enumerate(facts["per_class"]):
        row["accuracy"] = row["recall"] = (i + 1) / 1000
    facts["per_class"][7]["accuracy"] = facts["per_class"][7]["recall"] = None
    text = section(readme(facts), "Classes")
    assert "The 100 weakest of 300 classes." in text
    listed = re.findall(r"^\| class (\d+)", text, re.MULTILINE)
    assert listed == [str(i) for i in range(101) if i != 7]


def test_without_maps_there_is_no_grad_cam(tmp_path: Path, blank: None) -> None:
    facts = make_facts()
    facts["gallery"]["maps"] = None
    text = write(tmp_path, facts)
    assert (tmp_path / "images/mistakes.png").exists()
    assert not (tmp_path / "images/grad-cam.png").exists()
    assert "grad-cam" not in text


def test_without_mistakes_there_is_no_gallery(tmp_path: Path, blank: None) -> None:
    text = write(tmp_path, make_facts(mistakes=0))
    assert "Mistakes" not in headings(text)
    assert not (tmp_path / "images/mistakes.png").exists()


def test_a_refused_lr_test_says_why() -> None:
    facts = make_facts()
    facts["lr_test"] |= {"suggestions": {}, "refused": "the curve is flat", "used": None}
    assert "diverged at 1.84. The curve is flat." in section(readme(facts), "Learning rate")


def test_the_calibration_says_why_there_is_no_temperature() -> None:
    facts = make_facts()
    assert "ECE 0.0312; 0.0125 at temperature 1.3, fitted on val." in readme(facts)
    facts["calibration"] |= {"temperature": None, "temperature_reason": "no validation split"}
    assert "ECE 0.0312; no temperature: no validation split." in readme(facts)


def test_the_model_is_its_summary() -> None:
    summary = summarize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8))
    assert section(readme(make_facts()), "Model").strip() == f"```\n{summary}\n```"


def test_duplicates_are_counted_and_the_first_listed() -> None:
    text = section(readme(make_facts()), "Duplicates")
    assert "3 exact, 20 near" in text
    assert "The first 20:" in text
    assert text.count("\n| test/") == 20
    assert "| test/0.jpg | train/0.jpg | near | cat | dog |" in text
    none = {**make_facts(), "duplicates": [], "duplicates_total": {"exact": 0, "near": 0}}
    assert "Duplicates" not in headings(readme(none))
