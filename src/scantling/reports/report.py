"""A run folder as one self-contained HTML page, and the same facts as JSON beside it."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scantling.errors import ConfigError
from scantling.evaluation.summary import Summary
from scantling.files import write_atomic, write_json
from scantling.reports.facts import RunFacts, read_facts
from scantling.reports.health import HEALTH
from scantling.reports.page import page
from scantling.reports.scores import case_scores, failures, pieces
from scantling.reports.verdict import active_warnings, added_by_unlabelled, verdict

SCHEMA_VERSION = 1


def write_report(run: Path, *, out: Path | None = None, with_paths: bool = False) -> Path:
    """Write the report of a run; the path of the page, with `.json` of the same name beside it.

    The page needs no network, no script and no other file. It names cases by their ids, and no path or file
    of this machine unless `with_paths`. Equal run folders give equal bytes.

    Args:
        out: the HTML file; `RUN/report.html` if not given.

    Raises:
        DataError: the path is not a run folder.
        IntegrityError: a file in it is damaged.
        ConfigError: `out` is a folder, or would be overwritten by the JSON beside it.
    """
    facts = read_facts(run, with_paths=with_paths)
    path = out or run / "report.html"
    if path.is_dir() or path.suffix.lower() == ".json":
        raise ConfigError(f"{path}: wanted the name of the HTML file, such as report.html", code="E-RPT-03")
    write_atomic(path, page(facts).encode("utf-8"))
    write_json(path.with_suffix(".json"), report_json(facts))
    return path


def report_json(facts: RunFacts) -> dict[str, Any]:
    """The facts of the report as plain values; what is undefined is None."""
    said = verdict(facts)
    sentence, figures = added_by_unlabelled(facts)
    evaluation = facts.evaluation
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "verdict": said.sentence,
        "caveats": list(said.caveats),
        "added_by_unlabelled": {"sentence": sentence, **figures},
        "run": dict(facts.status),
        "config": dict(facts.config),
        "plan": dict(facts.plan),
        "split": {name: value for name, value in facts.split.items() if name != "patients"},
        "data": {name: value for name, value in facts.data_sheet.items() if name != "cases"},
        "training": [dict(epoch) for epoch in facts.epochs],
        "health": [dict(event) for event in facts.events if event.get("event") == HEALTH],
        "warnings": [dict(event) for event in active_warnings(facts)],
        "reliability": dict(facts.reliability),
        "hashes": dict(facts.hashes),
        "held_out": None,
    }
    if evaluation is not None:
        content["held_out"] = {
            "summary": [_plain_summary(summary) for summary in evaluation.summary],
            "subgroups": [_plain_summary(summary) for summary in evaluation.subgroups],
            "worst_first": [
                {"case": s.case_id, "mean_dice": s.mean, "dice": dict(s.dice), "status": dict(s.status)}
                for s in case_scores(evaluation)
            ],
            "failures": {
                status: [{"case": case, "class": name} for case, name in pairs]
                for status, pairs in failures(evaluation).items()
            },
            "largest_piece": [
                {"class": p.class_name, "raw": p.raw.mean, "largest": p.largest.mean, "changed": p.changed}
                for p in pieces(evaluation)
            ],
            "missing": list(evaluation.missing),
            "problems": [asdict(problem) for problem in evaluation.problems],
            "notes": list(evaluation.notes),
        }
    return dict(_plain(content))


def _plain_summary(summary: Summary) -> dict[str, Any]:
    return {name: value for name, value in asdict(summary).items() if value != ""}


def _plain(value: Any) -> Any:
    """NaN and infinities become None, at any depth: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
