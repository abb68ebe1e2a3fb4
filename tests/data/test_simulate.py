"""Weak labels tell the truth where they speak; their amount and faults are what was asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from scantling.data.case import IGNORE
from scantling.data.simulate import (
    displaced,
    dropped,
    leaked,
    scribbles,
    silver_noise,
    smoothed,
    sparse_slices,
    stored_with_unknown,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def nested(size: int = 96) -> np.ndarray:
    """A disk in a ring beside an ellipse, as in a short-axis slice."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    label_map = np.zeros((size, size), dtype=np.uint8)
    label_map[((x + 0.2) / 0.15) ** 2 + (y / 0.2) ** 2 < 1] = 1
    label_map[np.hypot(x - 0.1, y) < 0.22] = 2
    label_map[np.hypot(x - 0.1, y) < 0.14] = 3
    return label_map


def test_scribbles_say_only_what_the_mask_says():
    label_map = nested()
    drawn = scribbles(label_map, rng())
    said = drawn != IGNORE
    assert said.any()
    assert np.array_equal(drawn[said], label_map[said])


def test_every_class_and_background_gets_a_scribble_of_about_the_wanted_size():
    label_map = nested(128)
    drawn = scribbles(label_map, rng(), fraction=0.012, width_px=2)
    shares = [np.count_nonzero(drawn == value) / label_map.size for value in range(4)]
    assert all(0.0015 < share < 0.0055 for share in shares)  # 0.012 in four parts is 0.003
    assert 0.007 < sum(shares) < 0.02


def test_scribbles_are_curves_and_keep_off_the_border():
    label_map = nested(128)
    drawn = scribbles(label_map, rng(), width_px=1, margin_px=3)
    for value in range(1, 4):
        curve = drawn == value
        assert ndimage.label(curve, structure=np.ones((3, 3)))[1] == 1
        assert not ndimage.binary_erosion(curve, structure=np.ones((2, 2))).any()  # nowhere two pixels thick
        assert ndimage.distance_transform_edt(label_map == value)[curve].min() > 3


def test_background_scribbles_run_near_the_structures():
    label_map = nested(128)
    drawn = scribbles(label_map, rng())
    away = ndimage.distance_transform_edt(label_map == 0)
    assert away[drawn == 0].max() <= 0.12 * 128 + 3


def test_a_class_of_one_pixel_still_gets_its_scribble():
    label_map = np.zeros((20, 20), dtype=np.int8)
    label_map[10, 10] = 1
    assert scribbles(label_map, rng())[10, 10] == 1


def test_unknown_pixels_are_never_scribbled():
    label_map = nested().astype(np.int8)
    label_map[:, :40] = IGNORE
    assert (scribbles(label_map, rng(), fraction=0.1)[:, :40] == IGNORE).all()


def test_an_all_background_slice_gets_a_background_scribble():
    drawn = scribbles(np.zeros((2, 32, 40), dtype=np.uint8), rng())
    assert ((drawn == 0).sum(axis=(1, 2)) > 0).all()


def test_volumes_are_scribbled_slice_by_slice():
    volume = np.stack([nested(), np.zeros((96, 96), dtype=np.uint8), nested()])
    drawn = scribbles(volume, rng())
    assert all(set(np.unique(drawn[k])) == {IGNORE, 0, 1, 2, 3} for k in (0, 2))
    assert set(np.unique(drawn[1])) == {IGNORE, 0}


def test_scribbles_depend_on_the_generator_and_nothing_else():
    label_map = nested()
    np.random.seed(1)  # noqa: NPY002 - to show that the global state is not read
    first = scribbles(label_map, rng(5))
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(first, scribbles(label_map, rng(5)))
    assert not np.array_equal(first, scribbles(label_map, rng(6)))


@pytest.mark.parametrize(("fraction", "width_px"), [(0.0, 2), (1.5, 2), (0.01, 0)])
def test_impossible_pens_are_refused(fraction, width_px):
    with pytest.raises(ValueError, match="fraction must be in"):
        scribbles(nested(), rng(), fraction=fraction, width_px=width_px)


@settings(max_examples=40, deadline=None)
@given(n_slices=st.integers(1, 14), first=st.integers(0, 5), length=st.integers(0, 7), seed=st.integers(0, 99))
def test_sparse_slices_keep_exactly_the_wanted_number_of_slices_with_foreground(n_slices, first, length, seed):
    volume = np.zeros((12, 4, 5), dtype=np.int8)
    volume[first : first + length, 1:3, 1:3] = 2
    sparse = sparse_slices(volume, rng(seed), n_slices=n_slices)
    kept = [k for k in range(12) if (sparse[k] != IGNORE).any()]
    candidates = range(first, first + length) if length else range(12)
    assert len(kept) == min(n_slices, len(candidates))
    assert set(kept) <= set(candidates)
    assert all(np.array_equal(sparse[k], volume[k]) for k in kept)


