"""Positives that are said by groups: sums over each group's keys take the place of pairs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scantling.losses.direction import Direction
from scantling.losses.tiles import Tiles
from scantling.losses.unit_vectors import UnitVectors, slices


class GroupPositives:
    """The positives of one direction of a contrast whose pairs have groups."""

    def __init__(self, tiles: Tiles, number: int) -> None:
        groups = tiles.pairs.groups
        assert groups is not None
        self.direction: Direction = tiles.directions[number]
        self.step, self.temperature = tiles.size, tiles.temperature
        self.anchors, self.keys, self.own = tiles.anchors, tiles.keys, tiles.pairs.own
        self.anchor_groups, self.key_groups = groups.anchors, groups.keys
        if number == 1:
            self.anchors, self.keys, self.own = self.keys, self.anchors, None if self.own is None else -self.own
            self.anchor_groups, self.key_groups = self.key_groups, self.anchor_groups
        self.sums = _GroupSums(self.keys, self.key_groups, self.direction.trust, groups.n_groups, self.step)

    def sum_up(self) -> None:
        """Fill the direction's sums over positives."""
        direction = self.direction
        for places in slices(len(self.anchor_groups), self.step):
            sums, direction.count[places] = self.sums.of(self.anchor_groups[places])
            direction.positive[places] = (self.anchors.unit(places) * sums).sum(dim=1) / self.temperature
        for places, others, trust in self._own_pairs():
            direction.count[places] -= trust
            product = (self.anchors.unit(places) * self.keys.unit(others)).sum(dim=1)
            direction.positive[places] -= trust * product / self.temperature

    def pull(self, pull: Tensor, at_anchors: Tensor, at_keys: Tensor) -> None:
        """Take what the positives give from the gradients at the direction's unit anchors and keys.

        Args:
            pull: per anchor, what a positive of trust 1 receives.
        """
        pull = pull / self.temperature
        for places in slices(len(self.anchor_groups), self.step):
            sums, _ = self.sums.of(self.anchor_groups[places])
            at_anchors[places].addcmul_(sums, pull[places, None], value=-1)
        self.sums.pull(self.anchors, self.anchor_groups, pull, at_keys)
        for places, others, trust in self._own_pairs():
            weight = (trust * pull[places])[:, None]
            at_anchors[places].addcmul_(self.keys.unit(others), weight)
            at_keys[others].addcmul_(self.anchors.unit(places), weight)

    def _own_pairs(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Where anchors are among their keys: both places, and the trust that made them positives of themselves."""
        if self.own is None:
            return
        start, stop = max(0, -self.own), min(len(self.anchor_groups), len(self.key_groups) - self.own)
        for places in slices(stop, self.step, start):
            others = slice(places.start + self.own, places.stop + self.own)
            yield places, others, self.sums.weights[others]


class _GroupSums:
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

    def pull(self, anchors: UnitVectors, groups: Tensor, weights: Tensor, at_keys: Tensor) -> None:
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
