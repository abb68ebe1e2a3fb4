from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from evaluation import surface_oracle as oracle
from scantling.evaluation.surface_area import area_table, cell_codes

CORNERS = list(itertools.product((0, 1), repeat=3))

ONE_CORNER = math.sqrt(3) / 8  # an equilateral triangle of side sqrt(2) / 2
EDGE = math.sqrt(2) / 2  # a rectangle of 1 x sqrt(2) / 2
FACE = 1.0
HEXAGON = 6 * ONE_CORNER  # the plane through six edge middles


def code_of(*corners: tuple[int, int, int]) -> int:
    return sum(1 << CORNERS.index(corner) for corner in corners)


def total_area(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> float:
    return float(area_table(spacing_mm)[cell_codes(mask)].sum())


@pytest.mark.parametrize(
    ("corners", "area"),
    [
        ([(0, 0, 0)], ONE_CORNER),
        ([(0, 0, 0), (0, 0, 1)], EDGE),
        ([(0, 0, 0), (0, 1, 1)], 2 * ONE_CORNER),  # across a face: cut off singly
        ([(0, 0, 0), (1, 1, 1)], 2 * ONE_CORNER),
        ([(0, 0, 0), (0, 1, 1), (1, 0, 1)], 3 * ONE_CORNER),
        ([(0, 0, 0), (0, 0, 1), (1, 1, 0)], EDGE + ONE_CORNER),
        ([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)], FACE),
        ([(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)], HEXAGON),
        ([(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)], 2 * EDGE),
        ([(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)], 4 * ONE_CORNER),
    ],
)
def test_areas_of_cells_whose_surface_is_flat(corners: list[tuple[int, int, int]], area: float) -> None:
    table = area_table((1.0, 1.0, 1.0))
    assert table[code_of(*corners)] == pytest.approx(area)
    assert table[255 - code_of(*corners)] == pytest.approx(area)


def test_empty_and_full_cells_have_no_surface_and_every_other_has() -> None:
    for spacing in ((1.0, 1.0), (1.0, 2.0, 3.0)):
        table = area_table(spacing)
        assert table[0] == table[-1] == 0
        assert (table[1:-1] > 0).all()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_a_turned_or_mirrored_cell_has_the_same_area(order: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    spacing = (1.0, 2.0, 5.0)
    table, turned = area_table(spacing), area_table(tuple(spacing[axis] for axis in order))
    moved = np.zeros(256, dtype=int)
    for code in range(256):
        inside = [corner for bit, corner in enumerate(CORNERS) if code >> bit & 1]
        moved[code] = code_of(*(tuple(corner[axis] ^ flips[axis] for axis in order) for corner in inside))
    np.testing.assert_allclose(turned[moved], table)


def test_a_single_voxel_is_an_octahedron_and_a_single_pixel_a_diamond() -> None:
    # half diagonals a, b, c: the eight faces have sqrt(a2 b2 + b2 c2 + c2 a2) / 2 each
    a, b, c = 0.5, 1.0, 1.5
    octahedron = 8 * math.sqrt((a * b) ** 2 + (b * c) ** 2 + (c * a) ** 2) / 2
    assert total_area(np.ones((1, 1, 1), dtype=bool), (2 * a, 2 * b, 2 * c)) == pytest.approx(octahedron)
    assert total_area(np.ones((1, 1), dtype=bool), (2 * a, 2 * b)) == pytest.approx(4 * math.hypot(a, b))


def test_a_plane_has_its_own_area_in_each_direction() -> None:
    spacing = (3.0, 2.0, 0.5)
    for axis in range(3):
        small, large = [4, 4, 4], [4, 4, 4]
        large[(axis + 1) % 3] += 1
        grown = total_area(np.ones(large, dtype=bool), spacing) - total_area(np.ones(small, dtype=bool), spacing)
        n, m = (axis + 1) % 3, (axis + 2) % 3
        # along `n` one more voxel of wall: two walls normal to `axis`, two normal to `m`, four bevelled edges
        straight = 2 * 3 * spacing[n] * spacing[m] + 2 * 3 * spacing[n] * spacing[axis]
        bevels = 4 * spacing[n] * math.hypot(spacing[axis], spacing[m]) / 2
        assert grown == pytest.approx(straight + bevels)


def test_the_contour_of_a_rectangle_is_its_sides_and_four_bevels() -> None:
    # 3 x 5 pixels of 2 x 0.5 mm: sides of (n - 1) pixels, corners cut off by half a pixel's diagonal
    sides = 2 * (2 * 2.0 + 4 * 0.5)
    assert total_area(np.ones((3, 5), dtype=bool), (2.0, 0.5)) == pytest.approx(sides + 4 * math.hypot(2.0, 0.5) / 2)


def test_a_ball_is_a_little_rougher_than_a_sphere() -> None:
    z, y, x = np.ogrid[-20:21, -20:21, -20:21]
    ball = z**2 + y**2 + x**2 <= 17.3**2
    assert total_area(ball, (1.0, 1.0, 1.0)) == pytest.approx(4 * math.pi * 17.3**2, rel=0.12)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
def test_codes_are_the_corners_that_are_inside(shape: tuple[int, ...]) -> None:
    mask = oracle.random_mask(np.random.default_rng(5), shape)
    corners = list(itertools.product((0, 1), repeat=len(shape)))
    codes = cell_codes(mask)
    found = {
        tuple(int(i) - 1 for i in at): frozenset(c for bit, c in enumerate(corners) if codes[tuple(at)] >> bit & 1)
        for at in np.argwhere((codes > 0) & (codes < 2 ** len(corners) - 1))
    }
    assert found == oracle.cells(mask)
