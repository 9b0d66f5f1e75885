"""A handful of test images to try a net on: their files as they are, or their pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from resight.data.decode import decode_file
from resight.data.headers import read_header
from resight.data.types import ImageData
from resight.recipe.settings import Fit
from resight.reporting.photos import folder_of

MAX_EXAMPLES = 8
MAX_FILE_BYTES = 4_000_000
SHOWN = {  # by browsers, with their media types
    **{"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif"},
    **{"WEBP": "image/webp", "BMP": "image/bmp"},
}


@dataclass(frozen=True)
class Example:
    """A test image. pixels: uint8 (H, W, C), what the net sees of it; content: its file."""

    id: str
    class_name: str
    pixels: npt.NDArray[np.uint8]
    content: bytes
    media_type: str


def examples_of(data: ImageData, fit: Fit) -> list[Example]:
    """Test images, evenly spaced through the classes. The net sees of each what it saw when it was
    measured: a file that is gone, has changed, is large or that no browser shows is replaced by the
    pixels that the net saw."""
    order = np.argsort(data.test.labels, kind="stable")
    count = min(MAX_EXAMPLES, len(order))
    places = (np.arange(count) + 0.5) * len(order) / max(count, 1)
    return [_example(data, int(order[int(place)]), fit) for place in places]


def _example(data: ImageData, row: int, fit: Fit) -> Example:
    image_id = str(data.test.ids[row])
    pixels = np.array(data.test.images[row])
    content, media_type = _file(data.source, image_id, pixels, fit) or (_png(pixels), "image/png")
    return Example(image_id, data.classes[data.test.labels[row]], pixels, content, media_type)


def _file(
    source: str, image_id: str, pixels: npt.NDArray[np.uint8], fit: Fit
) -> tuple[bytes, str] | None:
    folder = folder_of(source, [image_id])
    if folder is None:
        return None
    path = folder / image_id
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None
        content = path.read_bytes()
        header = read_header(io.BytesIO(content))
        same = np.array_equal(
            decode_file(io.BytesIO(content), pixels.shape[0], pixels.shape[2], fit), pixels
        )
    except Exception:  # Pillow's readers raise anything on a damaged file
        return None
    media_type = SHOWN.get(header.format) if header else None
    return (content, media_type) if same and media_type else None


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    return content.getvalue()
