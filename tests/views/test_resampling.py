"""Oracles: `scipy.ndimage.affine_transform`, torch's own `affine_grid`, and slices cut by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

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


CASES = [((15, 12), (9, 11), False), ((9, 12, 10), (7, 8, 9), False), ((9, 12, 10), (7, 8, 9), True)]


@pytest.mark.parametrize(("shape", "patch", "in_slice_only"), CASES)
def test_images_are_linear_and_marks_nearest_as_scipy_does_it(shape, patch, in_slice_only):
    images, marks = some_images(shape)
    matrices = general(len(shape), in_slice_only=in_slice_only)
    out_images, out_marks = resample(images, marks, torch.from_numpy(matrices), patch_size=patch)
    for b in range(2):
        expected = by_scipy(images[b], matrices[b], patch, order=1)
        np.testing.assert_allclose(out_images[b].numpy(), expected, atol=2e-5)
        np.testing.assert_array_equal(out_marks[b].numpy(), by_scipy(marks[b], matrices[b], patch, order=0))
    assert (out_marks == 0).any()
    assert (out_marks != 0).any()


def test_slice_by_slice_equals_the_full_grid_of_torch():
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
    actual, _ = resample(images, marks, torch.from_numpy(matrices), patch_size=patch)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_whole_shifts_and_mirrors_are_copies_bit_for_bit():
    images, marks = some_images((10, 12))
    matrices = torch.tensor(
        [
            [[1.0, 0, 2], [0, 1, 3], [0, 0, 1]],
            [[-1.0, 0, 8], [0, 1, 3], [0, 0, 1]],
        ],
        dtype=torch.float64,
    )
    out_images, out_marks = resample(images, marks, matrices, patch_size=(6, 7))
    for source, actual in ((images, out_images), (marks, out_marks)):
        assert torch.equal(actual[0], source[0, :, 2:8, 3:10])
        assert torch.equal(actual[1], source[1, :, 3:9, 3:10].flip(1))


@pytest.mark.parametrize("offset", [(-3.0, 2.0), (7.0, -4.0), (40.0, 0.0), (-40.0, -40.0)])
def test_a_copied_view_that_leaves_its_source_is_padded_with_zeros_as_scipy_does_it(offset):
    images, marks = some_images((10, 8), count=1)
    matrix = np.eye(3)
    matrix[:2, 2] = offset
    actual, _ = resample(images, marks, torch.from_numpy(matrix[None]), patch_size=(6, 9))
    np.testing.assert_allclose(actual[0].numpy(), by_scipy(images[0], matrix, (6, 9), order=1), atol=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_views_of_different_kinds_in_one_call_are_those_of_separate_calls(dimensions):
    shape, patch = ((15, 12), (9, 11)) if dimensions == 2 else ((9, 12, 10), (7, 8, 9))
    images, marks = some_images(shape, count=4)
    kinds = [general(dimensions, in_slice_only=False), general(dimensions, in_slice_only=dimensions == 3)]
    whole = np.eye(dimensions + 1)
    whole[0, -1] = 1
    matrices = torch.from_numpy(np.stack([kinds[0][0], whole, kinds[1][1], kinds[0][1]]))
    together = resample(images, marks, matrices, patch_size=patch)
    for i in range(4):
        alone = resample(images[i : i + 1], marks[i : i + 1], matrices[i : i + 1], patch_size=patch)
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_of_them[i])
