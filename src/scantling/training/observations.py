"""What a recipe's diagnostics saw: averaged for the epoch's line in the log, and watched for what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scantling.contrast.observation import Observation
from scantling.contrast.watch import Watch
from scantling.training.loop_state import LoopState
from scantling.training.progress import Display
from scantling.training.run_folder import RunFolder


def record(observed: Sequence[Observation], state: LoopState, run: RunFolder, display: Display) -> None:
    """Add the observations of a step that was taken; warnings that begin or end are logged and said.

    Steps in the log count those taken, as in an epoch's line.
    """
    watch = Watch(state.watched)
    for seen in observed:
        _add(state.observed.setdefault(seen.term, {}), {**seen.figures, **seen.by_class})
        for notice in watch.see(seen):
            event = "contrast_warning" if notice.active else "contrast_recovered"
            facts = {"kind": notice.kind, "term": notice.term, "class": notice.klass, "sentence": notice.sentence}
            run.append_log(event, step=notice.step + 1, **facts)
            said = "Warning" if notice.active else "Recovered"
            display.say(f"{said} at step {notice.step + 1}: {notice.sentence}.")


def epoch_means(state: LoopState) -> dict[str, Any]:
    """Means of everything observed since the last epoch's end: term -> measure -> value, or class -> value."""
    return _means(state.observed)


def active_warnings(state: LoopState) -> list[str]:
    """The sentences of the warnings that hold."""
    return Watch(state.watched).active


def _add(sums: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Sums and counts in the shape of the values; lists, as JSON has no tuples."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _add(sums.setdefault(name, {}), value)
        else:
            total, count = sums.get(name, (0.0, 0))
            sums[name] = [total + value, count + 1]


def _means(sums: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _means(value) if isinstance(value, Mapping) else value[0] / value[1] for name, value in sums.items()}
