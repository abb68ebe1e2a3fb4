"""Oracles: NumPy's own matrix product and inverse, torch's `affine_grid`, points moved one at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scantling.views import geometry


def random_matrices(rng: np.random.Generator, count: int, dimensions: int) -> np.ndarray:
    matrices = np.tile(np.eye(dimensions + 1), (count, 1, 1))
    matrices[:, :-1, :-1] += rng.uniform(-0.4, 0.4, (count, dimensions, dimensions))
    matrices[:, :-1, -1] = rng.uniform(-30, 30, (count, dimensions))
    return matrices


@pytest.mark.parametrize("dimensions", [2, 3])
def test_compose_and_invert_equal_numpy_and_lead_there_and_back(dimensions):
    rng = np.random.default_rng(0)
    c_from_b, b_from_a = (random_matrices(rng, 5, dimensions) for _ in range(2))
    c_from_a = geometry.compose(torch.from_numpy(c_from_b), torch.from_numpy(b_from_a))
    np.testing.assert_allclose(c_from_a.numpy(), c_from_b @ b_from_a, rtol=0, atol=1e-12)
    back = geometry.compose(geometry.invert(c_from_a), c_from_a)
    np.testing.assert_allclose(back.numpy(), np.tile(np.eye(dimensions + 1), (5, 1, 1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_points_move_as_homogeneous_vectors_do(dimensions):
    rng = np.random.default_rng(1)
    matrices, points = random_matrices(rng, 4, dimensions), rng.uniform(-50, 50, (4, 7, dimensions))
    actual = geometry.transform_points(torch.from_numpy(matrices), torch.from_numpy(points))
    for b in range(4):
        for p in range(7):
            expected = (matrices[b] @ np.append(points[b, p], 1.0))[:-1]
            np.testing.assert_allclose(actual[b, p].numpy(), expected, rtol=0, atol=1e-12)


def test_a_quarter_turn_takes_the_first_axis_of_the_plane_to_the_second():
    turn = geometry.rotation(torch.tensor([90.0]), dimensions=3, plane=(1, 2))
    moved = geometry.transform_points(turn, torch.tensor([[[5.0, 1.0, 0.0], [5.0, 0.0, 1.0]]]))
    expected = torch.tensor([[[5.0, 0.0, 1.0], [5.0, -1.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_rotation_keeps_lengths_and_handedness_in_every_plane():
    for plane in ((1, 2), (0, 2), (0, 1)):
        linear = geometry.rotation(torch.tensor([33.0]), dimensions=3, plane=plane)[0, :-1, :-1].numpy()
        np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-14)
        assert np.linalg.det(linear) == pytest.approx(1)


def test_a_map_about_a_centre_leaves_the_centre_and_the_identity_is_exact():
    centre = torch.tensor([[3.1, 7.7]], dtype=torch.float64)
    turn = geometry.about(geometry.rotation(torch.tensor([20.0]), dimensions=2, plane=(0, 1)), centre)
    moved = geometry.transform_points(turn, centre[:, None])
    torch.testing.assert_close(moved, centre[:, None], rtol=0, atol=1e-13)
    nothing = geometry.about(geometry.scaling(torch.ones(1, 2)), centre)
    assert torch.equal(nothing, torch.eye(3, dtype=torch.float64)[None])


def test_pixel_i_lies_at_i_times_the_spacing_and_back():
    centres = geometry.pixel_centres_mm((2, 3), (10.0, 1.5))
    assert centres.tolist() == [[0, 0], [0, 1.5], [0, 3], [10, 0], [10, 1.5], [10, 3]]
    indices = geometry.indices_from_mm(centres, (10.0, 1.5))
    assert indices.tolist() == [[y, x] for y in range(2) for x in range(3)]
    assert torch.equal(geometry.mm_from_indices(indices, (10.0, 1.5)), centres)


@pytest.mark.parametrize(("target", "grid"), [((9, 13), (6, 5)), ((5, 9, 7), (4, 3, 6))])
def test_the_normalised_grid_reads_the_pixel_that_the_matrix_names(target, grid):
    """The oracle is pixel arithmetic in float64: index i is at (2 i + 1) / n - 1, x first."""
    rng = np.random.default_rng(2)
    dimensions = len(target)
    matrices = random_matrices(rng, 3, dimensions)
    actual = geometry.normalised_grid(torch.from_numpy(matrices), target_shape=target, grid_shape=grid).numpy()
    for b in range(3):
        for pixel in np.ndindex(*grid):
            index = matrices[b, :-1, :-1] @ pixel + matrices[b, :-1, -1]
            expected = ((2 * index + 1) / np.array(target) - 1)[::-1]
            np.testing.assert_allclose(actual[b][pixel], expected, rtol=1e-6, atol=1e-5)


def test_the_identity_grid_is_that_of_affine_grid():
    for shape in ((7, 12), (5, 4, 9)):
        eye = torch.eye(len(shape) + 1, dtype=torch.float64)[None]
        actual = geometry.normalised_grid(eye, target_shape=shape, grid_shape=shape)
        expected = F.affine_grid(eye[:, :-1].float(), [1, 1, *shape], align_corners=False)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_an_index_matrix_maps_indices_as_the_mm_matrix_maps_positions():
    rng = np.random.default_rng(3)
    target_mm, grid_mm = (10.0, 1.5, 0.7), (3.0, 2.0, 0.9)
    matrix = torch.from_numpy(random_matrices(rng, 1, 3))
    indices = torch.from_numpy(rng.uniform(0, 20, (1, 6, 3)))
    by_mm = geometry.indices_from_mm(
        geometry.transform_points(matrix, geometry.mm_from_indices(indices, grid_mm)), target_mm
    )
    by_index = geometry.transform_points(
        geometry.index_matrix(matrix, target_spacing_mm=target_mm, grid_spacing_mm=grid_mm), indices
    )
    torch.testing.assert_close(by_index, by_mm, rtol=0, atol=1e-11)


def test_a_mirror_stays_exact_between_indices_for_any_spacing():
    for spacing in (49.0, 0.1, 1 / 3, 0.7):
        mirror = geometry.scaling(torch.tensor([[-1.0, 1.0]]))
        index = geometry.index_matrix(mirror, target_spacing_mm=(spacing, spacing), grid_spacing_mm=(spacing, spacing))
        assert torch.equal(index, mirror)


def test_the_overlap_is_the_pixels_whose_nearest_pixel_exists_in_the_other_view():
    first_mm, second_mm = (2.0, 1.0), (1.0, 1.5)
    rng = np.random.default_rng(4)
    matrices = random_matrices(rng, 6, 2)
    matrices[:, :-1, -1] = rng.uniform(-6, 6, (6, 2))
    mask = geometry.overlap_mask(
        torch.from_numpy(matrices),
        first_shape=(8, 9),
        first_spacing_mm=first_mm,
        second_shape=(11, 7),
        second_spacing_mm=second_mm,
    )
    assert mask.shape == (6, 8, 9)
    for b in range(6):
        for y, x in np.ndindex(8, 9):
            row, column, _ = matrices[b] @ (y * first_mm[0], x * first_mm[1], 1.0)
            pixel = math.floor(row / second_mm[0] + 0.5), math.floor(column / second_mm[1] + 0.5)
            assert mask[b, y, x].item() == (0 <= pixel[0] < 11 and 0 <= pixel[1] < 7)
    assert 0 < mask.double().mean() < 1


def test_distances_keep_their_digits_far_from_the_origin():
    near = torch.tensor([[1e6, 1e6], [1e6, 1e6 + 3]], dtype=torch.float64)
    other = torch.tensor([[1e6 + 4, 1e6]], dtype=torch.float64)
    assert geometry.distances_mm(near, other).tolist() == [[4.0], [5.0]]
