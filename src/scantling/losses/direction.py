"""One direction of a contrast: the weights of its keys, and what is known of each anchor over all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Direction:
    """One direction: the anchors, their keys' weights, and what is known of each anchor over all its keys.

    Attributes:
        usable: places of the anchors that are not empty; None is all.
        compare: weight of each key in the denominator; None is 1.
        trust: weight of each key as a positive; None is 1.
        z: the denominator, times exp(-shift).
        positive: sum over the positives, by trust, of their logits; with one positive at a time, of the terms.
        count: sum of the trust of the positives.
        push: with one positive at a time, how much of the gradient the other keys receive.
        shift: subtracted from the anchor's logits before the exponential; None where they are bounded.
    """

    usable: Tensor | None
    compare: Tensor | None
    trust: Tensor | None
    z: Tensor
    positive: Tensor
    count: Tensor
    push: Tensor
    shift: Tensor | None

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

    def mean_positive(self) -> Tensor:
        return self.positive / self.count.clamp_min(torch.finfo(self.count.dtype).tiny)

    def term(self, per_positive: bool) -> Tensor:
        value = self.mean_positive() if per_positive else self.log_z - self.mean_positive()
        return torch.where(self.counts, value, 0)

    def pull(self, gradient: Tensor) -> Tensor:
        """The gradient of an anchor's term, divided by its count: what a positive of trust 1 receives."""
        share = gradient / self.count.clamp_min(torch.finfo(self.count.dtype).tiny)
        return torch.where(self.counts, share, 0)

    def pressure(self, gradient: Tensor, per_positive: bool) -> Tensor:
        """What a key receives for each unit of its exponential."""
        strength = gradient * self.push if per_positive else gradient
        return torch.where(self.counts & (self.z > 0), strength / self.z, 0)
