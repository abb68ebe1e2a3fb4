from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import surface_oracle as oracle
from scantling.evaluation.surface import (
    average_surface_distance,
    hausdorff_distance,
    surface_dice,
    surface_distances,
    surface_mask,
)
from scantling.evaluation.surface_area import area_table

CONVENTIONS = ("monai", "medpy", "deepmind")


def picture(text: str) -> np.ndarray:
    return np.array([[character == "#" for character in line.split()] for line in text.strip().splitlines()])


SQUARE = picture("""
    . . . . . . .
    . # # # # . .
    . # # # # . .
    . # # # # . .
    . # # # # . .
    . . . . . . .
""")
SHIFTED = np.roll(SQUARE, 1, axis=1)


def test_the_surface_of_a_square_is_its_outline() -> None:
    expected = picture("""
        . . . . . . .
        . # # # # . .
        . # . . # . .
        . # . . # . .
        . # # # # . .
        . . . . . . .
    """)
    np.testing.assert_array_equal(surface_mask(SQUARE), expected)


def test_pixels_at_the_image_border_are_surface() -> None:
    expected = np.ones((3, 3), dtype=bool)
    expected[1, 1] = False
    np.testing.assert_array_equal(surface_mask(np.ones((3, 3), dtype=bool)), expected)


def test_two_squares_shifted_by_one_pixel_lie_one_pixel_apart() -> None:
    # outlines: 1 prediction, 2 reference, 3 both       distance of every 1 to the nearest 2 or 3, in mm
    #   1 3 3 3 2                                         1.5  0   0   0
    #   1 2 . 1 2                                         1.5          1
    #   1 2 . 1 2                                         1.5          1
    #   1 3 3 3 2                                         1.5  0   0   0
    found = surface_distances(SQUARE, SHIFTED, (1.0, 1.5))
    assert sorted(found.from_prediction_mm) == sorted(found.from_reference_mm) == [0] * 6 + [1] * 2 + [1.5] * 4
    assert hausdorff_distance(found) == 1.5
    assert average_surface_distance(found) == pytest.approx(8 / 12)
    assert surface_dice(found, tolerance_mm=0.0) == pytest.approx(6 / 12)
    assert surface_dice(found, tolerance_mm=1.4) == pytest.approx(8 / 12)
    assert surface_dice(found, tolerance_mm=1.5) == 1.0


def test_the_three_hd95_conventions_and_two_averages_differ_on_one_far_pixel() -> None:
    # reference: 10 pixels in a row; prediction: the same and one more, 20 mm to the right of the last
    reference = np.zeros((1, 30), dtype=bool)
    reference[0, :10] = True
    prediction = reference.copy()
    prediction[0, 29] = True
    directed = [0.0] * 10 + [20.0], [0.0] * 10  # from prediction, from reference
    monai = surface_distances(prediction, reference, (1.0, 1.0), convention="monai")
    medpy = surface_distances(prediction, reference, (1.0, 1.0), convention="medpy")
    assert hausdorff_distance(monai) == pytest.approx(oracle.percentile(directed[0], 95)) == pytest.approx(10.0)
    assert hausdorff_distance(medpy) == pytest.approx(oracle.percentile(directed[0] + directed[1], 95)) == 0.0
    assert average_surface_distance(monai) == pytest.approx(20 / 21)
    assert average_surface_distance(monai, average="directed") == pytest.approx((20 / 11 + 0) / 2)
    assert hausdorff_distance(monai, percentile=100) == hausdorff_distance(medpy, percentile=100) == 20.0


def test_the_deepmind_convention_weighs_contour_length() -> None:
    # One pixel of 1 x 4 mm: its contour is a diamond of four pieces, each half the diagonal of a pixel. The
    # other mask is the same pixel two columns to the right.
    first = np.zeros((1, 3), dtype=bool)
    first[0, 0] = True
    second = first[:, ::-1].copy()
    found = surface_distances(first, second, (1.0, 4.0), convention="deepmind")
    np.testing.assert_allclose(found.prediction_weight, [math.hypot(1, 4) / 2] * 4)
    # cells of the first pixel have corners at x = -2 and 2 mm, of the second at 6 and 10 mm: 8 and 4 mm away
    assert sorted(found.from_prediction_mm) == [4, 4, 8, 8]
    assert average_surface_distance(found) == 6.0
    assert surface_dice(found, tolerance_mm=4.0) == 0.5


