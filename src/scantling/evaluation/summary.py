"""From rows to a table of means: each with spread, interval, and how many failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from scantling.evaluation.conventions import FAILURES, METRICS, Post, Settings
from scantling.evaluation.rows import Row
from scantling.evaluation.statistics import bootstrap_intervals
from scantling.seeding import numpy_generator


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one class over the cases of an evaluation, or of one subgroup of them.

    Attributes:
        mean, sd, median: over the `scored` values; sd has n - 1 below the line; NaN where there is no value.
        low, high: bootstrap interval of the mean; NaN with fewer than two patients.
        n: cases that have the class in reference or prediction, or whose prediction cannot be used.
        scored: values in the mean. Smaller than n where failures leave a metric undefined.
        failed: cases of the n in which the class is missed, wrongly found, or the prediction cannot be used.
        absent: cases with the class in neither reference nor prediction; they are not in n.
        group, group_value: the subgroup, as "site" and "Shenzhen"; both empty for all cases.
    """

    class_name: str
    metric: str
    post: Post
    mean: float
    sd: float
    median: float
    low: float
    high: float
    n: int
    scored: int
    failed: int
    absent: int
    patients: int
    group: str = ""
    group_value: str = ""

    def sentence(self) -> str:
        """`0.912 (0.900 to 0.925; failed 1 of 20)`, with the unit."""
        unit = f" {METRICS[self.metric].unit}".rstrip()
        interval = f"{self.low:.3f} to {self.high:.3f}; " if np.isfinite(self.low) else ""
        return f"{self.mean:.3f}{unit} ({interval}failed {self.failed} of {self.n})"


def summarise(
    rows: Sequence[Row],
    patients: Mapping[str, str],
    settings: Settings,
    *,
    group: str = "",
    group_value: str = "",
) -> tuple[Summary, ...]:
    """One summary for each class, metric and version of the prediction, in the order of the rows.

    Args:
        patients: case -> patient, for every case in the rows.
    """
    if not rows:
        return ()
    cases = list(dict.fromkeys(row.case for row in rows))
    columns = list(dict.fromkeys((row.class_name, row.metric, row.post) for row in rows))
    case_index = {case: k for k, case in enumerate(cases)}
    column_index = {column: k for k, column in enumerate(columns)}
    values = np.full((len(cases), len(columns)), np.nan)
    failed, absent, counted = (np.zeros(values.shape, dtype=bool) for _ in range(3))
    for row in rows:
        at = case_index[row.case], column_index[row.class_name, row.metric, row.post]
        values[at] = row.value
        failed[at] = row.status in FAILURES
        absent[at] = row.status == "both_empty"
        counted[at] = row.status not in ("both_empty", "not_annotated")
    owners = [patients[case] for case in cases]
    rng = numpy_generator(settings.seed, "bootstrap", group, group_value)
    low, high = bootstrap_intervals(values, owners, rng, resamples=settings.resamples, level=settings.level)
    return tuple(
        _summary(
            column, values[:, k], failed[:, k], absent[:, k], counted[:, k], owners,
            interval=(float(low[k]), float(high[k])), group=(group, group_value),
        )
        for k, column in enumerate(columns)
    )  # fmt: skip


def _summary(
    column: tuple[str, str, Post],
    values: Float64[np.ndarray, "case"],
    failed: Bool[np.ndarray, "case"],
    absent: Bool[np.ndarray, "case"],
    counted: Bool[np.ndarray, "case"],
    owners: Sequence[str],
    *,
    interval: tuple[float, float],
    group: tuple[str, str],
) -> Summary:
    known = values[np.isfinite(values)]
    return Summary(
        class_name=column[0], metric=column[1], post=column[2],
        mean=float(known.mean()) if known.size else float("nan"),
        sd=float(known.std(ddof=1)) if known.size > 1 else float("nan"),
        median=float(np.median(known)) if known.size else float("nan"),
        low=interval[0], high=interval[1],
        n=int(counted.sum()), scored=int(known.size), failed=int(failed.sum()), absent=int(absent.sum()),
        patients=len({owner for owner, is_in in zip(owners, counted, strict=True) if is_in}),
        group=group[0], group_value=group[1],
    )  # fmt: skip
