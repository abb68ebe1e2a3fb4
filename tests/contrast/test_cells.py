"""Oracles: averages over the exact extent of a cell by loops, and torch's adaptive pooling where cells are whole."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scantling.contrast.cells import cell_counts, cell_diagonals_mm, cell_means, cell_points
from scantling.contrast.points import gather
from scantling.views.correspondence import source_positions_mm
from scantling.views.maker import make_views
from scantling.views.published import published_views
from scantling.views.view import ViewBatch
from views.test_maker import coordinate_sample


def some_map(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 4, *shape)))


def overlap(first: float, second: float, pixel: int) -> float:
    """Length of a pixel that lies between two edges."""
    return max(0.0, min(second, pixel + 1) - max(first, pixel))


@pytest.mark.parametrize(("shape", "counts"), [((7, 10), (3, 4)), ((5, 4, 6), (2, 4, 5)), ((3, 3), (3, 2))])
def test_a_cell_is_the_mean_over_its_extent_with_shares_of_pixels(shape, counts):
    features = some_map(shape)
    actual = cell_means(features, counts)
    cells = list(itertools.product(*map(range, counts)))
    assert actual.shape == (2, 3, len(cells), 4)
    for number, cell in enumerate(cells):
        expected, total = torch.zeros(2, 3, 4, dtype=torch.float64), 0.0
        for pixel in itertools.product(*map(range, shape)):
            share = math.prod(
                overlap(i * n / count, (i + 1) * n / count, p)
                for i, n, count, p in zip(cell, shape, counts, pixel, strict=True)
            )
            expected += share * features[(slice(None), slice(None), slice(None), *pixel)]
            total += share
        torch.testing.assert_close(actual[:, :, number], expected / total)


def test_whole_cells_are_what_torch_pools():
    features = some_map((12, 8))
    expected = F.adaptive_avg_pool2d(features.flatten(0, 1), (4, 2)).flatten(2).transpose(1, 2).reshape(2, 3, 8, 4)
    torch.testing.assert_close(cell_means(features, (4, 2)), expected)
    volume = some_map((4, 6, 8))
    expected = F.adaptive_avg_pool3d(volume.flatten(0, 1), (2, 3, 2)).flatten(2).transpose(1, 2).reshape(2, 3, 12, 4)
    torch.testing.assert_close(cell_means(volume, (2, 3, 2)), expected)


def test_a_coarse_map_and_a_fine_one_give_a_cell_the_same_place():
    """A ramp is its own mean in the middle of a cell, on the view's grid and on a grid of half its resolution."""
    ramp = torch.arange(12, dtype=torch.float64).expand(1, 1, 1, 8, 12)
    coarse = F.avg_pool2d(ramp.flatten(0, 1), 2).reshape(1, 1, 1, 4, 6)
    torch.testing.assert_close(cell_means(ramp, (2, 5)), cell_means(coarse, (2, 5)), atol=0.25, rtol=0)
    torch.testing.assert_close(cell_means(ramp, (2, 3)), cell_means(coarse, (2, 3)))


def views(shape: tuple[int, ...], spacing: tuple[float, ...], patch: tuple[int, ...]) -> ViewBatch:
    samples = [coordinate_sample(shape, spacing, i) for i in range(3)]
    return make_views(samples, published_views(2, "own", effects=False), patch, seed=1)


@pytest.mark.parametrize(
    ("shape", "spacing", "patch"), [((30, 24), (0.8, 1.7), (20, 16)), ((12, 14, 10), (1.0, 0.9, 1.1), (8, 10, 6))]
)
def test_cells_lie_where_the_pixels_of_a_coarse_map_do_and_their_diagonal_is_measured_in_the_source(
    shape, spacing, patch
):
    batch, counts = views(shape, spacing, patch), tuple(n // 2 for n in patch)
    points = cell_points(batch, counts)
    for number, cell in enumerate(itertools.product(*map(range, counts))):
        middle = [(i + 0.5) * n / count - 0.5 for i, n, count in zip(cell, patch, counts, strict=True)]
        assert (points.indices[:, :, number] == torch.tensor(middle)).all()
    half = torch.tensor([n / count / 2 for n, count in zip(patch, counts, strict=True)], dtype=torch.float64)
    ends = torch.stack([points.indices[:, :, 0] - half, points.indices[:, :, 0] + half], dim=2)
    apart = source_positions_mm(batch, ends).diff(dim=2).squeeze(2)
    diagonals = cell_diagonals_mm(batch, counts)
    torch.testing.assert_close(diagonals, apart.norm(dim=-1))
    sides = [n * mm / count for n, mm, count in zip(patch, spacing, counts, strict=True)]
    for i, j in itertools.product(range(3), range(2)):
        linear = batch.source_from_view[i, j, :-1, :-1].numpy()
        by_axes = [np.linalg.norm(linear[:, axis] * side) for axis, side in enumerate(sides)]
        assert diagonals[i, j].item() == pytest.approx(math.sqrt(sum(length**2 for length in by_axes)))


def test_a_cell_is_usable_where_half_of_it_lies_in_the_image():
    batch = views((30, 24), (1.0, 1.0), (20, 16))
    inside = torch.zeros(3, 2, 20, 16, dtype=torch.bool)
    inside[:, :, :10] = True  # rows 0 to 9: cells are 20 / 4 = 5 rows high, then 20 / 8 = 2.5
    assert (
        cell_points(batch, (4, 4), among=inside).usable[0, 0].view(4, 4).tolist()
        == [[True] * 4] * 2 + [[False] * 4] * 2
    )
    inside[:, :, :3] = False
    assert cell_points(batch, (8, 1), among=inside).usable[0, 0].tolist() == [
        False, True, True, True, False, False, False, False
    ]  # fmt: skip
    half = torch.zeros_like(inside)
    half[:, :, :5] = True  # of a cell of 10 rows; a row less is less than half
    assert cell_points(batch, (2, 1), among=half).usable[0, 0].tolist() == [True, False]
    half[:, :, 4] = False
    assert not cell_points(batch, (2, 1), among=half).usable.any()
    assert torch.equal(cell_points(batch, (5, 4)).usable, cell_points(batch, (5, 4), among=batch.weights > 0).usable)


def test_the_mean_of_a_smooth_map_is_what_is_read_in_the_middle_of_the_cell():
    batch = views((30, 24), (1.0, 1.0), (20, 16))
    positions = source_positions_mm(batch, cell_points(batch, (20, 16)).indices).transpose(2, 3)
    linear = positions.reshape(3, 2, 2, 20, 16)
    read = gather(linear, cell_points(batch, (5, 4)), (20, 16))
    torch.testing.assert_close(cell_means(linear, (5, 4)), read)


def test_there_are_no_more_cells_than_pixels():
    assert cell_counts((20, 4), 7) == (7, 4)
    assert cell_counts((3, 40, 40), 7) == (3, 7, 7)
