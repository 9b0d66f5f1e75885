"""What a program may ask of a served run: predictions, maps, the nearest training images."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Query, Request
from starlette.exceptions import HTTPException

from resight.characters import printable
from resight.data.decode import square_of
from resight.errors import did_you_mean
from resight.look.cam import CamMaps, grad_cam
from resight.render.sprites import photo_uri, sheet
from resight.runs.answers import Answers
from resight.serving.limits import MAX_BYTES, MAX_REQUESTS
from resight.serving.lines import Line, busy, refusal
from resight.serving.neighbours import features
from resight.serving.served import THUMB_PX, Served
from resight.serving.uploads import MAX_FILES, Decoded, Upload, decoded, uploads

NEAREST = 6
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


def add_api(app: FastAPI, served: Served) -> None:
    """The operations of `docs/serve.md`, each described by its docstring in OpenAPI."""
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
                {"id": file.name, "error": one}
                if isinstance(one, str)
                else next(rows) | {"id": file.name}
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
