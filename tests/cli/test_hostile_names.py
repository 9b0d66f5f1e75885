"""Classes and files whose names hold escape sequences, line breaks, direction overrides, formulas:
none of it reaches a terminal, a page, a README or a table raw."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers import picture
from resight.cli.app import app

CLASSES = ("=cat\x1b[2J\x1b]0;owned\x07", "dog\r\nerror: \u202egod\u2028\x9b31m")
FILE = "@{}\n\x1b[8m\u2066.png"
TINY = ("--set", "model.width=8", "--epochs", "1", "--image-size", "8", "--batch-size", "8")
PLAIN = ("--set", "augment.cutout_px=0", "--set", "augment.crop_pad_px=0", "--lr", "0.01")


def hostile_folder(root: Path) -> Path:
    for split, offset in (("train", 0), ("test", 1000)):
        for k, name in enumerate(CLASSES):
            for i in range(8):
                picture(root / split / name / FILE.format(i), offset + 100 * k + i)
    shutil.copy(root / "train" / CLASSES[0] / FILE.format(1), root / "test" / CLASSES[1])
    (root / "train" / CLASSES[0] / FILE.format("no image")).write_bytes(b"")
    return root


def check(text: str, where: str) -> None:
    raw = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}
    assert not raw, (where, raw)
    assert not any(line.startswith("error: god") for line in text.splitlines()), where


def test_no_name_reaches_an_output_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    data, run, other = hostile_folder(tmp_path / "data"), tmp_path / "run", tmp_path / "other"
    training = ["train", "--recipe", "custom-resnet", "--data", str(data), *TINY, *PLAIN]
    calls = [
        ["data", str(data), "--page", str(tmp_path / "data.html")],
        [*training, "--out", str(run)],  # refused: a file is no image
        [*training, "--out", str(run), "--skip-bad"],
        ["evaluate", str(run), "--csv", str(tmp_path / "images.csv")],
        ["diagnose", str(run)],
        ["compare", str(run), str(other), "--page", str(tmp_path / "compare.html")],
        ["train", "--data", str(data / "train" / CLASSES[0])],
        ["evaluate", str(run), "--data", str(data / "no\x1bne")],
    ]
    codes = []
    for arguments in calls:
        if arguments[0] == "compare":
            shutil.copytree(run, other)
        result = CliRunner().invoke(app, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        codes.append(result.exit_code)
        check(result.stdout + result.stderr, arguments[0])
    assert codes == [0, 2, 0, 0, 0, 0, 2, 2]
    report = run / "report"
    written = (report / "README.md", report / "index.html", tmp_path / "data.html")
    for file in (*written, tmp_path / "compare.html"):
        check(file.read_text(encoding="utf-8"), file.name)
    table = (tmp_path / "images.csv").read_bytes().decode().replace("\r\n", "\n")
    check(table, "images.csv")
    assert len(table.splitlines()) == 1 + 16
