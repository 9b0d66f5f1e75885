"""Bytes of a run's files changed at random: refused in a line, or harmless; never a traceback.

The suite takes a few changes of each file; `make faults` goes on for RESIGHT_FAULTS_MINUTES.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from damaging import refusals
from helpers import make_data
from resight.runs.manifest import MANIFEST
from resight.training import lr_test_plan
from trainings import fit, tiny

MINUTES = float(os.environ.get("RESIGHT_FAULTS_MINUTES", "0"))
CHANGES = 3  # of each file, in the suite
DATA = make_data(val=12)
FILES = (
    "recipe.json",
    "resolved.json",
    "environment.json",
    "result.json",
    "lr_test.json",
    "metrics.jsonl",
    "diagnosis.json",
    "model.safetensors",
    "predictions.npz",
    "predictions-val.npz",
    MANIFEST,
)
WORDS = (b"null", b"NaN", b"-1", b"1e999", b"9" * 400, b"[", b"}", b'"', b"\xff", b"\0" * 64)

pytestmark = pytest.mark.filterwarnings("ignore::resight.errors.ResightWarning")


def changed(content: bytes, draws: random.Random) -> bytes:
    """One flip, cut, insertion, deletion or repetition."""
    place = draws.randrange(len(content))
    length = min(draws.choice((1, 4, 40, 400)), len(content) - place)
    kind = draws.randrange(6)
    if kind == 0:
        flipped = bytes([content[place] ^ 1 << draws.randrange(8)])
        return content[:place] + flipped + content[place + 1 :]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + draws.choice(WORDS) + content[place:]
    if kind == 3:
        return content[:place] + draws.choice(WORDS) + content[place + length :]
    if kind == 4:
        return content[:place] + content[place + length :]
    return content[: place + length] + content[place:]


def seeds() -> Iterator[int]:
    began = time.monotonic()
    number = 0
    while number < CHANGES or time.monotonic() - began < 60 * MINUTES / len(FILES):
        yield number
        number += 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny("digits", **{"schedule.lr_max": "find"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lr_test_plan, "MAX_SHARE", 100.0)
        return fit(recipe, DATA, tmp_path_factory.mktemp("whole") / "run").path


@pytest.mark.parametrize("name", FILES)
def test_changed_bytes_are_refused_or_harmless(name: str, whole: Path, tmp_path: Path) -> None:
    for seed in seeds():
        draws = random.Random(f"{name} {seed}")
        run = Path(shutil.copytree(whole, tmp_path / "run"))
        content = changed((run / name).read_bytes(), draws)
        listed = draws.random() < 0.5
        if not listed and name != MANIFEST:
            (run / MANIFEST).unlink()
        (run / name).write_bytes(content)
        said = refusals(run, whole, DATA)  # anything but a line of error fails
        if listed and name != MANIFEST and content != (whole / name).read_bytes():
            assert any(f"{name} is not what the run wrote" in line for line in said), seed
        shutil.rmtree(run)
