"""Images out of a request: files of a form, or a body that is one, whatever it is said to be."""

from __future__ import annotations

import asyncio
import contextlib
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from resight.characters import printable
from resight.data.decode import decode_file, reason
from resight.data.headers import read_header
from resight.serving.served import Served

MAX_FILES = 32  # of a request
MAX_FIELDS = 8  # that are no files
MAX_NAME = 200  # characters
LARGE_PIXELS = 16_000_000  # beyond these, images are decoded one at a time: a gigabyte each at most


@dataclass(frozen=True)
class Upload:
    """A file of a request: name, for the answer alone."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Decoded:
    """pixels: uint8 (H, W, C), what the net sees; size: width and height of the upright photo."""

    pixels: npt.NDArray[np.uint8]
    size: tuple[int, int]


async def uploads(request: Request) -> list[Upload]:
    """At least one. Raises `HTTPException` 400 if there are none or too many."""
    kind = request.headers.get("content-type", "").lower()
    if kind.startswith("multipart/form-data"):
        async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS) as form:
            found = [
                Upload(_name(part.filename or ""), await part.read())
                for _, part in form.multi_items()
                if isinstance(part, UploadFile)
            ]
    else:
        body = await request.body()
        found = [Upload("image", body)] if body else []
    if not found:
        raise HTTPException(
            400, "no image: send one as the body, or files as multipart/form-data: -F file=@x.jpg"
        )
    return found


def _name(given: str) -> str:
    """A file's own name, without folders."""
    return printable(given.replace("\\", "/").rpartition("/")[2])[:MAX_NAME] or "image"


async def decoded(upload: Upload, served: Served) -> Decoded | str:
    """What the net sees of an upload, or why it can't be read."""
    return await asyncio.get_running_loop().run_in_executor(
        served.decoders, _decode, upload.content, served
    )


def _decode(content: bytes, served: Served) -> Decoded | str:
    net = served.predictor
    header = read_header(io.BytesIO(content))
    large = header is not None and header.width * header.height > LARGE_PIXELS
    try:
        with served.one_large if large else contextlib.nullcontext():
            pixels = decode_file(io.BytesIO(content), net.image_size, net.channels, net.fit)
    except Exception as error:  # Pillow's readers raise anything on a damaged file
        return reason(error)
    assert header is not None  # it has just been decoded
    return Decoded(pixels, (header.width, header.height))
