"""Images in data URIs: many small ones as one, image i in row i // columns, column i % columns; and
a single photo."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, features

WEBP_SIDE_PX = 16_383  # WebP's limit
CELL_PX = 64  # larger images are reduced
PHOTO_QUALITY = 85
QUALITIES = (95, 90, 80, 70, 60, 50, 40, 30)

Images = npt.NDArray[np.uint8]


def sheet(
    images: Images, *, max_bytes: int | None = None, cell_px_limit: int = CELL_PX
) -> dict[str, Any] | None:
    """uint8 (n, H, W, C), H = W, C 1 or 3 → {src, cell_px, columns, count}; None for no images.

    Lossless WebP where that takes at most `max_bytes` (of the file; the URI takes a third more),
    else WebP of the highest quality that fits, or of the lowest there is. If Pillow has no WebP,
    PNG and JPEG. Images larger than `cell_px_limit` are reduced to it (Lanczos).
    """
    count, height, width, channels = images.shape
    assert height == width, "images are square"
    assert channels in (1, 3), channels
    if not count:
        return None
    columns = math.ceil(math.sqrt(count))
    cell_px = min(height, cell_px_limit, WEBP_SIDE_PX // columns)
    assert cell_px, f"{count} images are too many for one sheet"
    picture = _laid_out(_reduced(images, cell_px), columns)
    content, kind = b"", ""
    for content, kind in _encodings(picture):  # noqa: B007  # the last one stays
        if max_bytes is None or len(content) <= max_bytes:
            break
    src = _data_uri(content, kind)
    return {"src": src, "cell_px": cell_px, "columns": columns, "count": count}


def photo_uri(image: Images) -> str:
    """uint8 (H, W, C), C 1 or 3: a file with losses that hardly show."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    kind = "webp" if features.check("webp") else "jpeg"
    return _data_uri(_encoded(picture, kind, quality=PHOTO_QUALITY), kind)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def cells(sheet: dict[str, Any]) -> Images:
    """The images of a sheet: uint8 (count, cell_px, cell_px, 3)."""
    content = base64.b64decode(sheet["src"].partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    px, columns = sheet["cell_px"], sheet["columns"]
    grid = pixels.reshape(-1, px, columns, px, 3).swapaxes(1, 2)
    return grid.reshape(-1, px, px, 3)[: sheet["count"]]


def _reduced(images: Images, px: int) -> Images:
    if images.shape[1] == px:
        return images
    channels = images.shape[3]
    resized = [
        Image.fromarray(image[..., 0] if channels == 1 else image).resize(
            (px, px), Image.Resampling.LANCZOS
        )
        for image in images
    ]
    return np.stack([np.asarray(image).reshape(px, px, channels) for image in resized])


def _laid_out(images: Images, columns: int) -> Image.Image:
    """Row by row; the rest of the last row is black."""
    count, px, _, channels = images.shape
    rows = math.ceil(count / columns)
    full = np.zeros((rows * columns, px, px, channels), dtype=np.uint8)
    full[:count] = images
    grid = full.reshape(rows, columns, px, px, channels).swapaxes(1, 2)
    picture = grid.reshape(rows * px, columns * px, channels)
    return Image.fromarray(picture[..., 0] if channels == 1 else picture)


def _encodings(picture: Image.Image) -> Iterator[tuple[bytes, str]]:
    """Files and their kinds, the lossless one first, then smaller and smaller ones."""
    if features.check("webp"):
        # the least effort: 0.3 s instead of 3 for 2,000 images of 32 px, and a tenth more bytes
        yield _encoded(picture, "WEBP", lossless=True, method=0, quality=0), "webp"
        for quality in QUALITIES:
            yield _encoded(picture, "WEBP", quality=quality, method=0), "webp"
    else:
        yield _encoded(picture, "PNG"), "png"
        for quality in QUALITIES:
            yield _encoded(picture, "JPEG", quality=quality, subsampling=0), "jpeg"


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
