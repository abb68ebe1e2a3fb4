from __future__ import annotations

import threading
import time

import pytest

from scantling.training.watchdog import Watchdog


def wait_for(said: list[str], n: int) -> None:
    end = time.monotonic() + 10
    while len(said) < n and time.monotonic() < end:
        time.sleep(0.01)


def test_a_long_wait_is_said_again_and_again_with_the_place_and_the_hour() -> None:
    said: list[str] = []
    with Watchdog(said.append, notice_after=0.1) as dog:
        dog.at("reading case P017")
        wait_for(said, 2)
        dog.at(lambda: "predicting case P018")
        wait_for(said, 3)
        end = time.monotonic() + 10
        while "P018" not in said[-1] and time.monotonic() < end:
            time.sleep(0.01)
    first, last = said[0], said[-1]
    assert first.startswith("Still reading case P017, since ")
    assert first.endswith(" s).")
    assert last.startswith("Still predicting case P018, since ")
    assert [sentence for sentence in said if "P017" in sentence][1] != first or len(said) > 2


def test_it_is_silent_while_things_move_and_when_there_is_nothing_to_watch() -> None:
    said: list[str] = []
    with Watchdog(said.append, notice_after=0.5) as dog:
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            dog.at("reading")
            time.sleep(0.01)
        dog.at(None)
        time.sleep(1.2)
    assert said == []


def test_its_thread_ends_with_the_block_also_after_an_error() -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), Watchdog(print, notice_after=1000.0) as dog:
        dog.at("reading")
        assert threading.active_count() == before + 1
        raise KeyError
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="notice_after > 0"):
        Watchdog(print, notice_after=0)
