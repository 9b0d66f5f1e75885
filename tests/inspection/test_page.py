"""The page of images before a training: what it is told, and what its reader sees in Chromium."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from browsing import Opener
from helpers import noise, pictures
from odd_folders import SIDE, odd_folder
from resight.errors import ResightError
from resight.inspection import page as page_module
from resight.inspection.inspect import inspect_data
from resight.inspection.page import CELL_PX, MAX_EACH, SMALLER_PX, page_facts, write_page
from resight.inspection.result import Inspection
from resight.render.sprites import cells

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = "<img src=x onerror=alert(1)> & \"'`</script>"


def silent(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_folder(tmp_path_factory.mktemp("odd") / "photos")


@pytest.fixture
def odd(root: Path) -> Inspection:
    return inspect_data(root, image_size=SIDE)


def test_each_finding_shows_its_images(odd: Inspection) -> None:
    facts = page_facts(odd, silent)
    named = facts["named"]
    findings = {finding["name"]: finding for finding in facts["findings"]}

    (pair,) = findings["label-conflict"]["cases"]
    assert [named["id"][i] for i in pair["shown"]] == ["train/cat/2.png", "train/dog/of a cat.png"]
    assert [named["class"][i] for i in pair["shown"]] == ["cat", "dog"]
    (thin,) = findings["thin"]["cases"]
    assert [named["size"][i] for i in thin["shown"]] == [[160, SIDE]]
    assert findings["unreadable"]["cases"][0]["shown"] == []
    assert findings["unreadable"]["cases"][0]["images"] == ["train/cat/empty.jpg"]
    assert findings["unsupported"]["total"] == 3


def test_the_pictures_are_whole_and_upright(odd: Inspection, root: Path) -> None:
    facts = page_facts(odd, silent)
    dogs = facts["classes"][1]
    shown = cells(dogs["sheet"])

    assert (dogs["name"], dogs["count"]) == ("dog", 15)
    assert shown.shape == (15, 64, 64, 3)  # of the longest side in the class
    i = dogs["id"].index("train/dog/turned.jpg")
    assert dogs["size"][i] == [SIDE, 64]  # stored as 64 × 48
    turned = Image.open(root / "train" / "dog" / "turned.jpg").transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(shown[i][:, 8:56], np.asarray(turned))
    assert (shown[i][:, :8] == 128).all()


def test_small_images_keep_their_pixels(tmp_path: Path) -> None:
    pixels = noise(8, px=20)
    for i, image in enumerate(pixels):
        path = tmp_path / f"class {i % 2}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    first, _ = page_facts(inspect_data(tmp_path, image_size=8), silent)["classes"]

    rows = [int(Path(name).stem) for name in first["id"]]
    np.testing.assert_array_equal(cells(first["sheet"]), pixels[rows])


def test_images_that_are_in_no_files_are_shown_too() -> None:
    digits = inspect_data("digits")
    facts = page_facts(digits, silent)
    zeros = facts["classes"][0]
    table = digits.seen.table

    assert len(zeros["id"]) == MAX_EACH
    rows = [table.ids.tolist().index(name) for name in zeros["id"]]
    np.testing.assert_array_equal(cells(zeros["sheet"])[..., :1], table.images[rows])


def test_many_classes_are_bounded(tmp_path: Path) -> None:
    for k in range(130):
        for i in range(2):
            path = tmp_path / f"class {k}" / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(noise(1, seed=2 * k + i)[0]).save(path)
    facts = page_facts(inspect_data(tmp_path, image_size=8), silent)

    assert [group["name"] for group in facts["classes"]] == [f"class {k}" for k in range(100)]
    assert facts["hidden_classes"] == 30
    assert len(facts["counts"]) == 13


def test_a_page_of_noisy_images_keeps_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "SHEET_BYTES", 150_000)
    for k in range(2):
        (tmp_path / f"class {k}").mkdir()
        for i, image in enumerate(noise(24, px=150, seed=k)):
            Image.fromarray(image).save(tmp_path / f"class {k}" / f"{i}.bmp")
    facts = page_facts(inspect_data(tmp_path, image_size=16), silent)

    sheets = [group["sheet"] for group in facts["classes"]]
    assert [drawn["count"] for drawn in sheets] == [19, 19]
    assert sum(len(drawn["src"]) for drawn in sheets) < 100_000 * 4 / 3 + 100
    assert {drawn["cell_px"] for drawn in sheets} < {CELL_PX, *SMALLER_PX}


def test_a_page_that_cannot_be_written_is_refused(odd: Inspection, tmp_path: Path) -> None:
    with pytest.raises(ResightError, match="no folder"):
        write_page(odd, tmp_path / "not" / "there.html")


@pytest.fixture
def opened(opened: Opener, tmp_path: Path) -> Opener:
    """Opens the page of an inspection."""

    def open_(inspection: Inspection, **context: Any) -> Page:
        return opened(write_page(inspection, tmp_path / "page.html"), **context)

    return open_


def test_the_reader_sees_counts_findings_and_classes(opened: Opener, odd: Inspection) -> None:
    page = opened(odd)

    assert page.title() == "photos before training · Resight"
    rows = page.locator("#counts tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [
        ["cat", "16", "5"],
        ["dog", "15", "5"],
        ["all", "2", "classes", "31", "10"],
    ]
    order = page.locator("#found .finding").evaluate_all("all => all.map((one) => one.id)")
    assert order == [f"finding-{finding.name}" for finding in odd.findings]
    conflict = page.locator("#finding-label-conflict")
    assert conflict.locator(".twins .card").count() == 2
    text = " ".join(conflict.locator(".twins").inner_text().split())
    assert text == ("cat train/cat/2.png dog train/dog/of a cat.png cat and dog; pixel for pixel")
    assert page.locator("#class-0 .card").count() == 16
    assert page.locator("#why code").inner_text() == odd.next_command
    assert "not an image" in page.locator("#finding-unreadable").inner_text()


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_what_the_net_sees_is_drawn(opened: Opener, root: Path, fit: str) -> None:
    page = opened(inspect_data(root, image_size=SIDE, **{"data.fit": fit}))
    card = page.locator("#finding-thin .card")
    stack, picture = (card.locator(part).bounding_box() for part in (".stack", "canvas"))
    assert stack is not None
    assert picture is not None

    assert stack["width"] == pytest.approx(stack["height"], abs=1)
    if fit == "crop":  # the middle 48 × 48 px of 160 × 48
        seen = card.locator(".seen").bounding_box()
        assert seen is not None
        share = SIDE / 160
        assert seen["width"] == pytest.approx(share * stack["width"], abs=1)
        assert seen["height"] == pytest.approx(share * stack["height"], abs=1)
        middle = stack["x"] + stack["width"] / 2
        assert seen["x"] + seen["width"] / 2 == pytest.approx(middle, abs=1)
        clip = card.locator(".whole").evaluate("one => one.style.clipPath")
        assert [float(number) for number in re.findall(r"[\d.]+", clip)] == [35, 0]
        # nothing of a square image is cut off
        assert page.locator("#finding-label-conflict .seen").count() == 0
    else:
        assert card.locator(".seen").count() == 0
        tall = 160 / SIDE if fit == "squash" else 1
        assert picture["height"] == pytest.approx(tall * stack["height"], rel=0.02)
    about = page.locator("#classes-about").inner_text()
    assert {"crop": "cut off", "pad": "borders", "squash": "squashed"}[fit] in about


def test_names_of_any_kind_are_shown_as_text(opened: Opener, tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "∕")
    images = pictures(8, size=SIDE)
    for k, label in enumerate((f"c {name}", "__proto__")):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(4):
            path = tmp_path / "data" / label / f"{i} {name}.png"
            Image.fromarray(images[0 if i == 0 else 4 * k + i]).save(path)
        (tmp_path / "data" / label / f"bad {name}{'x' * 120}.png").write_bytes(b"no image")
    page = opened(inspect_data(tmp_path / "data", image_size=SIDE))

    assert page.locator("img").count() == 0
    assert name in page.locator("#counts").inner_text()
    assert name in page.locator("#finding-label-conflict").inner_text()
    assert name in page.locator("#finding-unreadable").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == 1200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_both_themes(opened: Opener, odd: Inspection, scheme: Any) -> None:
    page = opened(odd, viewport={"width": 360, "height": 740}, color_scheme=scheme)

    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("html").get_attribute("data-theme") == scheme
