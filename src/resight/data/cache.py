"""Decode once: tables of decoded images in the user's cache, looked up by the files' stamps.

An entry is a folder: `images.npy` (memory-mapped), `labels.npy`, `ids.npy`, `digests.npy`,
`sums.npy` and `meta.json`. It is written under a temporary name and renamed when complete. Entries
are never deleted: to free space, delete the folder `resight` in the cache folder, or parts of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs

from resight.data.table import FileStamp, Found, Progress, Table, decode_table
from resight.errors import ResightWarning
from resight.recipe.settings import Fit

FORMAT = 1  # of an entry; increment when decoding or the files change
SMALL = ("labels", "ids", "digests", "sums")
STALE_SECONDS = 24 * 3600
BEGUN = ".begun-"  # how the name of an unfinished entry starts

_publishing: dict[Path, threading.Thread] = {}


def cache_dir() -> Path:
    """`$RESIGHT_CACHE`, or the platform's cache folder for resight."""
    return Path(
        os.environ.get("RESIGHT_CACHE") or platformdirs.user_cache_dir("resight", appauthor=False)
    )


def entry_name(
    root: Path,
    stamps: Iterable[FileStamp],
    image_size: int,
    channels: int | None,
    fit: Fit = "crop",
) -> str:
    """32 hex digits: a hash of everything that determines the decoded images."""
    head = json.dumps([FORMAT, str(root), image_size, channels, *([] if fit == "crop" else [fit])])
    lines = (f"{stamp.path}\0{stamp.size}\0{stamp.mtime_ns}" for stamp in stamps)
    text = "\n".join([head, *lines])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def fetch(
    found: Found,
    *,
    image_size: int,
    channels: int | None,
    fit: Fit = "crop",
    progress: Progress | None = None,
) -> Table:
    """The decoded images of `found`: from the cache, else decoded and stored there.

    A new entry is completed in a thread, after this has returned. If the cache can't be written,
    they are kept in memory or in a file that is gone at the end, with one ResightWarning.
    """
    entry = (
        cache_dir() / "decoded" / entry_name(found.root, found.stamps, image_size, channels, fit)
    )
    if (publishing := _publishing.get(entry)) is not None:
        publishing.join()
    table = load(entry)
    if table is not None:
        return table
    listing = found.read(image_size, channels, fit)
    try:
        begun = _begin(entry.parent, listing.shape)
    except OSError as error:
        _warn(error)
        return decode_table(listing, np.zeros(listing.shape, np.uint8), progress)
    try:
        images = np.lib.format.open_memmap(begun / "images.npy", mode="r+")
        table = decode_table(listing, images, progress)
    except BaseException:
        shutil.rmtree(begun, ignore_errors=True)
        raise
    # not a daemon: the process ends after it
    thread = threading.Thread(target=_publish, args=(table, begun, entry))
    thread.start()
    _publishing[entry] = thread
    shown = images.view()
    shown.flags.writeable = False
    return replace(table, images=shown)


def settle() -> None:
    """Wait until all entries that were begun are complete."""
    for thread in list(_publishing.values()):
        thread.join()


def load(entry: Path) -> Table | None:
    """An entry's table, images memory-mapped; None if there is none. A damaged one is removed."""
    if not entry.exists():
        return None
    try:
        return _read(entry)
    except Exception:  # a truncated file can make numpy or json raise anything
        shutil.rmtree(entry, ignore_errors=True)
        return None


def _begin(parent: Path, shape: tuple[int, ...]) -> Path:
    """A new folder with an `images.npy` of zeros whose disk space is reserved.

    Reserved, because a full disk under a memory map kills the process instead of raising.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    begun = Path(tempfile.mkdtemp(prefix=BEGUN, dir=parent))
    try:
        path = begun / "images.npy"
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        size = path.stat().st_size
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(begun).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        shutil.rmtree(begun, ignore_errors=True)
        raise
    return begun


def _sweep(parent: Path) -> None:
    """Remove what killed processes left unfinished more than a day ago."""
    for begun in parent.glob(f"{BEGUN}*"):
        with contextlib.suppress(FileNotFoundError):  # its process may be finishing just now
            if time.time() - begun.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(begun, ignore_errors=True)


def _publish(table: Table, begun: Path, entry: Path) -> None:
    """Complete `begun` and rename it to `entry`; the first of two processes wins."""
    try:
        _write(table, begun)
        begun.rename(entry)
        _sync(entry.parent)
    except OSError as error:
        if load(entry) is None:
            _warn(error)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _write(table: Table, folder: Path) -> None:
    if isinstance(table.images, np.memmap):
        table.images.flush()
    small = {name: getattr(table, name) for name in SMALL}
    for name, array in small.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    meta = {
        "format": FORMAT,
        "shape": table.images.shape,
        "classes": table.classes,
        "parts": table.parts,
        "bad": list(table.bad.items()),
        "content": _content(small.values()),
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)


def _read(entry: Path) -> Table:
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    small = {name: np.load(entry / f"{name}.npy", allow_pickle=False) for name in SMALL}
    images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
    if meta["content"] != _content(small.values()) or images.dtype != np.uint8:
        raise ValueError(f"{entry} is damaged")
    if images.shape != tuple(meta["shape"]) or len(small["labels"]) != len(images):
        raise ValueError(f"{entry} is damaged")
    return Table(
        images=images,
        classes=tuple(meta["classes"]),
        parts=tuple((str(name), int(rows)) for name, rows in meta["parts"]),
        bad={int(row): str(why) for row, why in meta["bad"]},
        **small,
    )


def _content(arrays: Iterable[npt.NDArray[np.generic]]) -> str:
    """A hash of the small arrays; through the image digests it covers every pixel."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows can't open folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _warn(error: OSError) -> None:
    warnings.warn(
        f"the cache {cache_dir()} can't be written ({error.strerror or error}): images are decoded "
        "again each time; free some disk space, or point RESIGHT_CACHE to another folder",
        ResightWarning,
        stacklevel=4,
    )
