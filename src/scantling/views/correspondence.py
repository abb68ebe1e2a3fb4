"""Which point of the source a pixel of a view shows, and where in a view a point of the source is seen.

Exact algebra on the views' matrices in float64; the displacement of a bent view is evaluated where it is asked
for and undone by iteration. No map of coordinates is resampled, so nothing is lost between two views: the point
that pixel `i` of view `a` shows lies in view `b` at `view_indices(batch, source_positions_mm(batch, i))`.

Indices are voxels along the array axes of the view and need not be whole (pixel-centre convention: pixel `i`
has index `i`); positions are mm in the prepared case.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scantling.views import elastic, geometry
from scantling.views.view import ViewBatch


def source_positions_mm(
    batch: ViewBatch, indices: Float[Tensor, "batch view point axis"]
) -> Float[Tensor, "batch view point axis"]:
    """The points of the source that each view shows at these indices; beyond the view as its map goes on."""
    points = geometry.mm_from_indices(indices, batch.spacing_mm)
    if batch.displacements is not None:
        control = batch.displacements.flatten(0, 1)
        moved = elastic.displacement(
            points.flatten(0, 1), control, patch_size=batch.view_shape, spacing_mm=batch.spacing_mm
        )
        points = points + moved.reshape(points.shape)
    return geometry.transform_points(batch.source_from_view, points)


def view_indices(
    batch: ViewBatch, source_mm: Float[Tensor, "batch view point axis"]
) -> Float[Tensor, "batch view point axis"]:
    """The indices at which each view shows these points of the source; `inside` says whether it does."""
    points = geometry.transform_points(geometry.invert(batch.source_from_view), source_mm)
    if batch.displacements is not None:
        control = batch.displacements.flatten(0, 1)
        straight = elastic.undo(points.flatten(0, 1), control, patch_size=batch.view_shape, spacing_mm=batch.spacing_mm)
        points = straight.reshape(points.shape)
    return geometry.indices_from_mm(points, batch.spacing_mm)


def inside(batch: ViewBatch, indices: Float[Tensor, "batch view point axis"]) -> Bool[Tensor, "batch view point"]:
    """Whether a point lies on a pixel of its view: index in [-0.5, n - 0.5) along every axis."""
    size = torch.tensor(batch.view_shape, dtype=torch.float64, device=indices.device)
    return ((indices >= -0.5) & (indices < size - 0.5)).all(dim=-1)


def overlap(batch: ViewBatch, first: int, second: int) -> Bool[Tensor, "batch *spatial"]:
    """Pixels of view `first` whose centre shows a point that lies on a pixel of view `second` of the same sample."""
    shape, device = batch.view_shape, batch.source_from_view.device
    centres = geometry.pixel_centres_mm(shape, (1.0,) * len(shape), device=device)
    centres = centres.expand(len(batch.label_maps), 1, *centres.shape)
    there = source_positions_mm(_only(batch, first), centres)
    other = _only(batch, second)
    return inside(other, view_indices(other, there)).reshape(-1, *shape)


def _only(batch: ViewBatch, view: int) -> ViewBatch:
    """The batch with one of its views."""
    parts: dict[str, Any] = dict(vars(batch))
    for name in ("images", "label_maps", "weights", "source_from_view", "displacements", "image_numbers"):
        if parts[name] is not None:
            parts[name] = parts[name][:, view : view + 1]
    return ViewBatch(**parts)
