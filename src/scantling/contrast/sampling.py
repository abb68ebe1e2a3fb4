"""Which pixels, by place: shared between views, random, on a grid.

Every sampler draws for the whole batch at once and gives as many places whatever it finds; a place it could not
find is not usable. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scantling.contrast.choosing import choose, generator_on, pixels_chosen, random_keys
from scantling.contrast.points import Points, nearest_values
from scantling.views.correspondence import source_positions_mm, view_indices
from scantling.views.view import ViewBatch

CANDIDATES_PER_POINT: Final = 32
"""Views that share a thirtieth of the smallest of them still fill their quota."""
MOST_CANDIDATES: Final = 65_536
"""About the pixels of a 256 x 256 view: more find no places that these miss by more than a pixel or two."""
SHORTLIST_PER_POINT: Final = 4
"""Of bent views: a quarter of the points near the overlap must lie in it."""


def shared_points(
    batch: ViewBatch,
    n: int,
    rng: torch.Generator,
    *,
    views: Sequence[int] | None = None,
    fill: Literal["none", "outside"] = "none",
    among: Bool[Tensor, "batch view *map"] | None = None,
) -> Points:
    """`n` places of each sample that all its views see, with their exact position in each of them.

    Candidates lie one in each cell of a lattice, anywhere in it, on the view that covers least of the source;
    those that lie within the pixel centres of every view are kept, and `n` of them drawn. A view is an affine
    image of the source, so every place of the overlap is equally likely; an elastic view draws more from where
    it magnifies. Where views share too little, places are left unusable, or filled.

    Args:
        views: numbers of the views; by default all.
        fill: "outside" puts random pixels of each view in the empty places. They have no point number and are
            negatives only; as few candidates were shared, few of them lie in the overlap.
        among: pixels that may be drawn from; by default those of weight above 0, which are inside the image.

    Source: the sampler of dual-view contrast, with exact positions in place of rounded ones.
    """
    shape = batch.view_shape
    eligible = batch.weights > 0 if among is None else among
    chosen = tuple(range(batch.images.shape[1])) if views is None else tuple(views)
    source_mm = _candidates_mm(batch, chosen, max(n, min(CANDIDATES_PER_POINT * n, MOST_CANDIDATES)), rng)
    listed = None
    if batch.displacements is not None:
        source_mm, listed = _shortlist(batch, chosen, source_mm, SHORTLIST_PER_POINT * n, rng)
    seen = _seen(batch, chosen, source_mm)
    candidates = Points(indices=seen, usable=_within_centres(seen, shape), views=chosen)
    inside = (candidates.usable & nearest_values(eligible, candidates, shape, outside=0)).all(dim=1)
    places, there = choose(random_keys(inside if listed is None else inside & listed, rng), n)
    there = there.unsqueeze(1).expand(-1, len(chosen), -1)
    picked = places[:, None, :, None].expand(-1, len(chosen), -1, len(shape))
    numbers = torch.arange(len(there) * n, device=there.device).reshape(len(there), 1, n)
    points = Points(
        indices=seen.gather(2, picked).to(torch.float32),
        usable=there,
        views=None if views is None else chosen,
        point=torch.where(there, numbers, -1),
    )
    return points if fill == "none" else _filled(points, random_points(batch, n, rng, views=chosen, among=eligible))


def random_points(
    batch: ViewBatch,
    n: int,
    rng: torch.Generator,
    *,
    views: Sequence[int] | None = None,
    among: Bool[Tensor, "batch view *map"] | Float[Tensor, "batch view *map"] | None = None,
) -> Points:
    """`n` pixels of each view, drawn without replacement, for each view anew.

    Args:
        views: numbers of the views; by default all.
        among: pixels that may be drawn, all equally likely; or weights >= 0, by which a pixel is drawn as often.
            As fine as the views or coarser. By default the pixels of weight above 0, which are inside the image.
    """
    chances = batch.weights > 0 if among is None else among
    if views is not None:
        chances = torch.stack([chances[:, view] for view in views], dim=1)
    places, there = choose(random_keys(chances.flatten(2), rng), n)
    points = pixels_chosen(places, there, chances.shape[2:], batch.view_shape)
    return points if views is None else replace(points, views=tuple(views))


def grid_points(
    batch: ViewBatch,
    step: int | Sequence[int],
    *,
    rng: torch.Generator | None = None,
    jitter: float = 0.0,
    among: Bool[Tensor, "batch view *map"] | None = None,
) -> Points:
    """One place in each cell of a grid that covers each view; cells are equal and at most `step` voxels long.

    Args:
        rng: needed where there is jitter; each view has its own.
        jitter: 0 is the middle of the cell, 1 anywhere in it.
        among: pixels that may be drawn; by default those of weight above 0, which are inside the image.

    Raises:
        ValueError: jitter outside [0, 1] or without a generator.
    """
    if not 0 <= jitter <= 1 or (jitter > 0 and rng is None):
        raise ValueError(f"grid_points: jitter {jitter} wants a number in [0, 1], and a generator above 0")
    n_batch, n_views = batch.images.shape[:2]
    shape = batch.view_shape
    counts = tuple(math.ceil(n / length) for n, length in zip(shape, _each_axis(step, len(shape)), strict=True))
    indices = _lattice(n_batch * n_views, shape, counts, jitter, rng, batch.images.device)
    indices = indices.reshape(n_batch, n_views, *indices.shape[1:]).to(torch.float32)
    points = Points(indices=indices, usable=torch.ones_like(indices[..., 0], dtype=torch.bool))
    eligible = batch.weights > 0 if among is None else among
    return replace(points, usable=nearest_values(eligible, points, shape, outside=0))


def _candidates_mm(
    batch: ViewBatch, views: tuple[int, ...], at_least: int, rng: torch.Generator
) -> Float[Tensor, "batch candidate axis"]:
    """Points of each sample's source: a jittered lattice on the view that covers least of it."""
    shape = batch.view_shape
    cell = (math.prod(shape) / at_least) ** (1 / len(shape))
    counts = tuple(math.ceil(n / cell) for n in shape)
    lattice = _lattice(len(batch.images), shape, counts, 1.0, rng, batch.images.device)
    extents = torch.linalg.det(batch.source_from_view[..., :-1, :-1]).abs()
    smallest = torch.stack([extents[:, view] for view in views], dim=1).argmin(dim=1)
    numbers = torch.cat([torch.full_like(smallest[:1], view) for view in views])
    return source_positions_mm(_one_view_each(batch, numbers[smallest]), lattice.unsqueeze(1)).squeeze(1)


