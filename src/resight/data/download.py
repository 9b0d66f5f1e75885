"""Download CIFAR-10 and CIFAR-100 into the user's data folder: resumable, all or nothing."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import platformdirs

from resight.data.cifar import VARIANTS, Variant, is_complete, members
from resight.data.places import own_folder
from resight.errors import ResightError, did_you_mean

OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz"
TIMEOUT_SECONDS = 30.0
BLOCK_BYTES = 1 << 18
RANGE_REFUSED = 416

Progress = Callable[[int, int | None], None]  # bytes done, total bytes if known


def data_dir() -> Path:
    """`$RESIGHT_DATA`, or the platform's folder for resight's data."""
    return own_folder("RESIGHT_DATA", platformdirs.user_data_dir)


def download(name: str, *, progress: Progress | None = None, base_url: str | None = None) -> Path:
    """The folder of CIFAR pickles in `data_dir()`, downloaded and unpacked if it isn't there yet.

    base_url: where the archive is; by default `$RESIGHT_MIRROR`, else the authors' page. An
    interrupted download resumes where it stopped. No network is needed if the archive is there with
    the right md5, or its folder is complete.

    Raises ResightError for an unknown name, no connection, an HTTP error or a wrong md5; what
    `progress` raises is passed on unchanged.
    """
    if name not in VARIANTS:
        raise ResightError(f"no data set '{name}' to download{did_you_mean(name, VARIANTS)}")
    variant = VARIANTS[name]
    archive, folder = data_dir() / variant.archive, data_dir() / variant.folder
    if is_complete(variant, folder) and not archive.exists():
        return folder  # placed there by the user
    base = base_url or os.environ.get("RESIGHT_MIRROR") or OFFICIAL_URL
    url = f"{base.rstrip('/')}/{variant.archive}"
    failures: list[Exception] = []

    def tell(done: int, total: int | None) -> None:
        try:
            if progress is not None:
                progress(done, total)
        except Exception as error:
            failures.append(error)
            raise

    try:
        fetch = not archive.exists() or _md5(archive) != variant.md5
        if fetch:
            _fetch(url, archive, variant.md5, tell)
        if fetch or not is_complete(variant, folder):
            _unpack(archive, variant, folder)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, ResightError) or error in failures:
            raise
        raise ResightError(
            f"{url} could not be downloaded ({_reason(error)}): try again, which resumes where it "
            f"stopped, or put {variant.archive} at {archive} yourself, or use --data digits, "
            "which needs no download"
        ) from error
    return folder


def _fetch(url: str, archive: Path, md5: str, progress: Progress) -> None:
    """Stream `url` to `archive` through a `.part` file next to it; ResightError for a wrong md5."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.part")
    _stream(url, part, progress)
    got = _md5(part)
    if got != md5:
        part.unlink()
        raise ResightError(
            f"the file from {url} is not the expected one (md5 expected {md5}, got {got}) and was "
            "removed: try again, or set RESIGHT_MIRROR to another mirror, or put the right file at "
            f"{archive}"
        )
    part.replace(archive)


def _stream(url: str, part: Path, progress: Progress) -> None:
    """Append what `part` lacks; start over if the server can't send only the rest."""
    begun = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == RANGE_REFUSED and begun:
            return  # nothing is left to send; the md5 tells whether it is complete
        raise
    with response:
        resumes = response.status == http.client.PARTIAL_CONTENT
        done = begun if resumes else 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length else None
        with part.open("ab" if resumes else "wb") as file:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _unpack(archive: Path, variant: Variant, folder: Path) -> None:
    """Only the expected files, under our own names, moved to `folder` once all are written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as begun:
        for name, data in members(archive, variant):
            Path(begun, name).write_bytes(data)
        for name in variant.files:
            Path(begun, name).replace(folder / name)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:g} s"
    strerror = cause.strerror if isinstance(cause, OSError) else None
    return strerror or str(cause) or type(cause).__name__
