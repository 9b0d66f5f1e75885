"""The routes: what the page and other programs may ask of a served run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from resight.characters import printable
from resight.data.decode import square_of
from resight.deploy.guard import NOTHING, Guard
from resight.deploy.limits import MAX_BYTES, MAX_REQUESTS, Limits
from resight.deploy.lines import Line, busy, refusal
from resight.deploy.neighbours import features
from resight.deploy.served import Served, report_of
from resight.deploy.uploads import MAX_FILES, Decoded, Upload, decoded, uploads
from resight.errors import did_you_mean
from resight.look.cam import CamMaps, grad_cam
from resight.records import accuracy_words
from resight.render.page import policy_of, render_page
from resight.render.sprites import photo_uri, sheet
from resight.runs.answers import Answers
from resight.version import __version__

NEAREST = 6
THUMB_PX = 96
CHUNK_BYTES = 64_000  # of the report at a time, so that slow readers hold little memory
FILE = {"type": "string", "format": "binary"}


def _body(schema: dict[str, Any], what: str) -> dict[str, Any]:
    """The description of a request's body for OpenAPI, as the routes read it themselves."""
    form = {"schema": {"type": "object", "properties": {"file": schema}}}
    content = {"multipart/form-data": form, "image/*": {"schema": FILE}}
    return {"requestBody": {"required": True, "description": what, "content": content}}


IMAGE = _body(FILE, "One image, as the body or as a form's file")
IMAGES = _body(
    {"type": "array", "items": FILE}, f"One image as the body, or up to {MAX_FILES} files of a form"
)
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": why, "content": {"application/json": {"example": {"error": "…"}}}}
    for code, why in (
        (400, "No image, too many files, or not a form that can be read"),
        (403, "Another site's page asks, or the Host is not meant"),
        (408, "The body takes too long to arrive"),
        (413, f"More than {MAX_BYTES:,} bytes"),
        (415, "No image that can be read"),
        (422, "A parameter is not allowed"),
        (503, f"More than {MAX_REQUESTS} requests at a time; Retry-After says when to come again"),
    )
}


def make_app(served: Served, host: str) -> ASGIApp:
    """Routes behind the limits behind the guard. host: that the server listens at."""
    app = FastAPI(
        title="Resight",
        version=__version__,
        description="What a trained net says of images.",
        docs_url=None,
        redoc_url=None,
        default_response_class=Line,
    )
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    _add_api(app, served)
    _add_pages(app, served)
    return Guard(Limits(app), host)


