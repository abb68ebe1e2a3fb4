"""Maps of a prepared image back on the image's own resolution, row by row as they are finished."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

import numpy as np
from jaxtyping import Float, Int

from scantling.data.prepare import PreparedGrid
from scantling.data.resampling import axis_matrices, multiply_axes

LEAST_ROWS: Final = 16
"""Rows interpolated together: fewer make many small products, more hold more of the maps."""


@final
class RowRestorer:
    """Linear interpolation of maps that come in rows along one axis.

    A row of the source is given as soon as every prepared row that it needs has come, and a prepared row is
    forgotten when no later one needs it: so a few rows are held, never a whole map.

    Args:
        grid: from `grid.shape` to `grid.turned_shape`.
        axis: spatial axis along which the rows come, in order and without gaps.
    """

    def __init__(self, grid: PreparedGrid, axis: int) -> None:
        self._matrices = axis_matrices(grid.shape, grid.turned_shape, "linear")
        self._axis, self._total = axis, grid.shape[axis]
        self._along = self._matrices[axis]
        self._first, self._stop = _reach(self._along, self._total)
        self._waiting: list[Float[np.ndarray, "map *rows"]] = []
        self._begin, self._have, self._done = 0, 0, 0

    def add(
        self, rows: Float[np.ndarray, "map *rows"]
    ) -> Iterator[tuple[tuple[slice, ...], Float[np.ndarray, "map *finished"]]]:
        """The next prepared rows; every source row that they complete, with its place in an array `[*S]`."""
        self._waiting.append(rows)
        self._have += rows.shape[self._axis + 1]
        ready = int(np.searchsorted(self._stop, self._have, side="right"))
        if ready == self._done or (ready - self._done < LEAST_ROWS and self._have < self._total):
            return
        held = np.concatenate(self._waiting, axis=self._axis + 1)
        low, high = int(self._first[self._done]), int(self._stop[ready - 1])
        matrices = list(self._matrices)
        if self._along is not None:
            matrices[self._axis] = self._along[self._done : ready, low:high]
        finished = [multiply_axes(rows_of_map, matrices) for rows_of_map in held[self._rows(low, high)]]
        yield (*[slice(None)] * self._axis, slice(self._done, ready)), np.stack(finished)
        self._done = ready
        needed = int(self._first[ready]) if ready < len(self._first) else self._have
        self._waiting = [held[self._rows(needed, self._have)].copy()]
        self._begin = needed

    def _rows(self, start: int, stop: int) -> tuple[slice, ...]:
        return (*[slice(None)] * (self._axis + 1), slice(start - self._begin, stop - self._begin))


def _reach(
    matrix: Float[np.ndarray, "out in"] | None, length: int
) -> tuple[Int[np.ndarray, "out"], Int[np.ndarray, "out"]]:
    """First and one past the last input row with a weight, of each output row."""
    if matrix is None:
        return np.arange(length), np.arange(1, length + 1)
    weighs = matrix != 0
    return weighs.argmax(axis=1), matrix.shape[1] - weighs[:, ::-1].argmax(axis=1)
