"""What images without full labels added over labels alone: figures for the report, and a sentence that owns up."""

from __future__ import annotations

import math
from typing import Any

from scantling.evaluation.compare import compare_evaluations
from scantling.evaluation.conventions import MEAN_FOREGROUND
from scantling.evaluation.results import Evaluation, finite_or_none
from scantling.evaluation.statistics import LEVEL
from scantling.evaluation.summary import Summary


def added(
    with_them: Evaluation | None, without: Evaluation | None, *, what: str, folder: str, seed: int
) -> dict[str, Any]:
    """Mean foreground Dice of both runs on the same held-out cases, and their difference.

    Args:
        what: they are, as in "60 images".
        folder: of the run on labels alone, to be named where that one is better.
    """
    subject = f"{what} without full labels"
    if with_them is None or without is None:
        return {"sentence": f"Nobody was held out, so what {subject} added cannot be said."}
    found = compare_evaluations(with_them, without, seed=seed).find(MEAN_FOREGROUND)
    figures = {
        "dice": finite_or_none(found.mean_first),
        "dice_labels_only": finite_or_none(found.mean_second),
        "difference": finite_or_none(found.difference),
        "low": finite_or_none(found.low),
        "high": finite_or_none(found.high),
        "cases": found.n_cases,
        "patients": found.n_patients,
    }
    if not math.isfinite(found.difference):
        return {"sentence": f"No held-out case was scored in both runs, so what {subject} added cannot be said."}
    on = f"{found.n_cases} held-out case{'s' * (found.n_cases != 1)}"
    first, second = (_with_interval(one.find()) for one in (with_them, without))
    means = f"{first} against {second} by labels alone at the same budget, on {on}"
    interval = f"{LEVEL * 100:g} % interval {found.low:+.3f} to {found.high:+.3f}"
    if not math.isfinite(found.low):
        sentence = f"With {subject} the Dice is {means}: too few patients to tell that from chance."
    elif found.low > 0:
        sentence = f"{subject} added {found.difference:.3f} of Dice ({interval}): {means}."
    elif found.high < 0:
        sentence = (
            f"{subject} did harm: {found.difference:+.3f} of Dice ({interval}), {means}; use the model of labels "
            f"alone, in {folder}."
        )
    else:
        sentence = (
            f"{subject} added nothing that can be told from chance: {found.difference:+.3f} of Dice ({interval}), "
            f"{means}."
        )
    return {"sentence": sentence, **figures}


def _with_interval(summary: Summary) -> str:
    if not math.isfinite(summary.low):
        return f"{summary.mean:.3f}"
    return f"{summary.mean:.3f} ({summary.low:.3f} to {summary.high:.3f})"


def images(n: int) -> str:
    """So many images."""
    return f"{n} image{'' if n == 1 else 's'}"
