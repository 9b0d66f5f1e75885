"""The time in which a training was stopped is not counted as training."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from resight.data.types import ImageData
from resight.engine import step as stepping
from resight.training import epochs, session
from resight.training.clock import RunningClock
from trainings import assert_same_run, fit, tiny

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="no SIGCONT here")
STOPPED_SECONDS = 3600.0


class Time:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def stop(self, seconds: float) -> None:
        """As if the process had been stopped for so long."""
        self.now += seconds
        signal.raise_signal(signal.SIGCONT)


def test_what_passed_since_the_last_reading_is_left_out_when_the_process_goes_on() -> None:
    time = Time()
    with RunningClock(time) as clock:
        began = clock()
        time.now += 5
        assert clock() - began == 5
        time.now += 0.25  # not read any more: it is lost
        time.stop(1000)
        time.now += 2
        assert clock() - began == 7
        time.stop(10)
        time.stop(20)  # twice without a reading
        assert clock() - began == 7
        time.now += 1
        assert clock() - began == 8


def test_it_does_not_run_backwards_when_it_is_stopped_while_it_is_read() -> None:
    time, readings = Time(), 0

    def stopped_after_the_third() -> float:
        nonlocal readings
        readings, now = readings + 1, time()
        if readings == 3:
            time.stop(1000)
        return now

    with RunningClock(stopped_after_the_third) as clock:
        before = clock()
        assert clock() == before  # the third reading of the time
        time.now += 1
        assert clock() == before + 1


def test_another_handler_is_called_too_and_put_back() -> None:
    seen: list[int] = []

    def theirs(number: int, frame: object) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGCONT, theirs)
    try:
        with RunningClock(Time()):
            signal.raise_signal(signal.SIGCONT)
        assert seen == [signal.SIGCONT]
        assert signal.getsignal(signal.SIGCONT) is theirs
    finally:
        signal.signal(signal.SIGCONT, before)


def test_a_stopped_training_has_the_seconds_and_the_bits_of_one_that_was_not(
    data: ImageData, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, time, steps = tiny("digits"), Time(), 0
    fit(recipe, data, tmp_path / "whole")
    learn, predict = stepping.learn, epochs.predict

    def slow(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            time.stop(STOPPED_SECONDS)
        time.now += 1
        return learn(*arguments)

    def stopped(*arguments: Any, **options: Any) -> Any:
        time.stop(STOPPED_SECONDS)
        time.now += 2
        return predict(*arguments, **options)

    monkeypatch.setattr(session, "RunningClock", lambda: RunningClock(time))
    monkeypatch.setattr(stepping, "learn", slow)
    monkeypatch.setattr(epochs, "predict", stopped)
    run = fit(recipe, data, out, announce=False)
    assert [row["train_seconds"] for row in run.metrics] == [3, 3, 3]
    assert [row["evaluate_seconds"] for row in run.metrics] == [2, 2, 2]
    assert run.result["images_per_second"] == pytest.approx(70 / 3)
    assert_same_run(tmp_path / "whole", out)