def _shortlist(
    batch: ViewBatch,
    views: tuple[int, ...],
    source_mm: Float[Tensor, "batch candidate axis"],
    n: int,
    rng: torch.Generator,
) -> tuple[Float[Tensor, "batch listed axis"], Bool[Tensor, "batch listed"]]:
    """`n` of the candidates that bent views may see, so that the bending is undone for few of them.

    A view shows a point no further from where its straight part does than its largest displacement. None is
    left out for lying near the rim.
    """
    assert batch.displacements is not None
    reach = batch.displacements.flatten(3).abs().amax(dim=-1).unsqueeze(2)  # mm along each axis
    reach = torch.stack([reach[..., axis] / mm for axis, mm in enumerate(batch.spacing_mm)], dim=-1)
    straight = _seen(replace(batch, displacements=None), tuple(range(batch.images.shape[1])), source_mm)
    possible = _within_centres(straight, batch.view_shape, reach)
    possible = torch.stack([possible[:, view] for view in views], dim=1).all(dim=1)
    places, there = choose(random_keys(possible, rng), n)
    return source_mm.gather(1, places.unsqueeze(-1).expand(-1, -1, source_mm.shape[-1])), there


def _seen(
    batch: ViewBatch, views: tuple[int, ...], source_mm: Float[Tensor, "batch candidate axis"]
) -> Float[Tensor, "batch viewed candidate axis"]:
    """Where the views show points of the source, in voxels."""
    indices = view_indices(batch, source_mm.unsqueeze(1).expand(-1, batch.images.shape[1], -1, -1))
    return torch.stack([indices[:, view] for view in views], dim=1)


def _one_view_each(batch: ViewBatch, numbers: Int[Tensor, "batch"]) -> ViewBatch:
    """The batch with one view of each sample, given by its number."""
    rows = torch.arange(len(numbers), device=numbers.device)
    names = ("images", "label_maps", "weights", "source_from_view", "displacements", "image_numbers")
    fields: dict[str, Any] = {name: getattr(batch, name) for name in names}
    taken = {name: value[rows, numbers].unsqueeze(1) for name, value in fields.items() if value is not None}
    return replace(batch, **taken)


def _lattice(
    rows: int,
    shape: Sequence[int],
    counts: Sequence[int],
    jitter: float,
    rng: torch.Generator | None,
    device: torch.device,
) -> Float[Tensor, "{rows} cell axis"]:
    """A place in each of `counts` equal cells of a view, in voxels: the middle, moved by up to half a cell."""
    steps = [torch.arange(n, dtype=torch.float64, device=device) + 0.5 for n in counts]
    cells = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1).reshape(1, -1, len(counts))
    cells = cells.expand(rows, -1, -1)
    if jitter and rng is not None:
        drawn = torch.rand(cells.shape, generator=generator_on(rng, device), device=device, dtype=torch.float64)
        cells = cells + jitter * (drawn - 0.5)
    lengths = [n / count for n, count in zip(shape, counts, strict=True)]
    return torch.stack([cells[..., axis] * length - 0.5 for axis, length in enumerate(lengths)], dim=-1)


def _within_centres(
    indices: Float[Tensor, "*batch axis"], shape: Sequence[int], reach: Float[Tensor, "..."] | float = 0.0
) -> Bool[Tensor, "*batch"]:
    """Places between the outermost pixel centres, where reading is exact; along an axis of one pixel, on it.

    Args:
        reach: how many voxels further out, per axis.
    """
    inside = torch.ones_like(indices[..., 0], dtype=torch.bool)
    for axis, n in enumerate(shape):
        low, high = (0, n - 1) if n > 1 else (-0.5, 0.5)
        more = reach[..., axis] if isinstance(reach, Tensor) else reach
        inside = inside & (indices[..., axis] >= low - more) & (indices[..., axis] <= high + more)
    return inside


def _filled(points: Points, others: Points) -> Points:
    """The points, and in their empty places the others."""
    return replace(
        points,
        indices=torch.where(points.usable.unsqueeze(-1), points.indices, others.indices),
        usable=points.usable | others.usable,
    )


def _each_axis(lengths: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    return (lengths,) * dimensions if isinstance(lengths, int) else tuple(lengths)
