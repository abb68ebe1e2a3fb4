"""How many positives and negatives each anchor has."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from scantling.losses.pairs import Groups, Pairs


def count_pairs(pairs: Pairs, tile: int = 1024) -> tuple[Int[Tensor, "anchor"], Int[Tensor, "anchor"]]:
    """Positives and negatives of each anchor, in memory of a tile; no pixel is a pair of itself or of an empty place.

    Args:
        tile: side of the square of pairs that is held at a time.
    """
    if pairs.groups is not None and pairs.all_compared:
        return _count_by_groups(pairs, pairs.groups)
    positives, negatives = torch.zeros((2, pairs.n_anchors), dtype=torch.long, device=_device(pairs)).unbind()
    for start in range(0, pairs.n_anchors, tile):
        rows = slice(start, min(start + tile, pairs.n_anchors))
        for first in range(0, pairs.n_keys, tile):
            columns = slice(first, min(first + tile, pairs.n_keys))
            positive, negative = _tile(pairs, rows, columns, positives.device)
            positives[rows] += positive.sum(dim=1)
            negatives[rows] += negative.sum(dim=1)
    return positives, negatives


def _tile(pairs: Pairs, rows: slice, columns: slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positives and negatives of a block as masks."""
    block = pairs.block(rows, columns)
    counted = torch.ones((rows.stop - rows.start, columns.stop - columns.start), dtype=torch.bool, device=device)
    if pairs.anchors_usable is not None:
        counted &= pairs.anchors_usable[rows, None]
    if pairs.keys_usable is not None:
        counted &= pairs.keys_usable[None, columns]
    if pairs.own is not None:
        offset = pairs.own + rows.start - columns.start
        if -counted.shape[0] < offset < counted.shape[1]:
            counted.diagonal(offset).fill_(False)
    compared = counted if block.compared is None else counted & block.compared
    if block.positive is None:
        return torch.zeros_like(counted), compared
    return compared & block.positive, compared & ~block.positive


def _count_by_groups(pairs: Pairs, groups: Groups) -> tuple[Tensor, Tensor]:
    """The counts where positives are pairs of one group and all others negatives, in memory of the pixels."""
    key_usable = torch.ones_like(groups.keys) if pairs.keys_usable is None else pairs.keys_usable.long()
    members = groups.keys.new_zeros(groups.n_groups + 1)  # the last is of those without group
    members.index_add_(0, groups.keys.remainder(groups.n_groups + 1), key_usable)
    members[-1] = 0
    positives = members[groups.anchors]
    compared = key_usable.sum().expand(pairs.n_anchors).clone()
    if pairs.own is not None:
        start, stop = max(0, -pairs.own), min(pairs.n_anchors, pairs.n_keys - pairs.own)
        if start < stop:
            own = slice(start + pairs.own, stop + pairs.own)
            mine = groups.anchors[start:stop]
            compared[start:stop] -= key_usable[own]
            positives[start:stop] -= key_usable[own] * ((mine == groups.keys[own]) & (mine >= 0))
    negatives = compared - positives
    if pairs.anchors_usable is None:
        return positives, negatives
    return positives * pairs.anchors_usable, negatives * pairs.anchors_usable


def _device(pairs: Pairs) -> torch.device:
    """Where the masks are."""
    groups = None if pairs.groups is None else pairs.groups.anchors
    for known in (groups, pairs.anchors_usable, pairs.keys_usable):
        if known is not None:
            return known.device
    first = pairs.block(slice(0, 1), slice(0, 1))
    found = first.compared if first.positive is None else first.positive
    return torch.device("cpu") if found is None else found.device
