"""The page of a served net in Chromium: files, examples and the camera, bars, maps, classes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import resight
from servers import CLASSES, SIDE, Running, form, png, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Opener = Callable[..., "Page"]


@pytest.fixture(scope="module")
def here(run: resight.Run) -> Iterator[Running]:
    with running(run) as server:
        server.wait_for_neighbours()
        yield server


@pytest.fixture
def opened(browser: Browser, here: Running) -> Iterator[Opener]:
    """Opens the page; at the end it must have logged no error and asked no other server."""
    said: list[str] = []
    contexts = []
    own = f"http://127.0.0.1:{here.port}/"

    def note(message: str) -> None:
        if "status of 415" not in message:  # which the browser notes of itself
            said.append(message)

    def open_(path: str = "", **context: Any) -> Page:
        contexts.append(
            browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **context})
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: note(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append("a dialog"))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((own, "data:", "blob:"))
                else said.append(request.url)
            ),
        )
        page.goto(own + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def answered(page: Page, name: str) -> None:
    page.locator("#photo-about", has_text=name).wait_for()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "wide <i>.png"
    path.write_bytes(png(400, 200))
    return path


def test_a_file_is_answered_with_bars_and_a_map(opened: Opener, here: Running, photo: Path) -> None:
    page = opened()
    assert page.locator("#title").inner_text() == "custom-resnet on photos"
    page.set_input_files("#file", photo)
    answered(page, photo.name)

    body, headers = form((photo.name, photo.read_bytes()))
    (row,) = here.ask("/predict", body, headers).json["predictions"]
    shown = [" ".join(text.split()) for text in page.locator("#bars li").all_inner_texts()]
    assert shown == [f"{one['class']} {100 * one['probability']:.1f} %" for one in row["top"]]
    verdict = page.locator("#verdict").inner_text()
    assert verdict == f"{row['predicted']}, {100 * row['confidence']:.1f}\u00a0%"
    assert page.locator("#class").input_value() == row["predicted"]

    stack, frame = (page.locator(one).bounding_box() for one in ("#photo", "#photo .frame"))
    assert stack is not None
    assert frame is not None
    assert stack["width"] == pytest.approx(400, abs=1)  # its own size
    assert frame["width"] == pytest.approx(200, abs=1)  # the square in the middle
    assert frame["x"] - stack["x"] == pytest.approx(100, abs=1)
    map_box = page.locator("#map").bounding_box()
    assert map_box == frame
    assert page.locator("#photo-about").inner_text().endswith(f"as {SIDE}×{SIDE} px.")


def test_another_class_has_a_map_of_its_own(opened: Opener, here: Running, photo: Path) -> None:
    page = opened()
    page.set_input_files("#file", photo)
    answered(page, photo.name)
    assert (
        page.locator("#class option").all_inner_texts()[0] == page.locator("#class").input_value()
    )
    pixels = "one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.join()"
    seen = {}
    for name in CLASSES:
        page.locator("#class").select_option(name)
        page.locator("#map-about", has_text=f"for {name}").wait_for()
        canvas = page.locator("#map canvas")
        seen[name] = canvas.evaluate(pixels) if canvas.count() else "empty"
    assert len(set(seen.values())) > 1
    page.locator("#class").select_option(CLASSES[0])
    page.locator("#map-about", has_text=f"for {CLASSES[0]}").wait_for()
    page.locator("#opacity").fill("0.2")
    opacity = "getComputedStyle(document.documentElement).getPropertyValue('--cam-opacity')"
    assert page.evaluate(opacity) == "0.2"


def test_an_example_shows_itself_and_what_is_near(opened: Opener, here: Running) -> None:
    page = opened()
    assert page.locator("#example-list button").count() == 8
    first = here.served.examples[0]
    page.locator("#example-list button").first.click()
    answered(page, first.id.rpartition("/")[2])
    page.locator("#nearest-list li").first.wait_for()
    assert page.locator("#nearest-list li").count() == 6
    assert "among 33 training images" in page.locator("#nearest-about").inner_text()


def test_a_dropped_and_a_pasted_image_are_taken(opened: Opener) -> None:
    page = opened()
    script = """([kind, name, base64]) => {
        const bytes = Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], name, { type: "image/png" }));
        const options = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(kind === "drop"
            ? new DragEvent("drop", { ...options, dataTransfer: data })
            : new ClipboardEvent("paste", { ...options, clipboardData: data }));
    }"""
    content = base64.b64encode(png()).decode()
    for kind in ("drop", "paste"):
        page.evaluate(script, [kind, f"{kind}.png", content])
        answered(page, f"{kind}.png")


def test_the_camera_takes_a_picture(opened: Opener) -> None:
    page = opened()
    page.locator("#camera").click()
    page.locator("#take").click()
    answered(page, "camera.jpg")
    page.locator("#camera-off").click()
    assert page.locator("#webcam").is_hidden()
    assert page.evaluate("camera.getTracks().every((track) => track.readyState === 'ended')")


def test_what_can_t_be_read_is_said(opened: Opener, tmp_path: Path) -> None:
    page = opened()
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "text.png")
    page.locator("#status", has_text="text.png: not an image").wait_for()
    assert page.locator("#answer").is_hidden()


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1)])
def test_a_thin_image_stays_on_the_page(
    opened: Opener, tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "thin.png"
    path.write_bytes(png(*size))
    page = opened()
    page.set_input_files("#file", path)
    answered(page, "thin.png")
    box = page.locator("#photo").bounding_box()
    assert box is not None
    assert 1 <= box["width"] <= 1200
    assert 1 <= box["height"] <= 900


def test_a_file_that_the_browser_can_t_show_is_shown_as_the_net_sees_it(
    opened: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "scan.tif"
    path.write_bytes(png(60, 40, format="TIFF"))
    page = opened()
    page.set_input_files("#file", path)
    answered(page, "The browser can't show such a file")
    assert (page.locator("#photo img").get_attribute("src") or "").startswith("data:image/")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_both_themes(opened: Opener, photo: Path, scheme: Any) -> None:
    page = opened(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.set_input_files("#file", photo)
    answered(page, photo.name)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("html").get_attribute("data-theme") == scheme


def test_the_api_s_page_lists_each_operation(opened: Opener) -> None:
    page = opened("docs")
    operations = page.locator("#operations h2").all_inner_texts()
    assert operations == [
        "GET /health",
        "GET /model",
        "POST /predict",
        "POST /explain",
        "POST /nearest",
    ]
    assert "/explain" in page.locator("#explain code").inner_text()


def test_the_report_opens_and_can_ask_nothing(opened: Opener, run: resight.Run) -> None:
    page = opened("report/")
    page.locator("#headline").wait_for()
    assert f"{100 * run.result['test_accuracy']:.2f}" in page.locator("#headline").inner_text()
    assert page.evaluate("origin") == "null"
