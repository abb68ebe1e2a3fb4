"""Oracles: nibabel for orientation, scipy for statistics and interpolation."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image

from data.prepared_cases import nested_labels, picture_plan_of, plan_of, write_volume
from scantling.data.case import IGNORE, Annotation, ClassTable
from scantling.data.image_io import picture_geometry, read_geometry, read_image, read_label
from scantling.data.manifest import Manifest
from scantling.data.plan import ClassPlan, IntensityPlan
from scantling.data.prepare import (
    annotated_classes,
    prepare_image,
    prepare_label,
    prepared_grid,
    read_matching_label,
    restore_label_map,
    restore_probs,
    turn,
    unturn,
)
from scantling.errors import GeometryError, PlanMismatch

KEEP = (None, None, None)
NO_CASES = Manifest(root=Path(), name="none", layout="pairs", classes=ClassTable.of({"core": 1, "shell": 2}), cases=())
FULL = Annotation(path=Path("label.nii.gz"), kind="full")


def write_oriented(path, order, signs, shape=(5, 6, 7)):
    """A NIfTI whose stored axes are any permutation and direction of the world's, with distinct values."""
    array = np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(order)].T * np.array(signs) * np.array([1.0, 1.5, 2.0])
    affine[:3, 3] = (10, -20, 30)
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_volume_stored_any_way_round_is_prepared_in_nibabels_closest_canonical_order(tmp_path, order):
    plan = plan_of(NO_CASES, spacing_mm=KEEP)
    for number, signs in enumerate(product((1, -1), repeat=3)):
        path = write_oriented(tmp_path / f"{number}.nii", order, signs)
        canonical = nib.as_closest_canonical(nib.load(path))
        prepared = prepare_image([read_image(path)], plan)
        np.testing.assert_array_equal(prepared.array[0], np.asarray(canonical.dataobj).T)
        np.testing.assert_allclose(prepared.grid.spacing_mm, canonical.header.get_zooms()[::-1])
        stored, _ = read_label(path)
        np.testing.assert_array_equal(unturn(prepared.array[0], prepared.grid), stored)


def test_axis_order_permutes_the_turned_axes(tmp_path):
    path = write_oriented(tmp_path / "a.nii", (0, 1, 2), (1, 1, 1))
    plain = prepare_image([read_image(path)], plan_of(NO_CASES, spacing_mm=KEEP))
    moved = prepare_image([read_image(path)], plan_of(NO_CASES, spacing_mm=KEEP, axis_order=(2, 0, 1)))
    np.testing.assert_array_equal(moved.array, plain.array.transpose(0, 3, 1, 2))
    assert moved.grid.spacing_mm == tuple(plain.grid.spacing_mm[axis] for axis in (2, 0, 1))


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("axis_order", [(0, 1, 2), (1, 2, 0)])
def test_a_label_map_comes_back_exactly_when_the_grid_is_kept(tmp_path, signs, order, axis_order):
    path = write_oriented(tmp_path / "a.nii", order, signs)
    grid = prepared_grid(read_geometry(path), plan_of(NO_CASES, spacing_mm=KEEP, axis_order=axis_order))
    labels = np.random.default_rng(1).integers(0, 3, size=grid.source.shape).astype(np.uint8)
    prepared = prepare_label(labels, FULL, grid, plan_of(NO_CASES, spacing_mm=KEEP))
    np.testing.assert_array_equal(restore_label_map(prepared, grid), labels)
    np.testing.assert_array_equal(unturn(turn(labels, grid), grid), labels)


