"""What a run tells while it trains, and to whom: the contract of a display, and the one that shows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Moment:
    """How far a run is.

    Attributes:
        progress: share in [0, 1].
        loss: its mean of late.
        score: the best so far, None before the first; `measure` says of what.
    """

    progress: float
    step: int
    loss: float
    samples_per_second: float
    seconds_left: float
    score: float | None
    measure: str = "mean_dice"


@runtime_checkable
class Display(Protocol):
    """Where a run tells how it goes."""

    def say(self, sentence: str) -> None:
        """A sentence of its own."""

    def detail(self, sentence: str) -> None:
        """A sentence for those who want to know more."""

    def show(self, moment: Moment) -> None:
        """The present state; called at each step, so it must be cheap."""

    def close(self) -> None:
        """The run is over."""


class Silent:
    """Shows nothing."""

    def say(self, sentence: str) -> None: ...

    def detail(self, sentence: str) -> None: ...

    def show(self, moment: Moment) -> None: ...

    def close(self) -> None: ...


def duration(seconds: float) -> str:
    """`95` -> `1 min 35 s`; hours and minutes above an hour."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