def _add_api(app: FastAPI, served: Served) -> None:
    net = served.predictor

    @app.get("/health")
    async def health() -> Any:
        """Whether the net answers; nearest: whether the nearest training images are known."""
        if not served.batcher.alive:
            return refusal(500, "the net has stopped")
        known = served.neighbours
        return {"status": "ok", "nearest": known is not None and known.ready}

    @app.get("/model")
    async def model() -> Any:
        """The net's classes, image size and fit, and its accuracy on the test split with the 95 %
        interval; temperature: null where none was fitted."""
        return served.model

    @app.post("/predict", openapi_extra=IMAGES, responses=ERRORS)
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, description="How many classes")] = 5,
    ) -> Any:
        """The most probable classes of each image, in the order of the files; a file that can't be
        read has an error in its place."""
        files = await uploads(request)
        seen = await asyncio.gather(*(decoded(file, served) for file in files))
        readable = [one for one in seen if isinstance(one, Decoded)]
        if not readable:
            return _unreadable(files[0], seen[0])
        logits = await asyncio.gather(
            *(asyncio.wrap_future(served.batcher.logits(one.pixels)) for one in readable)
        )
        rows = iter(_answers(served, np.stack(logits)).rows(top))
        return {
            "predictions": [
                ({"error": one} if isinstance(one, str) else next(rows)) | {"id": file.name}
                for file, one in zip(files, seen, strict=True)
            ]
        }

    @app.post("/explain", openapi_extra=IMAGE, responses=ERRORS)
    async def explain(
        request: Request,
        wanted: Annotated[
            str | None, Query(alias="class", description="By default the most probable one")
        ] = None,
    ) -> Any:
        """Where an image shows evidence for a class (Grad-CAM). map: rows of cells from 0 to 1;
        empty: all are 0; size: width and height of the upright image in px; square: left, top,
        right and bottom of what the net sees of it, over which the map lies; seen: that in the
        net's own pixels, as a data URI."""
        file, seen = await _single(request, served)
        if isinstance(seen, str):
            return _unreadable(file, seen)
        names = [printable(name) for name in net.classes]
        if wanted is not None and wanted not in names:
            return refusal(422, f"unknown class '{wanted[:100]}'{did_you_mean(wanted, names)}")
        logits = await asyncio.wrap_future(served.batcher.logits(seen.pixels))
        target = int(logits.argmax()) if wanted is None else names.index(wanted)
        maps = await asyncio.wrap_future(
            served.batcher.work(lambda: _maps(served, seen.pixels, target))
        )
        answers = _answers(served, logits[None])
        return {
            "id": file.name,
            "class": names[target],
            "probability": float(answers.probabilities[0, target]),
            "layer": maps.layer,
            "map": np.round(maps.maps[0].numpy().astype(float), 4).tolist(),
            "empty": bool(maps.empty[0]),
            "size": list(seen.size),
            "square": list(square_of(*seen.size, net.fit)),
            "seen": photo_uri(seen.pixels),
        }

    @app.post("/nearest", openapi_extra=IMAGE, responses=ERRORS)
    async def nearest(request: Request) -> Any:
        """The training images whose features, what the net's last layer gets, have the largest
        cosines with the image's. sheet: their pictures; compared: how many were. 404 where the
        run's images are not there."""
        known = served.neighbours
        if known is None:
            return refusal(404, "the run's images are not there, so none can be near")
        if not known.ready:
            return busy("the training images are still being looked at")
        file, seen = await _single(request, served)
        if isinstance(seen, str):
            return _unreadable(file, seen)
        rows, cosines = await asyncio.wrap_future(
            served.batcher.work(lambda: known.nearest(features(net, seen.pixels[None])[0], NEAREST))
        )
        train = known.data.train
        return {
            "id": file.name,
            "nearest": [
                {
                    "id": str(train.ids[row]),
                    "class": known.data.classes[train.labels[row]],
                    "similarity": round(float(cosine), 4),
                }
                for row, cosine in zip(rows, cosines, strict=True)
            ],
            "compared": len(known.rows),
            "of": len(train),
            "sheet": sheet(np.ascontiguousarray(train.images[rows]), cell_px_limit=THUMB_PX),
        }


def _add_pages(app: FastAPI, served: Served) -> None:
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
    model, known = served.model, served.neighbours
    accuracy = model["test_accuracy"]
    examples = served.examples
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
        "nearest": known and {"compared": len(known.rows), "of": len(known.data.train)},
        "missing": known is None,
        "report": report_of(served) is not None,
        "max_bytes": MAX_BYTES,
    }


def _page(html: str) -> Response:
    policy = f"{policy_of(html)}; frame-ancestors 'none'"
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


def _answers(served: Served, logits: npt.NDArray[np.float32]) -> Answers:
    net = served.predictor
    return Answers(logits, tuple(map(str, range(len(logits)))), net.classes, net.temperature)


async def _single(request: Request, served: Served) -> tuple[Upload, Decoded | str]:
    files = await uploads(request)
    if len(files) > 1:
        raise HTTPException(400, "one image at a time")
    return files[0], await decoded(files[0], served)


def _maps(served: Served, pixels: Any, target: int) -> CamMaps:
    net = served.predictor
    with net.runtime.autocast():
        return grad_cam(net.model, net.normalized(pixels[None]), target)


def _unreadable(file: Upload, why: Any) -> Line:
    return refusal(415, f"{file.name}: {why}")


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(CHUNK_BYTES):
            yield part


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return refusal(422, f"{first['loc'][-1]}: {first['msg']}")
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, str(error.detail), **dict(error.headers or {}))
