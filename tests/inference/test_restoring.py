"""Rows that are interpolated as they come are those of the whole map; the oracle is the whole map."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from scantling.data.image import picture_geometry
from scantling.data.prepare import PreparedGrid, restore_probs
from scantling.inference.restoring import LEAST_ROWS, RowRestorer


def grid_of(source: tuple[int, ...], prepared: tuple[int, ...]) -> PreparedGrid:
    axes = len(source)
    geometry = replace(
        picture_geometry((2, 2), "png"), shape=source, spacing_mm=(1.0,) * axes, world_from_index=np.eye(axes + 1)
    )
    return PreparedGrid(
        source=geometry, permutation=tuple(range(axes)), flips=(False,) * axes, shape=prepared, spacing_mm=(1.0,) * axes
    )


def pieces(length: int, seed: int) -> list[slice]:
    """A cut of an axis into parts of 1 to 9 rows."""
    rng, ends = np.random.default_rng(seed), [0]
    while ends[-1] < length:
        ends.append(min(length, ends[-1] + int(rng.integers(1, 10))))
    return [slice(*pair) for pair in itertools.pairwise(ends)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("source", "prepared"),
    [
        ((60, 9, 41), (23, 9, 60)),  # coarser, kept, finer
        ((9, 70, 8), (31, 29, 8)),
        ((5, 5, 90), (5, 11, 7)),
        ((40, 12, 33), (40, 31, 90)),  # the first axis only passes through
        ((1, 7, 64), (1, 7, 16)),
    ],
)
def test_rows_come_in_order_without_gaps_and_equal_the_whole_map(
    source: tuple[int, ...], prepared: tuple[int, ...], axis: int
) -> None:
    grid = grid_of(source, prepared)
    maps = np.random.default_rng(1).random((3, *prepared), dtype=np.float32)
    expected = restore_probs(maps, grid)
    for seed in range(3):
        restorer, actual, reached = RowRestorer(grid, axis), np.full_like(expected, np.nan), 0
        for rows in pieces(prepared[axis], seed):
            place = (slice(None), *[slice(None)] * axis, rows)
            for where, finished in restorer.add(maps[place]):
                assert where[axis].start == reached
                reached = where[axis].stop
                actual[:, *where] = finished
        assert reached == source[axis]
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(("source", "prepared"), [(900, 300), (300, 900), (500, 400)])
def test_only_a_few_rows_are_held_however_long_the_axis(source: int, prepared: int) -> None:
    restorer = RowRestorer(grid_of((source, 6), (prepared, 4)), 0)
    held = []
    for _ in range(prepared):
        for _ in restorer.add(np.ones((2, 1, 4), dtype=np.float32)):
            pass
        held.append(sum(rows.shape[1] for rows in restorer._waiting))
    assert max(held) <= LEAST_ROWS * max(1.0, prepared / source) + 4
