"""Says where this process is when it has been at one thing for long, so that waiting is never silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, final

NOTICE_AFTER: Final = 60.0
"""Seconds at one thing until it is said, and between repetitions."""


@final
class Watchdog:
    """A thread that says what the block has been doing since its last `at`, each time `notice_after` has passed.

    with Watchdog(say) as dog:
        for case in cases:
            dog.at(f"reading case {case.case_id}")
            ...

    Args:
        say: called in the watchdog's thread with one sentence.
        notice_after: seconds, > 0.
    """

    def __init__(self, say: Callable[[str], object], *, notice_after: float = NOTICE_AFTER) -> None:
        if notice_after <= 0:
            raise ValueError(f"wanted notice_after > 0, got {notice_after}")
        self._say, self._after = say, notice_after
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.at(None)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def at(self, doing: str | Callable[[], str] | None) -> None:
        """From now on the block is `doing` this ("reading case P017"); None: nothing that needs watching.

        A function is asked only when there is something to say.
        """
        self._state = (doing, time.monotonic(), time.strftime("%H:%M:%S"))

    def _watch(self) -> None:
        told, notices = None, 0
        wait = self._after
        while not self._over.wait(wait):
            state = self._state
            doing, began, clock = state
            if state is not told:
                told, notices = state, 0
            due = began + self._after * (notices + 1)
            if doing is not None and time.monotonic() >= due:
                what = doing if isinstance(doing, str) else doing()
                self._say(f"Still {what}, since {clock} ({time.monotonic() - began:.0f} s).")
                notices += 1
                due += self._after
            wait = min(max(due - time.monotonic(), 0.0), self._after) if doing is not None else self._after