def test_500_random_pairs_agree_with_all_pairwise_distances() -> None:
    rng = np.random.default_rng(30)
    shapes = [(1, 1), (1, 9), (5, 5), (7, 4), (3, 4, 5), (1, 5, 4), (4, 4, 4), (2, 2, 6)]
    for number in range(500):
        shape = shapes[number % len(shapes)]
        spacing = tuple(float(mm) for mm in rng.choice([0.5, 0.7, 1.0, 1.5625, 10.0], len(shape)))
        first, second = oracle.random_mask(rng, shape), oracle.random_mask(rng, shape)
        there, back = oracle.distances(first, second, spacing)
        monai = surface_distances(first, second, spacing)
        medpy = surface_distances(first, second, spacing, convention="medpy")
        np.testing.assert_allclose(sorted(monai.from_prediction_mm), sorted(there), atol=1e-12)
        np.testing.assert_allclose(sorted(monai.from_reference_mm), sorted(back), atol=1e-12)
        hd95 = max(oracle.percentile(there, 95), oracle.percentile(back, 95))
        assert hausdorff_distance(monai) == pytest.approx(hd95, rel=1e-9, abs=1e-12)
        assert hausdorff_distance(medpy) == pytest.approx(oracle.percentile(there + back, 95), rel=1e-9, abs=1e-12)
        pooled = sum(there + back) / len(there + back)
        directed = (sum(there) / len(there) + sum(back) / len(back)) / 2
        assert average_surface_distance(monai) == pytest.approx(pooled, rel=1e-9, abs=1e-12)
        assert average_surface_distance(monai, average="directed") == pytest.approx(directed, rel=1e-9, abs=1e-12)
        tolerance = float(rng.choice([0.0, 0.7, 1.0, 2.0]))
        within = sum(d <= tolerance + 1e-9 for d in there + back) / len(there + back)
        assert surface_dice(monai, tolerance_mm=tolerance) == pytest.approx(within)


def test_sparse_masks_far_apart_agree_with_all_pairwise_distances() -> None:
    rng = np.random.default_rng(32)
    for number in range(150):
        shape, spacing = [((40, 40), (1.0, 1.0)), ((30, 12), (1.0, 6.0)), ((3, 25, 25), (10.0, 1.0, 1.0))][number % 3]
        masks = np.zeros((2, *shape), dtype=bool)
        for mask in masks:
            for _ in range(int(rng.integers(1, 9))):
                mask[tuple(int(rng.integers(n)) for n in shape)] = True
        there, back = oracle.distances(*masks, spacing)
        found = surface_distances(*masks, spacing)
        np.testing.assert_allclose(sorted(found.from_prediction_mm), sorted(there), atol=1e-12)
        np.testing.assert_allclose(sorted(found.from_reference_mm), sorted(back), atol=1e-12)


