"""Whether probabilities mean what they say: expected calibration error and Brier score.

Pixels the reference labels IGNORE count nowhere. Most pixels of most images are easy background, and their
agreement dilutes every score here: compare scores only between methods on the same images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Integer

N_BINS = 15
"""Guo et al. 2017, Sec. 2."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """What a reliability diagram shows; an empty bin has NaN for both means.

    Attributes:
        confidence: mean predicted probability in each bin.
        frequency: share of the bin's pixels for which the prediction came true.
        count: pixels in each bin.
    """

    confidence: Float64[np.ndarray, "bin"]
    frequency: Float64[np.ndarray, "bin"]
    count: Int64[np.ndarray, "bin"]


def reliability(
    probs: Float[np.ndarray, "*pixel"], came_true: Bool[np.ndarray, "*pixel"], *, bins: int = N_BINS
) -> Reliability:
    """Predicted against observed frequency in `bins` bins of equal width, closed on the right."""
    which = np.clip(np.ceil(probs.ravel() * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(which, weights=probs.ravel(), minlength=bins) / count
        frequency = np.bincount(which, weights=came_true.ravel(), minlength=bins) / count
    return Reliability(confidence=confidence, frequency=frequency, count=count.astype(np.int64))


def expected_calibration_error(found: Reliability) -> float:
    """The mean over pixels of |confidence - frequency| of their bin, in [0, 1]; NaN without pixels.

    Source: Guo et al. 2017, "On calibration of modern neural networks", Eq. 3.
    """
    total = int(found.count.sum())
    if total == 0:
        return float("nan")
    filled = found.count > 0
    gap = np.abs(found.confidence[filled] - found.frequency[filled])
    return float(gap @ found.count[filled]) / total


def top_label_reliability(
    probs: Float[np.ndarray, "klass *spatial"],
    reference: Integer[np.ndarray, "*spatial"],
    *,
    bins: int = N_BINS,
) -> Reliability:
    """The reliability of the winning class: its probability against how often it is right."""
    seen = reference >= 0
    confidence, winner = probs.max(axis=0)[seen], probs.argmax(axis=0)[seen]
    return reliability(confidence, winner == reference[seen], bins=bins)


def class_reliability(
    probs: Float[np.ndarray, "klass *spatial"],
    reference: Integer[np.ndarray, "*spatial"],
    klass: int,
    *,
    bins: int = N_BINS,
) -> Reliability:
    """The reliability of one class against the rest: its probability against how often the pixel is of it."""
    seen = reference >= 0
    return reliability(probs[klass][seen], reference[seen] == klass, bins=bins)


def brier_score(probs: Float[np.ndarray, "klass *spatial"], reference: Integer[np.ndarray, "*spatial"]) -> float:
    """The mean over pixels of the squared errors summed over classes, in [0, 2]; NaN without pixels.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability", Eq. 2.
    """
    return float(sum(class_brier_score(probs, reference, klass) for klass in range(len(probs))))


def class_brier_score(
    probs: Float[np.ndarray, "klass *spatial"], reference: Integer[np.ndarray, "*spatial"], klass: int
) -> float:
    """The mean squared error of one class's probability, in [0, 1]; NaN without pixels."""
    seen = reference >= 0
    if not seen.any():
        return float("nan")
    error = probs[klass][seen].astype(np.float64) - (reference[seen] == klass)
    return float(np.mean(np.square(error)))
