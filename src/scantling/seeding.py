"""One seed -> named, independent random generators keyed by what they are for, never by call order.

`numpy_generator(seed, "view", epoch, sample)` is the same stream in every process, with any number of
workers, before and after a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, purpose: str, *key: int | str) -> int:
    """A 63-bit seed for one purpose and key: the head of SHA-256 over all of them.

    Args:
        purpose: what the draws are for ("view", "patch", "dropout"); two purposes never share a stream.
        key: epoch, sample, step, case name: whatever tells one draw from the next.
    """
    text = "\x1f".join([str(seed), purpose, *map(str, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(seed: int, purpose: str, *key: int | str) -> np.random.Generator:
    """An independent NumPy generator for one purpose and key."""
    return np.random.Generator(np.random.PCG64(derived_seed(seed, purpose, *key)))


def torch_generator(seed: int, purpose: str, *key: int | str) -> torch.Generator:
    """An independent CPU torch generator for one purpose and key."""
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, purpose, *key))


@contextmanager
def global_torch_seed(seed: int, purpose: str, *key: int | str) -> Iterator[None]:
    """Within the block, torch's global generators start from this key; afterwards they are as before.

    Only for library layers that take no generator (dropout): the block makes their draws depend on the key
    alone, so a resumed step draws what the uninterrupted one drew.
    """
    import torch

    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if in_use else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derived_seed(seed, purpose, *key))
        yield
