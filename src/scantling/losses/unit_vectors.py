"""Vectors of length 1 made piece by piece, and the sums of them that groups of positives need."""

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


class GroupSums:
    """The sum of the unit keys of each group, by trust.

    Where every group has at most one key, as matched points have, the keys themselves are the sums.
    """

    def __init__(self, keys: UnitVectors, groups: Tensor, trust: Tensor | None, n_groups: int, step: int) -> None:
        self.keys, self.groups, self.trust, self.step = keys, groups, trust, step
        grouped = groups >= 0
        weights = grouped.to(keys.dtype) if trust is None else grouped * trust
        self.weights, self.index = weights, groups.clamp_min(0)
        self.counts = weights.new_zeros(n_groups).index_add_(0, self.index, weights)
        self.sums = self.only = None
        members = weights.new_zeros(n_groups).index_add_(0, self.index, grouped.to(keys.dtype))
        if groups.device.type == "cpu" and bool((members <= 1).all()):
            self.only = groups.new_zeros(n_groups)
            self.only[self.index[grouped]] = torch.arange(len(groups))[grouped]
            return
        self.sums = weights.new_zeros((n_groups, keys.vectors.shape[1]))
        for places in slices(len(groups), step):
            self.sums.index_add_(0, self.index[places], keys.unit(places) * weights[places, None])

    def of(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and the trust of some groups' keys; 0 for group -1."""
        index = groups.clamp_min(0)
        counts = self.counts[index] * (groups >= 0)
        if self.only is not None:
            return self.keys.unit(self.only[index]) * counts[:, None], counts
        assert self.sums is not None
        return self.sums[index] * (groups >= 0)[:, None], counts

    def give_back(self, anchors: UnitVectors, groups: Tensor, weights: Tensor, at_keys: Tensor) -> None:
        """Take from the gradient at the keys that of `sum_i weights_i <anchor_i, sum of its group>`."""
        index, weights = groups.clamp_min(0), weights * (groups >= 0)
        if self.only is not None:
            for places in slices(len(groups), self.step):
                one = self.only[index[places]]
                share = (weights[places] * self.weights[one])[:, None]
                at_keys.index_add_(0, one, anchors.unit(places) * share, alpha=-1)
            return
        assert self.sums is not None
        gathered = torch.zeros_like(self.sums)
        for places in slices(len(groups), self.step):
            gathered.index_add_(0, index[places], anchors.unit(places) * weights[places, None])
        for places in slices(len(at_keys), self.step):
            at_keys[places].addcmul_(gathered[self.index[places]], self.weights[places, None], value=-1)


def slices(stop: int, step: int, start: int = 0) -> Iterator[slice]:
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))
