"""The weighted sum over overlapping patches, holding only the rows of an image that are not finished yet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from scantling.errors import IntegrityError
from scantling.inference.tiling import Tiling, along, box, outer

BLOCK_VOXELS: Final = 2**16
"""Voxels that a CPU finishes at a time: with a few classes they stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Finished rows `start` to `stop` of an image along `axis`; `logits` is valid until the next slab."""

    axis: int
    start: int
    stop: int
    logits: Float[Tensor, "klass *spatial"]

    @property
    def place(self) -> tuple[slice, ...]:
        """Where the slab lies in an array `[*S]`."""
        return (*[slice(None)] * self.axis, slice(self.start, self.stop))


@final
class Accumulator:
    """Sums of weighted logits; row r along the sweep axis is kept at r modulo the buffer's length.

    `finish(row)` may only be called with rows that no later tile touches.
    """

    def __init__(self, buffer: Float[Tensor, "klass *extent"], window: Tiling) -> None:
        self.buffer, self.window = buffer, window
        axes, device = window.axes, buffer.device
        self.sweep = window.sweep
        self.depth = buffer.shape[self.sweep + 1]
        self.weights = outer([axis.weights for axis in axes]).to(device)
        self.inverse = along(axes[self.sweep].inverse, self.sweep, len(axes)).to(device)
        one = torch.ones(1)
        self.across = outer([one if a == self.sweep else axes[a].inverse for a in range(len(axes))]).to(device)
        self.checksum = torch.zeros((), device=device)
        self.finished = 0

    def add(self, logits: Float[Tensor, "klass *patch"], corner: tuple[int, ...]) -> None:
        """Add one tile; a tile that runs over the end of the buffer goes on at its beginning."""
        first = corner[self.sweep]
        place = list(box(corner, self.window.patch))
        for start, stop in _pieces(first, first + self.window.patch[self.sweep], self.depth, self.depth):
            place[self.sweep] = slice(start % self.depth, start % self.depth + stop - start)
            part = logits.narrow(self.sweep + 1, start - first, stop - start)
            self.buffer[:, *place].addcmul_(part, self.weights.narrow(self.sweep, start - first, stop - start))

    def finish(self, row: int) -> Iterator[Slab]:
        """Divide rows up to `row` by the sum of their weights, hand them out, and set them to 0 for reuse.

        A buffer of the whole image keeps them: it ends as the result.
        """
        for start, stop in _pieces(self.finished, row, self.depth, self._block()):
            rows = self.buffer.narrow(self.sweep + 1, start % self.depth, stop - start)
            rows.mul_(self.across * self.inverse.narrow(self.sweep, start, stop - start))
            self.checksum += rows.sum()
            yield from self._inside(rows, start, stop)
            if self.depth < self.window.canvas[self.sweep]:
                rows.zero_()
        self.finished = row

    def check(self) -> None:
        """Refuse what the network gave if any of it was not finite.

        Raises:
            IntegrityError: NaN or infinity among the logits handed out.
        """
        if not torch.isfinite(self.checksum):
            raise IntegrityError(
                "network: gave values that are not finite; the image or the weights are damaged",
                code="E-CHK-10",
            )

    def _inside(self, rows: Float[Tensor, "klass *block"], start: int, stop: int) -> Iterator[Slab]:
        """The part of canvas rows that lies in the image; nothing if all of it is padding."""
        before, shape = self.window.before, self.window.shape
        low = max(start, before[self.sweep])
        high = min(stop, before[self.sweep] + shape[self.sweep])
        if low < high:
            place = list(box(before, shape))
            place[self.sweep] = slice(low - start, high - start)
            offset = before[self.sweep]
            yield Slab(axis=self.sweep, start=low - offset, stop=high - offset, logits=rows[:, *place])

    def _block(self) -> int:
        """Rows to finish at a time: on a GPU all there are, on a CPU what fits its cache."""
        rows = self.window.canvas[self.sweep]
        if self.buffer.device.type != "cpu":
            return rows
        fewest = 16 if self.sweep == len(self.window.canvas) - 1 else 1  # a cache line along the last axis
        return max(fewest, BLOCK_VOXELS * rows // math.prod(self.window.canvas))


def _pieces(start: int, stop: int, depth: int, longest: int) -> Iterator[tuple[int, int]]:
    """Parts of a range of rows, none longer than `longest`, none across a multiple of `depth`."""
    while start < stop:
        end = min(stop, start + longest, (start // depth + 1) * depth)
        yield start, end
        start = end