def test_60_random_pairs_agree_with_all_pairwise_distances_of_weighted_cells() -> None:
    rng = np.random.default_rng(31)
    for number in range(60):
        shape = [(4, 5), (3, 3, 4)][number % 2]
        spacing = tuple(float(mm) for mm in rng.choice([0.7, 1.0, 3.0], len(shape)))
        masks = oracle.random_mask(rng, shape), oracle.random_mask(rng, shape)
        table = area_table(spacing)
        points, weights = [], []
        for mask in masks:
            cells = oracle.cells(mask)
            points.append([tuple(i * mm for i, mm in zip(at, spacing, strict=True)) for at in cells])
            corners = list(itertools.product((0, 1), repeat=len(shape)))
            codes = [sum(1 << corners.index(corner) for corner in inside) for inside in cells.values()]
            weights.append([float(table[code]) for code in codes])
        there, back = oracle.nearest(*points), oracle.nearest(*points[::-1])
        found = surface_distances(*masks, spacing, convention="deepmind")
        total = sum(weights[0]) + sum(weights[1])
        mean = (np.dot(there, weights[0]) + np.dot(back, weights[1])) / total
        assert average_surface_distance(found) == pytest.approx(mean, rel=1e-9, abs=1e-12)
        within = sum(w for d, w in zip(there + back, weights[0] + weights[1], strict=True) if d <= 1 + 1e-9)
        assert surface_dice(found, tolerance_mm=1.0) == pytest.approx(within / total)
        directed = []
        for mm, weight in ((there, weights[0]), (back, weights[1])):
            so_far, pairs = 0.0, sorted(zip(mm, weight, strict=True))
            for distance, w in pairs:
                so_far += w
                if so_far >= 0.95 * sum(weight) - 1e-9:
                    directed.append(distance)
                    break
        assert hausdorff_distance(found) == pytest.approx(max(directed), rel=1e-9, abs=1e-12)


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=3).map(tuple))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spacing = tuple(float(mm) for mm in rng.choice([0.5, 1.0, 2.0, 5.0], len(shape)))
    return oracle.random_mask(rng, shape), oracle.random_mask(rng, shape), spacing


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=40, deadline=None)
@given(pair=mask_pairs())
def test_metrics_are_symmetric_and_scale_with_the_spacing(convention, pair) -> None:
    first, second, spacing = pair
    there = surface_distances(first, second, spacing, convention=convention)
    back = surface_distances(second, first, spacing, convention=convention)
    tripled = surface_distances(first, second, tuple(3 * mm for mm in spacing), convention=convention)
    for measure in (hausdorff_distance, average_surface_distance):
        assert measure(there) == pytest.approx(measure(back), rel=1e-9)
        assert measure(tripled) == pytest.approx(3 * measure(there), rel=1e-9)
    assert surface_dice(there, tolerance_mm=1.0) == pytest.approx(surface_dice(back, tolerance_mm=1.0))
    assert surface_dice(tripled, tolerance_mm=3.0) == pytest.approx(surface_dice(there, tolerance_mm=1.0))


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=25, deadline=None)
@given(pair=mask_pairs())
def test_a_mask_lies_on_itself_and_only_on_itself(convention, pair) -> None:
    first, second, spacing = pair
    same = surface_distances(first, first, spacing, convention=convention)
    assert hausdorff_distance(same, percentile=100) == average_surface_distance(same) == 0
    assert surface_dice(same, tolerance_mm=0.0) == 1
    other = surface_distances(first, second, spacing, convention=convention)
    if convention == "deepmind":
        equal = oracle.cells(first).keys() == oracle.cells(second).keys()
    else:
        equal = oracle.surface_points(first, spacing) == oracle.surface_points(second, spacing)
    assert (hausdorff_distance(other, percentile=100) == 0) == equal


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_empty_mask_has_no_distance_and_shares_no_surface(convention) -> None:
    empty = np.zeros_like(SQUARE)
    for pair in ((SQUARE, empty), (empty, SQUARE)):
        found = surface_distances(*pair, (1.0, 1.0), convention=convention)
        assert math.isnan(hausdorff_distance(found))
        assert math.isnan(average_surface_distance(found))
        assert surface_dice(found, tolerance_mm=100.0) == 0
    neither = surface_distances(empty, empty, (1.0, 1.0), convention=convention)
    assert math.isnan(surface_dice(neither, tolerance_mm=1.0))


def test_a_distance_that_equals_the_tolerance_up_to_rounding_is_within_it() -> None:
    # 3 x 0.1 mm is 0.30000000000000004 in floats
    first, second = np.zeros((2, 1, 4), dtype=bool)
    first[0, 0], second[0, 3] = True, True
    assert surface_dice(surface_distances(first, second, (1.0, 0.1)), tolerance_mm=0.3) == 1
