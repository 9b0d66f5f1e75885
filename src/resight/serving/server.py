"""uvicorn with this project's limits, that says when it is there and ends without an error."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from resight.serving.limits import Connection

BACKLOG = 128  # connections that the system holds until they are taken
END_SECONDS = 5  # for running requests, after SIGTERM or Ctrl-C
KEEP_SECONDS = 5  # for which a connection without a request is kept


class Server(uvicorn.Server):
    """`run([listener])` serves `app` until SIGTERM or Ctrl-C, or until `should_exit` is set."""

    def __init__(self, app: ASGIApp, announce: Callable[[], object]) -> None:
        """announce: called once connections are taken."""
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # `Guard` reports errors
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_SECONDS,
                timeout_graceful_shutdown=END_SECONDS,
            )
        )
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's, which raises the signal again when all is done."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
