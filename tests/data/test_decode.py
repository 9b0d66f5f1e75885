"""Every mode, orientation and size of an image file, by exact pixels where they can be known."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from resight.data import decode
from resight.data.decode import decode_file, fit, is_grey, reason

RED, GREY = (200, 30, 10), 90


@pytest.fixture
def saved(tmp_path):
    """A function that saves an image and gives back its path."""

    def save(image: Image.Image, name: str = "image.png", **options: object) -> str:
        image.save(tmp_path / name, **options)
        return str(tmp_path / name)

    return save


@pytest.fixture
def noise():
    return np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_32_pixels_stay_as_they_are(saved, noise, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(Image.fromarray(noise), f"image.{suffix}", **options)
    got = decode_file(path, 32, 3)
    assert got.dtype == np.uint8
    assert np.array_equal(got, noise)
    assert not is_grey(path)


def wide(height: int, width: int) -> Image.Image:
    """Red on the left half, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


def test_padding_keeps_the_whole_image_between_grey_borders(saved):
    got = decode_file(saved(wide(16, 32)), 32, 3, "pad")
    assert (got[:8] == decode.GREY).all()
    assert (got[24:] == decode.GREY).all()
    assert np.array_equal(got[8:24], np.asarray(wide(16, 32)))
    upright = decode_file(saved(wide(16, 32).transpose(Image.Transpose.ROTATE_90)), 16, 1, "pad")
    assert (upright[:, :4] == decode.GREY).all()
    assert (upright[:, 12:] == decode.GREY).all()
    thin = decode_file(saved(wide(2, 400)), 8, 3, "pad")
    assert (thin[3] != decode.GREY).any()


def test_squashing_keeps_the_whole_image(saved):
    image = wide(16, 32)
    got = decode_file(saved(image), 16, 3, "squash")
    assert np.array_equal(got, np.asarray(image.resize((16, 16), Image.Resampling.LANCZOS)))


@pytest.mark.parametrize("how", ["crop", "pad", "squash"])
def test_a_square_of_the_right_size_is_left_alone(saved, noise, how):
    assert np.array_equal(decode_file(saved(Image.fromarray(noise)), 32, 3, how), noise)


def test_avif_is_read(saved, noise):
    path = saved(Image.fromarray(noise), "image.avif", quality=100, subsampling="4:4:4")
    assert np.abs(decode_file(path, 32, 3).astype(int) - noise).max() <= 8


def test_heic_is_read_with_pillow_heif(saved, noise):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = saved(Image.fromarray(noise).resize((64, 64)), "image.heic", quality=100)
    assert decode_file(path, 32, 3).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("photo.HEIC", "a HEIC image: needs `pip install 'resight[heic]'`"),
        ("photo.avif", "an AVIF image: needs Pillow 11.3 or later"),
        ("photo.jpg", "not an image"),
    ],
)
def test_a_format_that_pillow_lacks_is_named(monkeypatch, tmp_path, name, why):
    monkeypatch.setattr(decode, "FORMATS", ("JPEG", "PNG"))
    (tmp_path / name).write_bytes(b"\0\0\0\x1cftypheic")
    with pytest.raises(UnidentifiedImageError) as caught:
        decode_file(str(tmp_path / name), 8, 3)
    assert reason(caught.value, str(tmp_path / name)) == why


def test_jpeg_is_what_pillow_decodes(saved, noise):
    path = saved(Image.fromarray(noise), "image.jpg", quality=75)
    assert np.array_equal(decode_file(path, 32, 3), np.asarray(Image.open(path)))


def test_the_content_decides_not_the_suffix(saved, noise):
    path = saved(Image.fromarray(noise), "image.jpg", format="PNG")
    assert np.array_equal(decode_file(path, 32, 3), noise)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_modes(saved, channels):
    ramp = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17
    expected = np.repeat(ramp[:, :, None], channels, axis=2)
    path = saved(Image.fromarray(ramp))
    assert is_grey(path)
    assert np.array_equal(decode_file(path, 4, channels), expected)
    path = saved(Image.fromarray(ramp > 100))
    assert Image.open(path).mode == "1"
    assert is_grey(path)
    assert np.array_equal(decode_file(path, 4, channels) > 0, expected > 100)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled(saved, suffix):
    values = np.array([[0, 128, 129, 257], [1000, 32768, 65406, 65407]] * 2, dtype=np.uint16)
    path = saved(Image.fromarray(values), f"image.{suffix}")
    assert is_grey(path)
    got = decode_file(path, 4, 1)[:2, :, 0]
    assert got.tolist() == [[0, 0, 1, 1], [4, 128, 254, 255]]
    assert decode_file(path, 4, 3).shape == (4, 4, 3)


