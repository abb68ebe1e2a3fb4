"""Signals as a question the loop may ask, and as an exception where work may be broken off at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Final, final

SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK") if hasattr(signal, name)
)


class BrokenOff(BaseException):
    """A signal came where work may be broken off; whoever began the work puts things back and saves."""


@final
class StopSignals:
    """Whether the process was asked to stop.

    Called, it answers. Within `breakable()` the first signal raises `BrokenOff` where it finds the program, so
    that a long step, validation or reading does not delay the end; outside, it is only remembered. A second
    Ctrl-C raises KeyboardInterrupt anywhere: files are whole or not there, so that costs work but no data.
    """

    def __init__(self) -> None:
        self._received = False
        self._breakable = 0

    def __call__(self) -> bool:
        return self._received

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """Within the block a signal raises `BrokenOff`; one that came before raises it at once."""
        self._breakable += 1
        try:
            if self._received:
                raise BrokenOff
            yield
        finally:
            self._breakable -= 1

    def receive(self, number: int, _frame: object) -> None:
        """The signal handler."""
        if self._received:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._received = True
        if self._breakable:
            raise BrokenOff


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Listens to SIGINT, SIGTERM and SIGUSR1 (Ctrl-Break on Windows); in a thread, where none arrive, to nothing."""
    stop = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.receive) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
