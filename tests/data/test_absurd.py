"""Folders and archives that hang, never end or hold what can't be: skipped or one line."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import folder, make_data
from resight.data import cifar, digits, table
from resight.data.sources import load_data
from resight.errors import ResightError


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_links_to_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    root = folder(tmp_path / "made")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(root / "train/cat/itself.png")
    (root / "train/cat/linked.png").symlink_to(tmp_path / "pipe")
    (root / "train/dog/endless.png").symlink_to("/dev/zero")
    loaded = []
    reader = threading.Thread(target=lambda: loaded.append(load_data(root, image_size=8)))
    reader.daemon = True  # one that hangs must not keep the tests from ending
    reader.start()
    reader.join(60)
    assert loaded, "it hangs"
    assert len(loaded[0].train) == 12
    assert any(note.startswith("3 files in") for note in loaded[0].notes)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("name", ["pipe", "cifar-10-python.tar.gz"])
def test_a_pipe_is_no_data(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ResightError):
        load_data(tmp_path / name, image_size=8)


def test_folders_nested_without_end(tmp_path: Path) -> None:
    root = folder(tmp_path / "made")
    here = os.open(root / "train" / "cat", os.O_RDONLY)
    for _ in range(150):
        os.mkdir("d", dir_fd=here)  # the whole path would be too long
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(ResightError, match="more than 100 folders inside each other"):
        load_data(root, image_size=8)


@pytest.mark.parametrize("pair", [("cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("cat", " cat")])
def test_two_classes_of_one_name(pair: tuple[str, str]) -> None:
    data = make_data()
    with pytest.raises(ResightError, match="have the same name"):
        replace(data, classes=(pair[0], "dog", pair[1]))
    assert replace(data, classes=("a", "A", "b")).classes == ("a", "A", "b")  # letters


def archive(path: Path, name: str, size: int) -> Path:
    """With one member that says it has `size` bytes, and ends at once."""
    header = tarfile.TarInfo(name)
    header.size = size
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("before"))
    content = header.tobuf(tarfile.GNU_FORMAT) + b"x" * 512
    path.write_bytes(path.read_bytes()[:512] + content)
    return path


@pytest.mark.parametrize("size", [2**45, cifar.MAX_FILE_BYTES + 1])
@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", "else/where"])
def test_a_member_of_32_tb(tmp_path: Path, name: str, size: int) -> None:
    path = archive(tmp_path / "cifar-10-python.tar", name, size)
    with pytest.raises(ResightError, match="larger than anything in the official archive"):
        list(cifar.members(path, cifar.CIFAR10))


def test_a_member_that_says_more_than_there_is(tmp_path: Path) -> None:
    path = archive(tmp_path / "cifar-10-python.tar", "cifar-10-batches-py/test_batch", 10_000)
    with pytest.raises(ResightError, match="damaged or incomplete"):
        list(cifar.members(path, cifar.CIFAR10))


def test_many_members_of_which_none_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "MAX_ARCHIVE_BYTES", 5000)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number in range(20):
            member = tarfile.TarInfo(f"else/{number}")
            member.size = 1000
            tar.addfile(member, io.BytesIO(bytes(1000)))
    with pytest.raises(ResightError, match="larger than anything"):
        list(cifar.members(path, cifar.CIFAR10))


def test_images_that_no_memory_holds() -> None:
    listing = replace(digits.read(8, 1), image_size=2**26)
    with pytest.raises(ResightError, match=r"1,797 images of .* px take .* GB.*--image-size"):
        table.in_memory(listing)
