"""One thread owns the net: what it does together, in which order, and how it ends."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

from resight.serving import batcher as module
from resight.serving.batcher import Batcher, Images, Logits


def image(value: int) -> Images:
    return np.full((2, 2, 1), value, dtype=np.uint8)


class Net:
    """Logits: an image's value, and the number of images that went through with it."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []

    def __call__(self, images: Images) -> Logits:
        values = [int(one[0, 0, 0]) for one in images]
        self.passes.append(values)
        return np.array([[value, len(values)] for value in values], dtype=np.float32)


@pytest.fixture
def net() -> Net:
    return Net()


def test_images_that_wait_go_through_together(net: Net) -> None:
    gate = threading.Event()
    with Batcher(net) as batcher:
        batcher.work(gate.wait)
        rows = [batcher.logits(image(value)) for value in range(5)]
        gate.set()
        assert [row.result(60).tolist() for row in rows] == [[value, 5] for value in range(5)]
    assert net.passes == [[0, 1, 2, 3, 4]]


def test_a_batch_has_a_limit_and_ends_at_other_work(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH", 3)
    gate = threading.Event()
    with Batcher(net) as batcher:
        batcher.work(gate.wait)
        rows = [batcher.logits(image(value)) for value in range(4)]
        done = batcher.work(lambda: len(net.passes))
        rows.append(batcher.logits(image(9)))
        gate.set()
        assert done.result(60) == 2
        rows[-1].result(60)
    assert net.passes == [[0, 1, 2], [3], [9]]


def test_all_is_done_in_one_thread_after_its_beginning(net: Net) -> None:
    threads = []
    with Batcher(net, begin=lambda: threads.append(threading.current_thread())) as batcher:
        threads.append(batcher.work(threading.current_thread).result(60))
    assert threads[0] is threads[1] is not threading.current_thread()


def test_what_fails_fails_for_those_who_asked_alone(net: Net) -> None:
    def fail(images: Images) -> Logits:
        if images.max() == 7:
            raise RuntimeError("seven")
        return net(images)

    with Batcher(fail) as batcher:
        with pytest.raises(RuntimeError, match="seven"):
            batcher.logits(image(7)).result(60)
        with pytest.raises(KeyError):
            batcher.work(lambda: {}["none"]).result(60)
        assert batcher.logits(image(1)).result(60).tolist() == [1, 1]


def test_what_nobody_waits_for_is_not_computed(net: Net) -> None:
    gate = threading.Event()
    with Batcher(net) as batcher:
        batcher.work(gate.wait)
        gone, kept = batcher.logits(image(1)), batcher.logits(image(2))
        assert gone.cancel()
        gate.set()
        kept.result(60)
    assert net.passes == [[2]]


def test_at_its_end_what_is_begun_is_finished_and_the_rest_cancelled(net: Net) -> None:
    begun = threading.Event()

    def work() -> str:
        begun.set()
        with batcher._changed:
            assert batcher._changed.wait_for(lambda: batcher._ended, 60)
        return "done"

    with Batcher(net) as batcher:
        first, second = batcher.work(work), batcher.logits(image(1))
        assert begun.wait(60)
    assert first.result(60) == "done"
    assert not batcher.alive
    for late in (second, batcher.logits(image(2))):
        with pytest.raises(CancelledError):
            late.result(60)
    assert net.passes == []
