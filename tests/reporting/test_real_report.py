"""From real images to the page: a narrow custom-resnet on some of the JPEG copy of CIFAR-10, and
its report in Chromium. Skipped where the copy is missing."""

from __future__ import annotations

import math
import tarfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import resight
from browsing import Opener
from helpers import SHARED
from resight.progress import Quiet
from resight.runs.lr_test import LrTest

if TYPE_CHECKING:
    from playwright.sync_api import Page

ARCHIVE = SHARED / "data" / "cifar10-jpeg.tar.xz"
EACH = {"train": 60, "test": 30}  # images of a class
pytestmark = pytest.mark.skipif(
    not ARCHIVE.is_file(), reason=f"no {ARCHIVE.name} in {ARCHIVE.parent}"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> resight.Run:
    root = tmp_path_factory.mktemp("copy")
    taken: Counter[tuple[str, ...]] = Counter()
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and taken[parts[:-1]] < EACH[parts[-3]]:
                taken[parts[:-1]] += 1
                archive.extract(member, root / "images", filter="data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIGHT_CACHE", str(root / "cache"))
        run = resight.train(
            "custom-resnet",
            root / "images",
            out=root / "run",
            epochs=2,
            batch_size=64,
            val=0.1,
            lr=0.01,  # so few images give no curve that an LR can be read off
            model={"width": 8},
            report=False,
            reporter=Quiet(),
        )
        lrs = np.geomspace(1e-5, 1.0, 60)
        losses = 2.4 - 0.8 * np.clip((np.log10(lrs) + 4) / 3, 0, 1)
        run.write("lr_test.json", LrTest(lrs, losses, "reached 1", math.log(10)).to_dict())
        resight.report(run, reporter=Quiet())
        return run


@pytest.fixture
def page(run: resight.Run, opened: Opener) -> Page:
    page = opened(run.path / "report" / "index.html")
    page.wait_for_selector("#gallery")
    return page


def count(page: Page) -> int:
    """Of the images that match."""
    while page.locator("#more").is_visible():
        page.locator("#more").click()
    return page.locator(".thumb").count()


def test_the_page_of_a_real_run_is_looked_through(page: Page, run: resight.Run) -> None:
    predictions = run.predictions
    assert f"{100 * predictions.accuracy:.2f}" in page.locator("#headline").inner_text()
    assert count(page) == len(predictions) - predictions.correct
    off = predictions.confusion.copy()
    np.fill_diagonal(off, 0)
    true, taken_for = (int(i) for i in np.unravel_index(off.argmax(), off.shape))

    page.locator(f"td[data-true='{true}'][data-predicted='{taken_for}']").click()
    assert count(page) == off[true, taken_for]
    assert page.locator("#filter-true").input_value() == str(true)
    wanted = f"{predictions.classes[true]} predicted as {predictions.classes[taken_for]}"
    assert wanted in page.locator("#gallery-count").inner_text()

    page.locator("#sort").select_option("loss-asc")
    rows = np.flatnonzero((predictions.labels == true) & (predictions.predicted == taken_for))
    lowest = rows[predictions.losses[rows].argmin()]
    page.locator(".thumb").first.click()
    assert page.locator("#detail").is_visible()
    assert str(predictions.ids[lowest]) in page.locator("#detail").inner_text()
    assert page.locator("#detail-body canvas").count() >= 2  # the maps of both classes
    page.keyboard.press("Escape")
    page.locator("#cam-toggle").check()
    assert page.locator(".thumb canvas").count() > page.locator(".thumb").count()

    page.locator("#theme-toggle").click()
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_readme_of_a_real_run_has_what_the_write_ups_handed_in(run: resight.Run) -> None:
    folder = run.path / "report"
    text = (folder / "README.md").read_text("utf-8")
    for name in ("augmented", "lr-test", "schedule", "curves", "per-class", "confusion"):
        assert f"images/{name}.png" in text, name
    for name in ("mistakes", "grad-cam", "reliability"):
        assert f"images/{name}.png" in text, name
        assert (folder / "images" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "Conv2d-1" in text
    assert text.count("\n| 1 |") >= 1  # the log's first epoch
