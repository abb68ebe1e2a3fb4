"""Pixels and pairs as the released code of dual- and multi-view contrast takes them, for comparison with its tables.

Each part does what that code does where it differs from what was meant: places are rounded to whole pixels and moved
to the border, all views are read at the same places of their grid, and a mask is filled by a mirror image that it
does not have. The recipes take these parts with `compat = "released"` only.

Source: released code of Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning", from a
    description of what it computes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scantling.contrast.choosing import generator_on, pixel_indices
from scantling.contrast.gathering import gather_pixels
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.points import Points, tags_of
from scantling.losses.contrastive import info_nce
from scantling.losses.pairs import PairBlock, Pairs
from scantling.processes import process_count, sum_over_processes
from scantling.shapes import IGNORE
from scantling.views.correspondence import inside, source_positions_mm, view_indices
from scantling.views.view import ViewBatch

CHUNKS: Final = 3
"""Parts of each side of the mask of pairs (the setting `chunk_divs`)."""
BACKGROUND: Final = 0


def rounded_overlap_points(batch: ViewBatch, n: int, rng: torch.Generator, *, views: tuple[int, int]) -> Points:
    """`n` voxels of the source that both views show, each read at the nearest whole pixel of a view.

    Where fewer voxels are shown by both, all of them are taken, and voxels that are not, drawn with replacement,
    fill up: they have no point number, and are read at the border of the view that does not show them.

    Differs: the voxels are those in a box of the source around both views, not of a whole image, which a batch of
    crops does not know. What both views show is in the box, so only where fills are drawn from differs.
    """
    numbers, indices = [], []
    for row in range(len(batch.images)):
        one = _only(batch, row, views)
        voxels = _source_voxels_mm(one)
        seen = view_indices(one, voxels.expand(1, 2, *voxels.shape))
        aligned = inside(one, seen)[0].all(dim=0)
        places, both = _aligned_first(aligned, n, generator_on(rng, aligned.device))
        size = torch.tensor(batch.view_shape, dtype=seen.dtype, device=seen.device)
        whole = torch.round(seen[0, :, places] + 0.5)  # the place as a share of the side, times the side
        indices.append(torch.minimum(whole.clamp(min=0), size - 1).to(torch.float32))
        numbers.append(torch.where(both, row * n + torch.arange(n, device=both.device), -1))
    return Points(
        indices=torch.stack(indices),
        usable=torch.ones((len(indices), 2, n), dtype=torch.bool, device=batch.images.device),
        views=views,
        point=torch.stack(numbers).unsqueeze(1).expand(-1, 2, -1),
    )


def same_grid_points(batch: ViewBatch, n: int, rng: torch.Generator) -> Points:
    """`n` pixels of the view's grid for each sample, drawn with replacement and the same in all its views.

    Views differ in what they show there, so nothing is matched; that is what the overlap sampler of the settings
    falls back to for a pool of views.
    """
    n_batch, n_views, shape = len(batch.images), batch.images.shape[1], batch.view_shape
    generator = generator_on(rng, batch.images.device)
    places = torch.randint(math.prod(shape), (n_batch, n), generator=generator, device=batch.images.device)
    indices = pixel_indices(places, shape, shape).unsqueeze(1).expand(-1, n_views, -1, -1)
    return Points(indices=indices, usable=torch.ones_like(indices[..., 0], dtype=torch.bool))


def released_tags(points: Points, batch: ViewBatch) -> Tags:
    """Tags without what the released code knows nothing of: trust, partly labelled images, empty places.

    Outside the image is background. A pixel inside that nobody labelled, which its data does not have, is left out.
    """
    outside = (batch.label_maps == IGNORE) & (batch.weights <= 0)
    tags = tags_of(points, batch, label_maps=batch.label_maps.masked_fill(outside, BACKGROUND))
    return replace(tags, annotated=None, trust=None)


def in_image_sides(tags: Tags, points: Points, batch: ViewBatch) -> Tags:
    """The tags with positions in units of the image's sides, half a pixel of the view from where they are.

    That code places pixel `i` of `n` at `i / n`, which is its first edge. The image's sides are the view's at its
    own size.
    """
    assert points.views is None
    edges = source_positions_mm(batch, points.indices - 0.5)
    sides = [n * mm for n, mm in zip(batch.view_shape, batch.spacing_mm, strict=True)]
    positions = torch.stack([edges[..., axis] / side for axis, side in enumerate(sides)], dim=-1)
    return replace(tags, position_mm=positions.flatten(0, 2).to(torch.float32))


def mirrored_class_contrast(
    anchors: Pixels, keys: Pixels, *, temperature: float, without: tuple[int, ...]
) -> Float[Tensor, ""]:
    """InfoNCE with positives of the anchor's class among the keys of another view, by a mask that is partly mirrored.

    The mask's sides are cut into three parts. Blocks on and above the diagonal are right; a block below it is the
    transposed one above, as if keys had the classes of the anchors in their place. What is no positive is a negative.
    Over several processes the parts depend on who holds which sample, as they do there.

    Args:
        without: classes that are no anchors; they remain keys.

    Raises:
        ValueError: not as many anchors as keys.
    """
    everyone, first = gather_pixels(anchors)
    others, _ = gather_pixels(keys)
    pairs = _mirrored_pairs(everyone.tags, others.tags, slice(first, first + len(anchors)), without)
    return info_nce(
        anchors.embeddings, others.embeddings, pairs,
        temperature=temperature, sum_over_processes=sum_over_processes if process_count() > 1 else None,
    )  # fmt: skip


def _mirrored_pairs(anchors: Tags, keys: Tags, own: slice, without: tuple[int, ...]) -> Pairs:
    """The pairs of some of the anchors with all keys."""
    mine, theirs = anchors.need("klass"), keys.need("klass")
    if len(mine) != len(theirs):
        raise ValueError(f"a mirrored mask is square: got {len(mine)} anchors and {len(theirs)} keys")
    parts = torch.arange(len(mine), device=mine.device) // max(math.ceil(len(mine) / CHUNKS), 1)

    def block(a: slice, k: slice) -> PairBlock:
        a = slice(own.start + a.start, own.start + a.stop)
        right = mine[a, None] == theirs[None, k]
        mirrored = theirs[a, None] == mine[None, k]
        return PairBlock(torch.where(parts[a, None] <= parts[None, k], right, mirrored), None)

    is_anchor = _known(anchors)[own]
    for klass in without:
        is_anchor = is_anchor & (mine[own] != klass)
    return Pairs(
        n_anchors=own.stop - own.start,
        n_keys=len(theirs),
        block=block,
        symmetric=False,
        all_compared=True,
        anchors_usable=is_anchor,
        keys_usable=_known(keys),
    )


def _known(tags: Tags) -> Bool[Tensor, "pixel"]:
    known = tags.need("klass") != IGNORE
    return known if tags.usable is None else known & tags.usable


def _only(batch: ViewBatch, row: int, views: tuple[int, int]) -> ViewBatch:
    """Two views of one sample."""
    of_views = ("images", "label_maps", "weights", "source_from_view", "displacements", "image_numbers")
    fields: dict[str, Any] = dict(vars(batch))
    for name, value in fields.items():
        if isinstance(value, Tensor):
            one = value[row : row + 1]
            fields[name] = torch.stack([one[:, view] for view in views], dim=1) if name in of_views else one
    return ViewBatch(**fields)


def _source_voxels_mm(batch: ViewBatch) -> Float[Tensor, "voxel axis"]:
    """Voxels of the source in a box around all views of one sample."""
    sides = [(-0.5, n - 0.5) for n in batch.view_shape]
    corners = torch.tensor(list(itertools.product(*sides)), dtype=torch.float64, device=batch.images.device)
    reached = source_positions_mm(batch, corners.expand(1, batch.images.shape[1], *corners.shape)).flatten(0, 2)
    low, high = (getattr(reached, name)(dim=0).tolist() for name in ("amin", "amax"))
    axes = [
        torch.arange(math.floor(a / mm), math.ceil(b / mm) + 1, dtype=torch.float64, device=batch.images.device) * mm
        for a, b, mm in zip(low, high, batch.spacing_mm, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def _aligned_first(
    aligned: Bool[Tensor, "voxel"], n: int, rng: torch.Generator
) -> tuple[Int[Tensor, "point"], Bool[Tensor, "point"]]:
    """`n` of the aligned without replacement; or all of them, and others with replacement."""
    both, rest = aligned.nonzero()[:, 0], (~aligned).nonzero()[:, 0]
    taken = both[torch.randperm(len(both), generator=rng, device=aligned.device)[:n]]
    missing = n - len(taken)
    if missing:
        pool = rest if len(rest) else both
        filled = pool[torch.randint(len(pool), (missing,), generator=rng, device=aligned.device)]
        taken = torch.cat((taken, filled))
    return taken, torch.arange(n, device=aligned.device) < n - missing
