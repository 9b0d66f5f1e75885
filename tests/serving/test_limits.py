"""How much, how long and how many: the limits by themselves, without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from resight.serving import limits
from resight.serving.guard import HEADERS, Guard
from resight.serving.limits import Limits

Heard = list[dict[str, Any]]
POST = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"127.0.0.1:1")]}


def sends(*parts: bytes, then: Callable[[], Awaitable[Any]] | None = None) -> Any:
    """A client that sends a body in parts, all of it unless something comes `then`."""
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        if waiting:
            part = waiting.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(waiting or then)}
        if then is not None:
            await then()
        return {"type": "http.disconnect"}

    return receive


async def answered(app: Any, receive: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> Heard:
    heard: Heard = []

    async def send(message: dict[str, Any]) -> None:
        heard.append(message)

    await app({**POST, "headers": [*POST["headers"], *headers]}, receive, send)
    return heard


def refused(heard: Heard) -> tuple[int, str, dict[bytes, bytes]]:
    start, body = heard
    return start["status"], json.loads(body["body"])["error"], dict(start["headers"])


class Below:
    """The app below: keeps the bodies that it is sent; `enter` is awaited before it answers."""

    def __init__(self, enter: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.bodies: list[bytes] = []
        self._enter = enter

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(message["body"])
        if self._enter is not None:
            await self._enter()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})


def test_a_body_in_parts_arrives_whole() -> None:
    below = Below()
    heard = asyncio.run(answered(Limits(below), sends(b"a", b"", b"bc")))
    assert heard[0]["status"] == 200
    assert below.bodies == [b"abc"]


@pytest.mark.parametrize("said", [True, False])
def test_a_body_that_is_too_large_is_refused(said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 3)
    below = Below()
    app = Limits(below)
    length = [(b"content-length", b"4")] if said else []
    parts = sends() if said else sends(b"ab", b"cd")  # one that says so sends nothing
    status, why, _ = refused(asyncio.run(answered(app, parts, length)))
    assert (status, why) == (413, "the request is larger than the limit of 3 bytes")
    assert asyncio.run(answered(app, sends(b"abc")))[0]["status"] == 200
    assert below.bodies == [b"abc"]


def test_a_slow_body_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.01)
    slow = sends(b"a", then=asyncio.Event().wait)
    status, why, _ = refused(asyncio.run(answered(Limits(Below()), slow)))
    assert status == 408
    assert "longer than 0 s" in why


def test_who_leaves_while_sending_is_not_answered() -> None:
    async def nothing() -> None:
        pass

    below = Below()
    assert asyncio.run(answered(Limits(below), sends(b"a", then=nothing))) == []
    assert below.bodies == []


def test_requests_beyond_the_limit_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_REQUESTS", 2)

    async def three() -> None:
        gate, inside = asyncio.Event(), asyncio.Semaphore(0)

        async def enter() -> None:
            inside.release()
            await gate.wait()

        app = Limits(Below(enter))
        first = [asyncio.create_task(answered(app, sends(b"a"))) for _ in range(2)]
        for _ in first:
            await inside.acquire()
        status, why, headers = refused(await answered(app, sends(b"b")))
        assert (status, headers[b"retry-after"]) == (503, b"1")
        assert why == "2 requests are being answered: try again in a second"
        gate.set()
        assert [(await task)[0]["status"] for task in first] == [200, 200]
        assert (await answered(app, sends(b"c")))[0]["status"] == 200

    asyncio.run(three())


def test_bodies_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES_HELD", 5)

    async def two() -> None:
        gate, inside = asyncio.Event(), asyncio.Event()

        async def enter() -> None:
            inside.set()
            await gate.wait()

        app = Limits(Below(enter))
        first = asyncio.create_task(answered(app, sends(b"abcd")))
        await inside.wait()
        assert refused(await answered(app, sends(b"a", b"b")))[0] == 503
        gate.set()
        assert (await first)[0]["status"] == 200
        assert (await answered(app, sends(b"abcde")))[0]["status"] == 200  # all is given back

    asyncio.run(two())


def test_an_error_of_the_app_reaches_the_terminal_alone(capsys: pytest.CaptureFixture[str]) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("/secret/path")

    heard = asyncio.run(answered(Guard(fails, "127.0.0.1"), sends(b"a")))
    status, why, headers = refused(heard)
    assert (status, why) == (500, "an error of the server: its terminal shows it")
    assert {name.lower().encode() for name in HEADERS} <= headers.keys()
    assert "RuntimeError: /secret/path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8322", True),
        ("localhost:9000", True),  # a forwarded port
        ("LOCALHOST", True),
        ("[::1]:8322", True),
        ("192.168.1.7", True),  # an address can't be bound to another one
        ("box.lan", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:8322", False),
        ("127.0.0.1@evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_only_hosts_that_are_meant_are_served(host: str, allowed: bool) -> None:
    app = Guard(Below(), "box.lan")
    scope = {**POST, "method": "GET", "headers": [(b"host", host.encode())]}
    assert (app._refusal(scope) is None) == allowed


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # a program
        ({"origin": "http://127.0.0.1:1"}, True),
        ({"origin": "https://127.0.0.1:1"}, True),
        ({"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-origin"}, True),
        ({"origin": "http://127.0.0.1:2"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
    ],
)
def test_only_its_own_page_and_programs_may_send(headers: dict[str, str], allowed: bool) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    heard = asyncio.run(answered(Guard(Limits(Below()), "127.0.0.1"), sends(b"a"), pairs))
    assert heard[0]["status"] == (200 if allowed else 403)
