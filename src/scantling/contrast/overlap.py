"""Places of each view that another view of its sample shows too: for a pool of views, where pairs are not fixed."""

from __future__ import annotations

import math
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scantling.contrast.choosing import choose_halves, random_keys
from scantling.contrast.points import Points, nearest_values
from scantling.contrast.sampling import random_points
from scantling.views.correspondence import source_positions_mm, view_indices
from scantling.views.view import ViewBatch

LISTED_PER_POINT: Final = 4
"""A view of which others show a third still fills its quota with what they show."""


def overlap_points(
    batch: ViewBatch, n: int, rng: torch.Generator, *, among: Bool[Tensor, "batch view *map"] | None = None
) -> Points:
    """`n` pixels of each view, drawn without replacement and for each view anew, which another view shows too.

    Where fewer are shown by another view, other pixels of the view fill up. With three views and more a place need
    not be in all of them, whose common overlap may be empty.

    Args:
        among: pixels that may be drawn, and that a place must lie on in the other view; by default those of weight
            above 0, which are inside the image.
    """
    eligible = batch.weights > 0 if among is None else among
    listed = random_points(batch, min(LISTED_PER_POINT * n, math.prod(batch.view_shape)), rng, among=eligible)
    shared = _seen_by_another(batch, listed.indices, eligible) & listed.usable
    keys = random_keys(listed.usable, rng)
    places, there, _ = choose_halves(keys, shared, n, share=1.0)
    picked = places.unsqueeze(-1).expand(*places.shape, listed.indices.shape[-1])
    return Points(indices=listed.indices.gather(2, picked), usable=there)


def _seen_by_another(
    batch: ViewBatch, indices: Float[Tensor, "batch view point axis"], eligible: Tensor
) -> Bool[Tensor, "batch view point"]:
    """Whether a place that one view shows lies on an eligible pixel of another view."""
    n_views, n_points = indices.shape[1:3]
    of_all_views = source_positions_mm(batch, indices).flatten(1, 2).unsqueeze(1).expand(-1, n_views, -1, -1)
    seen = Points(
        indices=view_indices(batch, of_all_views),
        usable=torch.ones(of_all_views.shape[:3], dtype=torch.bool, device=indices.device),
    )
    there = nearest_values(eligible, seen, batch.view_shape, outside=0).view(-1, n_views, n_views, n_points)
    other = ~torch.eye(n_views, dtype=torch.bool, device=indices.device)  # [view that looks, view it is from]
    by_another: Tensor = (there & other[:, :, None]).any(dim=1)
    return by_another
