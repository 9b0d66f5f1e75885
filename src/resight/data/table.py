"""From the images found to one decoded table, whatever the source: the only decoding loop."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from resight.data.rows import DIGEST_BYTES, row_digests, row_sums
from resight.data.types import Note, Split
from resight.data.workers import WorkerLost, Workers
from resight.errors import ResightError
from resight.recipe.settings import Fit

Progress = Callable[[int, int], None]  # images done, total
ROWS_PER_TASK = 64
ROWS_IN_HAND = 8  # decoded by a thread between checks for a stop
MAX_THREADS = 8
MAX_PROCESSES = 16
MIN_ROWS_FOR_PROCESSES = 1000  # starting them takes longer than decoding fewer small images


class FileStamp(NamedTuple):
    """A file as the cache knows it: path relative to the root with '/', size in bytes, and when its
    content and its attributes last changed.

    ctime_ns, which no program can set, tells of new pixels under an old size and modification time;
    also of a chmod, after which the images are decoded once more than needed.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: str, stat: os.stat_result) -> Self:
        return cls(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@dataclass(frozen=True)
class Listing:
    """Images with labels and ids, to be decoded into rows (image_size, image_size, channels).

    `parts`: (split, rows) in the order of the rows; a single part "all" is yet to be split.
    `fill(start, out)` decodes rows `start`, `start + 1`, … into `out` (n, H, W, C), leaves
    unreadable ones zero and returns why: {row: reason}. Called from several threads. paths: the
    files of the rows, if they are in one each; fit: how these become square.
    """

    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    classes: tuple[str, ...]
    parts: tuple[tuple[str, int], ...]
    image_size: int
    channels: int
    fill: Callable[[int, npt.NDArray[np.uint8]], dict[int, str]]
    paths: Sequence[str] | None = None
    fit: Fit = "crop"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.labels), self.image_size, self.image_size, self.channels)


@dataclass(frozen=True)
class Found:
    """A data source that was recognised, not yet read.

    `read(image_size, channels, fit)` lists its images (channels None: chosen from the images); it
    is called only if the cache has no entry for `stamps`. counts: images per class by split ("all":
    yet to be split), if that is known without reading.
    """

    name: str
    root: Path
    stamps: Sequence[FileStamp]
    notes: tuple[Note, ...]
    read: Callable[[int, int | None, Fit], Listing]
    classes: tuple[str, ...] = ()
    counts: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True)
class Table:
    """Every image of a source, decoded, row by row; unreadable ones are zero and named in `bad`.

    images: uint8 (N, H, W, C), maybe a read-only memory map; labels: int64 (N,); ids: (N,);
    digests: uint8 (N, 16), a hash of each image; sums: int64 (N, 2, C), see `row_sums`. With the
    last two, statistics, duplicates and fingerprint of any split need no second pass over pixels.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    digests: npt.NDArray[np.uint8]
    sums: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    parts: tuple[tuple[str, int], ...]
    bad: dict[int, str]

    def split(self, rows: npt.NDArray[np.int64]) -> Split:
        """The rows (sorted) as a Split: views if they are contiguous, else copies."""
        follow = len(rows) > 0 and int(rows[-1] - rows[0]) == len(rows) - 1
        index = slice(int(rows[0]), int(rows[-1]) + 1) if follow else rows
        return Split.counted(
            self.images[index], self.labels[index], self.ids[index], self.sums[index], rows
        )

    def readable(self) -> dict[str, npt.NDArray[np.int64]]:
        """The rows of each part, without those in `bad`."""
        good = np.ones(len(self.labels), dtype=bool)
        good[list(self.bad)] = False
        starts = np.cumsum([0, *(rows for _, rows in self.parts)])
        return {
            part: start + np.flatnonzero(good[start : start + rows])
            for (part, rows), start in zip(self.parts, starts[:-1], strict=True)
        }


def in_memory(listing: Listing) -> npt.NDArray[np.uint8]:
    """Zeros for the images of `listing`. Raises `ResightError` if they don't fit."""
    try:
        return np.zeros(listing.shape, np.uint8)
    except MemoryError:
        raise ResightError(
            f"{len(listing.labels):,} images of {listing.image_size:,} px take "
            f"{math.prod(listing.shape) / 1e9:,.0f} GB, more than this machine has: choose a "
            "smaller --image-size"
        ) from None


