"""One image file to uint8: every mode to grey or RGB, upright, resized and cropped to a square."""

from __future__ import annotations

from pathlib import PurePath
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from resight.extras import install_command
from resight.recipe.settings import Fit

try:
    from PIL import AvifImagePlugin as _avif
except ImportError:  # before Pillow 11.3
    _avif = None  # type: ignore[assignment]
try:
    from pillow_heif import register_heif_opener  # type: ignore[import-not-found]
except ImportError:
    _heif = False
else:
    register_heif_opener()
    _heif = True

PLAIN = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SUFFIXES = (*PLAIN, ".ppm", ".pgm", ".avif", ".heic", ".heif")
# Detected by content, whatever the suffix; the list keeps Pillow's other readers (EPS runs
# Ghostscript) away from untrusted files.
FORMATS = (
    *("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"),
    *(("AVIF",) if _avif else ()),
    *(("HEIF",) if _heif else ()),
)
NEEDED = {  # format and advice, for those that not every Pillow reads
    ".avif": ("AVIF", "an AVIF image: needs Pillow 11.3 or later"),
    ".heic": ("HEIF", f"a HEIC image: needs `{install_command('heic')}`"),
    ".heif": ("HEIF", f"a HEIF image: needs `{install_command('heic')}`"),
}
MAX_PIXELS = 89_478_485  # where Pillow starts to warn about decompression bombs: 256 MiB as RGB
GREY = 128  # of the borders of padded images
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_grey(path: str) -> bool:
    """Whether the file's header says grey: 1-bit, L, LA or 16-bit.

    An unreadable file counts as grey, so that it never decides; decoding reports it.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    except Exception:
        return True


def own_side(path: str, how: Fit) -> int:
    """The side in pixels of the square that `fit` makes of a file before it is resized. Raises
    whatever Pillow raises."""
    with Image.open(path, formats=FORMATS) as image:
        return min(image.size) if how == "crop" else max(image.size)


def decode_file(
    path: str | IO[bytes], image_size: int, channels: int, how: Fit = "crop"
) -> npt.NDArray[np.uint8]:
    """Pixels (image_size, image_size, channels) of the first frame of an image file; how: see
    `fit`.

    Turned upright by its EXIF orientation; transparent parts over white; 16-bit grey scaled to
    8. Raises whatever Pillow raises, and ValueError for pixels that have no 8-bit meaning.
    """
    with Image.open(path, formats=FORMATS) as image:
        check_pixels(image)
        # A big JPEG is decoded at 1/2, 1/4 or 1/8, never below twice the requested size.
        image.draft(None, (2 * image_size, 2 * image_size))
        return pixels(fit(plain(upright(image), channels), image_size, how))


def check_pixels(image: Image.Image) -> None:
    """Raises ValueError for an image that is too large to be decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, more than the limit of {MAX_PIXELS:,}")


def upright(image: Image.Image) -> Image.Image:
    """The image loaded and turned as its EXIF orientation says."""
    image.load()
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def reason(error: Exception, path: str = "") -> str:
    """Why a file could not be decoded, in a few words on one line."""
    if isinstance(error, UnidentifiedImageError):
        return reader_needed(path) or "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than the limit of {MAX_PIXELS:,}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


def reader_needed(path: str) -> str:
    """What a file of this suffix needs that is not installed; empty if nothing."""
    kind, needed = NEEDED.get(PurePath(path).suffix.lower(), ("", ""))
    return needed if kind and kind not in FORMATS else ""


def plain(image: Image.Image, channels: int) -> Image.Image:
    """Any mode to L (channels = 1) or RGB (channels = 3), 8 bits, transparent parts over white."""
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise ValueError("floating-point pixels: save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def fit(image: Image.Image, size: int, how: Fit = "crop") -> Image.Image:
    """An L or RGB image as `size` x `size` pixels: Lanczos, antialiased.

    "crop": its central square; the same as resizing the shorter side and cropping, without rounding
    the longer one. An image whose shorter side is `size` is only cropped: its pixels stay as they
    are. "pad": the whole image, its longer side `size`, between borders of middle grey. "squash":
    the whole image, whatever its shape.
    """
    width, height = image.size
    if width == height == size:
        return image
    if how == "pad":
        longer = max(width, height)
        inside = max(1, round(width * size / longer)), max(1, round(height * size / longer))
        square = Image.new(image.mode, (size, size), (GREY,) * len(image.getbands()))
        small = image.resize(inside, Image.Resampling.LANCZOS)
        square.paste(small, ((size - inside[0]) // 2, (size - inside[1]) // 2))
        return square
    box = square_of(width, height, how)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


def square_of(width: int, height: int, how: Fit = "crop") -> tuple[int, int, int, int]:
    """What `fit` makes of an image of `width` x `height` px: left, top, right and bottom edge in
    the image's px; beyond the image where it pads."""
    if how == "squash":
        return 0, 0, width, height
    side = min(width, height) if how == "crop" else max(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """(H, W, 1) of an L image, (H, W, 3) of an RGB one."""
    array = np.asarray(image, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a loaded image upright; None if its EXIF data are damaged."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow's EXIF reader raises anything; the pixels are fine anyway
        return None


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels: save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
