"""Images loaded ahead: begun in a thread while torch is still being imported."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

from resight.data import cache, sources
from resight.data.table import Progress
from resight.data.types import ImageData

POLL_SECONDS = 0.05
STOP_SECONDS = 1.0


class _Stopped(Exception):
    pass


class _Ahead:
    """A call of `load_data` in a thread of its own."""

    def __init__(self, source: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.source, self.settings = source, settings
        self.result: Future[ImageData] = Future()
        self._stopped = threading.Event()
        self._done = (0, 0)
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def _load(self) -> None:
        def progress(done: int, total: int) -> None:
            self._done = done, total
            if self._stopped.is_set():
                raise _Stopped

        try:
            self.result.set_result(
                sources.load_data(self.source, progress=progress, **self.settings)
            )
        except BaseException as error:
            self.result.set_exception(error)

    def wait(self, progress: Progress | None) -> ImageData:
        """Its result or what it raised; what `progress` raises stops it."""
        shown = (0, 0)
        try:
            ready = False
            while not ready:
                ready = bool(wait([self.result], POLL_SECONDS).done)
                if progress is not None and self._done != shown:
                    shown = self._done
                    progress(*shown)
            return self.result.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """At the next image; a search for files goes on, at most until the process ends."""
        self._stopped.set()
        self._thread.join(STOP_SECONDS)


_under_way: _Ahead | None = None


@contextlib.contextmanager
def loading(source: str | os.PathLike[str], **settings: Any) -> Iterator[None]:
    """Begin `load_data(source, **settings)`; whoever asks `load_ahead` for the same gets it.

    What nobody has asked for is stopped at the end. Errors are raised where it is asked for.
    """
    # for the rest of the command: filters are those of all threads, so none may be set for a while
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    global _under_way
    begun = _under_way = _Ahead(source, settings)
    try:
        yield
    finally:
        _under_way = None
        begun.stop()
        cache.settle()


def load_ahead(
    source: str | os.PathLike[str], *, progress: Progress | None = None, **settings: Any
) -> ImageData:
    """`load_data`, from what `loading` has begun if that is the same."""
    begun = _under_way
    if begun is None or (begun.source, begun.settings) != (source, settings):
        return sources.load_data(source, progress=progress, **settings)
    return begun.wait(progress)
