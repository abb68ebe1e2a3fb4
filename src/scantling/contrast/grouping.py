"""Same number, same group: relations that are equality of one integer, in linear memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from scantling.contrast.truth import Mask
from scantling.losses.pairs import Groups


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """The group of each anchor and each key, negative for none.

    Attributes:
        bound: all are below it; None where only the numbers themselves can tell.
    """

    anchors: Int[Tensor, "anchor"]
    keys: Int[Tensor, "key"]
    bound: int | None = None

    def same(self) -> Callable[[slice, slice], Mask]:
        """Whether a pair has one group, block by block.

        On the CPU a block whose two sides are one group, or have none in common, is told from the least and
        the greatest number of either side: with pixels in the order of their images most blocks cost nothing.
        """
        anchors = self.anchors.clamp(min=-1)
        keys = torch.where(self.keys < 0, -2, self.keys)  # "none" is not the "none" of an anchor
        anchor_range, key_range = _ranges(anchors), _ranges(keys)

        def same(a: slice, k: slice) -> Mask:
            mine, theirs = anchor_range(a), key_range(k)
            if mine is not None and theirs is not None:
                if mine[1] < theirs[0] or theirs[1] < mine[0]:
                    return False
                if mine == theirs and mine[0] == mine[1]:
                    return True
            return anchors[a].unsqueeze(1) == keys[k].unsqueeze(0)

        return same

    def joined(self, other: Grouping) -> Grouping:
        """Same group where both say so; none where either says none."""
        if self.bound is not None and other.bound is not None and self.bound * other.bound <= self._n_pixels():
            return _pairwise(self, other, other.bound, bound=self.bound * other.bound)
        return _pairwise(self.compact(), other.compact(), self._n_pixels(), bound=None).compact()

    def compact(self) -> Grouping:
        """The same groups, numbered in order without gaps; nothing waits for the device."""
        numbers = torch.cat((self.anchors.long(), self.keys.long()))
        values, order = numbers.sort()
        steps = torch.zeros_like(values)
        steps[1:] = (values[1:] != values[:-1]) & (values[:-1] >= 0)
        ranks = torch.empty_like(values).scatter_(0, order, steps.cumsum(0))
        numbered = torch.where(numbers < 0, -1, ranks)
        return Grouping(anchors=numbered[: len(self.anchors)], keys=numbered[len(self.anchors) :])

    def groups(self) -> Groups:
        """As the losses read it.

        Where no bound is known the numbers are looked at: an accelerator is waited for once, or twice where
        they reach beyond the number of pixels and are numbered anew.
        """
        bounded = self
        if self.bound is None and self._highest() >= self._n_pixels():
            bounded = self.compact()
        n_groups = bounded.bound if bounded.bound is not None else bounded._highest() + 1
        return Groups(
            anchors=bounded.anchors.long().clamp(min=-1),
            keys=bounded.keys.long().clamp(min=-1),
            n_groups=max(n_groups, 1),
        )

    def _n_pixels(self) -> int:
        return len(self.anchors) + len(self.keys)

    def _highest(self) -> int:
        return int(torch.cat((self.anchors.long(), self.keys.long())).max()) if self._n_pixels() else -1


def _pairwise(first: Grouping, second: Grouping, width: int, *, bound: int | None) -> Grouping:
    """One number for each pair of numbers, the second's being below `width`."""

    def joint(mine: Tensor, theirs: Tensor) -> Tensor:
        return torch.where((mine < 0) | (theirs < 0), -1, mine.long() * width + theirs.long())

    return Grouping(anchors=joint(first.anchors, second.anchors), keys=joint(first.keys, second.keys), bound=bound)


def _ranges(numbers: Tensor) -> Callable[[slice], tuple[int, int] | None]:
    """Least and greatest number of a slice, found once each; None where to look would wait for the device."""
    found: dict[tuple[int | None, int | None, int | None], tuple[int, int] | None] = {}

    def range_of(part: slice) -> tuple[int, int] | None:
        place = (part.start, part.stop, part.step)
        if place not in found:
            piece = numbers[part]
            looked_at = piece.device.type == "cpu" and len(piece) > 0
            found[place] = (int(piece.min()), int(piece.max())) if looked_at else None
        return found[place]

    return range_of
