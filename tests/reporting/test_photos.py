"""The files of a gallery's images at a size to look at: which are shown, and how large."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resight.data.decode import decode_file
from resight.recipe.settings import Fit
from resight.reporting.photos import Photo, folder_of, photos_of

NET_PX = 32


def write(folder: Path, name: str, width: int, height: int, seed: int = 0) -> str:
    """A photo of soft shapes, as JPEG."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height)).save(path, "JPEG", quality=95)
    return name


def seen(folder: Path, ids: list[str], *, px: int = NET_PX, how: Fit = "crop") -> np.ndarray:
    return np.stack([decode_file(str(folder / name), px, 3, how) for name in ids])


def of_uri(photo: Photo) -> np.ndarray:
    head, _, content = photo.uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


@pytest.mark.parametrize(("how", "side"), [("crop", 120), ("pad", 160), ("squash", 160)])
def test_a_photo_is_the_nets_view_of_its_file_enlarged(tmp_path: Path, how: Fit, side: int) -> None:
    ids = [write(tmp_path, "a/one.jpg", 300, 120)]
    (photo,) = photos_of(tmp_path, ids, seen(tmp_path, ids, how=how), how)
    assert photo is not None
    expected = decode_file(str(tmp_path / ids[0]), side, 3, how)
    assert np.array_equal(photo.pixels, expected)
    assert np.abs(of_uri(photo).astype(int) - expected).mean() < 4  # WebP has losses


@pytest.mark.parametrize(
    ("px", "side", "shown"),
    [
        (32, 32, None),
        (32, 33, 33),
        (32, 160, 160),
        (32, 500, 160),
        (64, 64, None),
        (64, 65, 65),
        (224, 64, None),  # the sheet has 64 px
        (224, 100, 100),
        (224, 224, 160),
    ],
)
def test_a_photo_is_shown_where_it_has_more_than_the_sheet(
    tmp_path: Path, px: int, side: int, shown: int | None
) -> None:
    ids = [write(tmp_path, "one.jpg", side, side + 40)]
    ids.append(write(tmp_path, "two.jpg", 400, 400, seed=1))
    photos = photos_of(tmp_path, ids, seen(tmp_path, ids, px=px), "crop")
    assert [photo.pixels.shape[0] if photo else None for photo in photos] == [shown, 160]


def test_files_that_are_gone_or_changed_are_left_out(tmp_path: Path) -> None:
    ids = [write(tmp_path, f"{i}.jpg", 200, 200, seed=i) for i in range(5)]
    images = seen(tmp_path, ids)
    (tmp_path / ids[1]).unlink()
    (tmp_path / ids[2]).write_bytes(b"not an image")
    write(tmp_path, ids[3], 200, 200, seed=9)  # another picture
    photos = photos_of(tmp_path, ids, images, "crop")
    assert [photo is not None for photo in photos] == [True, False, False, False, True]


def test_no_photo_is_no_list_and_grey_stays_grey(tmp_path: Path) -> None:
    ids = [write(tmp_path, "one.jpg", NET_PX, NET_PX)]
    assert photos_of(tmp_path, ids, seen(tmp_path, ids), "crop") == []
    Image.new("L", (90, 90), 77).save(tmp_path / "grey.png")
    grey = np.full((1, NET_PX, NET_PX, 1), 77, dtype=np.uint8)
    (photo,) = photos_of(tmp_path, ["grey.png"], grey, "crop")
    assert photo is not None
    assert photo.pixels.shape == (90, 90, 1)
    assert np.abs(of_uri(photo).astype(int) - 77).max() <= 2


def test_the_first_photos_fill_the_budget(tmp_path: Path) -> None:
    ids = [write(tmp_path, f"{i}.jpg", 200, 200, seed=i) for i in range(70)]
    images = seen(tmp_path, ids)
    every = photos_of(tmp_path, ids, images, "crop")
    sizes = np.cumsum([len(photo.uri) for photo in every if photo])
    assert len(sizes) == 70
    for count in (1, 5, 66):
        kept = photos_of(tmp_path, ids, images, "crop", most=int(sizes[count - 1]))
        assert [p.uri for p in kept if p] == [p.uri for p in every[:count] if p]
        fewer = photos_of(tmp_path, ids, images, "crop", most=int(sizes[count - 1]) - 1)
        assert len(fewer) == count - 1


def test_a_folder_is_one_only_if_the_ids_are_its_files(tmp_path: Path) -> None:
    ids = [write(tmp_path, "a/one.jpg", 20, 20)]
    assert folder_of(str(tmp_path), ids) == tmp_path
    assert folder_of(str(tmp_path), ["test/0"]) is None  # an archive's
    assert folder_of(str(tmp_path), []) is None
    assert folder_of("cifar10", ids) is None
    assert folder_of("", [str(tmp_path / ids[0])]) is None
