"""Which predicted cases the model has learnt from: a score on those says nothing about new patients."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from scantling.data.splits import Split
from scantling.files import read_json, write_json
from scantling.inference.predict import RECORD
from scantling.training.seen import seen_before

_KEY: Final = "learnt_from"


def record_learnt_cases(run: Path, predictions: Path) -> None:
    """Add to `predictions.json` the cases that bear names of the run's training or validation cases, or of those
    that what it started from has learnt from.

    A model folder without its run does not say what it was trained on; then nothing is added.
    """
    if not (run / "splits.json").is_file():
        return
    split = Split.load(run / "splits.json")
    learnt = {*split.train, *split.validation, *seen_before(run, split)}
    record = _record(predictions)
    found = [entry["case"] for entry in record.get("cases", ()) if entry["case"] in learnt]
    write_json(predictions / RECORD, {**record, _KEY: found})


def learnt_note(predictions: Path, scored: Collection[str]) -> str:
    """What to know of a score on these cases; empty where the model has learnt from none, or nothing is known."""
    found = [case for case in _record(predictions).get(_KEY, ()) if case in scored]
    if not found:
        return ""
    return (
        f"{len(found)} of {len(scored)} cases bear names of cases that the model has learnt from, such as {found[0]}: "
        "their score says nothing about new patients"
    )


def _record(predictions: Path) -> dict[str, Any]:
    path = predictions / RECORD
    record = read_json(path) if path.is_file() else {}
    return record if isinstance(record, dict) else {}  # another tool's file of that name
