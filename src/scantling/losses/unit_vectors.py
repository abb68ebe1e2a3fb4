"""Vectors of length 1, made piece by piece from vectors of any length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

_SHORTEST: Final = 1e-12  # a shorter vector is divided by this, as `torch.nn.functional.normalize` does


class UnitVectors:
    """Vectors as they came, and their unit form piece by piece; empty places are 0."""

    def __init__(self, vectors: Tensor, usable: Tensor | None, dtype: torch.dtype, *, normalise: bool) -> None:
        self.vectors, self.dtype, self.normalise = vectors, dtype, normalise
        self.scales = torch.ones(len(vectors), dtype=dtype, device=vectors.device)
        if normalise:
            norms = torch.linalg.vector_norm(vectors, dim=1, dtype=dtype)
            self.scales = norms.clamp_(min=_SHORTEST).reciprocal_()
        self.empty = None if usable is None else ~usable

    def unit(self, places: slice | Tensor) -> Tensor:
        """A new tensor of some of the unit vectors."""
        unit = self.vectors[places].to(self.dtype) * self.scales[places, None]
        return unit if self.empty is None else unit.masked_fill_(self.empty[places, None], 0)

    def back_(self, gradient: Tensor, step: int) -> Tensor:
        """The gradient at the vectors from that at their unit form, in its place (where the type allows)."""
        for places in slices(len(gradient), step):
            part = gradient[places]
            if self.normalise:
                unit = self.unit(places)
                along = (part * unit).sum(dim=1, keepdim=True)
                part.addcmul_(unit, along, value=-1).mul_(self.scales[places, None])
            if self.empty is not None:
                part.masked_fill_(self.empty[places, None], 0)
        return gradient.to(self.vectors.dtype)


def slices(stop: int, step: int, start: int = 0) -> Iterator[slice]:
    """`range(start, stop)` cut into pieces of `step`."""
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))
