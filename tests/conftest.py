"""What every test gets: one thread, caches of its own, and small images that can be learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers import make_data
from resight.data.types import ImageData
from resight.training import lr_test_plan

pytest.register_assert_rewrite("reading", "replaying", "serving", "states", "trainings")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    return


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("RESIGHT_CACHE", str(base / "cache"))
    monkeypatch.setenv("RESIGHT_DATA", str(base / "data"))


@pytest.fixture
def data() -> ImageData:
    return make_data()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def any_lr_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """LR tests of 50 steps and more, however few images the training sees."""
    monkeypatch.setattr(lr_test_plan, "MAX_SHARE", 100.0)
