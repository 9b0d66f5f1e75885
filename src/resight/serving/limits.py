"""How much a client may send, how long it may take, and how many there may be at a time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import h11
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from resight.serving.guard import HEADERS
from resight.serving.lines import Line, busy, refusal

MAX_BYTES = 20_000_000  # of a request's body
MAX_BYTES_HELD = 256_000_000  # of all bodies together
MAX_REQUESTS = 64  # answered at a time
MAX_CONNECTIONS = 256
BODY_SECONDS = 20.0  # for a body to arrive
HEAD_SECONDS = 15.0  # for a request to be made, from the connection or the last answer on
ANSWER_SECONDS = 120.0  # for a request, from its head to the end of its answer


class Limits:
    """An ASGI app that reads a POST's body, within the limits, before the app below it sees the
    request. Other methods have none, and only connections are limited for them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running = 0
        self._held = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            refused = await self._received(scope, receive, body)
            if refused is None and self._running >= MAX_REQUESTS:
                refused = busy(f"{MAX_REQUESTS} requests are being answered")
            if refused is None:
                await self._answer(bytes(body), scope, receive, send)
            else:
                await refused(scope, receive, send)
        except ClientDisconnect:
            return
        finally:
            self._held -= len(body)

    async def _received(self, scope: Scope, receive: Receive, body: bytearray) -> Line | None:
        """None once the body is whole, else why it was refused. Raises `ClientDisconnect`."""
        length = int(dict(scope["headers"]).get(b"content-length", 0))
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more and length <= MAX_BYTES:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part = message.get("body", b"")
                    if self._held + len(part) > MAX_BYTES_HELD:
                        return busy("too many images are being received")
                    body += part
                    self._held += len(part)
                    length = max(length, len(body))
                    more = message.get("more_body", False)
        except TimeoutError:
            return refusal(408, f"the request took longer than {BODY_SECONDS:.0f} s to arrive")
        if length > MAX_BYTES:
            return refusal(413, f"the request is larger than the limit of {MAX_BYTES:,} bytes")
        return None

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        self._running += 1
        try:
            await self._app(scope, again, send)
        finally:
            self._running -= 1


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
