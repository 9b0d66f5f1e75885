"""A folder with one of everything that can be odd about images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from helpers import pictures

SIDE = 48
EACH = {"train": 10, "test": 4}


def plain_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """train/ and test/ with different pictures of 48 px: 10 and 4 of each class."""
    for number, split in enumerate(EACH):
        for k, name in enumerate(classes):
            images = pictures(EACH[split], seed=10 * number + k, size=SIDE)
            (root / split / name).mkdir(parents=True)
            for i, image in enumerate(images):
                Image.fromarray(image).save(root / split / name / f"{i}.png")
    return root


def odd_folder(root: Path) -> Path:
    """A plain folder, and in it one of everything."""
    plain_folder(root)
    cat, dog = root / "train" / "cat", root / "train" / "dog"
    others = iter(pictures(20, seed=99, size=SIDE))
    Image.fromarray(next(others) // 8).save(cat / "dark.png")
    Image.fromarray(255 - next(others) // 8).save(cat / "bright.png")
    Image.new("RGB", (SIDE, SIDE), (90, 160, 30)).save(cat / "blank.png")
    Image.fromarray(next(others)).resize((160, SIDE)).save(cat / "thin.png")
    Image.fromarray(next(others)).resize((7, 6)).save(cat / "tiny.png")
    shutil.copy(cat / "1.png", cat / "copy.png")
    shutil.copy(cat / "2.png", dog / "of a cat.png")
    shutil.copy(dog / "4.png", root / "test" / "dog" / "leak.png")
    Image.open(cat / "3.png").save(root / "test" / "cat" / "again.jpg", quality=60)
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(next(others)).resize((64, SIDE)).save(dog / "turned.jpg", exif=turned)
    deep = next(others)[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(dog / "deep.png")
    Image.fromarray(next(others)).convert("CMYK").save(dog / "cmyk.jpg")
    frames = [Image.fromarray(next(others)) for _ in range(2)]
    frames[0].save(dog / "moving.gif", save_all=True, append_images=frames[1:])
    (cat / "empty.jpg").write_bytes(b"")
    (cat / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (cat / "notes.txt").write_text("not an image")
    (root / "clip.mp4").write_bytes(b"no image either")
    Image.fromarray(next(others)).save(root / "train" / "loose.png")
    return root
