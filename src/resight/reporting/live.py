"""`--live`: the report's page on 127.0.0.1 while the run trains."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from resight.errors import ResightError
from resight.findings import Finding
from resight.progress import Reporter, StepInfo
from resight.render.page import render_run, shown
from resight.reporting.facts import Facts, base_facts, summary_facts
from resight.runs.run import Run

PORT = 8321  # if free, so that a bookmark keeps working
LAST_LOOK_SECONDS = 5.0  # for an open page to fetch the final state
POLLED_LATELY_SECONDS = 10.0
FACTS_SECONDS = 1.0  # between two readings of the run's files, however many clients ask
MAX_CLIENTS = 16  # at a time; more are turned away
CLIENT_SECONDS = 10.0  # for which a client may send or take nothing
REQUEST_SECONDS = 60.0  # for a request and its answer in all: a byte now and then gains nothing
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src "
    "'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LiveReport:
    """A reporter that forwards everything to another one and remembers it for the page."""

    def __init__(self, run: Run, below: Reporter) -> None:
        self._run, self._below = run, below
        total = run.resolved["steps_per_epoch"]
        self._now: dict[str, Any] = {
            "state": "training",
            "epoch": 1,
            "epochs": run.recipe.schedule.epochs,
            "done": 0,
            "total": total,
            **dict.fromkeys(("loss", "accuracy", "lr", "images_per_second", "seconds_left")),
        }
        self._findings: list[dict[str, Any]] = []  # reported so far
        self._final: Facts | None = None
        self._summary = summary_facts(run)  # builds the net: here, not in a server thread
        self._polled = -POLLED_LATELY_SECONDS
        self._seen_final = threading.Event()
        self._reading = threading.Lock()
        self._read: Facts | None = None  # of the run's files
        self._read_until = 0.0

    def say(self, line: str) -> None:
        self._below.say(line)

    def counting(self, what: str) -> Callable[[int, int | None], None]:
        return self._below.counting(what)

    def step(self, info: StepInfo) -> None:
        self._now = {"state": "training", **dataclasses.asdict(info)}
        self._below.step(info)

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        self._below.epoch(row, epochs)

    def finding(self, finding: Finding) -> None:
        self._findings.append(dataclasses.asdict(finding))
        self._below.finding(finding)

    def close(self) -> None:
        self._below.close()

    def finish(self, facts: Facts, *, state: Literal["finished", "stopped"]) -> None:
        """Take the facts of the finished report, which the page shows last."""
        self._now["state"] = state
        self._final = facts

    def facts(self) -> Facts:
        """The facts of the run at this moment; what its files say, at most a second ago."""
        self._polled = time.monotonic()
        if self._final is not None:
            self._seen_final.set()
            return {**self._final, "live": self._now}
        with self._reading:
            if self._read is None or self._polled > self._read_until:
                self._read = base_facts(self._run)
                self._read_until = self._polled + FACTS_SECONDS
            known = self._read
        return {
            **known,
            "summary": self._summary,
            "findings": self._findings,
            "live": self._now,
        }

    def wait_for_last_look(self) -> None:
        """Give an open page a few seconds to fetch the final state."""
        if self._final is not None and time.monotonic() - self._polled < POLLED_LATELY_SECONDS:
            self._seen_final.wait(LAST_LOOK_SECONDS)


@contextlib.contextmanager
def serve(run: Run, below: Reporter, *, port: int = PORT) -> Iterator[tuple[LiveReport, str]]:
    """A live report and its address, served until the block exits."""
    live = LiveReport(run, below)
    server = _bind(live, port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield live, f"http://127.0.0.1:{server.server_port}/"
        live.wait_for_last_look()
    finally:
        server.shutdown()
        server.server_close()


def _bind(live: LiveReport, port: int) -> ThreadingHTTPServer:
    class Handler(_Handler):
        report = live

    try:
        return _Server(("127.0.0.1", port), Handler)
    except OSError:  # in use, perhaps by another run's page
        return _Server(("127.0.0.1", 0), Handler)


class _Server(ThreadingHTTPServer):
    """Serves a few clients at a time: threads and file handles are the training's."""

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self._free = threading.BoundedSemaphore(MAX_CLIENTS)
        self._since: dict[socket.socket, float] = {}  # when each of the clients came
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            self._since[request] = time.monotonic()
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self._since[request]
            self._free.release()

    def service_actions(self) -> None:
        """Cut off, twice a second, those that have been there for too long."""
        latest = time.monotonic() - REQUEST_SECONDS
        for request, since in list(self._since.items()):
            if since <= latest:
                with contextlib.suppress(OSError):  # it has just gone
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *args: Any) -> None:
        """Do not report on the training's terminal that a page was closed while it loaded, or that
        a client was too slow."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*args)


class _Handler(BaseHTTPRequestHandler):
    report: LiveReport
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        address = f":{self.server.server_port}"  # type: ignore[attr-defined]
        if self.headers.get("Host") not in (f"127.0.0.1{address}", f"localhost{address}"):
            self.send_error(403)  # from a website whose domain name resolves to this machine
        elif self.path not in ("/", "/index.html", "/facts.json"):
            self.send_error(404)
        else:
            self._answer()

    do_HEAD = do_GET  # without the content

    def _answer(self) -> None:
        try:
            facts = self.report.facts()
        except ResightError as error:  # a file of the run was damaged or removed
            self.send_error(503, explain=str(error))
            return
        if self.path == "/facts.json":
            self._send(json.dumps(shown(facts)).encode(), "application/json")
        else:
            self._send(render_run(dict(facts)).encode(), "text/html; charset=utf-8")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def end_headers(self) -> None:  # of errors, too
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args: Any) -> None:
        """Log nothing: the terminal shows the training's progress bar."""
