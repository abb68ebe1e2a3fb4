"""What the user sees while a run trains: a bar on a terminal, else one line a minute; always on stderr."""

from __future__ import annotations

import sys
import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from scantling.training.progress import Moment, duration

_MEASURES: Final = {"mean_dice": "Dice"}


class Terminal:
    """A live bar on a terminal; elsewhere a line when a minute has passed.

    Args:
        verbose: show details too.
    """

    def __init__(self, *, seconds_between_lines: float = 60.0, verbose: bool = False) -> None:
        self._verbose = verbose
        self._console = Console(stderr=True, highlight=False)
        self._between = seconds_between_lines
        self._last = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[facts]}"),
                console=self._console,
                transient=True,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("training", total=1.0, facts="")

    def say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, soft_wrap=True)

    def detail(self, sentence: str) -> None:
        if self._verbose:
            self.say(sentence)

    def show(self, moment: Moment) -> None:
        if self._bar is not None:
            if not self._bar.live.is_started:
                self._bar.start()
            self._bar.update(self._task, completed=moment.progress, facts=_facts(moment))
        elif time.monotonic() - self._last >= self._between:
            self._last = time.monotonic()
            print(f"{100 * moment.progress:5.1f} %  {_facts(moment)}", file=sys.stderr, flush=True)  # noqa: T201

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _facts(moment: Moment) -> str:
    score = "" if moment.score is None else f"  {_MEASURES.get(moment.measure, moment.measure)} {moment.score:.3f}"
    return (
        f"step {moment.step}  loss {moment.loss:.3f}{score}  {moment.samples_per_second:.1f} samples/s  "
        f"{duration(moment.seconds_left)} left"
    )