def test_a_target_spacing_gives_the_number_of_voxels_and_keeps_the_extent(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz", np.zeros((10, 31, 40), np.int16), (5.0, 0.8, 0.7))
    grid = prepared_grid(read_geometry(path), plan_of(NO_CASES, spacing_mm=(2.5, 1.0, 0.7)))
    assert grid.shape == (20, 25, 40)
    extent = np.array(grid.shape) * np.array(grid.spacing_mm)
    np.testing.assert_allclose(extent, np.array((10, 31, 40)) * (5.0, 0.8, 0.7), rtol=1e-6)


def test_spacing_within_one_percent_and_none_keep_the_grid(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz", np.zeros((9, 300, 40), np.int16), (5.0, 1.009, 0.7))
    grid = prepared_grid(read_geometry(path), plan_of(NO_CASES, spacing_mm=(None, 1.0, 0.7)))
    assert grid.shape == (9, 300, 40)
    far = prepared_grid(read_geometry(path), plan_of(NO_CASES, spacing_mm=(None, 0.99, 0.7)))
    assert far.shape == (9, 306, 40)


def test_ten_to_one_anisotropy_and_one_slice_are_prepared_slice_by_slice(tmp_path):
    rng = np.random.default_rng(2)
    for slices in (1, 6):
        volume = rng.normal(300, 50, size=(slices, 20, 24)).astype(np.int16)
        path = write_volume(tmp_path / f"{slices}.nii.gz", volume, (10.0, 1.0, 1.0))
        plan = plan_of(NO_CASES, dimensions=2, spacing_mm=(None, 2.0, 2.0), patch_size=(8, 8))
        prepared = prepare_image([read_image(path)], plan)
        assert prepared.array.shape == (1, slices, 10, 12)
        assert prepared.grid.spacing_mm == (10.0, 2.0, 2.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_integers_on_their_own_grid_are_stored_as_they_are(tmp_path, dtype):
    volume = np.random.default_rng(3).integers(0, 250, size=(6, 8, 10)).astype(dtype)
    path = write_volume(tmp_path / "a.nii.gz", volume, (2.0, 1.0, 1.0))
    prepared = prepare_image([read_image(path)], plan_of(NO_CASES))
    assert prepared.array.dtype == dtype
    np.testing.assert_array_equal(prepared.array[0], volume)
    np.testing.assert_allclose(prepared.values()[0], scipy.stats.zscore(volume, axis=None), atol=1e-4)


def test_floats_are_quantised_with_an_error_below_a_ten_thousandth_of_their_range(tmp_path):
    volume = np.random.default_rng(4).normal(5, 3, size=(6, 8, 10)).astype(np.float32)
    path = write_volume(tmp_path / "a.nii.gz", volume, (2.0, 1.0, 1.0))
    prepared = prepare_image([read_image(path)], plan_of(NO_CASES))
    expected = scipy.stats.zscore(volume, axis=None)
    assert prepared.array.dtype == np.int16
    np.testing.assert_allclose(prepared.values()[0], expected, atol=1e-4 * np.ptp(expected))


def test_a_finer_grid_of_a_linear_ramp_is_the_ramp(tmp_path):
    ramp = np.broadcast_to(np.arange(24.0), (6, 20, 24)).astype(np.float32)
    path = write_volume(tmp_path / "a.nii.gz", ramp, (2.0, 1.0, 1.0))
    prepared = prepare_image([read_image(path)], plan_of(NO_CASES, spacing_mm=(2.0, 1.0, 0.5)))
    at = (np.arange(48) + 0.5) / 2 - 0.5
    expected = (at - ramp.mean()) / ramp.std()
    np.testing.assert_allclose(prepared.values()[0, 3, 7, 4:-4], expected[4:-4], atol=1e-3)


def picture(tmp_path, array, name="a.png"):
    Image.fromarray(array).save(tmp_path / name)
    return read_image(tmp_path / name)


def test_grey_saved_as_colour_is_one_channel_and_real_colour_is_refused_by_name(tmp_path):
    plan = picture_plan_of(NO_CASES)
    grey = np.random.default_rng(5).integers(0, 255, size=(20, 30), dtype=np.uint8)
    prepared = prepare_image([picture(tmp_path, np.stack([grey] * 3, axis=-1))], plan)
    np.testing.assert_array_equal(prepared.array, grey[None])
    colour = np.random.default_rng(6).integers(0, 255, size=(20, 30, 3), dtype=np.uint8)
    with pytest.raises(PlanMismatch, match=r"image has 3 channels, the plan is for 1"):
        prepare_image([picture(tmp_path, colour)], plan)
    three = picture_plan_of(NO_CASES, intensities=(IntensityPlan(scheme="range", high=255.0),) * 3)
    assert prepare_image([picture(tmp_path, colour)], three).array.shape == (3, 20, 30)
    with pytest.raises(PlanMismatch, match=r"image has 1 channels, the plan is for 3"):
        prepare_image([picture(tmp_path, grey)], three)


def test_a_16_bit_picture_keeps_its_16_bits(tmp_path):
    array = np.random.default_rng(7).integers(0, 65_535, size=(20, 30)).astype(np.uint16)
    prepared = prepare_image([picture(tmp_path, array)], picture_plan_of(NO_CASES))
    assert prepared.array.dtype == np.uint16
    np.testing.assert_array_equal(prepared.array[0], array)


def test_channels_of_mixed_types_keep_their_values(tmp_path):
    rng = np.random.default_rng(8)
    first = rng.integers(0, 60_000, size=(6, 8, 10)).astype(np.uint16)
    second = rng.integers(-900, 900, size=(6, 8, 10)).astype(np.int16)
    third = rng.normal(size=(6, 8, 10)).astype(np.float32)
    paths = [write_volume(tmp_path / f"{i}.nii.gz", a, (2.0, 1.0, 1.0)) for i, a in enumerate((first, second, third))]
    plan = plan_of(NO_CASES, intensities=(IntensityPlan(scheme="zscore"),) * 3)
    prepared = prepare_image([read_image(path) for path in paths], plan)
    assert prepared.array.dtype == np.int16
    for values, source in zip(prepared.values(), (first, second, third), strict=True):
        np.testing.assert_allclose(values, scipy.stats.zscore(source, axis=None), atol=1e-3)


def test_wrong_axes_and_channels_of_different_size_are_refused(tmp_path):
    volume = read_image(write_volume(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), np.int16), (1.0, 1.0, 1.0)))
    other = read_image(write_volume(tmp_path / "b.nii.gz", np.zeros((4, 5, 7), np.int16), (1.0, 1.0, 1.0)))
    with pytest.raises(PlanMismatch, match="3 spatial axes"):
        prepare_image([volume], picture_plan_of(NO_CASES))
    with pytest.raises(GeometryError, match="must share one grid"):
        prepare_image([volume, other], plan_of(NO_CASES, intensities=(IntensityPlan(scheme="zscore"),) * 2))


STORED_TABLES = [
    {"a": 2, "b": 5, "c": 255},
    {"a": (1, 5), "b": (2, 6)},
    {"a": -3, "b": 700},
    {"background": (0, 4), "a": 3, "b": 9},
]


@pytest.mark.parametrize("classes", STORED_TABLES, ids=str)
@pytest.mark.parametrize("present", ["all", "one missing", "empty", "full of one"])
def test_stored_values_come_back_exactly_after_preparing_and_restoring(classes, present):
    table = ClassTable.of(classes)
    rng = np.random.default_rng(9)
    values = [value for stored in table.stored for value in stored]
    if present == "one missing":
        values = values[:-1]
    elif present == "empty":
        values = [table.stored[0][0]]
    elif present == "full of one":
        values = [table.stored[-1][0]]
    stored = rng.choice(values, size=(12, 14)).astype(np.int16)
    plan = picture_plan_of(NO_CASES, classes=ClassPlan(names=table.names, stored=table.stored))
    grid = prepared_grid(picture_geometry((12, 14), "png"), plan)
    prepared = prepare_label(stored, FULL, grid, plan)
    restored = table.to_stored(restore_label_map(prepared, grid))
    first_of_union = {v: values_of[0] for values_of in table.stored for v in values_of}
    expected = np.vectorize(first_of_union.get)(stored)
    np.testing.assert_array_equal(restored, expected)
    np.testing.assert_array_equal(prepare_label(restored.astype(np.int16), FULL, grid, plan), prepared)


def test_unnamed_and_ignored_values_are_unknown_and_classes_not_looked_for_become_background():
    plan = picture_plan_of(NO_CASES)
    grid = prepared_grid(picture_geometry((1, 5), "png"), plan)
    stored = np.array([[0, 1, 2, 7, 9]], dtype=np.uint8)
    np.testing.assert_array_equal(prepare_label(stored, FULL, grid, plan), [[0, 1, 2, IGNORE, IGNORE]])
    partial = Annotation(path=Path("a.png"), kind="full", annotated=("core",), ignore=(0,))
    np.testing.assert_array_equal(prepare_label(stored, partial, grid, plan), [[IGNORE, 1, 0, IGNORE, IGNORE]])
    assert annotated_classes(partial, plan) == (True, True, False)
    assert annotated_classes(FULL, plan) == (True, True, True)
    assert annotated_classes(None, plan) == (False, False, False)


def test_labels_lose_little_when_a_grid_twice_as_coarse_is_restored(tmp_path):
    labels = nested_labels((16, 40, 40), (8, 20, 20), 14.0)
    path = write_volume(tmp_path / "a.nii.gz", labels, (2.0, 1.0, 1.0))
    plan = plan_of(NO_CASES, spacing_mm=(2.0, 2.0, 2.0))
    grid = prepared_grid(read_geometry(path), plan)
    restored = restore_label_map(prepare_label(labels, FULL, grid, plan), grid)
    for k in (1, 2):
        dice = 2 * ((restored == k) & (labels == k)).sum() / ((restored == k).sum() + (labels == k).sum())
        assert dice > 0.9


def test_probabilities_come_back_by_linear_interpolation(tmp_path):
    path = write_oriented(tmp_path / "a.nii", (2, 0, 1), (-1, 1, -1), shape=(9, 10, 12))
    plan = plan_of(NO_CASES, spacing_mm=(4.0, 3.0, 3.5))
    grid = prepared_grid(read_geometry(path), plan)
    probs = np.random.default_rng(10).dirichlet(np.ones(3), size=grid.shape).astype(np.float32)
    probs = np.ascontiguousarray(np.moveaxis(probs, -1, 0))
    restored = restore_probs(probs, grid)
    factors = [m / n for m, n in zip(grid.turned_shape, grid.shape, strict=True)]
    for scores, expected in zip(restored, probs, strict=True):
        zoomed = scipy.ndimage.zoom(expected, factors, order=1, grid_mode=True, mode="nearest")
        np.testing.assert_allclose(turn(scores, grid), zoomed, atol=1e-5)
    np.testing.assert_allclose(restored.sum(axis=0), 1.0, atol=1e-5)


def test_a_label_on_another_grid_is_refused(tmp_path):
    image = write_volume(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), np.int16), (1.0, 1.0, 1.0))
    far = write_volume(tmp_path / "b.nii.gz", np.zeros((4, 5, 6), np.uint8), (3.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match="grid"):
        read_matching_label(Annotation(path=far, kind="full"), read_geometry(image))
    grid = prepared_grid(read_geometry(image), plan_of(NO_CASES))
    with pytest.raises(GeometryError, match="must share one grid"):
        prepare_label(np.zeros((4, 5, 7), np.uint8), FULL, grid, plan_of(NO_CASES))
