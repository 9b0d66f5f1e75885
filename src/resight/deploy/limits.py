"""How much a client may send, how long it may take, and how many there may be at a time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from resight.deploy.guard import HEADERS
from resight.deploy.lines import Line, busy, refusal

MAX_BYTES = 20_000_000  # of a request's body
MAX_BYTES_HELD = 256_000_000  # of all bodies together
MAX_REQUESTS = 64  # answered at a time
MAX_CONNECTIONS = 256
BODY_SECONDS = 20.0  # for a body to arrive
HEAD_SECONDS = 15.0  # for a request to be made, from the connection or the last answer on
ANSWER_SECONDS = 120.0  # for a request, from its head to the end of its answer


class Limits:
    """An ASGI app that reads a POST's body, within the limits, before the app below it sees the
    request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running = 0
        self._held = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        try:
            if scope["method"] == "POST" and not await self._read(scope, receive, send, body):
                return
            if self._running >= MAX_REQUESTS:
                await busy(f"{MAX_REQUESTS} requests are being answered")(scope, receive, send)
                return
            self._running += 1
            try:
                whole = [{"type": "http.request", "body": bytes(body), "more_body": False}]

                async def again() -> Message:
                    return whole.pop() if whole else await receive()

                await self._app(scope, again, send)
            finally:
                self._running -= 1
        finally:
            self._held -= len(body)

    async def _read(self, scope: Scope, receive: Receive, send: Send, body: bytearray) -> bool:
        """Read into `body`; False if it was refused or the client is gone."""
        refused = await self._refusal(scope, receive, body)
        if isinstance(refused, Line):
            await refused(scope, receive, send)
        return refused is None

    async def _refusal(self, scope: Scope, receive: Receive, body: bytearray) -> Line | bool | None:
        """None once the body is whole; True if the client is gone."""
        headers = dict(scope["headers"])
        too_large = refusal(413, f"the request is larger than the limit of {MAX_BYTES:,} bytes")
        if int(headers.get(b"content-length", 0)) > MAX_BYTES:
            return too_large
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return True
                    part = message.get("body", b"")
                    if len(body) + len(part) > MAX_BYTES:
                        return too_large
                    if self._held + len(part) > MAX_BYTES_HELD:
                        return busy("too many images are being received")
                    body += part
                    self._held += len(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            return refusal(408, f"the request took longer than {BODY_SECONDS:.0f} s to arrive")
        return None


class Connection(H11Protocol):
    """uvicorn's connection, that does not wait for ever and answers what is no HTTP, and what are
    too many, in a line of JSON."""

    _patience: asyncio.TimerHandle | None = None
    _asked: Any = None  # the request that is being answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > 2 * MAX_CONNECTIONS:  # not even an answer: files are limited
            transport.abort()
        elif len(self.connections) > MAX_CONNECTIONS:
            self.app = busy(f"{MAX_CONNECTIONS} connections are open")
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and self.cycle is not self._asked:
            self._asked = self.cycle
            self._wait(ANSWER_SECONDS)

    def on_response_complete(self) -> None:
        self._wait(HEAD_SECONDS)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        headers = {**HEADERS, "Content-Type": "application/json", "Connection": "close"}
        answer = (
            h11.Response(status_code=400, headers=[*headers.items()], reason=b"Bad Request"),
            h11.Data(data=bytes(refusal(400, "not a request that HTTP/1.1 knows").body)),
            h11.EndOfMessage(),
        )
        with contextlib.suppress(h11.LocalProtocolError):  # an answer has begun
            for event in answer:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait(self, seconds: float) -> None:
        """Cut the client off in `seconds`, unless something is waited for again before."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, self.transport.abort)