def test_pixels_without_an_8_bit_meaning_are_refused(saved):
    wide = Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32))
    with pytest.raises(ValueError, match="32-bit pixels: save it with 8 or 16 bits"):
        decode_file(saved(wide, "wide.tif"), 4, 1)
    with pytest.raises(ValueError, match="floating-point pixels"):
        decode_file(saved(Image.fromarray(np.ones((4, 4), np.float32)), "float.tif"), 4, 1)


def test_palette(saved):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED, 255, 255, 255])
    path = saved(image)
    assert not is_grey(path)
    assert np.all(decode_file(path, 4, 3) == RED)
    path = saved(image, "image.gif")
    assert np.all(decode_file(path, 4, 3) == RED)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_transparent_palette_is_over_white(saved, transparency):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((0, 0), 1)
    path = saved(image, transparency=transparency)
    got = decode_file(path, 4, 3)
    assert got[0, 0].tolist() == [255, 255, 255]
    assert np.all(got[1:] == RED)


def test_rgba_is_over_white(saved):
    image = Image.new("RGBA", (4, 4), (*RED, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 51))
    got = decode_file(saved(image), 4, 3)
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[0, 1].tolist() == [204, 204, 204]
    assert np.all(got[1:] == RED)


def test_grey_with_alpha_is_over_white_and_still_grey(saved):
    image = Image.new("LA", (4, 4), (GREY, 255))
    image.putpixel((0, 0), (0, 0))
    path = saved(image)
    assert is_grey(path)
    got = decode_file(path, 4, 1)
    assert got[0, 0].tolist() == [255]
    assert np.all(got[1:] == GREY)


def test_grey_and_rgb_with_a_transparent_colour(saved):
    grey = Image.new("L", (4, 4), GREY)
    grey.putpixel((2, 0), 5)
    got = decode_file(saved(grey, transparency=5), 4, 1)
    assert got[0, 2].tolist() == [255]
    assert got[1, 1].tolist() == [GREY]
    colour = Image.new("RGB", (4, 4), RED)
    colour.putpixel((2, 0), (1, 2, 3))
    got = decode_file(saved(colour, transparency=(1, 2, 3)), 4, 3)
    assert got[0, 2].tolist() == [255, 255, 255]
    assert np.all(got[1:] == RED)


def test_cmyk(saved):
    path = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "image.jpg", quality=100)
    assert Image.open(path).mode == "CMYK"
    assert not is_grey(path)
    assert np.abs(decode_file(path, 8, 3).astype(int) - (255, 0, 0)).max() <= 3


def test_colour_to_grey_where_forced(saved):
    got = decode_file(saved(Image.new("RGB", (4, 4), RED)), 4, 1)
    assert np.all(got == round(0.299 * 200 + 0.587 * 30 + 0.114 * 10))


def test_first_frame_of_an_animation(saved):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    path = saved(frames[0], "image.gif", save_all=True, append_images=frames[1:])
    assert np.all(decode_file(path, 4, 3) == RED)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(saved, orientation, suffix):
    upright = np.zeros((32, 32), dtype=np.uint8)
    upright[:16, :16] = 255  # bright top left
    upright[:16, 16:] = 128  # grey top right
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    turn = decode.TURNS.get(undo)
    image = Image.fromarray(upright)
    stored = image if turn is None else image.transpose(turn)
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 100}
    path = saved(stored.convert("RGB"), f"image.{suffix}", exif=exif, **options)
    got = decode_file(path, 32, 1)[:, :, 0]
    assert np.abs(got.astype(int) - upright).max() <= 2


