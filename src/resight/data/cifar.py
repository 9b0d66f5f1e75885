"""CIFAR-10 and CIFAR-100 as their authors publish them: a folder of pickles, or its `.tar.gz`.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009;
https://www.cs.toronto.edu/~kriz/cifar.html. Reading a pickle never runs code from it.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from resight.data.decode import fit, pixels, plain, reason
from resight.data.table import FileStamp, Found, Listing
from resight.data.unpickling import text, unpickle
from resight.errors import ResightError
from resight.recipe.settings import Fit

SIDE = 32
AGAIN = "; download the data again"
ARCHIVE_ERRORS = (
    *(tarfile.TarError, EOFError, zlib.error, OSError),
    *(ValueError, OverflowError, MemoryError),  # of sizes that no archive can have
)
MAX_FILE_BYTES = 1 << 29  # the largest of the official ones has 155 MB
MAX_ARCHIVE_BYTES = 1 << 31  # unpacked; the official ones have 190 MB


@dataclass(frozen=True)
class Variant:
    """How the two data sets differ: names of files and of the keys inside."""

    name: str
    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    classes: str

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


CIFAR10 = Variant(
    name="cifar10",
    archive="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels="labels",
    classes="label_names",
)
CIFAR100 = Variant(
    name="cifar100",
    archive="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    labels="fine_labels",
    classes="fine_label_names",
)
VARIANTS = {variant.name: variant for variant in (CIFAR10, CIFAR100)}


def find(path: Path) -> Found | None:
    """The CIFAR data at `path`: the folder of pickles, its archive, or a folder with either.

    None if there is none. Raises ResightError if files are missing or both data sets are there.
    """
    if path.is_file():
        variant = _variant_of_archive(path.name)
        return _found(variant, path) if variant else None
    for variant in VARIANTS.values():
        present = [file for file in variant.files if (path / file).is_file()]
        if len(present) > 1 or (present and path.name == variant.folder):
            return _found(variant, path)
    matches = [variant for variant in VARIANTS.values() if _inside(variant, path)]
    if len(matches) > 1:
        raise ResightError(
            f"{path} contains both CIFAR-10 and CIFAR-100: give {path / CIFAR10.folder} or "
            f"{path / CIFAR100.folder}"
        )
    return _found(matches[0], _inside(matches[0], path) or path) if matches else None


def find_named(variant: Variant, data_dir: Path) -> Found | None:
    """The folder or archive of one data set in the user's data folder, or None."""
    place = _inside(variant, data_dir)
    return _found(variant, place) if place else None


def is_complete(variant: Variant, folder: Path) -> bool:
    return all((folder / file).is_file() for file in variant.files)


