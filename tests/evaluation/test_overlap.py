from __future__ import annotations

import numpy as np
import pytest

from scantling.evaluation.overlap import (
    dice,
    iou,
    precision,
    recall,
    relative_size_error,
    size_difference,
)


def test_ratios_of_two_squares_shifted_by_one_pixel() -> None:
    # reference #   prediction o    3 x 3 each, shifted by one column: 6 shared, 3 only in each
    #   # @ @ o
    #   # @ @ o
    #   # @ @ o
    assert dice(6, 3, 3) == pytest.approx(12 / 18)
    assert iou(6, 3, 3) == pytest.approx(6 / 12)
    assert precision(6, 3) == pytest.approx(6 / 9)
    assert recall(6, 3) == pytest.approx(6 / 9)
    assert size_difference(3, 3, 2.5) == 0


def test_dice_and_iou_are_functions_of_each_other() -> None:
    tp, fp, fn = np.random.default_rng(0).integers(0, 50, (3, 200))
    both = iou(tp, fp, fn)
    np.testing.assert_allclose(dice(tp, fp, fn), 2 * both / (1 + both))


def test_nothing_to_divide_by_is_nan_and_one_empty_mask_is_zero() -> None:
    both_empty, missed, false_positive = (0, 0, 0), (0, 0, 4), (0, 4, 0)
    counts = [np.array(column) for column in zip(both_empty, missed, false_positive, strict=True)]
    np.testing.assert_array_equal(dice(*counts), [np.nan, 0, 0])
    np.testing.assert_array_equal(iou(*counts), [np.nan, 0, 0])
    np.testing.assert_array_equal(precision(counts[0], counts[1]), [np.nan, np.nan, 0])
    np.testing.assert_array_equal(recall(counts[0], counts[2]), [np.nan, 0, np.nan])
    np.testing.assert_array_equal(relative_size_error(*counts), [np.nan, 1, np.nan])


def test_size_difference_is_positive_where_too_much_is_predicted() -> None:
    assert size_difference(5, 2, 0.5) == 1.5
    assert size_difference(2, 5, 0.5) == -1.5
    assert relative_size_error(8, 5, 2) == pytest.approx(0.3)
