"""The pictures of the README, made anew: `make pictures`. Needs Chromium on the path.

    python docs/pictures/make.py

Trains the digits recipe in a temporary folder; nothing is downloaded. terminal.webp is what the
training prints, with some of its epochs left out; report.webp is its report's first screen, next to
its gallery with Grad-CAM over the images.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COMMAND = "resight train --recipe digits"
REPORT = "runs/digits-1/report/index.html"
FIRST, LAST = 2, 1  # epochs that are shown
COLUMNS = 112
WIDTH, HEIGHT = 1000, 1010  # of the browser's window, in px
GAP = 24
SHOWN_WIDTH = 1760  # two pixels for each that a README is wide
QUALITY = 85


def trained(folder: Path) -> list[str]:
    """Train in `folder`; the lines that were printed."""
    words = [sys.executable, "-m", *COMMAND.split()]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def without_most_epochs(lines: list[str]) -> list[str]:
    epochs = [i for i, line in enumerate(lines) if line.startswith("epoch ")]
    return [*lines[: epochs[FIRST]], "…", *lines[epochs[-LAST] :]]


def terminal(lines: list[str], browser: Browser, folder: Path) -> Image.Image:
    """The lines below their command, as rich draws a terminal."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text(f"$ {COMMAND}", style="bold"))
    for line in lines:
        console.print(Text(line))
    console.print()  # below the last line descenders are cut off
    page_file = folder / "terminal.html"
    page_file.write_text(console.export_svg(title="resight"), encoding="utf-8")
    page = opened(page_file, browser, scale=2)
    return picture(page.locator("svg").screenshot(omit_background=True))


def report(file: Path, browser: Browser) -> Image.Image:
    """Two windows of the page, side by side."""
    page = opened(file, browser)
    page.wait_for_selector("#gallery img, #gallery button")
    first = picture(page.screenshot())
    page.select_option("#filter-kind", label=page.locator("#filter-kind option").last.inner_text())
    page.check("#cam-toggle")
    page.locator("#gallery").evaluate("section => section.scrollIntoView()")
    page.mouse.move(0, 0)  # nothing is hovered over
    page.evaluate("new Promise(requestAnimationFrame)")
    second = picture(page.screenshot())
    both = Image.new("RGB", (2 * WIDTH + GAP, HEIGHT), "white")
    both.paste(first, (0, 0))
    both.paste(second, (WIDTH + GAP, 0))
    return both


def opened(file: Path, browser: Browser, scale: int = 1) -> Page:
    """In light colours, without the network."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT},
        device_scale_factor=scale,
        color_scheme="light",
        reduced_motion="reduce",  # nothing scrolls smoothly
        offline=True,
    )
    page = context.new_page()
    page.goto(file.as_uri())
    return page


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def save(image: Image.Image, name: str) -> None:
    height = round(image.height * SHOWN_WIDTH / image.width)
    path = HERE / name
    image.resize((SHOWN_WIDTH, height), Image.Resampling.LANCZOS).save(path, quality=QUALITY)
    print(f"{path}: {SHOWN_WIDTH}×{height} px, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("error: the pictures are made with Chromium: put `chromium` on the path")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        lines = without_most_epochs(trained(folder))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        save(terminal(lines, browser, folder), "terminal.webp")
        save(report(folder / REPORT, browser), "report.webp")


if __name__ == "__main__":
    main()
