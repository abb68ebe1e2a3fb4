"""Means that say how sure they are: bootstrap intervals that draw whole patients.

The patient is the unit that is drawn: two scans of one patient are not two independent observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

RESAMPLES = 2000
LEVEL = 0.95

Table = Float64[np.ndarray, "case column"]
Columns = Float64[np.ndarray, "column"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its bootstrap interval; the bounds are NaN where fewer than two patients have a value."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Float64[np.ndarray, "case"],
    patients: Sequence[str],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """The mean over cases with a percentile interval from drawing whole patients with replacement.

    NaN values take no part.

    Source: Davison & Hinkley 1997, "Bootstrap methods and their application", Sec. 3.8.
    """
    low, high = bootstrap_intervals(values[:, None], patients, rng, resamples=resamples, level=level)
    mean = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    return Interval(mean=mean, low=float(low[0]), high=float(high[0]))


def bootstrap_intervals(
    table: Table,
    patients: Sequence[str],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[Columns, Columns]:
    """Lower and upper bounds of the means of many columns; all columns share the drawn patients.

    Args:
        patients: the patient of each case (row).
        level: probability the interval should hold, in (0, 1).
    """
    _, index = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    n_patients = int(index.max()) + 1 if len(index) else 0
    n_columns = table.shape[1]
    known = np.isfinite(table)
    sums, counts = np.zeros((n_patients, n_columns)), np.zeros((n_patients, n_columns))
    np.add.at(sums, index, np.where(known, table, 0))
    np.add.at(counts, index, known)
    usable = np.flatnonzero((counts > 0).sum(axis=0) >= 2)
    low, high = np.full(n_columns, np.nan), np.full(n_columns, np.nan)
    if not usable.size:
        return low, high
    drawn = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=resamples).astype(np.float64)
    with np.errstate(invalid="ignore"):  # a draw may hold no patient with a value in a rare column: left out
        means = (drawn @ sums[:, usable]) / (drawn @ counts[:, usable])
    tail = (1 - level) / 2 * 100
    low[usable], high[usable] = np.nanpercentile(means, [tail, 100 - tail], axis=0)
    return low, high


def patient_means(values: Float64[np.ndarray, "case"], patients: Sequence[str]) -> Float64[np.ndarray, "patient"]:
    """One mean a patient over its cases with a value; patients without any are left out."""
    known: Bool[np.ndarray, "case"] = np.isfinite(values)
    _, index = np.unique(np.asarray(patients, dtype=np.str_)[known], return_inverse=True)
    return np.asarray(np.bincount(index, weights=values[known]) / np.bincount(index), dtype=np.float64)
