"""The table of scores: a row for each case, class and metric, and what its value is worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scantling.evaluation.conventions import (
    ALL_CLASSES,
    FAILURES,
    MEAN_FOREGROUND,
    METRICS,
    Post,
    Settings,
    Status,
    Unusable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured value; NaN where it is undefined.

    Attributes:
        class_name: a class, or `mean_foreground` for a case's mean over its classes.
        metric: a name in `METRICS`.
        post: what was done to the prediction first: nothing ("raw") or "largest_component".
    """

    case: str
    class_name: str
    metric: str
    value: float
    status: Status
    post: Post = "raw"


def class_rows(case: str, name: str, values: Mapping[str, float], status: Status, post: Post) -> list[Row]:
    """The rows of one class of one case."""
    return [
        Row(case=case, class_name=name, metric=metric, value=value, status=status, post=post)
        for metric, value in values.items()
    ]


def undefined_rows(case: str, name: str, metrics: Iterable[str], status: Status, post: Post) -> list[Row]:
    """The rows of a class that cannot be measured: every value is NaN."""
    return class_rows(case, name, dict.fromkeys(metrics, math.nan), status, post)


def unusable_rows(
    case: str,
    names: Sequence[str],
    *,
    annotated: Sequence[str],
    diagonal_mm: float,
    dimensions: int,
    settings: Settings,
    status: Unusable,
) -> list[Row]:
    """The rows of a case whose prediction cannot be scored: every annotated class counts as a failure."""
    metrics = settings.metrics(dimensions)
    values = {name: METRICS[name].unusable for name in metrics}
    if "hd95_with_failures_mm" in values:
        values["hd95_with_failures_mm"] = diagonal_mm
    rows = []
    for post in posts(settings):
        for name in names:
            if name in annotated:
                rows += class_rows(case, name, values, status, post)
            else:
                rows += undefined_rows(case, name, metrics, "not_annotated", post)
    return with_mean_foreground(rows)


def posts(settings: Settings) -> tuple[Post, ...]:
    """The versions of a prediction that are scored."""
    return ("raw", "largest_component") if settings.largest_component else ("raw",)


def with_mean_foreground(rows: Sequence[Row]) -> list[Row]:
    """The rows of one case, and for each metric the mean over the classes that are there or should be.

    Classes that are absent from both, or were not looked for, take no part. Where a class that takes part has
    no value, the mean has none: averaging over what was found would reward missing the rest.
    """
    by_column: dict[tuple[str, Post], list[Row]] = {}
    for row in rows:
        if row.class_name != ALL_CLASSES:
            by_column.setdefault((row.metric, row.post), []).append(row)
    return [*rows, *(_mean_row(group) for group in by_column.values())]


def _mean_row(group: Sequence[Row]) -> Row:
    taking_part = [row for row in group if row.status not in ("both_empty", "not_annotated")]
    statuses = {row.status for row in taking_part}
    status: Status = next((failure for failure in FAILURES if failure in statuses), "ok")
    if not taking_part:
        status = "both_empty" if any(row.status == "both_empty" for row in group) else "not_annotated"
    values = [row.value for row in taking_part]
    first = group[0]
    return Row(
        case=first.case, class_name=MEAN_FOREGROUND, metric=first.metric, post=first.post, status=status,
        value=sum(values) / len(values) if values else math.nan,
    )  # fmt: skip
