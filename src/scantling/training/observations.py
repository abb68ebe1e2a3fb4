"""What a recipe's diagnostics and a validation saw: averaged or logged, and watched for what goes wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from scantling.contrast.observation import FEATURES, Observation
from scantling.contrast.watch import Watch
from scantling.training.loop_state import LoopState, Validation
from scantling.training.progress import Display
from scantling.training.run_folder import RunFolder

_WATCHED: Final = ("feature_spread", "effective_rank", "dimensions", "kmeans_purity")
"""Of the health of features."""


def record(observed: Sequence[Observation], state: LoopState, run: RunFolder, display: Display) -> None:
    """Add the observations of a step that was taken; warnings that begin or end are logged and said.

    Steps in the log count those taken, as in an epoch's line.
    """
    for seen in observed:
        _add(state.observed.setdefault(seen.term, {}), {**seen.figures, **seen.by_class})
        _watch(seen, state, run, display)


def record_health(
    validation: Validation, state: LoopState, run: RunFolder, display: Display, *, seconds: float
) -> None:
    """Log the health of the features after the steps that were taken; a collapse is said at once, also in `run.json`.

    Args:
        seconds: that the validation took.
    """
    figures = {name: value if math.isfinite(value) else None for name, value in validation.figures.items()}
    per_class = {name: value if math.isfinite(value) else None for name, value in validation.per_class.items()}
    run.append_log("health", step=state.step, figures=figures, per_class=per_class, seconds=round(seconds, 2))
    known = {name: value for name in _WATCHED if (value := figures.get(name)) is not None}
    if _watch(Observation(step=state.step - 1, term=FEATURES, figures=known, by_class={}), state, run, display):
        run.update(contrast_warnings=active_warnings(state))


def epoch_means(state: LoopState) -> dict[str, Any]:
    """Means of everything observed since the last epoch's end: term -> measure -> value, or class -> value."""
    return _means(state.observed)


def active_warnings(state: LoopState) -> list[str]:
    """The sentences of the warnings that hold."""
    return Watch(state.watched).active


def _watch(seen: Observation, state: LoopState, run: RunFolder, display: Display) -> bool:
    """Log and say the warnings that begin or end with an observation; whether there are any."""
    notices = Watch(state.watched).see(seen)
    for notice in notices:
        event = "contrast_warning" if notice.active else "contrast_recovered"
        facts = {"kind": notice.kind, "term": notice.term, "class": notice.klass, "sentence": notice.sentence}
        run.append_log(event, step=notice.step + 1, **facts)
        said = "Warning" if notice.active else "Recovered"
        display.say(f"{said} at step {notice.step + 1}: {notice.sentence}.")
    return bool(notices)


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