def members(archive: Path, variant: Variant) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each of the variant's files in its archive; others are skipped.

    Raises ResightError if the archive is damaged or one is missing.
    """
    missing = set(variant.files)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.size > MAX_FILE_BYTES or member.offset_data > MAX_ARCHIVE_BYTES:
                    raise ResightError(
                        f"{archive}: {member.name} is larger than anything in the official "
                        f"archive: {AGAIN[2:]}"
                    )
                path = PurePosixPath(member.name)
                if member.isfile() and path.parent.name == variant.folder and path.name in missing:
                    missing.remove(path.name)
                    yield path.name, cast(IO[bytes], tar.extractfile(member)).read()
                if not missing:
                    _check_rest(tar)
                    return
    except ResightError:
        raise
    except ARCHIVE_ERRORS as error:
        raise ResightError(
            f"{archive} is damaged or incomplete ({reason(error)}): download it again"
        ) from error
    names = ", ".join(f"{variant.folder}/{file}" for file in sorted(missing))
    raise ResightError(f"{archive} lacks {names}: download it again")


def _check_rest(tar: tarfile.TarFile) -> None:
    """Read an archive to its end, where a compressed one has its checksum."""
    left = MAX_ARCHIVE_BYTES
    while left > 0 and (content := cast(IO[bytes], tar.fileobj).read(1 << 20)):
        left -= len(content)


def _variant_of_archive(name: str) -> Variant | None:
    """By its name, allowing for what browsers add: `cifar-10-python (1).tar.gz`."""
    match = re.fullmatch(r"cifar-(10|100)-python\b.*\.(tar|tgz|tar\.gz)", name.lower())
    return VARIANTS[f"cifar{match[1]}"] if match else None


def _inside(variant: Variant, path: Path) -> Path | None:
    folder, archive = path / variant.folder, path / variant.archive
    if archive.is_file() and not is_complete(variant, folder):
        return archive
    return folder if folder.is_dir() else None


def _found(variant: Variant, place: Path) -> Found:
    if place.is_dir() and not is_complete(variant, place):
        missing = [file for file in variant.files if not (place / file).is_file()]
        raise ResightError(f"{place} lacks {', '.join(missing)}: unpack {variant.archive} again")
    files = [place / file for file in variant.files] if place.is_dir() else [place]
    root = place if place.is_dir() else place.parent
    stamps = [FileStamp.of(file.name, file.stat()) for file in files]
    return Found(variant.name, root, stamps, (), partial(_read, variant, place))


def _read(
    variant: Variant, place: Path, image_size: int, channels: int | None, how: Fit = "crop"
) -> Listing:
    """Unpickle every file and check it; the images stay as they are stored until `fill`. how: of no
    effect, as they are square."""
    contents: Iterable[tuple[str, bytes]]
    if place.is_dir():
        contents = ((file, _content(place / file)) for file in variant.files)
        where = {file: str(place / file) for file in variant.files}
    else:
        contents = members(place, variant)
        where = {file: f"{file} in {place}" for file in variant.files}
    raw = {file: unpickle(data, where[file]) for file, data in contents}
    classes = _classes(variant, raw[variant.meta], where[variant.meta])
    batches = [
        _batch(variant, raw[file], len(classes), where[file])
        for file in (*variant.train, variant.test)
    ]
    sizes = [len(labels) for _, labels, _ in batches]
    images = [data for data, _, _ in batches]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    *train, test = [names for _, _, names in batches]
    ids = [*_ids(variant.train, train), *_ids((variant.test,), [test])]

    def fill(start: int, out: npt.NDArray[np.uint8]) -> dict[int, str]:
        stop = start + len(out)
        slices = [
            data[max(start - first, 0) : max(stop - first, 0)]
            for data, first in zip(images, starts, strict=True)
        ]
        stored = np.concatenate(slices).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        if out.shape == stored.shape:
            out[:] = stored
        else:
            for row, image in enumerate(np.ascontiguousarray(stored)):
                out[row] = pixels(fit(plain(Image.fromarray(image), out.shape[3]), image_size))
        return {}

    return Listing(
        labels=np.concatenate([labels for _, labels, _ in batches]),
        ids=np.array(ids),
        classes=classes,
        parts=(("train", sum(sizes[:-1])), ("test", sizes[-1])),
        image_size=image_size,
        channels=channels or 3,
        fill=fill,
    )


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ResightError(f"{path} is larger than any file of the official data{AGAIN}")
    return content


def _classes(variant: Variant, meta: dict[str, Any], where: str) -> tuple[str, ...]:
    names = meta.get(variant.classes)
    if not isinstance(names, list) or not names or not all(map(_is_name, names)):
        raise ResightError(f"{where} has no list '{variant.classes}': download the data again")
    return tuple(text(name) for name in names)


def _batch(
    variant: Variant, raw: dict[str, Any], classes: int, where: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]:
    """Images (N, 3072), labels (N,) and names of one batch; ResightError if malformed."""
    data, names = raw.get("data"), raw.get("filenames")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        shape = (
            f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        )
        raise ResightError(f"{where}: 'data' must be uint8 (N, 3072), not {shape}{AGAIN}")
    stored = raw.get(variant.labels)
    if not isinstance(stored, list) or not all(type(label) is int for label in stored):
        raise ResightError(f"{where}: '{variant.labels}' must be a list of integers{AGAIN}")
    if len(stored) != len(data) or not stored:
        raise ResightError(f"{where}: {len(data)} images but {len(stored)} labels{AGAIN}")
    if min(stored) < 0 or max(stored) >= classes:
        wrong = next(label for label in stored if not 0 <= label < classes)
        raise ResightError(f"{where}: label {wrong} is not in 0…{classes - 1}{AGAIN}")
    if not isinstance(names, list) or len(names) != len(data) or not all(map(_is_name, names)):
        names = []
    return (
        data,
        np.array(stored, dtype=np.int64),
        [text(name) for name in names] or [""] * len(data),
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str | bytes)


def _ids(files: tuple[str, ...], names: list[list[str]]) -> list[str]:
    """The stored file names of a split if they are unique, else `data_batch_1/00012`."""
    stored = [name for batch in names for name in batch]
    if len(set(stored)) == len(stored) and "" not in stored:
        return stored
    return [
        f"{file}/{number:05d}"
        for file, batch in zip(files, names, strict=True)
        for number in range(len(batch))
    ]
