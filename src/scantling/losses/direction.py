"""One direction of a contrast: the weights of its keys, and what is known of each anchor over all of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Direction:
    """Anchors over their keys. Forward sums come first, then what the backward pass makes of them.

    Attributes:
        usable: places of the anchors that are not empty; None is all.
        compare: weight of each key in the denominator; None is 1.
        trust: weight of each key as a positive; None is 1.
        z: per anchor the denominator, times exp(-shift).
        positive: sum over the positives, by trust, of their logits; with one positive at a time, of the terms.
        count: sum of the trust of the positives.
        push: with one positive at a time, how much of the gradient the other keys receive.
        shift: subtracted from the anchor's logits before the exponential; None where they are bounded.
        pull: what a positive of trust 1 receives of the gradient.
        pressure: what a key receives of it for each unit of its exponential.
    """

    usable: Tensor | None
    compare: Tensor | None
    trust: Tensor | None
    z: Tensor
    positive: Tensor
    count: Tensor
    push: Tensor
    shift: Tensor | None
    pull: Tensor = field(init=False)
    pressure: Tensor = field(init=False)

    @property
    def counts(self) -> Tensor:
        """Whether an anchor has a positive."""
        found = self.count > 0
        return found if self.usable is None else found & self.usable

    @property
    def log_z(self) -> Tensor:
        """-inf where the anchor is compared with nothing."""
        logarithm = self.z.log()
        return logarithm if self.shift is None else logarithm + self.shift

    def per_positive_of(self, total: Tensor) -> Tensor:
        """A sum over the positives of each anchor as their mean; 0 for an anchor that has none."""
        mean = total / self.count.clamp_min(torch.finfo(self.count.dtype).tiny)
        return torch.where(self.counts, mean, 0)

    def term(self, per_positive: bool) -> Tensor:
        """What each anchor adds; 0 where it has no positive."""
        mean = self.per_positive_of(self.positive)
        return mean if per_positive else torch.where(self.counts, self.log_z - mean, 0)

    def take(self, gradient: Tensor, *, per_positive: bool) -> None:
        """Learn `pull` and `pressure` from the gradient at the terms."""
        self.pull = self.per_positive_of(gradient)
        strength = gradient * self.push if per_positive else gradient
        self.pressure = torch.where(self.counts & (self.z > 0), strength / self.z, 0)

    def weights_of_keys(self, places: slice) -> Tensor:
        """`compare`, written out."""
        return self.z.new_ones(places.stop - places.start) if self.compare is None else self.compare[places]
