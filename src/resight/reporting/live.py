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
from resight.reporting.facts import Facts, base_facts, summary_facts
from resight.runs.run import Run

PORT = 8321  # if free, so that a bookmark keeps working
LAST_LOOK_SECONDS = 5.0  # for an open page to fetch the final state
POLLED_LATELY_SECONDS = 10.0


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
        """The facts of the run at this moment."""
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
        """Give an open page a few seconds to fetch the final state."""
        if self._final is not None and time.monotonic() - self._polled < POLLED_LATELY_SECONDS:
            self._seen_final.wait(LAST_LOOK_SECONDS)


@contextmanager
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
    def handle_error(self, *args: Any) -> None:
        """Do not report on the training's terminal that a page was closed while it loaded."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*args)


class _Handler(BaseHTTPRequestHandler):
    report: LiveReport

    def do_GET(self) -> None:
        address = f":{self.server.server_port}"  # type: ignore[attr-defined]
        if self.headers.get("Host") not in (f"127.0.0.1{address}", f"localhost{address}"):
            self.send_error(403)  # from a website whose domain name resolves to this machine
        elif self.path in ("/", "/index.html"):
            self._send(render_run(dict(self.report.facts())).encode(), "text/html; charset=utf-8")
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
        """Log nothing: the terminal shows the training's progress bar."""
