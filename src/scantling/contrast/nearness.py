"""Which points are less than a distance apart."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_PIECE: Final = 2**17  # pairs whose distances are made at a time on the CPU: half a MiB that stays in its cache


def nearer(
    mine: Float[Tensor, "axis anchor"], theirs: Float[Tensor, "axis key"], *distances: float
) -> list[Bool[Tensor, "anchor key"]]:
    """Whether two points are less than a distance apart, for each distance.

    Differences are taken axis by axis, which is exact where a product of the coordinates would cancel.
    """
    n_anchors, n_keys = mine.shape[1], theirs.shape[1]
    rows = max(1, _PIECE // max(n_keys, 1)) if mine.device.type == "cpu" else max(n_anchors, 1)
    masks = [torch.empty((n_anchors, n_keys), dtype=torch.bool, device=mine.device) for _ in distances]
    difference, total = mine.new_empty((2, min(rows, n_anchors), n_keys))
    for start in range(0, n_anchors, rows):
        piece = mine[:, start : start + rows]
        squared, step = total[: piece.shape[1]], difference[: piece.shape[1]]
        torch.sub(piece[0].unsqueeze(1), theirs[0], out=squared).square_()
        for axis in range(1, len(piece)):
            torch.sub(piece[axis].unsqueeze(1), theirs[axis], out=step)
            squared.addcmul_(step, step)
        for mask, distance in zip(masks, distances, strict=True):
            torch.lt(squared, distance**2, out=mask[start : start + rows])
    return masks
