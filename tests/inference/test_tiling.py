"""Tiles cover an image, evenly; the weights' sum per voxel equals a count volume filled tile by tile."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scantling.inference.tiling import box, gaussian, outer, tile, tile_starts


@given(
    length=st.integers(1, 300),
    extent=st.integers(1, 64),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9]),
)
@settings(max_examples=300, deadline=None)
def test_tiles_cover_an_axis_without_gaps_with_at_least_the_overlap_that_was_asked_for(
    length: int, extent: int, overlap: float
) -> None:
    length = max(length, extent)
    starts = tile_starts(length, extent, overlap)
    covered = np.zeros(length, dtype=bool)
    for start in starts:
        covered[start : start + extent] = True
    gaps = np.diff(starts)
    assert covered.all()
    assert starts[0] == 0
    assert starts[-1] == length - extent
    assert (gaps > 0).all()
    assert (gaps <= max(1, np.floor(extent * (1 - overlap)))).all()
    if len(gaps):
        assert gaps.max() - gaps.min() <= 1


def test_the_gaussian_is_scipys_up_to_its_height() -> None:
    from scipy.signal.windows import gaussian as reference

    for extent in (1, 7, 96):
        np.testing.assert_allclose(gaussian(extent).numpy(), reference(extent, extent / 8), rtol=1e-12)


@pytest.mark.parametrize(("shape", "patch"), [((20, 31, 14), (8, 12, 8)), ((5, 40), (8, 16)), ((3, 4, 5), (8, 8, 8))])
def test_the_product_of_the_inverse_vectors_is_one_over_a_count_volume(
    shape: tuple[int, ...], patch: tuple[int, ...]
) -> None:
    window = tile(shape, patch, overlap=0.5, batch_size=3)
    weights = outer([axis.weights.double() for axis in window.axes])
    count = torch.zeros(window.canvas, dtype=torch.float64)
    for corner in itertools.chain.from_iterable(window.batches):
        count[box(corner, patch)] += weights
    inverse = outer([axis.inverse.double() for axis in window.axes])
    torch.testing.assert_close(inverse * count, torch.ones_like(count), rtol=1e-5, atol=0)


def test_each_tile_comes_once_and_the_sweep_never_goes_back() -> None:
    window = tile((20, 50, 14), (8, 8, 8), overlap=0.5, batch_size=4)
    corners = list(itertools.chain.from_iterable(window.batches))
    assert sorted(corners) == sorted(itertools.product(*(axis.starts for axis in window.axes)))
    assert window.sweep == 1
    assert [corner[1] for corner in corners] == sorted(corner[1] for corner in corners)
    assert all(len(batch) == 4 for batch in window.batches[:-1])


def test_padding_is_shared_between_both_ends() -> None:
    window = tile((5, 20), (8, 8), overlap=0.5, batch_size=1)
    assert window.canvas == (8, 20)
    assert window.before == (1, 0)


@pytest.mark.parametrize(
    ("shape", "patch", "overlap", "batch_size"),
    [
        ((20, 20), (8,), 0.5, 1),
        ((20,), (0,), 0.5, 1),
        ((0,), (8,), 0.5, 1),
        ((9,), (8,), 1.0, 1),
        ((9,), (8,), 0.5, 0),
    ],
)
def test_impossible_tilings_are_refused(
    shape: tuple[int, ...], patch: tuple[int, ...], overlap: float, batch_size: int
) -> None:
    with pytest.raises(ValueError, match=r"wanted 0 <= overlap|does not tile"):
        tile(shape, patch, overlap=overlap, batch_size=batch_size)
