"""A page in Chromium as its reader sees it, with what it complains of and what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
ARGUMENTS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a camera
WIDE: Any = {"width": 1200, "height": 800}
Opener = Callable[..., "Page"]  # of what a test has, and of a browser context's settings


class Window:
    """A page that keeps what it complains of (`said`) and what it asks for (`asked`)."""

    def __init__(self, browser: Browser, **context: Any) -> None:
        self.size = context.setdefault("viewport", WIDE)
        self.context = browser.new_context(**{"reduced_motion": "reduce", **context})
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, address: str) -> Page:
        self.said.clear()
        self.asked.clear()
        self.page.set_viewport_size(self.size)
        self.page.goto(address)
        return self.page

    def check(self, address: str) -> None:
        """Assert that the page was silent and asked for nothing but itself."""
        assert self.said == []
        assert {url for url in self.asked if not url.startswith("data:")} == {address}
