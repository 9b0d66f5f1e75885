"""Changed bytes: refused in a line, or read as what is valid; never a traceback, nor a hang.

Every reader alone on inputs of its own (`readers.py`), and all that a finished run is used for on
damaged files of it. The suite takes a few changes of each, and all inputs that once failed
(`corpus/`); `make faults` goes on for RESIGHT_FAULTS_MINUTES of the
processor in all.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from damaging import refusals
from fuzzing import CORPUS, MINUTES, answer, changed, fuzz
from helpers import make_data
from readers import READERS
from resight.runs.manifest import MANIFEST
from resight.training import lr_test_plan
from trainings import fit, tiny

CHANGES = 3  # of each file of a run, in the suite
EXECUTIONS = 100  # of each reader, in the suite
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
SECONDS = 60 * MINUTES / (len(READERS) + len(FILES))  # for each
pytestmark = pytest.mark.filterwarnings("ignore::resight.errors.ResightWarning")


def seeds() -> Iterator[int]:
    began = time.process_time()
    number = 0
    while number < CHANGES or time.process_time() - began < SECONDS:
        yield number
        number += 1


@pytest.mark.parametrize("name", READERS)
def test_changed_bytes_are_refused_or_read(name: str, tmp_path: Path) -> None:
    tried = fuzz(name, READERS[name](tmp_path), executions=EXECUTIONS, seconds=SECONDS)
    print(f"{name}: {tried:,} inputs")


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: path.parent.name)
def test_what_once_failed_is_refused_or_read(path: Path, tmp_path: Path) -> None:
    answer(READERS[path.parent.name](tmp_path), path.read_bytes())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny("digits", **{"schedule.lr_max": "find"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lr_test_plan, "MAX_SHARE", 100.0)
        return fit(recipe, DATA, tmp_path_factory.mktemp("whole") / "run").path


@pytest.mark.parametrize("name", FILES)
def test_changed_bytes_are_refused_or_harmless(name: str, whole: Path, tmp_path: Path) -> None:
    refused = 0
    for seed in seeds():
        draws = random.Random(f"{name} {seed}")
        run = Path(shutil.copytree(whole, tmp_path / "run"))
        content = changed((run / name).read_bytes(), draws)
        listed = draws.random() < 0.5
        if not listed and name != MANIFEST:
            (run / MANIFEST).unlink()
        (run / name).write_bytes(content)
        said = refusals(run, whole, DATA)  # anything but a line of error fails
        refused += len(said)
        if listed and name != MANIFEST and content != (whole / name).read_bytes():
            assert any(f"{name} is not what the run wrote" in line for line in said), seed
        shutil.rmtree(run)
    print(f"{name}: {seed + 1:,} damaged runs, {refused:,} uses refused in a line")
