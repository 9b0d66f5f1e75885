"""What every test gets: one thread, caches of its own, and small images that can be learnt."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings

from browsing import ARGUMENTS, Opener, Window
from helpers import make_data
from resight.data.types import ImageData
from resight.training import lr_test_plan

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

settings.register_profile("resight", deadline=None)  # how long an example takes is no failure
settings.load_profile("resight")

pytest.register_assert_rewrite("reading", "replaying", "servers", "states", "trainings")


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; skips where it, or Playwright, is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium on the path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[Window]:
    """For pages that need no context of their own, which takes longer to make than a page."""
    window = Window(browser)
    yield window
    window.context.close()


@pytest.fixture
def opened(browser: Browser, window: Window) -> Iterator[Opener]:
    """Opens a page from disk; no page may complain, raise a dialog, or ask for more."""
    used: dict[Window, str] = {}

    def open_(file: Path, **context: Any) -> Page:
        one = Window(browser, **context) if context else window
        used[one] = file.as_uri()
        return one.open(used[one])

    yield open_
    for one, address in used.items():
        if one is not window:
            one.context.close()
        one.check(address)