def test_exif_turns_agree_with_pillow(saved):
    from PIL import ImageOps

    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[decode.ORIENTATION] = orientation
        opened = Image.open(saved(image, exif=exif))
        expected = np.asarray(ImageOps.exif_transpose(opened))
        assert np.array_equal(np.asarray(image.transpose(decode.TURNS[orientation])), expected)


def test_damaged_exif_does_not_make_an_image_unreadable(saved):
    path = saved(Image.new("RGB", (8, 8), RED), "image.jpg", exif=b"Exif\0\0nonsense")
    assert decode_file(path, 8, 3).shape == (8, 8, 3)


def test_crop_is_central_and_exact_where_the_shorter_side_fits():
    values = np.arange(4 * 9, dtype=np.uint8).reshape(4, 9)
    assert np.array_equal(np.asarray(fit(Image.fromarray(values), 4)), values[:, 2:6])
    assert np.array_equal(np.asarray(fit(Image.fromarray(values.T.copy()), 4)), values.T[2:6])


def test_resize_keeps_the_shape_of_things():
    wide = np.zeros((40, 120), dtype=np.uint8)
    wide[:, 40:80] = 255  # exactly the central square is white
    assert np.asarray(fit(Image.fromarray(wide), 20))[:, 4:16].min() == 255
    tall = Image.fromarray(wide.T.copy())
    assert np.asarray(fit(tall, 20)).shape == (20, 20)
    assert np.asarray(fit(tall, 20))[4:16].min() == 255


def test_resize_is_antialiased():
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(fit(Image.fromarray(board), 16)).astype(int)
    assert np.abs(small - 127.5).max() < 3


def test_crop_equals_resize_then_crop():
    values = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    whole = np.asarray(image.resize((64, 32), Image.Resampling.LANCZOS))
    assert np.array_equal(np.asarray(fit(image, 32)), whole[:, 16:48])


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (33, 31), (8, 8)])
def test_any_size_comes_out_square(saved, size):
    assert np.all(decode_file(saved(Image.new("RGB", size, RED)), 32, 3) == RED)


def test_big_jpegs_are_decoded_small_and_right(saved):
    rows = np.linspace(0, 255, 1024)
    ramp = np.broadcast_to(rows[:, None], (1024, 1024)).astype(np.uint8)
    path = saved(Image.fromarray(ramp), "image.jpg", quality=95)
    got = decode_file(path, 32, 1)[:, :, 0].astype(int)
    assert np.abs(got - rows.reshape(32, 32).mean(1)[:, None]).max() <= 2


def test_a_decompression_bomb_is_refused(saved, monkeypatch):
    path = saved(Image.new("L", (64, 64)))
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(ValueError, match=r"^64x64 pixels, more than the limit of 4,095$"):
        decode_file(path, 32, 1)
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 64)
    decode_file(path, 32, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        decode_file(path, 32, 1)


def test_reasons_are_short(saved, tmp_path):
    def why(content: bytes) -> str:
        path = tmp_path / "bad.png"
        path.write_bytes(content)
        assert is_grey(str(path)) in (True, False)
        with pytest.raises(Exception) as caught:
            decode_file(str(path), 32, 3)
        return reason(caught.value)

    assert why(b"") == why(b"no image") == "not an image"
    with io.BytesIO() as file:
        Image.effect_noise((64, 64), 90).save(file, "PNG")
        whole = file.getvalue()
    assert "truncated" in why(whole[: len(whole) // 2])
    with pytest.raises(FileNotFoundError) as caught:
        decode_file(str(tmp_path / "none.png"), 32, 3)
    assert reason(caught.value) == "No such file or directory"
    assert reason(ValueError("one\ntwo")) == "one"
    assert reason(EOFError()) == "EOFError"


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(Image.UnidentifiedImageError):
        decode_file(str(path), 32, 3)


def test_a_truncated_jpeg_is_unreadable(saved, noise, tmp_path):
    path = saved(Image.fromarray(noise), "image.jpg")
    whole = (tmp_path / "image.jpg").read_bytes()
    (tmp_path / "image.jpg").write_bytes(whole[: len(whole) - 200])
    with pytest.raises(OSError, match="truncated"):
        decode_file(path, 32, 3)
