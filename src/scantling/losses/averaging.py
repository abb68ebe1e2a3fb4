"""The mean that a loss ends in, over the pixels of one process or of all that share a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

SumOverProcesses = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes, in its backward pass the gradients too."""


def weighted_mean(
    terms: Float[Tensor, "*pixel"], weights: Float[Tensor, "*pixel"], sum_over_processes: SumOverProcesses | None
) -> Float[Tensor, ""]:
    """Sum of weighted terms over the sum of the weights; 0, with a graph, where that is 0."""
    sums = torch.stack(((terms * weights).sum(), weights.sum()))
    total, count = (sums if sum_over_processes is None else sum_over_processes(sums)).unbind()
    return total / torch.where(count > 0, count, 1)
