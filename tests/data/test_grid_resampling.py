"""Oracles: scipy.ndimage.zoom for interpolation on finer grids, Pillow for anti-aliased shrinking."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scantling.data.case import IGNORE
from scantling.data.resampling import (
    interpolation_matrix,
    resample,
    resample_labels,
    resample_nearest,
)


def zoom_linear(array, shape):
    factors = [m / n for m, n in zip(shape, array.shape, strict=True)]
    return scipy.ndimage.zoom(array.astype(float), factors, order=1, grid_mode=True, mode="nearest")


@pytest.mark.parametrize(
    ("source", "target"), [((7, 9), (11, 23)), ((5, 6, 7), (9, 6, 20)), ((1, 4, 4), (3, 8, 4)), ((6,), (13,))]
)
def test_linear_enlarging_equals_scipy_zoom_on_pixel_centres(source, target):
    array = np.random.default_rng(0).normal(size=source).astype(np.float32)
    np.testing.assert_allclose(resample(array, target, "linear"), zoom_linear(array, target), atol=1e-5)


@pytest.mark.parametrize("target", [(31, 50), (20, 24), (13, 9), (64, 17), (1, 1)])
@pytest.mark.parametrize(
    ("kernel", "filter_"), [("linear", Image.Resampling.BILINEAR), ("cubic", Image.Resampling.BICUBIC)]
)
def test_both_kernels_equal_pillow_for_larger_and_antialiased_smaller_grids(kernel, filter_, target):
    array = np.random.default_rng(1).normal(size=(29, 37)).astype(np.float32)
    expected = np.asarray(Image.fromarray(array).resize(target[::-1], filter_))
    np.testing.assert_allclose(resample(array, target, kernel), expected, atol=2e-5)


@given(n_in=st.integers(1, 60), n_out=st.integers(1, 60), kernel=st.sampled_from(["linear", "cubic"]))
@settings(max_examples=60, deadline=None)
def test_rows_of_a_matrix_sum_to_one_and_reversing_commutes(n_in, n_out, kernel):
    matrix = interpolation_matrix(n_in, n_out, kernel)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-5)


def test_an_unchanged_axis_and_an_unchanged_grid_keep_every_bit():
    array = np.random.default_rng(2).normal(size=(4, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(resample(array, array.shape, "cubic"), array)
    per_slice = np.stack([resample(plane, (8, 9), "cubic") for plane in array])
    np.testing.assert_allclose(resample(array, (4, 8, 9), "cubic"), per_slice, atol=1e-6)


@pytest.mark.parametrize("target", [(5, 6), (9, 20), (23, 31)])
def test_nearest_takes_the_sample_whose_cell_holds_the_new_centre(target):
    array = np.arange(11 * 13).reshape(11, 13)
    expected = [
        [array[int((i + 0.5) * 11 / target[0]), int((j + 0.5) * 13 / target[1])] for j in range(target[1])]
        for i in range(target[0])
    ]
    np.testing.assert_array_equal(resample_nearest(array, target), expected)


def test_labels_are_the_largest_of_the_interpolated_class_masks():
    labels = np.random.default_rng(3).integers(0, 4, size=(6, 7, 5)).astype(np.int8)
    target = (11, 16, 9)
    scores = np.stack([zoom_linear(labels == k, target) for k in range(4)])
    ordered = np.sort(scores, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5  # ties depend on rounding
    actual = resample_labels(labels, target)
    np.testing.assert_array_equal(actual[clear], scores.argmax(axis=0)[clear])
    assert clear.mean() > 0.9
    assert actual.dtype == np.int8


def test_unknown_labels_stay_where_the_nearest_sample_was_unknown_and_never_vote():
    labels = np.random.default_rng(4).integers(-1, 3, size=(16, 16)).astype(np.int8)
    for target in [(8, 8), (11, 13), (40, 33)]:
        actual = resample_labels(labels, target)
        np.testing.assert_array_equal(actual == IGNORE, resample_nearest(labels, target) == IGNORE)
    only_unknown = np.full((4, 4), IGNORE, dtype=np.int8)
    np.testing.assert_array_equal(resample_labels(only_unknown, (7, 7)), IGNORE)