def test_sparse_slices_are_spread_over_the_structure():
    volume = np.ones((30, 2, 2), dtype=np.int8)
    for seed in range(20):
        kept = np.flatnonzero((sparse_slices(volume, rng(seed), n_slices=3) != IGNORE).all(axis=(1, 2)))
        assert np.array_equal(np.diff(kept), [10, 10])


def test_sparse_slices_cut_along_the_wanted_axis():
    volume = np.ones((4, 5, 6), dtype=np.int8)
    sparse = sparse_slices(volume, rng(), n_slices=1, axis=2)
    assert (sparse == 1).sum() == 4 * 5


def test_no_slice_at_all_is_refused():
    with pytest.raises(ValueError, match="n_slices must be >= 1"):
        sparse_slices(np.ones((2, 2, 2), dtype=np.int8), rng(), n_slices=0)


def test_displacement_moves_borders_by_about_what_was_asked():
    half = np.zeros((200, 200), dtype=np.uint8)
    half[:, 100:] = 1
    moved = displaced(half, rng(), displacement_px=3.0, smoothness_px=6.0)
    border = 200 - (moved == 1).sum(axis=1)  # where the border is in each row
    assert 2.0 < np.std(border) < 4.0
    assert np.abs(np.diff(border)).max() < 6  # smooth: no row jumps


def test_slices_stay_apart_where_an_axis_is_not_to_move():
    volume = np.zeros((5, 40, 40), dtype=np.uint8)
    volume[2] = nested(40)
    noisy = silver_noise(
        volume, rng(), displacement_px=(0, 2.0, 2.0), smoothing_px=(0, 1.0, 1.0), drop_probability=0, leak_probability=0
    )
    assert not noisy[[0, 1, 3, 4]].any()
    assert noisy[2].any()
    assert not np.array_equal(noisy[2], volume[2])


def test_no_displacement_changes_nothing():
    assert np.array_equal(displaced(nested(), rng(), displacement_px=0.0), nested())


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_dropped_part_is_the_wanted_share_and_nothing_is_invented(share):
    label_map = nested(128)
    result = dropped(label_map, rng(), value=1, share=share)
    lost = (label_map == 1) & (result == 0)
    assert lost.sum() / (label_map == 1).sum() == pytest.approx(share, abs=0.04)
    assert np.array_equal(result[~lost], label_map[~lost])


def test_a_leak_fills_background_only_and_touches_the_class():
    label_map = nested(128)
    result = leaked(label_map, rng(), value=1, radius_px=6)
    grown = result != label_map
    assert 10 < grown.sum() < np.pi * 7**2
    assert (result[grown] == 1).all()
    assert (label_map[grown] == 0).all()
    assert ndimage.label(result == 1)[1] == 1


def test_faults_of_an_absent_class_change_nothing():
    empty = np.zeros((8, 8), dtype=np.int8)
    assert not dropped(empty, rng(), value=1, share=0.5).any()
    assert not leaked(empty, rng(), value=1, radius_px=3).any()


def test_smoothing_removes_thin_parts_and_keeps_thick_ones():
    label_map = np.zeros((40, 40), dtype=np.uint8)
    label_map[5:25, 5:25] = 1
    label_map[15, 25:38] = 1
    result = smoothed(label_map, sigma_px=2.0)
    assert result[15, 15] == 1
    assert result[15, 36] == 0


def test_silver_noise_gets_worse_with_its_parameters_and_works_in_3d():
    volume = np.stack([nested(64)] * 6)

    def agreement(**settings: float) -> float:
        return float(np.mean(silver_noise(volume, rng(3), **settings)[volume > 0] == volume[volume > 0]))

    mild = agreement(displacement_px=0.5, smoothing_px=0.5, drop_probability=0, leak_probability=0)
    rough = agreement(displacement_px=3.0, smoothing_px=0.5, drop_probability=0, leak_probability=0)
    broken = agreement(displacement_px=3.0, smoothing_px=0.5, drop_probability=1, leak_probability=1)
    assert 1 > mild > rough > broken > 0.2


def test_unknown_is_stored_above_the_classes():
    stored = stored_with_unknown(np.array([[IGNORE, 0], [3, 2]], dtype=np.int16), unknown=4)
    assert stored.dtype == np.uint8
    assert stored.tolist() == [[4, 0], [3, 2]]


@pytest.mark.parametrize("unknown", [0, 2, 300])
def test_unknown_may_not_be_a_class_or_overflow(unknown):
    with pytest.raises(ValueError, match="must be above every class"):
        stored_with_unknown(np.array([[IGNORE, 2]], dtype=np.int16), unknown=unknown)
