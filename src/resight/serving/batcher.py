"""One thread owns the net: the images that wait go through it together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

MAX_BATCH = 64  # images

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class _Image:
    """uint8 (H, W, C), and where its logits (K,) go."""

    pixels: Images
    result: Future[Any] = field(default_factory=Future)


@dataclass(frozen=True)
class _Work:
    function: Callable[[], Any]
    result: Future[Any] = field(default_factory=Future)


class Batcher:
    """Calls `logits`, uint8 (N, H, W, C) to float32 (N, K), with all images that wait, at most 64;
    and does other work with the net, one piece at a time and in its turn.

    Entered, it runs its thread; at its end it finishes what is begun and cancels the rest.
    """

    def __init__(
        self, logits: Callable[[Images], Logits], *, begin: Callable[[], object] = lambda: None
    ) -> None:
        """begin: called in the thread before anything else."""
        self._logits, self._begin = logits, begin
        self._waiting: deque[_Image | _Work] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="net", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()
        for one in self._waiting:
            one.result.cancel()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def logits(self, pixels: Images) -> Future[Logits]:
        """float32 (K,) of an image uint8 (H, W, C)."""
        return self._put(_Image(pixels))

    def work(self, function: Callable[[], T]) -> Future[T]:
        """What `function` returns, called in the thread."""
        return self._put(_Work(function))

    def _put(self, one: _Image | _Work) -> Future[Any]:
        with self._changed:
            if self._ended:
                one.result.cancel()
            else:
                self._waiting.append(one)
                self._changed.notify()
        return one.result

    def _run(self) -> None:
        self._begin()
        while taken := self._taken():
            wanted = [one for one in taken if one.result.set_running_or_notify_cancel()]
            try:
                values = self._values(wanted) if wanted else []
            except Exception as error:
                for one in wanted:
                    one.result.set_exception(error)
            else:
                for one, value in zip(wanted, values, strict=True):
                    one.result.set_result(value)

    def _taken(self) -> list[_Image] | list[_Work]:
        """What has waited longest: images, or one piece of work; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._ended:
                return []
            first = self._waiting.popleft()
            if isinstance(first, _Work):
                return [first]
            images = [first]
            while self._waiting and len(images) < MAX_BATCH:
                following = self._waiting[0]
                if isinstance(following, _Work):
                    break
                images.append(following)
                self._waiting.popleft()
            return images

    def _values(self, items: Sequence[_Image | _Work]) -> list[Any]:
        first = items[0]
        if isinstance(first, _Work):
            return [first.function()]
        pixels = np.stack([one.pixels for one in items if isinstance(one, _Image)])
        return list(self._logits(pixels))
