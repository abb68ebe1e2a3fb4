"""The held-out scores as a report needs them: case by case with the worst first, and what failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scantling.evaluation.conventions import FAILURES, MEAN_FOREGROUND, Post, Status
from scantling.evaluation.results import Evaluation
from scantling.evaluation.summary import Summary


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """One case's Dice: its mean over classes, each class's, and the status of each class."""

    case_id: str
    mean: float
    dice: Mapping[str, float]
    status: Mapping[str, Status]

    @property
    def failed(self) -> bool:
        """Whether any class failed."""
        return any(status in FAILURES for status in self.status.values())


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Dice of one class before and after keeping only the largest piece, over the same cases."""

    class_name: str
    raw: Summary
    largest: Summary
    changed: int


def case_scores(evaluation: Evaluation) -> list[CaseScore]:
    """Every scored case, the worst first; cases without a defined mean come last, by their name."""
    rows = {name: evaluation.values(name) for name in evaluation.classes}
    scores = [
        CaseScore(
            case_id=case,
            mean=row.value,
            dice={name: by_case[case].value for name, by_case in rows.items() if case in by_case},
            status={name: by_case[case].status for name, by_case in rows.items() if case in by_case},
        )
        for case, row in evaluation.values(MEAN_FOREGROUND).items()
    ]
    return sorted(scores, key=_worst_first)


def failures(evaluation: Evaluation) -> dict[Status, list[tuple[str, str]]]:
    """Case and class of every failure by its kind, the worst kind first."""
    found: dict[Status, list[tuple[str, str]]] = {status: [] for status in FAILURES}
    for name in evaluation.classes:
        for case, row in evaluation.values(name).items():
            if row.status in FAILURES:
                found[row.status].append((case, name))
    return {status: sorted(pairs) for status, pairs in found.items() if pairs}


def pieces(evaluation: Evaluation) -> list[Pieces]:
    """What keeping the largest piece of each class would change; empty if it was not measured."""
    found = []
    for name in (MEAN_FOREGROUND, *evaluation.classes):
        raw, largest = (summary_of(evaluation, name, "dice", post) for post in ("raw", "largest_component"))
        if raw is not None and largest is not None:
            before, after = (evaluation.values(name, "dice", post) for post in ("raw", "largest_component"))
            changed = sum(_differ(before[case].value, after[case].value) for case in before if case in after)
            found.append(Pieces(class_name=name, raw=raw, largest=largest, changed=changed))
    return found


def summary_of(evaluation: Evaluation, class_name: str, metric: str, post: Post = "raw") -> Summary | None:
    """A summary over all cases, or None where it was not measured."""
    try:
        return evaluation.find(class_name, metric, post)
    except KeyError:
        return None


def _worst_first(score: CaseScore) -> tuple[bool, float, str]:
    defined = math.isfinite(score.mean)
    return not defined, score.mean if defined else 0.0, score.case_id


def _differ(first: float, second: float) -> bool:
    return math.isfinite(first) and math.isfinite(second) and abs(first - second) > 1e-12
