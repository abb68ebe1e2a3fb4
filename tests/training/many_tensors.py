"""One of two processes that end right after a collective of many tensors, which take long to be given back."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from scantling.training.distributed import joined_processes

if __name__ == "__main__":
    with joined_processes(torch.device("cpu")):
        DistributedDataParallel(torch.nn.Linear(2, 2))(torch.ones(1, 2)).sum().backward()
        dist.all_reduce_coalesced([torch.ones(1) for _ in range(20_000)])
