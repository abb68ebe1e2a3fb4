"""Where the patches of a sliding window lie, and how much each of their voxels counts.

Everything is a product over axes: positions, Gaussian weights, and the sum of the weights at each voxel. So
that sum is one vector per axis and no volume of counts is ever held.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

SIGMA_OF_PATCH: Final = 0.125
"""Standard deviation of the Gaussian as a share of the patch (Isensee et al. 2021, "nnU-Net", inference)."""


@dataclass(frozen=True, kw_only=True)
class AxisTiling:
    """The tiles of one axis.

    Attributes:
        weights: of a tile's voxels along this axis; ones where a single tile covers the axis.
        inverse: one over the sum of the weights of all tiles, at each voxel.
    """

    starts: tuple[int, ...]
    weights: Float[Tensor, "patch"]
    inverse: Float[Tensor, "length"]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """The tiles of an image, in the order in which they are computed.

    Attributes:
        canvas: the image's shape, at least the patch along each axis.
        before: voxels of padding before the image, per axis.
        sweep: the axis along which the window advances slowest; the tile's extent is smallest against it.
        batches: corners of the tiles of each forward pass; the corner along `sweep` never decreases.
    """

    shape: tuple[int, ...]
    canvas: tuple[int, ...]
    before: tuple[int, ...]
    patch: tuple[int, ...]
    axes: tuple[AxisTiling, ...]
    sweep: int
    batches: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def unfinished(self) -> tuple[int, ...]:
        """Shape of what is unfinished at one time: along `sweep` no more than one batch reaches."""
        extent = self.patch[self.sweep]
        depth = max(batch[-1][self.sweep] + extent - batch[0][self.sweep] for batch in self.batches)
        return (*self.canvas[: self.sweep], depth, *self.canvas[self.sweep + 1 :])


def tile(shape: Sequence[int], patch: Sequence[int], *, overlap: float, batch_size: int) -> Tiling:
    """Tiles that cover an image evenly; an axis shorter than the patch is padded on both sides.

    Args:
        overlap: least share of a patch that two neighbours have in common, in [0, 1).

    Raises:
        ValueError: patch and image differ in axes, or `overlap` or `batch_size` is out of range.
    """
    if len(shape) != len(patch) or min(patch) < 1 or min(shape) < 1:
        raise ValueError(f"a patch of {tuple(patch)} does not tile an image of {tuple(shape)}")
    if not 0 <= overlap < 1 or batch_size < 1:
        raise ValueError(f"wanted 0 <= overlap < 1 and batch_size >= 1, got {overlap} and {batch_size}")
    canvas = tuple(max(length, extent) for length, extent in zip(shape, patch, strict=True))
    axes = tuple(_tile_axis(*pair, overlap) for pair in zip(canvas, patch, strict=True))
    sweep = max(range(len(canvas)), key=lambda axis: canvas[axis] / patch[axis])  # the first of equals
    corners = sorted(itertools.product(*(axis.starts for axis in axes)), key=lambda corner: corner[sweep])
    return Tiling(
        shape=tuple(shape),
        canvas=canvas,
        before=tuple((large - small) // 2 for large, small in zip(canvas, shape, strict=True)),
        patch=tuple(patch),
        axes=axes,
        sweep=sweep,
        batches=tuple(tuple(corners[i : i + batch_size]) for i in range(0, len(corners), batch_size)),
    )


def tile_starts(length: int, extent: int, overlap: float) -> tuple[int, ...]:
    """First voxel of each tile along an axis: the fewest tiles with at least this overlap, evenly spread."""
    step = max(1, math.floor(extent * (1 - overlap)))
    last = length - extent
    count = math.ceil(last / step) + 1
    return tuple(round(i * last / (count - 1)) for i in range(count)) if count > 1 else (0,)


def gaussian(extent: int) -> Float[Tensor, "patch"]:
    """Gaussian weights of a tile's voxels along one axis (float64, largest in the middle)."""
    offset = torch.arange(extent, dtype=torch.float64) - (extent - 1) / 2
    return torch.exp(-0.5 * (offset / (extent * SIGMA_OF_PATCH)) ** 2)


def outer(vectors: Sequence[Tensor]) -> Tensor:
    """The product of one vector per axis, as an array with one axis each."""
    result = torch.ones((), dtype=vectors[0].dtype, device=vectors[0].device)
    for axis, vector in enumerate(vectors):
        result = result * along(vector, axis, len(vectors))
    return result


def along(vector: Tensor, axis: int, axes: int) -> Tensor:
    """A vector as an array of `axes` axes, all of length 1 but one."""
    return vector.reshape([-1 if other == axis else 1 for other in range(axes)])


def box(corner: tuple[int, ...], extent: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of an array that starts at `corner` and has shape `extent`."""
    return tuple(slice(start, start + length) for start, length in zip(corner, extent, strict=True))


def _tile_axis(length: int, extent: int, overlap: float) -> AxisTiling:
    starts = tile_starts(length, extent, overlap)
    weights = gaussian(extent) if len(starts) > 1 else torch.ones(extent, dtype=torch.float64)
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + extent] += weights
    return AxisTiling(starts=starts, weights=weights.float(), inverse=total.reciprocal().float())
