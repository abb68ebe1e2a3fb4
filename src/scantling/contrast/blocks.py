"""All pixels of a map, block by block in random order: contrast across images and places at a bounded cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from scantling.contrast.choosing import generator_on, pixels_chosen
from scantling.contrast.points import Points, nearest_values
from scantling.shapes import IGNORE
from scantling.views.view import ViewBatch


def block_counts(map_shape: Sequence[int], block: int | Sequence[int]) -> tuple[int, ...]:
    """How many blocks of at most that length a map is cut into along each axis."""
    lengths = (block,) * len(map_shape) if isinstance(block, int) else block
    return tuple(math.ceil(m / length) for m, length in zip(map_shape, lengths, strict=True))


def shuffled_blocks(
    batch: ViewBatch,
    block: int | Sequence[int],
    rng: torch.Generator,
    *,
    map_shape: Sequence[int] | None = None,
    label_maps: Int[Tensor, "batch view *labelmap"] | None = None,
) -> Points:
    """All pixels of each view, block by block, the blocks of each view in a random order of its own.

    The k-th blocks of all views are the k-th set, so that contrast within a set meets other images and other
    places at a bounded cost. With `block_counts` blocks in all, each set takes an equal run of the places;
    `group` is its number. Blocks differ by at most a pixel in length, a missing pixel is not usable.

    Args:
        block: length along each axis, at most, in pixels of the map.
        map_shape: of the feature map whose pixels are taken; by default the view's.
        label_maps: blocks without any foreground in them are not usable; as fine as the views or coarser.

    Source: Liu et al. 2023, "Multi-Scale Cross Contrastive Learning"; here every block takes part.
    """
    view_shape = batch.view_shape
    shape = tuple(view_shape if map_shape is None else map_shape)
    counts = block_counts(shape, block)
    n_blocks, device = math.prod(counts), batch.images.device
    pixels, there = _block_pixels(shape, counts, device)
    order = torch.rand((*batch.images.shape[:2], n_blocks), generator=generator_on(rng, device), device=device).argsort(
        dim=-1
    )
    points = pixels_chosen(pixels[order].flatten(2), there[order].flatten(2), shape, view_shape)
    numbers = torch.arange(n_blocks, device=device).repeat_interleave(pixels.shape[1])
    points = replace(points, group=torch.where(points.usable, numbers, -1))
    if label_maps is None:
        return points
    labels = nearest_values(label_maps, points, view_shape)
    foreground = ((labels > 0) & points.usable).reshape(*order.shape, -1).any(dim=-1)
    kept = points.usable & foreground.repeat_interleave(pixels.shape[1], dim=2)
    return replace(
        points,
        usable=kept,
        klass=torch.where(kept, labels.long(), IGNORE),
        group=torch.where(kept, numbers, -1),
    )


def _block_pixels(
    shape: Sequence[int], counts: Sequence[int], device: torch.device
) -> tuple[Int[Tensor, "block pixel"], Bool[Tensor, "block pixel"]]:
    """Flat numbers of the pixels of each block of a map, and which of them there are."""
    places = torch.zeros((1, 1), dtype=torch.int64, device=device)
    there = torch.ones((1, 1), dtype=torch.bool, device=device)
    for m, count in zip(shape, counts, strict=True):
        starts = torch.arange(count + 1, device=device) * m // count
        along = starts[:-1, None] + torch.arange(math.ceil(m / count), device=device)
        inside = along < starts[1:, None]
        along = along.clamp(max=m - 1)
        places = (places[:, None, :, None] * m + along[None, :, None, :]).flatten(2).flatten(0, 1)
        there = (there[:, None, :, None] & inside[None, :, None, :]).flatten(2).flatten(0, 1)
    return places, there
