"""A small run with a server of its own, and how it is asked."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import resight
from helpers import pictures
from resight.progress import Quiet
from resight.recipe.recipe import Recipe

SIDE = 12
CLASSES = ("cat", "<b>dog", "eel")
RECIPE = Recipe().with_changes(
    {
        "model.width": 8,
        "data.image_size": SIDE,
        "data.val_fraction": 0.2,
        "augment.crop_pad_px": 1,
        "augment.cutout_px": 2,
        "train.batch_size": 16,
        "train.last_batch": "drop",
        "schedule.epochs": 2,
        "schedule.peak_epoch": 1.0,
        "schedule.lr_max": 0.01,
        "schedule.lr_min": 0.001,
    }
)


def train_photos(root: Path, **options: Any) -> resight.Run:
    """A run on photos of 40×24 px, in `root`/photos: 14 of each class to train on, 4 to test."""
    images = pictures(18 * len(CLASSES), size=40)
    for i, image in enumerate(images):
        split = "test" if i // len(CLASSES) < 4 else "train"
        label = i % len(CLASSES)
        image[:, :, label] = image[:, :, label] // 2 + 100
        path = root / "photos" / split / CLASSES[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:24]).save(path)
    options = {"reporter": Quiet(), "precision": "fp32", "report": False, **options}
    return resight.train(RECIPE, root / "photos", out=root / "run", **options)


def png(width: int = 30, height: int = 20, *, seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, options.pop("format", "PNG"), **options)
    return content.getvalue()


def form(*files: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of files sent as curl's -F does."""
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files
    ]
    return b"".join([*parts, b"--edge--\r\n"]), {
        "Content-Type": "multipart/form-data; boundary=edge"
    }


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.body.endswith(b"\n")
        assert self.body.count(b"\n") == 1, "one line"
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert self.json.keys() == {"error"}
        return str(self.json["error"])


def ask(
    port: int,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    *,
    method: str | None = None,
) -> Answer:
    """GET, or POST where there is a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        method = method or ("GET" if body is None else "POST")
        connection.putrequest(
            method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True
        )
        chunked = body is not None and not isinstance(body, bytes)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body, encode_chunked=chunked)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    port: int
    served: Any
    server: Any

    def ask(self, path: str, body: Any = None, headers: Any = None, **options: Any) -> Answer:
        return ask(self.port, path, body, headers, **options)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Let the net's thread, and with it the others, have their turn until something holds."""
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline
            self.served.batcher.work(lambda: None).result(60)

    def wait_for_neighbours(self) -> None:
        self.wait_until(lambda: self.served.neighbours.ready)


@contextlib.contextmanager
def running(run: resight.Run, host: str = "127.0.0.1", **options: Any) -> Iterator[Running]:
    from resight.serving.app import make_app
    from resight.serving.serve import listen
    from resight.serving.served import opened
    from resight.serving.server import Server

    options = {"device": "auto", "report": True, "reporter": Quiet(), **options}
    data = options.pop("data", None)
    with opened(run, data, **options) as served, contextlib.closing(listen(host, 0)) as listener:
        port = listener.getsockname()[1]
        there = threading.Event()
        server = Server(make_app(served, host), there.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert there.wait(60)
            yield Running(port, served, server)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
