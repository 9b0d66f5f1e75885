"""The pages of a served run: its own, the API's operations, and the report."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response, StreamingResponse

from resight.records import accuracy_words
from resight.render.page import policy_of, render_page
from resight.render.sprites import sheet
from resight.serving.guard import NOTHING
from resight.serving.limits import MAX_BYTES
from resight.serving.served import THUMB_PX, Served, report_of
from resight.version import __version__

CHUNK_BYTES = 64_000  # of the report at a time, so that slow readers hold little memory


def add_pages(app: FastAPI, served: Served) -> None:
    """The page, what it shows, and the list of the API's operations."""
    page = _page(render_page("serve.html", page_facts(served), ("images.js", "serve.js")))
    operations = {"title": "API", "resight": __version__, "openapi": app.openapi()}
    docs = _page(render_page("operations.html", operations, ("operations.js",)))

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return docs

    @app.get("/examples/{number:int}", include_in_schema=False)
    async def example(number: int) -> Response:
        if number >= len(served.examples):
            raise HTTPException(404)
        one = served.examples[number]
        return Response(one.content, media_type=one.media_type)

    @app.get("/report/", include_in_schema=False)
    @app.get("/report/index.html", include_in_schema=False)
    def report() -> Response:
        path = report_of(served)
        if path is None:
            raise HTTPException(404, "no report is served")
        parts = _parts(path)
        first = next(parts, b"")
        # An origin of its own: whatever the file holds, it can ask nothing of this server.
        policy = policy_of(first.decode("utf-8", "replace")) or NOTHING
        headers = {
            "Content-Security-Policy": f"{policy}; frame-ancestors 'none'; sandbox allow-scripts"
        }
        whole = itertools.chain([first], parts)
        return StreamingResponse(whole, media_type="text/html", headers=headers)


def page_facts(served: Served) -> dict[str, Any]:
    """What the page is told, as plain JSON values."""
    model, examples = served.model, served.examples
    accuracy = model["test_accuracy"]
    pixels = np.stack([one.pixels for one in examples]) if examples else None
    return {
        "title": f"{model['recipe']} on {model['data']}",
        "resight": __version__,
        "model": model,
        "accuracy": accuracy
        and accuracy_words("test", accuracy, model["test_accuracy_95"], model["test_images"]),
        "examples": {
            "sheet": pixels is not None and sheet(pixels, cell_px_limit=THUMB_PX),
            "id": [one.id for one in examples],
            "class": [one.class_name for one in examples],
        },
        "nearest": served.neighbours is not None,
        "report": report_of(served) is not None,
        "max_bytes": MAX_BYTES,
    }


def _page(html: str) -> Response:
    policy = f"{policy_of(html)}; frame-ancestors 'none'"
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(CHUNK_BYTES):
            yield part
