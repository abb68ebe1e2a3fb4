"""Points: places in views, not rounded; what a feature map, a label map and a batch say of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from scantling.contrast.pixels import Tags
from scantling.shapes import IGNORE
from scantling.views.correspondence import source_positions_mm
from scantling.views.view import ViewBatch

SLICE_NUMBERS: Final = 2**20
"""Slices of one case that an image number can tell apart; float32 positions in [0, 1] can tell more."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """P places in each view of a batch; a sampler that finds fewer leaves places that are not usable.

    Attributes:
        indices: in voxels of the view at full resolution: voxel i has its centre at i, and i need not be whole.
        usable: False is an empty place: it lies somewhere, and nothing is known of it.
        views: numbers of the views in the batch; None is all of them.
        point: number of the place, the same in all views that see it and in no other sample; -1 for a place
            of one view alone. None is -1 everywhere.
        klass: the class it was drawn for.
        group: 1 for the preferred and 0 for the other half, or the number of its set; -1 where not usable.
    """

    indices: Float[Tensor, "batch view point axis"]
    usable: Bool[Tensor, "batch view point"]
    views: tuple[int, ...] | None = None
    point: Int[Tensor, "batch view point"] | None = None
    klass: Int[Tensor, "batch view point"] | None = None
    group: Int[Tensor, "batch view point"] | None = None

    def __len__(self) -> int:
        return self.usable.shape[2]

    def part(self, places: slice) -> Points:
        """Some of the places, the same in each view."""

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[:, :, places]

        return Points(
            indices=self.indices[:, :, places],
            usable=self.usable[:, :, places],
            views=self.views,
            point=cut(self.point),
            klass=cut(self.klass),
            group=cut(self.group),
        )


def together(parts: Sequence[Points]) -> Points:
    """The places of several samplers, one after the other and without what was known of them.

    For `gather`: reading a feature map once instead of once a sampler saves a gradient of its size each time.
    Split the result along its point axis again.

    Raises:
        ValueError: no points, or points in different views.
    """
    if not parts:
        raise ValueError("together: got no points")
    if len({part.views for part in parts}) > 1:
        raise ValueError(f"together: points in different views {[part.views for part in parts]}")
    return Points(
        indices=torch.cat([part.indices for part in parts], dim=2),
        usable=torch.cat([part.usable for part in parts], dim=2),
        views=parts[0].views,
    )


def gather(
    feature_map: Float[Tensor, "batch view feature *map"],
    points: Points,
    view_shape: Sequence[int],
    *,
    interpolation: Literal["linear", "nearest"] = "linear",
) -> Float[Tensor, "batch viewed point feature"]:
    """Features at the exact places, linear between voxels of the map; beyond its outermost centres the border's.

    Gather before projecting: a projection of the gathered pixels costs a hundredth of one of the whole map.
    The map may be coarser than the view. Half precision stays as it is in memory; weighing is in float32. The
    gradient is the same in every run, also where deterministic algorithms are asked for.

    Args:
        view_shape: of the view at full resolution, which the map covers too.
        interpolation: "nearest" is exact for places drawn on the map's own pixels, and reads each once.
    """
    map_shape = feature_map.shape[3:]
    flat = feature_map.flatten(3)
    if interpolation == "nearest":
        rows, views = _rows_and_views(points, flat.shape[1])
        at: Tensor = flat[rows, views, :, _containing(points.indices, view_shape, map_shape)]
        return at
    places, shares = _corners(points.indices, view_shape, map_shape)
    rows, views = _rows_and_views(points, flat.shape[1])
    corners = flat[rows.unsqueeze(-1), views.unsqueeze(-1), :, places]  # [batch, view, point, corner, feature]
    weighed = corners * shares.to(torch.promote_types(corners.dtype, torch.float32)).unsqueeze(-1)
    features: Tensor = weighed.sum(dim=-2).to(feature_map.dtype)
    return features


def nearest_values(
    maps: Shaped[Tensor, "batch view *map"],
    points: Points,
    view_shape: Sequence[int],
    *,
    outside: float = IGNORE,
) -> Shaped[Tensor, "batch viewed point"]:
    """Value of the pixel that a place lies on; `outside` for places outside the view.

    Args:
        maps: labels, weights, confidence; as fine as the view or coarser.
        outside: IGNORE suits labels; give 0 for weights.
    """
    rows, views = _rows_and_views(points, maps.shape[1])
    values = maps.flatten(2)[rows, views, _containing(points.indices, view_shape, maps.shape[2:])]
    inside = _inside(points.indices, view_shape)
    return torch.where(inside, values, torch.full_like(values, outside))


def tags_of(
    points: Points,
    batch: ViewBatch,
    *,
    label_maps: Int[Tensor, "batch view *map"] | None = None,
    annotated: Bool[Tensor, "batch klass"] | None = None,
    weights: Float[Tensor, "batch view *weightmap"] | None = None,
    confidence: Float[Tensor, "batch view *confidencemap"] | None = None,
) -> Tags:
    """Where the places are from and what is known of them, in order (batch, view, point).

    Pixels have the same image where their samples are crops of one case and, in 2D, of one slice: there
    positions in mm are comparable. The class is the one a place was drawn for, where it was drawn for one.

    Args:
        label_maps: in place of the batch's own, such as pseudo-labels; as fine as the views or coarser.
        annotated: classes that were looked for in them; the batch's own by default.
        weights: trust in the labels; the batch's own by default.
        confidence: in the labels, in [0, 1].
    """
    shape = batch.view_shape
    labels = batch.label_maps if label_maps is None else label_maps
    klass = nearest_values(labels, points, shape) if points.klass is None else points.klass
    trust = nearest_values(batch.weights if weights is None else weights, points, shape, outside=0)
    known = batch.annotated if annotated is None else annotated
    _, numbers = _rows_and_views(points, batch.images.shape[1])
    each = points.usable.shape

    def of_sample(values: Tensor) -> Tensor:
        return values[:, None, None].expand(each).flatten()

    return Tags(
        image=of_sample(_image_numbers(batch)),
        patient=of_sample(batch.patient_indices),
        view=numbers.expand(each).flatten(),
        point=torch.full_like(klass, -1).flatten() if points.point is None else points.point.flatten(),
        position_mm=_positions_mm(points, batch).flatten(0, 2).to(torch.float32),
        slice_position=of_sample(batch.slice_positions),
        klass=klass.flatten(),
        annotated=known[:, None, None].expand(*each, -1).flatten(0, 2),
        trust=trust.flatten(),
        confidence=(None if confidence is None else nearest_values(confidence, points, shape, outside=0).flatten()),
        group=None if points.group is None else points.group.flatten(),
        usable=points.usable.flatten(),
    )


def _image_numbers(batch: ViewBatch) -> Int[Tensor, "batch"]:
    if batch.images.dim() == 6:
        return batch.case_indices
    slices = (batch.slice_positions * (SLICE_NUMBERS - 1)).round().long()
    return batch.case_indices * SLICE_NUMBERS + slices


def _positions_mm(points: Points, batch: ViewBatch) -> Float[Tensor, "batch viewed point axis"]:
    if points.views is None:
        return source_positions_mm(batch, points.indices)
    n_views = batch.images.shape[1]
    order = {view: i for i, view in enumerate(points.views)}
    everywhere = torch.stack([points.indices[:, order.get(view, 0)] for view in range(n_views)], dim=1)
    positions = source_positions_mm(batch, everywhere)
    return torch.stack([positions[:, view] for view in points.views], dim=1)


def _rows_and_views(points: Points, n_views: int) -> tuple[Int[Tensor, "batch 1 1"], Int[Tensor, "1 viewed 1"]]:
    """Indices of sample and view that broadcast over the places."""
    device = points.indices.device
    rows = torch.arange(len(points.indices), device=device)[:, None, None]
    numbers = torch.arange(n_views, device=device)
    if points.views is not None:
        numbers = torch.cat([numbers[view : view + 1] for view in points.views])
    return rows, numbers[None, :, None]


def _inside(indices: Float[Tensor, "*batch axis"], shape: Sequence[int]) -> Bool[Tensor, "*batch"]:
    """Places that lie on a pixel: index in [-0.5, n - 0.5) along each axis."""
    inside: Tensor | None = None
    for axis, n in enumerate(shape):
        there = (indices[..., axis] >= -0.5) & (indices[..., axis] < n - 0.5)
        inside = there if inside is None else inside & there
    assert inside is not None  # there is at least one axis
    return inside


def _containing(
    indices: Float[Tensor, "*batch axis"], view_shape: Sequence[int], map_shape: Sequence[int]
) -> Int[Tensor, "*batch"]:
    """Flat number of the map's pixel that holds a place, or of the nearest one at the border."""
    place: Tensor | None = None
    for axis, (n, m) in enumerate(zip(view_shape, map_shape, strict=True)):
        along = ((indices[..., axis] + 0.5) * (m / n)).floor().clamp(0, m - 1).long()
        place = along if place is None else place * m + along
    assert place is not None  # there is at least one axis
    return place


def _corners(
    indices: Float[Tensor, "*batch axis"], view_shape: Sequence[int], map_shape: Sequence[int]
) -> tuple[Int[Tensor, "*batch corner"], Float[Tensor, "*batch corner"]]:
    """Flat numbers of the pixels around each place and their shares, which sum to 1."""
    sides = []
    for axis, (n, m) in enumerate(zip(view_shape, map_shape, strict=True)):
        along = ((indices[..., axis] + 0.5) * (m / n) - 0.5).clamp(0, m - 1)
        lower = along.floor()
        share = along - lower
        first = lower.long()
        sides.append(((first, 1 - share), ((first + 1).clamp(max=m - 1), share)))
    places, shares = [], []
    for corner in itertools.product(*sides):
        place, weight = corner[0]
        for (along, share), m in zip(corner[1:], map_shape[1:], strict=True):
            place, weight = place * m + along, weight * share
        places.append(place)
        shares.append(weight)
    return torch.stack(places, dim=-1), torch.stack(shares, dim=-1)
