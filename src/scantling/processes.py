"""The processes that share a run: how many there are, which one this is, and a sum over them that gradients pass.

One process is the simple case: every function then answers at once, and torch.distributed is not touched.
"""

from __future__ import annotations

import os
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from scantling.errors import ConfigError


def launched() -> tuple[int, int, int]:
    """Rank, number of processes and rank on this machine that `torchrun` gave in the environment; (0, 1, 0) without.

    Raises:
        ConfigError: the variables contradict each other.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    try:
        rank, world, local = (int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True))
    except ValueError as error:
        raise ConfigError(f"{', '.join(names)}: wanted whole numbers ({error})", code="E-CFG-30") from None
    if not 0 <= rank < world:
        raise ConfigError(
            f"RANK={rank} of WORLD_SIZE={world}: wanted a rank from 0 below the number of processes; start with "
            "torchrun",
            code="E-CFG-30",
        )
    return rank, world, local


def process_count() -> int:
    """How many processes share this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient.contiguous())


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, in each of them; in the backward pass gradients are summed alike.

    A loss made of such sums is the loss of the whole batch in every process. Averaged over the processes, as
    DistributedDataParallel does, its gradients are those of one process that had the whole batch.
    """
    return x if process_count() == 1 else cast("Tensor", _Sum.apply(x))  # type: ignore[no-untyped-call]
