"""`serve`: a run's net as a page and a JSON API on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from resight.errors import ResightError, ResightWarning
from resight.extras import require
from resight.progress import Quiet, Reporter
from resight.records import accuracy_words
from resight.runs.run import Run, load_run

if TYPE_CHECKING:
    from resight.serving.served import Served

PORT = 8322  # `--live` has 8321


def serve(
    run: str | Path | Run,
    *,
    port: int = PORT,
    host: str = "127.0.0.1",
    data: str | Path | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> None:
    """Serve a finished run's net until SIGTERM or Ctrl-C: a page to drop images on, and a JSON API
    (`docs/serve.md`).

    port: 0 for any that is free. host: the address to listen at; at others than this machine's own
    others can ask too, without a password, and see no report, which names folders. data: the run's
    images, if they have moved; without them there are no examples and no nearest training images.
    Raises `ResightError`.
    """
    require("serve")
    from resight.serving.app import make_app
    from resight.serving.served import opened
    from resight.serving.server import Server

    _check_loop()
    reporter = reporter or Quiet()
    run = run if isinstance(run, Run) else load_run(run)
    local = is_local(host)
    with contextlib.closing(listen(host, port)) as listener:
        if not local:
            warnings.warn(
                f"host {host}: whoever reaches this machine can use the net and see its examples "
                "and the nearest training images, without a password",
                ResightWarning,
                stacklevel=2,
            )
        with opened(run, data, device=device, report=local, reporter=reporter) as served:
            address = address_of(host, listener)
            announce = functools.partial(_announce, served, address, reporter)
            Server(make_app(served, host), announce).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises `ResightError`."""
    if not 0 <= port <= 65535:
        raise ResightError(f"port = {port} must be from 1 to 65535, or 0 for any that is free")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
        # Connections inherit it; without it an answer, sent in two parts, takes 40 ms more.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ResightError(
                f"port {port} is in use: give another with --port, or --port 0 for any that is free"
            ) from None
        if error.errno == errno.EACCES:
            raise ResightError(
                f"port {port} needs more rights: give one from 1024 on with --port"
            ) from None
        raise ResightError(
            f"host '{host}' is no address of this machine: must be 127.0.0.1, 0.0.0.0 (any of its "
            "addresses), or one that it has"
        ) from None


def is_local(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def address_of(host: str, listener: socket.socket) -> str:
    """The page's address; that of this machine where it listens at all of them."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"


def _announce(served: Served, address: str, reporter: Reporter) -> None:
    model = served.model
    what = f"{model['recipe']} on {model['data']}, {len(model['classes'])} classes"
    if model["test_accuracy"] is not None:
        interval, images = model["test_accuracy_95"], model["test_images"]
        what += f", {accuracy_words('test', model['test_accuracy'], interval, images)}"
    reporter.say(f"serving {what}")
    if served.missing:
        reporter.say(f"no examples and no nearest images: {served.missing}")
    reporter.say(f"page    {address} (Ctrl-C ends it)")
    reporter.say(f"call    curl -F file=@photo.jpg {address}predict")


def _check_loop() -> None:
    """Raise `ResightError` where an event loop runs: a notebook's."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise ResightError(
            "serve can't run inside a notebook's event loop: use `resight serve` in a terminal"
        )
