"""The manifest of a run folder: the size and digest of each of its files, checked as they are read.

What the manifest will say of a file is on the disk before the file is replaced, beside what it said
before, so that a crash between the two leaves a file that the manifest knows.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resight.errors import ResightError
from resight.files import in_one_line, json_bytes, write_atomically
from resight.formats import FORMAT, NewerFormat, check_format
from resight.runs.commands import rewrite_command
from resight.validation import fault

MANIFEST = "manifest.json"
LOCK = ".manifest.lock"
LOCK_SECONDS = 60.0  # how long another process may take to note a file
Check = Callable[[], None]
MAX_BYTES = 1 << 24  # of a manifest
ATTEMPTS = 3  # at reading a file that another process replaces meanwhile


_written: dict[Path, Known] = {}  # by this process: a checkpoint need not be read to be replaced


class Known(BaseModel):
    """A file as it was written. blake2b: 16 bytes in hex."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    size_bytes: int = Field(ge=0)
    blake2b: str

    @classmethod
    def of(cls, content: bytes) -> Known:
        return cls(
            size_bytes=len(content), blake2b=hashlib.blake2b(content, digest_size=16).hexdigest()
        )


class Format(BaseModel):
    """All that is read of a manifest before its format is known."""

    model_config = ConfigDict(strict=True, extra="ignore")
    format: int = FORMAT


class Manifest(Format):
    """files: by name, what a file may be: as it was and as it is, or is being, written."""

    files: dict[str, list[Known]] = {}
    blake2b: str = ""  # of `files`; "" where there are none yet

    def own(self) -> str:
        files = {name: [known.model_dump() for known in kept] for name, kept in self.files.items()}
        return Known.of(json_bytes(files)).blake2b


def write_files(folder: Path, contents: Mapping[str, bytes], check: Check = lambda: None) -> None:
    """Replace files of a run, each in one step and in this order; the manifest knows them before.
    check: called before each of them, raises where `folder` must not be written to any more.

    Raises `ResightError` where the disk is full or can't be written to.
    """
    noted = {name: Known.of(content) for name, content in contents.items()}
    with in_one_line(folder / MANIFEST), FileLock(folder / LOCK, timeout=LOCK_SECONDS):
        check()
        manifest = _read_to_write(folder)
        for name, now in noted.items():
            before = _there(folder / name, manifest.files.get(name, []))
            manifest.files[name] = [*(known for known in before if known != now), now]
        _write(folder, manifest)
    for name, content in contents.items():
        check()
        write_atomically(folder / name, content)
        _written[folder / name] = noted[name]


def read_file(path: Path) -> bytes:
    """A file of a run. Raises `ResightError` if it is not what was written there, and
    `FileNotFoundError` if it is missing; one that no manifest lists is taken as it is."""
    for _ in range(ATTEMPTS):  # at most: another process may write it between the two readings
        known = read_manifest(path.parent).files.get(path.name)
        size = _size(path)
        if known is not None and size not in {one.size_bytes for one in known}:
            continue  # it may be larger than the memory
        content = read_bytes(path)
        if known is None or Known.of(content) in known:
            return content
    assert known is not None
    written = known[-1].size_bytes
    differs = f"{size:,} bytes, {written:,} were written"
    if size == written:
        differs = "same size, different content"
    mend = f"restore it, or remove {MANIFEST} to use the run's files as they are"
    if path.suffix == ".npz":  # predictions, which a command makes again
        mend = f"`{rewrite_command(path)}` writes it again"
    raise ResightError(
        f"{path} is not what the run wrote ({differs}): it was damaged, edited or replaced; {mend}"
    )


def forget_file(path: Path, check: Check = lambda: None) -> None:
    """Take a file off the manifest, because it will change by small steps. check: as above."""
    with in_one_line(path), FileLock(path.parent / LOCK, timeout=LOCK_SECONDS):
        check()
        manifest = _read_to_write(path.parent)
        if manifest.files.pop(path.name, None) is not None:
            _write(path.parent, manifest)


def read_manifest(folder: Path) -> Manifest:
    """An empty one if the run is older than manifests. Raises `ResightError`."""
    path = folder / MANIFEST
    try:
        if _size(path) > MAX_BYTES:
            raise _damaged(path, f"it is larger than {MAX_BYTES:,} bytes")
        content = read_bytes(path)
        check_format(Format.model_validate_json(content).format, folder)
        manifest = Manifest.model_validate_json(content)
    except FileNotFoundError:
        return Manifest()
    except ValidationError as error:
        raise _damaged(path, fault(error.errors(include_url=False)[0])) from None
    if manifest.blake2b != manifest.own():
        raise _damaged(path, "it is not what Resight wrote, by its own digest")
    return manifest


def _damaged(path: Path, why: str) -> ResightError:
    return ResightError(
        f"{path}: damaged or edited ({why}): restore it, or remove it to use the run's files as "
        "they are"
    )


def check_files(folder: Path) -> None:
    """Raise `ResightError` if a file that the manifest lists and that is there is another."""
    for name in read_manifest(folder).files:
        with contextlib.suppress(FileNotFoundError):
            read_file(folder / name)


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises `ResightError`; `FileNotFoundError` if it is
    missing."""
    with _readable(path):
        return path.read_bytes()


def _size(path: Path) -> int:
    """Of a regular file, in bytes; raises what `read_bytes` raises."""
    with _readable(path):
        return path.stat().st_size


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        if path.exists() and not path.is_file():
            raise not_a_file(path)
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResightError(f"{path}: can't be read: {error.strerror or error}") from None


def not_a_file(path: Path) -> ResightError:
    """The error for a folder, pipe or device in the place of a run's file."""
    what = "a folder" if path.is_dir() else "a pipe or a device"
    return ResightError(
        f"{path}: {what} is in the place of the run's file; move it away, and restore the file or "
        "resume"
    )


def _there(path: Path, known: list[Known]) -> list[Known]:
    """The one of `known` that the file is: after a crash it may be any of them. What this process
    wrote need not be read, if it was the last to write."""
    now = _written.get(path)
    if not known or now != known[-1]:
        try:
            now = Known.of(read_bytes(path)) if known else None
        except (FileNotFoundError, ResightError):
            return []
    return [one for one in known if one == now]


def _read_to_write(folder: Path) -> Manifest:
    """The manifest, or a new one in place of a damaged one: a training does not stop for it."""
    try:
        return read_manifest(folder)
    except NewerFormat:
        raise
    except ResightError:
        return Manifest()


def _write(folder: Path, manifest: Manifest) -> None:
    manifest.format, manifest.blake2b = FORMAT, manifest.own()
    write_atomically(folder / MANIFEST, json_bytes(manifest.model_dump()))
