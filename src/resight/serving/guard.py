"""Who may ask, and what each answer forbids the browser.

A page of another site can make a browser send requests to this machine. It must not read answers:
its name could resolve to this machine (DNS rebinding), so `Host` must be an address or a name that
is meant. And it must not send images: a browser says in `Origin` where a POST comes from.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
import traceback
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resight.serving.lines import Line, refusal

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": NOTHING,  # unless the answer has its own
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
SAFE_METHODS = ("GET", "HEAD")
OWN_SITES = ("same-origin", "none")  # of Sec-Fetch-Site; none: typed into the address bar


class Guard:
    """An ASGI app that refuses strangers, adds `HEADERS` to each answer of the app below it, and
    answers 500 where that one fails."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        """host: that it was told to listen at."""
        self._app = app
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": _with_headers(message["headers"])}
            await send(message)

        try:
            refused = self._refusal(scope)
            await (self._app if refused is None else refused)(scope, receive, guarded)
        except Exception:  # nothing of it reaches the client
            traceback.print_exc(file=sys.stderr)
            if not started:
                await refusal(500, "an error of the server: its terminal shows it")(
                    scope, receive, guarded
                )

    def _refusal(self, scope: Scope) -> Line | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_meant(host):
            return refusal(
                403,
                f"host {host[:100]!r} is not served here: use the address that `resight serve` "
                "printed, or give the name with --host",
            )
        if scope["method"] not in SAFE_METHODS and not _is_own(headers, host):
            return refusal(403, "images are taken from this server's own page, or from programs")
        return None

    def _is_meant(self, host: str) -> bool:
        """Whether `host`, with or without a port, is an address or a known name."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_own(headers: Mapping[str, str], host: str) -> bool:
    """Whether a request comes from this server's page, or from a program, which names no origin."""
    if headers.get("sec-fetch-site", "none") not in OWN_SITES:
        return False
    origin = headers.get("origin")
    return origin is None or origin in (f"http://{host}", f"https://{host}")


def _with_headers(own: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """An answer's own headers, and those of `HEADERS` that it lacks."""
    there = {name.lower() for name, _ in own}
    added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    return [*own, *(pair for pair in added if pair[0] not in there)]
