"""The table of a protocol: rows of figures, as text and as files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from scantling.evaluation.compare import wilcoxon_p
from scantling.evaluation.conventions import MEAN_FOREGROUND
from scantling.evaluation.results import Evaluation, aligned
from scantling.evaluation.statistics import bootstrap_mean, patient_means
from scantling.files import write_atomic
from scantling.seeding import numpy_generator

METRICS: Final = ("dice", "hd95_mm", "assd_mm")


@dataclass(frozen=True, kw_only=True)
class ProtocolTable:
    """What a protocol found.

    Attributes:
        rows: a mapping for each method, with the same names; NaN is empty.
        notes: what must be known before the figures are quoted.
    """

    folder: Path
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same facts as `text`, for scripts; NaN is None."""
        plain = [{name: None if _is_nan(value) else value for name, value in row.items()} for row in self.rows]
        return {"folder": str(self.folder), "rows": plain, "notes": list(self.notes)}

    def text(self) -> str:
        """A table and its notes."""
        lines = [list(self.rows[0]), *([_cell(value) for value in row.values()] for row in self.rows)]
        return "\n".join([*aligned(lines), *self.notes, f"rows: {self.folder / 'table.csv'}"])

    def save(self) -> None:
        """Write `table.csv`."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if _is_nan(v) else v for k, v in row.items()} for row in self.rows)
        write_atomic(self.folder / "table.csv", text.getvalue().encode())


def clean_rows(found: Mapping[str, Sequence[Evaluation]], *, baseline: str, seed: int) -> list[dict[str, Any]]:
    """Means with intervals, and the paired difference in Dice to the baseline.

    A case's score is its mean over the seeds in which it was held out; intervals and tests are over patients.

    Args:
        found: by method, the evaluations of its seeds, in the same order for all.
    """
    rows = []
    for method, evaluations in found.items():
        row: dict[str, Any] = {"method": method, "seeds": len(evaluations)}
        for metric in METRICS:
            values, patients = _over_seeds(evaluations, metric)
            rng = numpy_generator(seed, "protocol", metric)
            mean = bootstrap_mean(np.array(list(values.values())), [patients[case] for case in values], rng)
            row |= {metric: mean.mean, f"{metric}_low": mean.low, f"{metric}_high": mean.high}
        row["failed"] = sum(evaluation.find().failed for evaluation in evaluations)
        rows.append({**row, **_difference(evaluations, found[baseline], seed, of_baseline=method == baseline)})
    return rows


def best_of_folds(found: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Mean and standard deviation (n - 1 below the line) over folds of each method's best score, in percent."""
    return [
        {
            "method": method,
            "folds": len(scores),
            "best_dice_percent": 100 * float(np.mean(scores)),
            "sd": 100 * float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan,
        }
        for method, scores in found.items()
    ]


def _difference(
    first: Sequence[Evaluation], second: Sequence[Evaluation], seed: int, *, of_baseline: bool
) -> dict[str, float]:
    if of_baseline:
        return dict.fromkeys(("difference", "difference_low", "difference_high", "p"), math.nan)
    values, patients = _over_seeds(first, "dice")
    others, _ = _over_seeds(second, "dice")
    cases = [case for case in values if case in others]
    differences: Float64[np.ndarray, "case"] = np.array([values[case] - others[case] for case in cases])
    owners = [patients[case] for case in cases]
    mean = bootstrap_mean(differences, owners, numpy_generator(seed, "protocol", "difference"))
    return {
        "difference": mean.mean,
        "difference_low": mean.low,
        "difference_high": mean.high,
        "p": wilcoxon_p(patient_means(differences, owners)),
    }


def _over_seeds(evaluations: Sequence[Evaluation], metric: str) -> tuple[dict[str, float], dict[str, str]]:
    """Case -> its mean over the evaluations that have a value, and case -> patient."""
    found: dict[str, list[float]] = {}
    patients: dict[str, str] = {}
    for evaluation in evaluations:
        patients |= evaluation.patients
        for case, row in evaluation.values(MEAN_FOREGROUND, metric).items():
            found.setdefault(case, []).append(row.value)
    means = {case: [value for value in values if math.isfinite(value)] for case, values in found.items()}
    return {case: float(np.mean(values)) if values else math.nan for case, values in means.items()}, patients


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return str(value)
