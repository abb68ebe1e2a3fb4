"""Two sets of predictions on the same cases: which is better, by how much, and how sure is that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float64

from scantling.errors import DataError
from scantling.evaluation.conventions import FAILURES, METRICS, Better, Post
from scantling.evaluation.results import Evaluation, aligned
from scantling.evaluation.rows import Row
from scantling.evaluation.statistics import LEVEL, RESAMPLES, bootstrap_mean, patient_means
from scantling.seeding import numpy_generator

_TEXT_METRICS = ("dice", "hd95_mm", "nsd")


@dataclass(frozen=True, kw_only=True)
class PairedResult:
    """First against second in one class and metric, over the cases in which both have a value.

    Attributes:
        difference: mean of first - second; `low`, `high`: its bootstrap interval over patients.
        p: two-sided, of the Wilcoxon signed-rank test on the patients' mean differences.
        wins, losses, ties: cases in which the first is better, worse, equal.
        failed_first, failed_second: cases that failed, of the cases both evaluations have.
        unpaired: of those, the cases in which at least one has no value, so that nothing can be subtracted.
    """

    class_name: str
    metric: str
    post: Post
    n_cases: int
    n_patients: int
    mean_first: float
    mean_second: float
    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int
    failed_first: int
    failed_second: int
    unpaired: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every class and metric two evaluations share.

    Attributes:
        missing: cases that could not be scored in the first or the second; not empty means exit code 3.
        only_first, only_second: cases only one of them has; they take no part.
    """

    results: tuple[PairedResult, ...]
    missing: tuple[str, ...]
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()

    def find(self, class_name: str, metric: str = "dice", post: Post = "raw") -> PairedResult:
        """One class and metric; KeyError if the evaluations do not share it."""
        for result in self.results:
            if (result.class_name, result.metric, result.post) == (class_name, metric, post):
                return result
        raise KeyError((class_name, metric, post))

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN is None."""
        plain = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(result).items()}
            for result in self.results
        ]
        lists = {field.name: list(getattr(self, field.name)) for field in fields(self) if field.name != "results"}
        return {"schema_version": 1, "results": plain, **lists}

    def text(self) -> str:
        """A table of the main metrics on the raw predictions, one line a class and metric."""
        table = [["class", "metric", "first", "second", "difference", "p", "wins:losses", "failed", "cases"]]
        shown = (r for r in self.results if r.metric in _TEXT_METRICS and r.post == "raw")
        table.extend(map(_line, shown))
        lines = [
            *aligned(table),
            "p: Wilcoxon signed-rank over patients, two-sided, not corrected for several tests",
        ]
        if self.missing:
            lines.append(f"could not be scored: {', '.join(self.missing)}")
        for name, cases in (("first", self.only_first), ("second", self.only_second)):
            if cases:
                lines.append(f"only in the {name}, left out: {', '.join(cases)}")
        return "\n".join(lines)


def compare_evaluations(
    first: Evaluation, second: Evaluation, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Comparison:
    """Compare two evaluations case by case; a case that failed in both or in one stays in as what it scored.

    Raises:
        DataError: no case is in both, or they were measured by different conventions.
    """
    measured = [(e.settings.convention, e.settings.average, e.settings.tolerance_mm) for e in (first, second)]
    if measured[0] != measured[1]:
        raise DataError(
            f"comparison: the first was measured with (convention, average, tolerance in mm) {measured[0]}, "
            f"the second with {measured[1]}; evaluate both alike",
            code="E-EVL-12",
        )
    first_rows, second_rows = _by_column(first.rows), _by_column(second.rows)
    shared = [column for column in first_rows if column in second_rows]
    cases, others = set(first.patients), set(second.patients)
    if not cases & others:
        raise DataError(
            "comparison: the two evaluations share no case; evaluate both on the same references",
            code="E-EVL-11",
        )
    results = []
    for column in shared:
        ours, theirs = first_rows[column], second_rows[column]
        pairs = [(ours[case], theirs[case]) for case in ours if case in theirs]
        if pairs:
            patients = [first.patients[one.case] for one, _ in pairs]
            rng = numpy_generator(seed, "compare", *column)
            results.append(_compare_column(pairs, patients, rng, resamples=resamples, level=level))
    return Comparison(
        results=tuple(results),
        missing=tuple(dict.fromkeys((*first.missing, *second.missing))),
        only_first=tuple(sorted(cases - others)),
        only_second=tuple(sorted(others - cases)),
    )


def wilcoxon_p(differences: Float64[np.ndarray, "patient"]) -> float:
    """Two-sided p of the Wilcoxon signed-rank test that differences lie evenly around 0; NaN if all are 0.

    Zero differences are dropped. The distribution is exact for few pairs without ties, else normal.

    Source: Wilcoxon 1945, "Individual comparisons by ranking methods".
    """
    nonzero = differences[np.isfinite(differences) & (differences != 0)]
    return float(scipy.stats.wilcoxon(nonzero).pvalue) if nonzero.size else math.nan


def _by_column(rows: Sequence[Row]) -> dict[tuple[str, str, Post], dict[str, Row]]:
    columns: dict[tuple[str, str, Post], dict[str, Row]] = {}
    for row in rows:
        columns.setdefault((row.class_name, row.metric, row.post), {})[row.case] = row
    return columns


def _compare_column(
    pairs: Sequence[tuple[Row, Row]],
    patients: Sequence[str],
    rng: np.random.Generator,
    *,
    resamples: int,
    level: float,
) -> PairedResult:
    column = pairs[0][0]
    values = np.array([[one.value, other.value] for one, other in pairs], dtype=np.float64)
    paired: Bool[np.ndarray, "case"] = np.asarray(np.isfinite(values).all(axis=1))
    one, other = values[paired, 0], values[paired, 1]
    owners = [patient for patient, is_paired in zip(patients, paired.tolist(), strict=True) if is_paired]
    differences = one - other
    interval = bootstrap_mean(differences, owners, rng, resamples=resamples, level=level)
    better, worse = _better(one, other, METRICS[column.metric].better)
    return PairedResult(
        class_name=column.class_name, metric=column.metric, post=column.post,
        n_cases=len(differences), n_patients=len(set(owners)),
        mean_first=float(one.mean()) if one.size else math.nan,
        mean_second=float(other.mean()) if other.size else math.nan,
        difference=interval.mean, low=interval.low, high=interval.high,
        p=wilcoxon_p(patient_means(differences, owners)),
        wins=int(better.sum()), losses=int(worse.sum()), ties=int((~better & ~worse).sum()),
        failed_first=sum(row.status in FAILURES for row, _ in pairs),
        failed_second=sum(row.status in FAILURES for _, row in pairs),
        unpaired=int((~paired).sum()),
    )  # fmt: skip


def _better(
    one: Float64[np.ndarray, "case"], other: Float64[np.ndarray, "case"], direction: Better
) -> tuple[Bool[np.ndarray, "case"], Bool[np.ndarray, "case"]]:
    """Where the first is better, and where it is worse."""
    if direction == "nearer to 0":
        one, other, direction = np.abs(one), np.abs(other), "lower"
    return (one > other, one < other) if direction == "higher" else (one < other, one > other)


def _line(result: PairedResult) -> list[str]:
    interval = f" [{result.low:+.3f}, {result.high:+.3f}]" if math.isfinite(result.low) else ""
    return [
        result.class_name, result.metric, f"{result.mean_first:.3f}", f"{result.mean_second:.3f}",
        f"{result.difference:+.3f}{interval}", f"{result.p:.3g}", f"{result.wins}:{result.losses}",
        f"{result.failed_first}:{result.failed_second}", str(result.n_cases),
    ]  # fmt: skip
