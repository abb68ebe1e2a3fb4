"""Pixels of all processes that share a batch: every anchor can be compared with the keys of all of them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from scantling.contrast.pixels import Pixels, Tags
from scantling.processes import process_count, process_rank, sum_over_processes

_NAMES: Final = tuple(field.name for field in fields(Tags))


def gather_pixels(pixels: Pixels) -> tuple[Pixels, int]:
    """The pixels of all processes, one process after the other, and the place of this one's first pixel.

    In the backward pass the gradients that all processes have for a pixel are summed: a loss that each process
    computes for its own anchors, summed by `sum_over_processes`, then moves the weights as one process would
    that had the whole batch. Processes with fewer pixels than others are filled up with places that are not
    usable. Points are numbered as by `told_apart`. One process alone gets its pixels back.

    Raises:
        ValueError: the processes differ in their embedding dimension or in their tags.
    """
    if process_count() == 1:
        return pixels, 0
    sizes = _agreed_sizes(pixels)
    longest = max(sizes)
    tags = told_apart(pixels.tags)
    if min(sizes) < longest and tags.usable is None:
        tags = replace(tags, usable=torch.ones(len(pixels), dtype=torch.bool, device=pixels.embeddings.device))
    gathered = Pixels(embeddings=_side_by_side(pixels.embeddings, longest), tags=_gathered_tags(tags, longest))
    return gathered, process_rank() * longest


def told_apart(tags: Tags) -> Tags:
    """The same tags with points numbered so that no two processes share a number.

    Point p of process r of n becomes n p + r; -1 stays. Image, patient and site are numbers of the training
    set, which is the same in every process.
    """
    n = process_count()
    if n == 1 or tags.point is None:
        return tags
    return replace(tags, point=torch.where(tags.point < 0, -1, tags.point * n + process_rank()))


def _agreed_sizes(pixels: Pixels) -> list[int]:
    """Number of pixels of each process."""
    present = sum(1 << bit for bit, name in enumerate(_NAMES) if getattr(pixels.tags, name) is not None)
    # Where gloo is at hand the sizes go by it, so that an accelerator need not stop for them.
    device = torch.device("cpu") if "cpu:" in dist.get_backend_config() else pixels.embeddings.device
    facts = torch.zeros((process_count(), 3), dtype=torch.int64, device=device)
    facts[process_rank()] = torch.tensor([len(pixels), pixels.embeddings.shape[1], present])
    rows = sum_over_processes(facts).tolist()
    own = rows[process_rank()]
    for rank, (_, dim, known) in enumerate(rows):
        if dim != own[1]:
            raise ValueError(
                f"gather_pixels: process {rank} has embeddings of {dim} numbers and process {process_rank()} of "
                f"{own[1]}; they must be of one network"
            )
        if differing := known ^ own[2]:
            names = ", ".join(name for bit, name in enumerate(_NAMES) if differing >> bit & 1)
            raise ValueError(
                f"gather_pixels: processes {rank} and {process_rank()} differ in their tags: {names}; give them in "
                "every process or in none"
            )
    return [size for size, _, _ in rows]


def _side_by_side(values: Tensor, longest: int) -> Tensor:
    """Rows of all processes, each in a block of `longest`; rows that a process lacks are 0.

    A sum with the others' zeros is exact, and its backward pass is the one that is wanted.
    """
    before = process_rank() * longest
    after = (process_count() - process_rank()) * longest - len(values)
    return sum_over_processes(F.pad(values, (0, 0, before, after)))


def _gathered_tags(tags: Tags, longest: int) -> Tags:
    """All tags in two exchanges: whole numbers with yes and no, and fractions."""
    gathered: dict[str, Tensor] = {}
    known = tags.known()
    for fractions, dtype in ((False, torch.int64), (True, torch.float64)):
        chosen = {name: value for name, value in known.items() if value.is_floating_point() == fractions}
        if not chosen:
            continue
        columns = torch.cat([value.reshape(len(value), value.shape[1:].numel()) for value in chosen.values()], dim=1)
        widths = [value.shape[1:].numel() for value in chosen.values()]
        parts = torch.split(_side_by_side(columns.to(dtype), longest), widths, dim=1)
        for (name, value), part in zip(chosen.items(), parts, strict=True):
            gathered[name] = part.reshape(len(part), *value.shape[1:]).to(value.dtype)
    return Tags(**gathered)
