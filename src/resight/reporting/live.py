"""`--live`: the report's page on 127.0.0.1 while the run trains."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from resight.findings import Finding
from resight.progress import Reporter, StepInfo
from resight.render.page import render_run
from resight.reporting.facts import base_facts, summary_facts
from resight.runs.run import Run

PORT = 8321  # where it is free, so that a bookmark holds
LAST_LOOK_SECONDS = 5.0  # that a page which is open gets to see the end
POLLED_LATELY_SECONDS = 10.0


class LiveReport:
    """A reporter that passes everything on to another, and remembers it for the page."""

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
        self._findings: list[dict[str, Any]] = []  # that were named so far
        self._final: dict[str, Any] | None = None
        self._summary = summary_facts(run)  # it builds the net: here, not in a server's thread
        self._polled = -POLLED_LATELY_SECONDS
        self._seen_final = threading.Event()

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

    def finish(self, facts: dict[str, Any], *, state: Literal["finished", "stopped"]) -> None:
        """The report's own facts: what the page shows last."""
        self._now["state"] = state
        self._final = facts

    def facts(self) -> dict[str, Any]:
        """Of the run at this moment."""
        self._polled = time.monotonic()
        if self._final is not None:
            self._seen_final.set()
            return {**self._final, "live": self._now}
        return {
            **base_facts(self._run),
            "summary": self._summary,
            "findings": self._findings,
            "live": self._now,
        }

    def wait_for_last_look(self) -> None:
        """Let a page that is open fetch the end, for a few seconds at most."""
        if self._final is not None and time.monotonic() - self._polled < POLLED_LATELY_SECONDS:
            self._seen_final.wait(LAST_LOOK_SECONDS)


@contextmanager
def serve(run: Run, below: Reporter, *, port: int = PORT) -> Iterator[tuple[LiveReport, str]]:
    """A live report and its address, served until the block is left."""
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
    except OSError:  # taken, by another run's page perhaps
        return _Server(("127.0.0.1", 0), Handler)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *args: Any) -> None:
        """A page that was closed while it loaded is no news for the training's terminal."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*args)


class _Handler(BaseHTTPRequestHandler):
    report: LiveReport

    def do_GET(self) -> None:
        address = f":{self.server.server_port}"  # type: ignore[attr-defined]
        if self.headers.get("Host") not in (f"127.0.0.1{address}", f"localhost{address}"):
            self.send_error(403)  # another site's page that resolves its name to this machine
        elif self.path in ("/", "/index.html"):
            self._send(render_run(self.report.facts()).encode(), "text/html; charset=utf-8")
        elif self.path == "/facts.json":
            self._send(json.dumps(self.report.facts()).encode(), "application/json")
        else:
            self.send_error(404)

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Not on the terminal: the training's bar is there."""
