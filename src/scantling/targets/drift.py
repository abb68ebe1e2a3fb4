"""Whether self-training still helps: a round whose held-out score falls out of the noise is taken back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

ONE_DICE_POINT: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of the latest round.

    Attributes:
        to_round: the round that stands after it: the latest, or the best before it.
        change: mean over patients of (score of the latest - score of the best before it); 0 where there is none.
        standard_error: of that mean; NaN with one patient.
        band: how far the score may fall and still be kept.
        sentence: the same in words, for the log and the report.
    """

    verdict: Literal["keep", "roll back"]
    to_round: int
    change: float
    standard_error: float
    band: float
    sentence: str


def decide(
    scores: Mapping[int, Mapping[str, float]],
    *,
    patients: Mapping[str, str] | None = None,
    factor: float = 2.0,
    widest: float = ONE_DICE_POINT,
) -> Decision:
    """Keep the latest round, or roll back to the best one before it.

    The latest is compared with the best and not with the one before, for otherwise a score could sink step by step
    within the noise. Both are compared case by case: what makes one case harder than another cancels out. The noise
    band is `factor` standard errors of the mean difference, at most `widest`; so whatever stands at last has lost
    no more than `widest` to the best round, however few cases there are.

    Args:
        scores: round -> held-out case -> score, higher is better. Round 0 was trained on annotations alone. Only rounds
            that stand: those rolled back are left out. A NaN is no score.
        patients: case -> patient, where a patient has several cases; the patient is what varies independently.
        factor: 2 standard errors hold 95 % of what noise alone does, with many patients.
        widest: in the unit of the scores.

    Raises:
        ValueError: no round, or no case that has a score in every round.
    """
    if not scores:
        raise ValueError("decide: got the scores of no round")
    known = [{case for case, score in cases.items() if math.isfinite(score)} for cases in scores.values()]
    shared = sorted(set.intersection(*known))
    if not shared:
        raise ValueError("decide: no held-out case has a score in every round, so rounds cannot be compared")
    latest = max(scores)
    means = {number: _patient_means(cases, shared, patients) for number, cases in scores.items()}
    earlier = sorted(number for number in scores if number != latest)
    if not earlier:
        said = f"round {latest} is the first, with a held-out score of {means[latest].mean():.4f}"
        return Decision(
            verdict="keep", to_round=latest, change=0.0, standard_error=math.nan, band=widest, sentence=said
        )
    best = max(earlier, key=lambda number: (means[number].mean(), -number))
    differences = means[latest] - means[best]
    change, n = float(differences.mean()), len(differences)
    error = float(differences.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    band = widest if math.isnan(error) else min(factor * error, widest)
    falls = change < -band
    said = (
        f"round {latest}: held-out score {means[latest].mean():.4f}, {change:+.4f} against round {best} over {n} "
        f"patient{'s' if n > 1 else ''} (standard error {error:.4f}, noise band {band:.4f}): "
    )
    return Decision(
        verdict="roll back" if falls else "keep",
        to_round=best if falls else latest,
        change=change,
        standard_error=error,
        band=band,
        sentence=said + (f"worse than noise explains, back to round {best}" if falls else "kept"),
    )


def _patient_means(cases: Mapping[str, float], shared: list[str], patients: Mapping[str, str] | None) -> np.ndarray:
    """One mean a patient, in the order of their names."""
    by_patient: dict[str, list[float]] = {}
    for case in shared:
        by_patient.setdefault(patients[case] if patients else case, []).append(cases[case])
    return np.array([np.mean(by_patient[name]) for name in sorted(by_patient)])
