"""The area of the surface between eight neighbouring voxels (2D: of the contour between four pixels).

Each cell spans 2 x 2 x 2 voxel centres, of which some are inside the mask. The surface cuts every edge
between an inside and an outside corner in the middle. On each face the cuts are joined so that the corners of
the rarer kind are cut off singly; the joins close to loops around the cell; a loop is filled by the fan of
triangles that has the largest area in a unit cell. A cell with more than four corners inside is treated as
its complement.

Source: Lorensen & Cline 1987, "Marching cubes"; used as weights of surface distances by Nikolov et al. 2018,
"Deep learning to achieve clinically applicable segmentation of head and neck anatomy for radiotherapy".
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, pairwise, product

import numpy as np
from jaxtyping import Bool, Float64, UInt8

Corner = tuple[int, ...]
Point = tuple[float, ...]


def cell_codes(mask: Bool[np.ndarray, "*spatial"]) -> UInt8[np.ndarray, "*cells"]:
    """Which corners of each cell are inside: one bit a corner, the last axis fastest.

    The mask is padded by one pixel of background, so there is one more cell than pixels along each axis.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([n - 1 for n in padded.shape], dtype=np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        window = tuple(slice(offset, n - 1 + offset) for offset, n in zip(corner, padded.shape, strict=True))
        codes |= padded[window] << np.uint8(bit)
    return codes


def area_table(spacing_mm: tuple[float, ...]) -> Float64[np.ndarray, "code"]:
    """Surface area in mm2 (2D: contour length in mm) of a cell by its code; 0 without a surface."""
    return _contour_table(spacing_mm) if len(spacing_mm) == 2 else _surface_table(spacing_mm)


def _surface_table(spacing_mm: tuple[float, ...]) -> Float64[np.ndarray, "code"]:
    """A triangle's area vector scales along each axis with the spacing of the two other axes."""
    z, y, x = spacing_mm
    stretched = _triangle_areas() * np.array([y * x, z * x, z * y])
    return np.asarray(np.linalg.norm(stretched, axis=-1).sum(axis=-1))


def _contour_table(spacing_mm: tuple[float, ...]) -> Float64[np.ndarray, "code"]:
    """Two cut edges make one straight piece; two corners across from each other one piece each."""
    y, x = spacing_mm
    diagonal = float(np.hypot(y, x)) / 2
    table = np.zeros(16)
    for code in range(1, 15):
        inside = {corner for bit, corner in enumerate(product((0, 1), repeat=2)) if code >> bit & 1}
        rows, columns = ({corner[axis] for corner in inside} for axis in (0, 1))
        if len(inside) != 2:
            table[code] = diagonal
        elif len(rows) == 1:  # both in one row: the contour runs along that row
            table[code] = x
        elif len(columns) == 1:
            table[code] = y
        else:
            table[code] = 2 * diagonal
    return table


@lru_cache(maxsize=1)
def _triangle_areas() -> Float64[np.ndarray, "256 triangle 3"]:
    """The area vectors (half the cross product of two sides) of every code's triangles in a unit cell."""
    corners = list(product((0, 1), repeat=3))
    by_code: list[list[Float64[np.ndarray, "3"]]] = []
    for code in range(256):
        inside = {corner for bit, corner in enumerate(corners) if code >> bit & 1}
        rarer = inside if len(inside) <= 4 else set(corners) - inside
        by_code.append([area for loop in _loops(rarer) for area in _widest_fan(np.array(loop))])
    table = np.zeros((256, max(map(len, by_code)), 3))
    for code, areas in enumerate(by_code):
        for position, area in enumerate(areas):
            table[code, position] = area
    return table


def _loops(inside: set[Corner]) -> list[list[Point]]:
    """Closed paths over the middles of the cut edges; every cut edge lies on two faces, so on two joins."""
    joined: dict[Point, list[Point]] = {}
    for axis, side in product(range(3), (0, 1)):
        for one, other in _joins_on_face(_face(axis, side), inside):
            joined.setdefault(one, []).append(other)
            joined.setdefault(other, []).append(one)
    loops: list[list[Point]] = []
    seen: set[Point] = set()
    for start in sorted(joined):
        path, point = [], start
        while point not in seen:
            seen.add(point)
            path.append(point)
            point = next((neighbour for neighbour in joined[point] if neighbour not in seen), point)
        if path:
            loops.append(path)
    return loops


def _face(axis: int, side: int) -> list[Corner]:
    """The four corners of one face of the unit cell, in cyclic order."""
    square = [(0, 0), (0, 1), (1, 1), (1, 0)]
    return [(*pair[:axis], side, *pair[axis:]) for pair in square]


def _joins_on_face(face: list[Corner], inside: set[Corner]) -> list[tuple[Point, Point]]:
    cuts = {
        index: _middle(one, other)
        for index, (one, other) in enumerate(pairwise([*face, face[0]]))
        if (one in inside) != (other in inside)
    }
    if len(cuts) < 4:
        return list(combinations(cuts.values(), 2))
    return [(cuts[(k - 1) % 4], cuts[k]) for k in range(4) if face[k] in inside]


def _middle(one: Corner, other: Corner) -> Point:
    return tuple((a + b) / 2 for a, b in zip(one, other, strict=True))


def _widest_fan(loop: Float64[np.ndarray, "point 3"]) -> Float64[np.ndarray, "triangle 3"]:
    fans = []
    for start in range(len(loop)):
        spokes = np.roll(loop, -start, axis=0)[1:] - loop[start]
        fans.append(np.cross(spokes[:-1], spokes[1:]) / 2)
    sizes = [round(float(np.linalg.norm(fan, axis=1).sum()), 9) for fan in fans]  # rounding: ties go to the first
    return fans[int(np.argmax(sizes))]
