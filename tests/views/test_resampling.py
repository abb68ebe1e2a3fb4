"""Both ways, all views together and one by one. Oracles: SciPy, torch's own `affine_grid`, slices cut by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from scantling.views import elastic
from scantling.views.lookup import resample_view
from scantling.views.resampling import resample


def some_images(shape: tuple[int, ...], *, count: int = 2, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(count, channels, *shape)).astype(np.float32))
    marks = torch.from_numpy(rng.integers(1, 9, (count, 2, *shape)).astype(np.float32))
    return images, marks


def general(dimensions: int, *, in_slice_only: bool, count: int = 2) -> np.ndarray:
    rng = np.random.default_rng(dimensions)
    matrices = np.tile(np.eye(dimensions + 1), (count, 1, 1))
    matrices[:, :-1, :-1] += rng.uniform(-0.4, 0.4, (count, dimensions, dimensions))
    matrices[:, :-1, -1] = rng.uniform(-2, 4, (count, dimensions))
    if in_slice_only:
        matrices[:, 0, 1:3] = matrices[:, 1:3, 0] = 0
    return matrices


def by_scipy(source: torch.Tensor, matrix: np.ndarray, patch: tuple[int, ...], order: int) -> np.ndarray:
    return np.stack(
        [
            scipy.ndimage.affine_transform(
                channel.astype(np.float64),
                matrix[:-1, :-1],
                matrix[:-1, -1],
                output_shape=patch,
                order=order,
                mode="grid-constant",
                cval=0.0,
            )
            for channel in source.numpy()
        ]
    )


def one_by_one(images, marks, matrices, *, patch_size, control_voxels=None):
    """`lookup` asked for what `resampling` makes at once."""
    out_images = torch.full((len(images), images.shape[1], *patch_size), torch.nan)
    out_marks = torch.full((len(marks), marks.shape[1], *patch_size), torch.nan)
    for i, matrix in enumerate(matrices):
        into = (out_images[i], list(out_marks[i]))
        control = None if control_voxels is None or not control_voxels[i].any() else control_voxels[i]
        zeros = [0.0] * marks.shape[1]
        resample_view(images[i], list(marks[i]), matrix, outside=zeros, into=into, control_voxels=control)
    return out_images, out_marks


BOTH = pytest.mark.parametrize("way", [resample, one_by_one])
CASES = [((15, 12), (9, 11), False), ((9, 12, 10), (7, 8, 9), False), ((9, 12, 10), (7, 8, 9), True)]


@BOTH
@pytest.mark.parametrize(("shape", "patch", "in_slice_only"), CASES)
def test_images_are_linear_and_marks_nearest_as_scipy_does_it(shape, patch, in_slice_only, way):
    images, marks = some_images(shape)
    matrices = general(len(shape), in_slice_only=in_slice_only)
    out_images, out_marks = way(images, marks, torch.from_numpy(matrices), patch_size=patch)
    for b in range(2):
        expected = by_scipy(images[b], matrices[b], patch, order=1)
        np.testing.assert_allclose(out_images[b].numpy(), expected, atol=2e-5)
        np.testing.assert_array_equal(out_marks[b].numpy(), by_scipy(marks[b], matrices[b], patch, order=0))
    assert (out_marks == 0).any()
    assert (out_marks != 0).any()


@BOTH
def test_slice_by_slice_equals_the_full_grid_of_torch(way):
    shape, patch = (9, 12, 10), (7, 8, 9)
    images, marks = some_images(shape)
    matrices = general(3, in_slice_only=True)
    size, out = np.array(shape), np.array(patch)
    # theta of affine_grid: normalised x-first coordinates of the source from those of the patch
    linear = matrices[:, :-1, :-1] * out[None, None, :] / size[None, :, None]
    middle = np.einsum("bij,j->bi", matrices[:, :-1, :-1], (out - 1) / 2) + matrices[:, :-1, -1]
    offset = (2 * middle + 1) / size - 1
    theta = np.concatenate([linear[:, ::-1, ::-1], offset[:, ::-1, None]], axis=2)
    grid = F.affine_grid(torch.from_numpy(theta), [2, 1, *patch], align_corners=False).float()
    expected = F.grid_sample(images, grid, align_corners=False)
    actual, _ = way(images, marks, torch.from_numpy(matrices), patch_size=patch)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@BOTH
def test_whole_shifts_and_mirrors_are_copies_bit_for_bit(way):
    images, marks = some_images((10, 12))
    matrices = torch.tensor(
        [
            [[1.0, 0, 2], [0, 1, 3], [0, 0, 1]],
            [[-1.0, 0, 8], [0, 1, 3], [0, 0, 1]],
        ],
        dtype=torch.float64,
    )
    out_images, out_marks = way(images, marks, matrices, patch_size=(6, 7))
    for source, actual in ((images, out_images), (marks, out_marks)):
        assert torch.equal(actual[0], source[0, :, 2:8, 3:10])
        assert torch.equal(actual[1], source[1, :, 3:9, 3:10].flip(1))


@BOTH
@pytest.mark.parametrize("offset", [(-3.0, 2.0), (7.0, -4.0), (40.0, 0.0), (-40.0, -40.0)])
def test_a_copied_view_that_leaves_its_source_is_padded_with_zeros_as_scipy_does_it(offset, way):
    images, marks = some_images((10, 8), count=1)
    matrix = np.eye(3)
    matrix[:2, 2] = offset
    actual, _ = way(images, marks, torch.from_numpy(matrix[None]), patch_size=(6, 9))
    np.testing.assert_allclose(actual[0].numpy(), by_scipy(images[0], matrix, (6, 9), order=1), atol=1e-12)


@BOTH
@pytest.mark.parametrize("dimensions", [2, 3])
def test_views_of_different_kinds_in_one_call_are_those_of_separate_calls(dimensions, way):
    shape, patch = ((15, 12), (9, 11)) if dimensions == 2 else ((9, 12, 10), (7, 8, 9))
    images, marks = some_images(shape, count=4)
    kinds = [general(dimensions, in_slice_only=False), general(dimensions, in_slice_only=dimensions == 3)]
    whole = np.eye(dimensions + 1)
    whole[0, -1] = 1
    matrices = torch.from_numpy(np.stack([kinds[0][0], whole, kinds[1][1], kinds[0][1]]))
    together = way(images, marks, matrices, patch_size=patch)
    for i in range(4):
        alone = way(images[i : i + 1], marks[i : i + 1], matrices[i : i + 1], patch_size=patch)
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_of_them[i])


AXIS_ALIGNED = {
    "enlarged": np.diag([0.4, 0.7, 0.6, 1.0]),
    "shrunk and mirrored": np.diag([1.3, -1.1, 1.2, 1.0]),
    "a quarter turn": np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    "a quarter turn out of plane": np.array([[0, 1.2, 0, 0], [-1.0, 0, 0, 0], [0, 0, 0.9, 0], [0, 0, 0, 1]]),
    "a turn that leaves the last axis": np.array([[0.8, 0.6, 0, 0], [-0.6, 0.8, 0, 0], [0, 0, 0.7, 0], [0, 0, 0, 1]]),
    "a turn that leaves the second axis": np.array([[0.8, 0, 0.6, 0], [0, 1, 0, 0], [-0.6, 0, 0.8, 0], [0, 0, 0, 1]]),
    "whole and far outside": np.array([[1.0, 0, 0, 90], [0, 1, 0, -80], [0, 0, 1, 3], [0, 0, 0, 1]]),
    "turned and far outside": np.array([[1.0, 0, 0, 1.5], [0, 0.8, 0.6, 90], [0, -0.6, 0.8, 3], [0, 0, 0, 1]]),
}


@BOTH
@pytest.mark.parametrize("kind", AXIS_ALIGNED)
def test_axes_that_stay_apart_or_change_places_are_interpolated_as_scipy_does_it(kind, way):
    images, marks = some_images((9, 12, 10), count=1)
    matrix = AXIS_ALIGNED[kind].copy()
    if not matrix[:3, 3].any():
        corner = np.minimum(matrix[:3, :3], 0).sum(axis=1) * 6.3  # so that mirrored axes end in the source
        matrix[:3, 3] = -corner + [0.3137, 1.6071, -0.7113]  # nothing halfway between two voxels
    patch = (7, 8, 9)
    out_images, out_marks = way(images, marks, torch.from_numpy(matrix[None]), patch_size=patch)
    np.testing.assert_allclose(out_images[0].numpy(), by_scipy(images[0], matrix, patch, order=1), atol=2e-5)
    np.testing.assert_array_equal(out_marks[0].numpy(), by_scipy(marks[0], matrix, patch, order=0))


@BOTH
@pytest.mark.parametrize(("shape", "patch", "in_slice_only"), CASES)
@pytest.mark.parametrize("turned", [True, False])
def test_a_bent_view_shows_what_lies_at_its_displaced_points(shape, patch, in_slice_only, turned, way):
    dimensions = len(shape)
    images, marks = some_images(shape, count=3)
    matrices = (
        general(dimensions, in_slice_only=in_slice_only, count=3)
        if turned
        else np.tile(np.eye(dimensions + 1), (3, 1, 1))
    )
    control_shape = (1, 5, 4) if in_slice_only else (4, 5, 6)[:dimensions]
    generator = torch.Generator().manual_seed(2)
    control = torch.randn((3, dimensions, *control_shape), generator=generator, dtype=torch.float64)
    control[1] = 0  # one of them is straight
    if in_slice_only:
        control[:, 0] = 0
    out_images, out_marks = way(images, marks, torch.from_numpy(matrices), patch_size=patch, control_voxels=control)
    pixels = np.stack(np.meshgrid(*map(np.arange, patch), indexing="ij"), axis=-1).reshape(-1, dimensions)
    straight = torch.from_numpy(pixels).double().expand(3, -1, -1)
    moved = elastic.displacement(straight, control, patch_size=patch, spacing_mm=(1.0,) * dimensions).numpy()
    assert np.abs(moved[0]).max() > 0.5
    for view in range(3):
        at = (pixels + moved[view]) @ matrices[view, :-1, :-1].T + matrices[view, :-1, -1]
        for channel in range(2):
            values = images[view, channel].numpy().astype(np.float64)
            expected = scipy.ndimage.map_coordinates(values, at.T, order=1, mode="grid-constant")
            np.testing.assert_allclose(out_images[view, channel].numpy().ravel(), expected, atol=3e-5)
            values = marks[view, channel].numpy()
            expected = scipy.ndimage.map_coordinates(values, at.T, order=0, mode="grid-constant")
            np.testing.assert_array_equal(out_marks[view, channel].numpy().ravel(), expected)


def test_a_large_view_looked_up_by_slabs_and_with_whole_numbers_is_the_same(monkeypatch):
    images, marks = some_images((9, 12, 10))
    matrices = torch.from_numpy(general(3, in_slice_only=False))
    expected = one_by_one(images, marks, matrices, patch_size=(7, 8, 9))
    monkeypatch.setattr("scantling.views.lookup._SLAB", 2 * 8 * 9)
    monkeypatch.setattr("scantling.views.lookup._WHOLE_IN_FLOAT32", 100)
    actual = one_by_one(images, marks, matrices, patch_size=(7, 8, 9))
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


def test_a_mark_keeps_numbers_that_a_float_cannot_hold_and_takes_its_value_outside():
    label_map = torch.arange(30).reshape(5, 6) + 2**40
    found = torch.empty((5, 6), dtype=torch.int64)
    shown = torch.empty((1, 5, 6))
    matrix = torch.tensor([[0.0, 1.0, 1.0], [-1.0, 0.0, 4.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    resample_view(torch.zeros((1, 5, 6)), [label_map], matrix, outside=[-7], into=(shown, [found]))
    for row in range(5):
        for column in range(6):
            y, x = column + 1, 4 - row
            assert found[row, column] == (label_map[y, x] if 0 <= y < 5 and 0 <= x < 6 else -7)


@BOTH
def test_a_source_of_a_single_slice_is_a_slice(way):
    images, marks = some_images((1, 8, 7), count=1)
    matrix = np.eye(4)
    matrix[:3, 3] = 0.25
    for turned in (False, True):
        if turned:
            matrix[:3, :3] += 0.1
        out_images, out_marks = way(images, marks, torch.from_numpy(matrix[None]), patch_size=(2, 6, 5))
        np.testing.assert_allclose(out_images[0].numpy(), by_scipy(images[0], matrix, (2, 6, 5), order=1), atol=2e-5)
        np.testing.assert_array_equal(out_marks[0].numpy(), by_scipy(marks[0], matrix, (2, 6, 5), order=0))
