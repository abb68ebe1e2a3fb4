"""A view cut into equal cells: what a feature map says of each on average, where they are, and how large.

For methods that compare all places of a view with all of another: as many cells as they can afford stand for the
pixels, whatever the resolution of the map. Cells are equal and need not be whole pixels, so a cell shows the same
place on every map of the view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scantling.contrast.choosing import pixel_indices
from scantling.contrast.points import Points
from scantling.views.view import ViewBatch


def cell_counts(view_shape: Sequence[int], per_axis: int) -> tuple[int, ...]:
    """Cells along each axis: `per_axis`, or as many as there are pixels."""
    return tuple(min(per_axis, n) for n in view_shape)


def cell_means(
    feature_map: Float[Tensor, "batch view feature *map"], counts: Sequence[int]
) -> Float[Tensor, "batch view cell feature"]:
    """The mean of a map over each cell, a pixel that lies in several counting in each by the share it has there.

    Products with a small matrix an axis: the gradient is the same in every run, as that of torch's adaptive pooling
    on an accelerator is not.
    """
    dimensions = len(counts)
    values = feature_map
    for count in counts:  # contracts the leading map axis and appends the cell axis, so the axes end in their order
        weights = _shares(values.shape[-dimensions], count).to(values)
        values = torch.tensordot(values, weights, dims=([-dimensions], [1]))
    return values.flatten(-dimensions).transpose(-1, -2)


def cell_points(
    batch: ViewBatch, counts: Sequence[int], *, among: Bool[Tensor, "batch view *spatial"] | None = None
) -> Points:
    """The middles of the cells of every view; usable where at least half of the cell is eligible.

    Args:
        among: eligible pixels; by default those of weight above 0, which are inside the image.
    """
    eligible = (batch.weights > 0) if among is None else among
    with torch.autocast(eligible.device.type, enabled=False):
        covered = cell_means(eligible.unsqueeze(2).to(torch.float32), counts).squeeze(-1)
    places = torch.arange(math.prod(counts), device=eligible.device).expand(*eligible.shape[:2], -1)
    # in whole numbers of 1e-4: half is half, however the shares of pixels are summed
    return Points(indices=pixel_indices(places, counts, batch.view_shape), usable=(covered * 1e4).round() >= 5e3)


def cell_diagonals_mm(batch: ViewBatch, counts: Sequence[int]) -> Float[Tensor, "batch view"]:
    """Length of a cell's diagonal in the source; of a bent view, as it would be unbent."""
    sides = [n * mm / count for n, mm, count in zip(batch.view_shape, batch.spacing_mm, counts, strict=True)]
    linear = batch.source_from_view[..., :-1, :-1]
    in_source = linear * torch.tensor(sides, dtype=linear.dtype, device=linear.device)
    diagonals: Tensor = torch.linalg.vector_norm(in_source.flatten(2), dim=2)
    return diagonals


def _shares(n: int, count: int) -> Float[Tensor, "{count} {n}"]:
    """Share of each pixel in the mean of each cell."""
    edges = torch.arange(count + 1, dtype=torch.float64) * (n / count)
    pixels = torch.arange(n, dtype=torch.float64)
    length = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return length.clamp(min=0) * (count / n)
