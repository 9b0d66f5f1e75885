"""Downloads, against a server on this machine: resumed, checked, refused, and in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import pickle
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from resight.data import download as module
from resight.data.cifar import CIFAR10, VARIANTS
from resight.data.download import data_dir, download
from resight.data.sources import load_data
from resight.errors import ResightError


def archive_bytes(**changed: tarfile.TarInfo | bytes) -> bytes:
    """A small cifar-10-python.tar.gz; `changed`: other content, or another member, for a file."""
    rng = np.random.default_rng(0)
    meta = {b"label_names": [b"cat", b"dog"]}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in CIFAR10.files:
            batch = {
                b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8),
                b"labels": [0, 1, 0, 1],
            }
            data = changed.get(name) or pickle.dumps(meta if name == CIFAR10.meta else batch)
            member = tarfile.TarInfo(f"{CIFAR10.folder}/{name}")
            if isinstance(data, tarfile.TarInfo):
                member, data = data, b"" if data.issym() else b"evil"
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


ARCHIVE = archive_bytes()


class Server(ThreadingHTTPServer):
    """Serves `content` for every name; what it is told to do wrong, it does."""

    content = ARCHIVE
    ranges = True
    cut_at: int | None = None
    status: int | None = None
    silent = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.sent = 0
        self.heard_enough = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        server.requests.append((self.path, asked))
        if server.silent:
            server.heard_enough.wait(10)
        if server.status:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and server.ranges and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:] if server.ranges else server.content
        self.send_response(206 if asked and server.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: server.cut_at]
        server.sent += len(body)  # before it goes: the client may be done before this thread is
        with contextlib.suppress(BrokenPipeError):  # a client that no longer waits
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, server):
    monkeypatch.setenv("RESIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RESIGHT_MIRROR", server.url)
    monkeypatch.setenv("no_proxy", "*")
    expect(monkeypatch, ARCHIVE)
    return tmp_path / "data"


def expect(monkeypatch, content: bytes) -> None:
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(VARIANTS, "cifar10", dataclasses.replace(CIFAR10, md5=md5))


def error_of(**options) -> str:
    with pytest.raises(ResightError) as caught:
        download("cifar10", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(place) -> list[str]:
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def test_downloaded_unpacked_and_ready(server, place):
    calls = []
    folder = download("cifar10", progress=lambda *call: calls.append(call))
    assert folder == place / "cifar-10-batches-py"
    assert sorted(path.name for path in folder.iterdir()) == sorted(CIFAR10.files)
    assert left(place) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
    assert (place / CIFAR10.archive).read_bytes() == ARCHIVE
    assert server.requests == [("/data/cifar-10-python.tar.gz", None)]
    assert calls[-1] == (len(ARCHIVE), len(ARCHIVE))
    data = load_data("cifar10", image_size=32)
    assert (len(data.train), len(data.test)) == (20, 4)
    assert data.classes == ("cat", "dog")
    assert data.train.ids[4] == "data_batch_2/00000"


def test_what_is_there_is_not_downloaded_again(server, place):
    folder = download("cifar10")
    assert download("cifar10") == folder
    (folder / "test_batch").unlink()
    download("cifar10")
    assert (folder / "test_batch").exists()
    (place / CIFAR10.archive).unlink()
    assert download("cifar10") == folder
    assert len(server.requests) == 1


def test_an_archive_put_there_by_hand(server, place):
    place.mkdir()
    (place / CIFAR10.archive).write_bytes(ARCHIVE)
    assert (download("cifar10") / "test_batch").exists()
    assert server.requests == []


def test_a_wrong_archive_is_replaced(server, place):
    place.mkdir()
    (place / CIFAR10.archive).write_bytes(b"half of it")
    assert (download("cifar10") / "test_batch").exists()
    assert (place / CIFAR10.archive).read_bytes() == ARCHIVE


def test_an_interrupted_download_goes_on(server, place):
    server.cut_at = 1000
    message = error_of()
    assert f"the connection ended after 1,000 of {len(ARCHIVE):,} bytes" in message
    assert "try again, which resumes where it stopped" in message
    assert left(place) == ["cifar-10-python.tar.gz.part"]
    server.cut_at = None
    calls = []
    download("cifar10", progress=lambda *call: calls.append(call))
    assert server.requests[-1][1] == "bytes=1000-"
    assert server.sent == len(ARCHIVE)
    assert calls[0][0] > 1000
    assert calls[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert left(place) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("wrong")])
def test_an_error_in_progress_is_no_failed_download(server, place, error):
    def fail(done, total):
        raise error

    with pytest.raises(type(error)) as caught:
        download("cifar10", progress=fail)
    assert caught.value is error
    assert left(place) == ["cifar-10-python.tar.gz.part"]
    assert (download("cifar10") / "test_batch").exists()


def test_a_server_without_ranges_starts_over(server, place):
    server.cut_at = 1000
    error_of()
    server.cut_at, server.ranges = None, False
    calls = []
    download("cifar10", progress=lambda *call: calls.append(call))
    assert calls[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert server.sent == 1000 + len(ARCHIVE)
    assert (place / CIFAR10.archive).read_bytes() == ARCHIVE


def test_a_whole_part_is_not_downloaded_again(server, place):
    place.mkdir()
    (place / f"{CIFAR10.archive}.part").write_bytes(ARCHIVE)
    download("cifar10")
    assert server.sent == 0
    assert (place / CIFAR10.archive).read_bytes() == ARCHIVE


def test_a_part_of_another_file_is_removed_by_the_md5(server, place):
    place.mkdir()
    (place / f"{CIFAR10.archive}.part").write_bytes(b"another file")
    assert "md5" in error_of()
    assert left(place) == []
    download("cifar10")


def test_a_wrong_md5_removes_the_file(server, place):
    server.content = b"a page of a hotel's network"
    message = error_of()
    expected, got = (hashlib.md5(content).hexdigest() for content in (ARCHIVE, server.content))
    assert f"(md5 expected {expected}, got {got}) and was removed" in message
    assert left(place) == []


def by_hand(place) -> str:
    return (
        f"or put cifar-10-python.tar.gz at {place / CIFAR10.archive} yourself, "
        "or use --data digits, which needs no download"
    )


def test_not_found(server, place):
    server.status = 404
    message = error_of()
    assert message.startswith(
        f"{server.url}/cifar-10-python.tar.gz could not be downloaded (HTTP 404"
    )
    assert message.endswith(by_hand(place))
    assert left(place) == []


def test_connection_refused(server, place):
    with Server() as closed:
        url = closed.url
    message = error_of(base_url=url)
    assert "could not be downloaded (Connection refused)" in message
    assert message.endswith(by_hand(place))


def test_no_answer(server, place, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    server.silent = True
    assert "could not be downloaded (no answer within 0.05 s)" in error_of()
    server.heard_enough.set()


def test_an_address_that_is_none(place, monkeypatch):
    monkeypatch.setenv("RESIGHT_MIRROR", "mirror.example.org")
    assert "could not be downloaded (unknown url type" in error_of()


def test_a_data_folder_that_cannot_be_made(place):
    place.write_text("in the way")
    assert "could not be downloaded (File exists)" in error_of()


def test_base_url_goes_before_the_mirror(server, place, monkeypatch):
    monkeypatch.setenv("RESIGHT_MIRROR", "http://127.0.0.1:9/")
    download("cifar10", base_url=f"{server.url}/elsewhere/")
    assert server.requests == [("/data/elsewhere/cifar-10-python.tar.gz", None)]


def test_an_unknown_name():
    with pytest.raises(
        ResightError, match="no data set 'cifar' to download; did you mean 'cifar10'"
    ):
        download("cifar")


@pytest.mark.parametrize("kind", ["link", "above"])
def test_members_that_would_leave_the_folder_are_not_unpacked(server, place, monkeypatch, kind):
    member = tarfile.TarInfo(f"{CIFAR10.folder}/test_batch")
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    else:
        member.name = "../../test_batch"
    server.content = archive_bytes(test_batch=member)
    expect(monkeypatch, server.content)
    assert "lacks cifar-10-batches-py/test_batch" in error_of()
    assert left(place) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
    assert left(place / "cifar-10-batches-py") == []
    assert not (place.parent / "test_batch").exists()


def test_official_addresses_and_sums(monkeypatch):
    monkeypatch.undo()
    assert module.OFFICIAL_URL == "https://www.cs.toronto.edu/~kriz"
    assert VARIANTS["cifar10"].archive == "cifar-10-python.tar.gz"
    assert VARIANTS["cifar10"].md5 == "c58f30108f718f92721af3b95e74349a"
    assert VARIANTS["cifar100"].archive == "cifar-100-python.tar.gz"
    assert VARIANTS["cifar100"].md5 == "eb9058c3a382ffc7106e4002c42a8d85"


def test_where_the_data_are(place, monkeypatch):
    assert data_dir() == place
    monkeypatch.delenv("RESIGHT_DATA")
    assert data_dir().name == "resight"
