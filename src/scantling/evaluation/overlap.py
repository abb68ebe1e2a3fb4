"""How much two masks share, from pixel counts; every function works on one class or on an array of classes.

An undefined ratio (nothing to divide by) is NaN, never 0 or 1.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

Ratio = Float64[np.ndarray, "*klass"]


def dice(true_positive: ArrayLike, false_positive: ArrayLike, false_negative: ArrayLike) -> Ratio:
    """2 TP / (2 TP + FP + FN), in [0, 1]; NaN where both masks are empty, 0 where exactly one is.

    Source: Dice 1945, "Measures of the amount of ecologic association between species".
    """
    shared = 2 * np.asarray(true_positive)
    return _ratio(shared, shared + np.asarray(false_positive) + np.asarray(false_negative))


def iou(true_positive: ArrayLike, false_positive: ArrayLike, false_negative: ArrayLike) -> Ratio:
    """TP / (TP + FP + FN), in [0, 1]; NaN where both masks are empty, 0 where exactly one is.

    Source: Jaccard 1912, "The distribution of the flora in the alpine zone".
    """
    return _ratio(true_positive, np.asarray(true_positive) + np.asarray(false_positive) + np.asarray(false_negative))


def precision(true_positive: ArrayLike, false_positive: ArrayLike) -> Ratio:
    """TP / (TP + FP), in [0, 1]; NaN where nothing is predicted."""
    return _ratio(true_positive, np.asarray(true_positive) + np.asarray(false_positive))


def recall(true_positive: ArrayLike, false_negative: ArrayLike) -> Ratio:
    """TP / (TP + FN), in [0, 1]; NaN where the reference is empty."""
    return _ratio(true_positive, np.asarray(true_positive) + np.asarray(false_negative))


def size_difference(false_positive: ArrayLike, false_negative: ArrayLike, pixel_size: float) -> Ratio:
    """Size of the prediction minus size of the reference; positive where too much is predicted.

    Args:
        pixel_size: of one pixel, in the unit wanted: mm2 in 2D; ml (mm3 / 1000) in 3D.
    """
    excess = np.asarray(false_positive, dtype=np.float64) - np.asarray(false_negative)
    return np.asarray(excess * pixel_size)


def relative_size_error(true_positive: ArrayLike, false_positive: ArrayLike, false_negative: ArrayLike) -> Ratio:
    """|FP - FN| / (TP + FN): the size error as a fraction of the reference; NaN where that is empty."""
    off = np.abs(np.asarray(false_positive, dtype=np.float64) - np.asarray(false_negative))
    return _ratio(off, np.asarray(true_positive) + np.asarray(false_negative))


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Ratio:
    above = np.asarray(numerator, dtype=np.float64)
    below = np.asarray(denominator, dtype=np.float64)
    undefined = np.full(np.broadcast(above, below).shape, np.nan)
    return np.asarray(np.divide(above, below, out=undefined, where=below != 0))
