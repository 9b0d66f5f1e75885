"""Answers as one line of JSON, errors included."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

from resight.render.page import shown


class Line(JSONResponse):
    """JSON on one line that ends, with every text printable."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(shown(content), allow_nan=False, separators=(",", ":"))
        return f"{text}\n".encode()


def refusal(status: int, why: str, **headers: str) -> Line:
    """What is answered instead. headers: their names with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Line({"error": " ".join(why.splitlines())}, status, named)


def busy(why: str) -> Line:
    return refusal(503, f"{why}: try again in a second", Retry_After="1")