def decode_table(
    listing: Listing, images: npt.NDArray[np.uint8], progress: Progress | None = None
) -> Table:
    """Decode every image of `listing` into `images` (`listing.shape`): many files into a memory map
    in processes, everything else in threads.

    Ctrl-C, or an exception in `progress`, takes effect after the few images being decoded.
    """
    total = len(listing.labels)
    digests = np.zeros((total, DIGEST_BYTES), dtype=np.uint8)
    sums = np.zeros((total, 2, listing.channels), dtype=np.int64)
    bad: dict[int, str] = {}
    stopped = threading.Event()

    def in_process(rows: slice) -> dict[int, str]:
        assert workers is not None
        assert listing.paths is not None
        done = workers.decode(listing.paths[rows], rows.start, listing.fit)
        digests[rows], sums[rows] = done.digests, done.sums
        return done.bad

    def here(rows: slice) -> dict[int, str]:
        unreadable: dict[int, str] = {}
        for first in range(rows.start, rows.stop, ROWS_IN_HAND):
            if stopped.is_set():
                return {}
            out = images[first : min(first + ROWS_IN_HAND, rows.stop)]
            unreadable |= listing.fill(first, out)
        digests[rows] = row_digests(images[rows])
        sums[rows] = row_sums(images[rows])
        return unreadable

    def task(start: int) -> tuple[int, dict[int, str]]:
        rows = slice(start, min(start + ROWS_PER_TASK, total))
        if workers is not None:
            with contextlib.suppress(WorkerLost):
                return rows.stop - start, in_process(rows)
        return rows.stop - start, here(rows)

    # Loading Pillow's readers is not thread-safe: a second thread may miss some of them.
    Image.init()
    done = 0
    with contextlib.ExitStack() as held:
        workers = None
        if (file := _file_for_processes(listing, images)) is not None:
            workers = held.enter_context(Workers(file, cores(MAX_PROCESSES)))
        if workers is None and threading.current_thread() is threading.main_thread():
            held.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # Pillow's warnings about files; failures are in `bad`
        pool = held.enter_context(
            ThreadPoolExecutor(cores(MAX_PROCESSES if workers else MAX_THREADS))
        )
        try:
            tasks = [pool.submit(task, start) for start in range(0, total, ROWS_PER_TASK)]
            for finished in as_completed(tasks):
                count, unreadable = finished.result()
                bad.update(unreadable)
                done += count
                if progress is not None:
                    progress(done, total)
        except BaseException:
            stopped.set()
            if workers is not None:
                workers.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return Table(
        images=images,
        labels=listing.labels,
        ids=listing.ids,
        digests=digests,
        sums=sums,
        classes=listing.classes,
        parts=listing.parts,
        bad=dict(sorted(bad.items())),
    )


def _file_for_processes(listing: Listing, images: npt.NDArray[np.uint8]) -> Path | None:
    """The file that processes can decode `listing` into; None if threads are to do it."""
    if not isinstance(images, np.memmap) or images.filename is None or cores(2) == 1:
        return None
    if ImageFile.LOAD_TRUNCATED_IMAGES or getattr(sys, "frozen", False):
        return None  # set in this process alone; no interpreter to start
    many = listing.paths is not None and len(listing.paths) >= MIN_ROWS_FOR_PROCESSES
    return Path(images.filename) if many else None


@contextlib.contextmanager
def decoding_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that decode images; Pillow's warnings about files are ignored where they can be."""
    Image.init()  # loading Pillow's readers is not thread-safe: a second thread may miss some
    with warnings.catch_warnings(), ThreadPoolExecutor(cores(MAX_THREADS)) as pool:
        if threading.current_thread() is threading.main_thread():
            warnings.simplefilter("ignore")
        yield pool


def cores(most: int) -> int:
    """The number of cores of this process, at most `most`."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, most)


def fingerprint(table: Table, splits: dict[str, npt.NDArray[np.int64]]) -> str:
    """32 hex digits that depend on pixels, labels, ids, classes, splits; not on their location."""
    head = [table.images.shape[1:], table.classes, {name: len(splits[name]) for name in splits}]
    digest = hashlib.blake2b(json.dumps(head).encode(), digest_size=16)
    for rows in splits.values():
        digest.update(table.digests[rows].tobytes())
        digest.update(table.labels[rows].astype("<i8").tobytes())
        digest.update("\0".join(table.ids[rows].tolist()).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def shared_images(
    table: Table, rows: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> list[tuple[int, int]]:
    """(row, other) for every one of `others` whose pixels are exactly those of one of `rows`."""
    first: dict[bytes, int] = {}
    for row in rows.tolist():
        first.setdefault(table.digests[row].tobytes(), row)
    keys = ((first.get(table.digests[other].tobytes()), other) for other in others.tolist())
    return [(row, other) for row, other in keys if row is not None]
