"""What a run is worth, in a sentence, and what must be known before believing it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from scantling.evaluation.conventions import MEAN_FOREGROUND
from scantling.evaluation.results import Evaluation
from scantling.reports.facts import RunFacts
from scantling.reports.scores import summary_of
from scantling.reports.wording import counted, figure, readable

FEW: Final = 5
"""Patients; below this a mean and its interval say little about the next patient."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The sentence in three parts, the middle one the figure, and the caveats in order of weight."""

    before: str
    score: str
    after: str
    caveats: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The three parts as one text."""
        return f"{self.before}{self.score}{self.after}"


def verdict(facts: RunFacts) -> Verdict:
    """The verdict on the held-out cases; without any, the sentence says that there is no score."""
    evaluation = facts.evaluation
    if "verdict" in facts.status:
        split = str(facts.split.get("sentence", ""))
        caveats = (*_unfinished(facts), *_unheeded(facts), split)
        return Verdict(before=str(facts.status["verdict"]), score="", after="", caveats=caveats)
    if evaluation is None or not evaluation.patients:
        return Verdict(
            before="Nothing was held out, so nothing can be said about how well new patients are segmented.",
            score="",
            after="",
            caveats=(*_unfinished(facts), *_unheeded(facts), *_advice(facts)),
        )
    mean = summary_of(evaluation, MEAN_FOREGROUND, "dice")
    if mean is None or not mean.scored:
        before = f"None of {counted(len(evaluation.patients), 'held-out case')} could be scored."
        return Verdict(before=before, score="", after="", caveats=tuple(_caveats(facts, evaluation)))
    interval = ""
    if math.isfinite(mean.low):
        level = f"{evaluation.settings.level * 100:g}"
        interval = f" ({level} % interval {figure(mean.low)} to {figure(mean.high)})"
    of = f"{counted(mean.n, 'held-out case')} of {counted(mean.patients, 'patient')}"
    return Verdict(
        before=f"On {of} the mean foreground Dice is ",
        score=figure(mean.mean),
        after=f"{interval}{_range_of_classes(evaluation)}; failed {mean.failed} of {mean.n}.",
        caveats=tuple(_caveats(facts, evaluation)),
    )


def added_by_unlabelled(facts: RunFacts) -> tuple[str, Mapping[str, Any]]:
    """What images without full labels added over labels alone: a sentence, and the figures behind it."""
    baseline = facts.status.get("baseline")
    if isinstance(baseline, Mapping):
        figures = {str(k): v for k, v in baseline.items() if k != "sentence"}
        return str(baseline.get("sentence", "The same run on labels alone gave the figures below.")), figures
    n_unlabelled = len(facts.split.get("unlabelled", ()))
    there = f"{counted(n_unlabelled, 'image')} without labels {'was' if n_unlabelled == 1 else 'were'}"
    if facts.status.get("started_from"):
        return (
            f"Not measured in this run: it starts from {facts.status['started_from']}, and the same was not trained on "
            f"labels alone ({there} in the training side); 'train --compare' does both.",
            {},
        )
    if facts.status.get("recipe", "supervised") == "supervised":
        available = f" ({there} available)" if n_unlabelled else ""
        return f"Not used in this run: the recipe learns from labelled cases alone{available}.", {}
    return (
        f"Not measured in this run: no labels-only baseline was trained with the same budget ({there} used).",
        {},
    )


def active_warnings(facts: RunFacts) -> tuple[Mapping[str, Any], ...]:
    """The warnings about the contrast that held when the log ended, in the order in which they came."""
    active: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for event in facts.events:
        about = tuple(event.get(name) for name in ("kind", "term", "class"))
        if event.get("event") == "contrast_warning":
            active[about] = event
        elif event.get("event") == "contrast_recovered":
            active.pop(about, None)
    return tuple(active.values())


def _range_of_classes(evaluation: Evaluation) -> str:
    """The best and the worst class, where there are several."""
    found = [summary_of(evaluation, name, "dice") for name in evaluation.classes]
    scored = sorted((s.mean, s.class_name) for s in found if s is not None and math.isfinite(s.mean))
    if len(scored) < 2:
        return ""
    (low, lowest), (high, highest) = scored[0], scored[-1]
    return f", from {figure(low)} for {readable(lowest)} to {figure(high)} for {readable(highest)}"


def _caveats(facts: RunFacts, evaluation: Evaluation) -> list[str]:
    caveats = [*_unfinished(facts), *_unheeded(facts)]
    if dict(facts.config.get("data", {})).get("choose_on") == "held_out":
        caveats.append(
            "The checkpoint was chosen on the very cases that are scored, as published tables did: expect less of new "
            "patients."
        )
    if facts.split.get("leak_allowed"):
        caveats.append("Patients may have been both trained on and scored (leaks were allowed): expect less.")
    n_patients = len(set(evaluation.patients.values()))
    if n_patients < FEW:
        caveats.append(
            f"Only {counted(n_patients, 'patient')} {'was' if n_patients == 1 else 'were'} scored: "
            "the figures say little about the next one."
        )
    mean = summary_of(evaluation, MEAN_FOREGROUND, "dice")
    if mean is not None and mean.failed:
        caveats.append(
            "In a failed case a structure was missed or wrongly found, or the prediction could not be used: its "
            "Dice counts as 0, and distances leave it out."
        )
    if evaluation.missing:
        shown = ", ".join(evaluation.missing[:8]) + (" ..." if len(evaluation.missing) > 8 else "")
        caveats.append(f"{counted(len(evaluation.missing), 'case')} could not be scored: {shown}.")
    weak = _weak_references(facts, evaluation)
    if weak:
        caveats.append(f"Not every reference is a full mask ({weak}): the score inherits their faults.")
    return caveats


def _unfinished(facts: RunFacts) -> list[str]:
    status = str(facts.status.get("status", "unknown"))
    if status == "finished":
        return []
    reason = f": {facts.status['reason']}" if facts.status.get("reason") else ""
    return [f"The run is not finished (status {status}{reason})."]


def _unheeded(facts: RunFacts) -> list[str]:
    """Warnings that training ended with."""
    return [f"Training ended with a warning: {event.get('sentence', '')}." for event in active_warnings(facts)]


def _advice(facts: RunFacts) -> list[str]:
    sentence = facts.split.get("sentence")
    advice = "Score it on labelled images it has not seen: scantling evaluate PREDICTIONS REFERENCE."
    return [*([str(sentence)] if sentence else []), advice]


def _weak_references(facts: RunFacts, evaluation: Evaluation) -> str:
    """How many held-out cases were scored against which kind of label other than full."""
    order = list(facts.plan.get("label_kinds", ("full",)))
    tally: dict[str, int] = {}
    for case in facts.data_sheet.get("cases", ()):
        kinds = {label["kind"] for label in case.get("labels", ())}
        used = next((kind for kind in order if kind in kinds), "full")
        if case.get("case") in evaluation.patients and used != "full":
            tally[used] = tally.get(used, 0) + 1
    return ", ".join(f"{n} {kind}" for kind, n in sorted(tally.items()))
