from __future__ import annotations

import os
import signal
import threading

import pytest

from scantling.training.interruption import BrokenOff, stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_asks_the_run_to_stop_and_the_old_handlers_come_back(number: int) -> None:
    before = signal.getsignal(number)
    with stop_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert signal.getsignal(number) is before


def test_a_second_interrupt_stops_at_once() -> None:
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    answers: list[bool] = []

    def ask() -> None:
        with stop_signals() as stop:
            answers.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False]


def test_within_a_breakable_block_a_signal_breaks_the_work_off_at_once() -> None:
    with stop_signals() as stop:
        with pytest.raises(BrokenOff), stop.breakable():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("not broken off")
        assert stop()
        with pytest.raises(BrokenOff), stop.breakable():
            raise AssertionError("a signal that came before breaks off later work too")


def test_outside_such_a_block_a_signal_is_only_remembered() -> None:
    with stop_signals() as stop:
        with stop.breakable():
            pass
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop()


def test_breaking_off_is_not_swallowed_by_code_that_handles_errors() -> None:
    with pytest.raises(BrokenOff):
        try:
            raise BrokenOff
        except Exception:  # noqa: BLE001
            pytest.fail("swallowed")
