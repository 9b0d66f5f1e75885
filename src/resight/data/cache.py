"""Decode once: tables of decoded images in the user's cache, looked up by the files' stamps.

An entry is a folder: `images.npy` (memory-mapped), `labels.npy`, `ids.npy`, `digests.npy`,
`sums.npy` and `meta.json`, which has the checksums of the others and its own. It is written under a
temporary name and renamed when complete. Every byte is checked when an entry is loaded; one that is
damaged is removed, with a warning, and the images are decoded again. Others are never deleted: to
free space, delete the folder `resight` in the cache folder, or parts of it.
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
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from resight.data.places import own_folder
from resight.data.table import FileStamp, Found, Progress, Table, decode_table, in_memory
from resight.errors import ResightWarning, first_line
from resight.recipe.settings import Fit

FORMAT = 2  # of an entry; increment when decoding or the files change
SMALL = ("labels", "ids", "digests", "sums")
PAGE_BYTES, BLOCK_BYTES = 1 << 12, 1 << 22  # of `checksum`
STALE_SECONDS = 24 * 3600
BEGUN = ".begun-"  # how the name of an unfinished entry starts

_publishing: dict[Path, threading.Thread] = {}


def cache_dir() -> Path:
    """`$RESIGHT_CACHE`, or the platform's cache folder for resight."""
    return own_folder("RESIGHT_CACHE", platformdirs.user_cache_dir)


def entry_name(
    root: Path,
    stamps: Iterable[FileStamp],
    image_size: int,
    channels: int | None,
    fit: Fit = "crop",
) -> str:
    """32 hex digits: a hash of everything that determines the decoded images."""
    head = json.dumps([FORMAT, str(root), image_size, channels, *([] if fit == "crop" else [fit])])
    lines = ("\0".join(map(str, stamp)) for stamp in stamps)
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

    A new entry is completed in a thread, after this has returned. If the cache can't be read or
    written, they are kept in memory or in a file that is gone at the end, with one ResightWarning.
    """
    entry = (
        cache_dir() / "decoded" / entry_name(found.root, found.stamps, image_size, channels, fit)
    )
    if (publishing := _publishing.get(entry)) is not None:
        publishing.join()
    unusable: OSError | None = None
    try:
        table = load(entry)
    except OSError as error:
        table, unusable = None, error
    if table is not None:
        return table
    listing = found.read(image_size, channels, fit)
    try:
        if unusable is not None:
            raise unusable
        begun, images = _begin(entry.parent, listing.shape)
    except OSError as error:
        _warn(error)
        return decode_table(listing, in_memory(listing), progress)
    try:
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
    """An entry's table, images memory-mapped; None if there is none. A damaged one is removed, with
    a ResightWarning. Raises OSError if the cache can't be searched or the entry not be opened."""
    if not entry.exists():
        return None
    try:
        return _read(entry)
    except PermissionError:
        raise
    except Exception as error:  # a truncated file can make numpy or json raise anything
        warnings.warn(
            f"the cached images in {entry} are damaged ({first_line(error)}): they are not used "
            "but decoded again; if this comes back, check that disk",
            ResightWarning,
            stacklevel=3,
        )
        shutil.rmtree(entry, ignore_errors=True)
        return None


def checksum(path: Path) -> str:
    """32 hex digits that any change of up to three bits of a file changes, and of more bits almost
    any: of each block, the sums of its 64-bit words by page and by place in the page, hashed.

    For damage, not for forgery. The sums run at the speed of memory: 184 MB in 0.02 s, where CRC-32
    takes 0.07 s.
    """
    digest = hashlib.blake2b(digest_size=16)
    into = bytearray(BLOCK_BYTES)
    block = np.frombuffer(into, "<u8").reshape(-1, PAGE_BYTES // 8)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(into):
            into[count:] = bytes(BLOCK_BYTES - count)
            digest.update(count.to_bytes(8, "little"))
            for axis in (0, 1):
                digest.update(block.sum(axis, dtype="<u8").tobytes())
    return digest.hexdigest()


def _begin(parent: Path, shape: tuple[int, ...]) -> tuple[Path, npt.NDArray[np.uint8]]:
    """A new folder with an `images.npy` of zeros whose disk space is reserved, and its map.

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
        return begun, np.lib.format.open_memmap(path, mode="r+")
    except OSError:
        shutil.rmtree(begun, ignore_errors=True)
        raise


def _sweep(parent: Path) -> None:
    """Remove what killed processes left unfinished more than a day ago."""
    for begun in parent.glob(f"{BEGUN}*"):
        with contextlib.suppress(FileNotFoundError):  # its process may be finishing just now
            if time.time() - begun.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(begun, ignore_errors=True)


def _publish(table: Table, begun: Path, entry: Path) -> None:
    """Complete `begun` and rename it to `entry`; the first of two processes wins."""
    try:
        _write(table, begun, entry.name)
        begun.rename(entry)
        _sync(entry.parent)
    except OSError as error:
        if not os.path.isdir(entry):  # noqa: PTH112 (Path's own may raise an OSError)
            _warn(error)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _write(table: Table, folder: Path, name: str) -> None:
    """Complete the entry `name` in `folder`, where its images are."""
    if isinstance(table.images, np.memmap):
        table.images.flush()
    for array in SMALL:
        np.save(folder / f"{array}.npy", getattr(table, array), allow_pickle=False)
    meta = {
        "entry": name,
        "classes": table.classes,
        "parts": table.parts,
        "bad": list(table.bad.items()),
        "checksums": {array: checksum(folder / f"{array}.npy") for array in (*SMALL, "images")},
    }
    meta["own"] = _hash(meta)
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)


def _read(entry: Path) -> Table:
    """Raises anything for a damaged entry."""
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    if meta.pop("own") != _hash(meta) or meta["entry"] != entry.name:
        raise ValueError("meta.json is not as it was written")
    for array, known in meta["checksums"].items():
        if checksum(entry / f"{array}.npy") != known:
            raise ValueError(f"{array}.npy is not as it was written")
    return Table(
        images=np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False),
        classes=tuple(meta["classes"]),
        parts=tuple((str(name), int(rows)) for name, rows in meta["parts"]),
        bad={int(row): str(why) for row, why in meta["bad"]},
        **{array: np.load(entry / f"{array}.npy", allow_pickle=False) for array in SMALL},
    )


def _hash(meta: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(meta).encode(), digest_size=16).hexdigest()


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
        f"the cache {cache_dir()} can't be used ({error.strerror or error}): images are decoded "
        "again each time; free some disk space, or point RESIGHT_CACHE to another folder",
        ResightWarning,
        stacklevel=4,
    )
