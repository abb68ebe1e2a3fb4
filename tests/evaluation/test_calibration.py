from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scantling.evaluation.calibration import (
    brier_score,
    class_brier_score,
    class_reliability,
    expected_calibration_error,
    reliability,
    top_label_reliability,
)


def ece_by_loops(probs: list[float], true: list[bool], bins: int) -> float:
    """Guo et al. 2017, Eq. 2 and 3: bin m holds the confidences in ((m - 1) / M, m / M]."""
    total = 0.0
    for m in range(1, bins + 1):
        here = [
            (p, t) for p, t in zip(probs, true, strict=True) if (m - 1) / bins < p <= m / bins or (m == 1 and p == 0)
        ]
        if here:
            confidence = sum(p for p, _ in here) / len(here)
            accuracy = sum(t for _, t in here) / len(here)
            total += len(here) / len(probs) * abs(confidence - accuracy)
    return total


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1024), st.booleans()), min_size=1, max_size=60),
    st.sampled_from([1, 8, 16]),
)
def test_ece_equals_its_definition(pairs: list[tuple[int, bool]], bins: int) -> None:
    probs = [numerator / 1024 for numerator, _ in pairs]  # whole 1024ths, so that bin edges are exact
    true = [t for _, t in pairs]
    found = reliability(np.array(probs), np.array(true), bins=bins)
    assert expected_calibration_error(found) == pytest.approx(ece_by_loops(probs, true, bins), abs=1e-12)
    assert found.count.sum() == len(pairs)


def test_probabilities_that_come_true_as_often_as_they_say_have_no_error() -> None:
    probs = np.repeat([0.1, 0.5, 0.9], 10)
    true = np.concatenate([np.arange(10) < n for n in (1, 5, 9)])
    found = reliability(probs, true, bins=10)
    assert expected_calibration_error(found) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found.confidence[[0, 4, 8]], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(found.frequency[[0, 4, 8]], [0.1, 0.5, 0.9])
    assert math.isnan(found.confidence[1])


def test_ignored_pixels_count_nowhere() -> None:
    probs = np.array([[[0.8, 0.3, 0.5]], [[0.2, 0.7, 0.5]]])
    reference = np.array([[0, 1, -1]])
    # pixel 1: right with 0.8; pixel 2: right with 0.7
    assert expected_calibration_error(top_label_reliability(probs, reference)) == pytest.approx(0.25)
    assert brier_score(probs, reference) == pytest.approx((2 * 0.2**2 + 2 * 0.3**2) / 2)
    assert class_brier_score(probs, reference, 1) == pytest.approx((0.2**2 + 0.3**2) / 2)
    assert class_reliability(probs, reference, 1).count.sum() == 2


def test_certainty_scores_0_when_right_and_2_when_wrong() -> None:
    probs = np.zeros((3, 2, 2), dtype=np.float32)
    probs[1] = 1
    assert brier_score(probs, np.full((2, 2), 1)) == 0
    assert brier_score(probs, np.full((2, 2), 2)) == 2


def test_without_pixels_nothing_is_defined() -> None:
    probs, reference = np.full((2, 2, 2), 0.5), np.full((2, 2), -1)
    assert math.isnan(expected_calibration_error(top_label_reliability(probs, reference)))
    assert math.isnan(brier_score(probs, reference))
