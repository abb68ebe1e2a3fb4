"""One of several processes that share a batch: `gathering_process.py RANK WORLD FOLDER`.

Each has its own samples, not equally many, and computes every loss in DistributedDataParallel, whose gradients
are averaged. Each writes what it found to FOLDER, beside what one process finds that has the whole batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scantling.contrast.bank import ClassBank, FIFOBank
from scantling.contrast.contrasting import contrast
from scantling.contrast.gathering import gather_pixels, told_apart
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.prototypes import ClassStatistics, class_means
from scantling.contrast.relations import SameClass, SamePoint, Within
from scantling.losses.contrastive import info_nce
from scantling.losses.prototypes import local_contrast, prototype_cross_entropy
from scantling.processes import sum_over_processes
from scantling.training.distributed import leave_processes

N_SAMPLES, N_VIEWS, N_POINTS, DIM, N_CLASSES = 5, 2, 6, 4, 3
Loss = Callable[[Tensor, "Share"], Tensor]


class Share:
    """Some samples of the batch: what is known of their pixels, in order (sample, view, point)."""

    def __init__(self, samples: list[int]) -> None:
        g = torch.Generator().manual_seed(2)
        size = (N_SAMPLES, N_VIEWS, N_POINTS)
        n = len(samples)
        everything: dict[str, Tensor] = {
            "klass": torch.randint(-1, N_CLASSES, size, generator=g),
            "trust": torch.rand(size, generator=g, dtype=torch.float64),
            "usable": torch.rand(size, generator=g) < 0.8,
            "image": torch.arange(N_SAMPLES)[:, None, None].expand(size),
            "view": torch.arange(N_VIEWS)[None, :, None].expand(size),
            "position_mm": torch.randn(*size, 2, generator=g, dtype=torch.float64),
        }
        self.inputs = torch.randn(*size, 3, generator=g, dtype=torch.float64)[samples].flatten(0, 2)
        point = torch.arange(n * N_POINTS).view(n, 1, N_POINTS).expand(n, N_VIEWS, N_POINTS)
        self.tags = Tags(**{k: v[samples].flatten(0, 2) for k, v in everything.items()}, point=point.flatten())
        self.n = n

    def of_view(self, pixels: Pixels, view: int) -> Pixels:
        places = torch.arange(self.n * N_VIEWS * N_POINTS).view(self.n, N_VIEWS, N_POINTS)[:, view].flatten()
        return pixels.pick(places)


def make_memory() -> Pixels:
    """Keys that every process has, two of them empty places."""
    g = torch.Generator().manual_seed(5)
    n = 7
    tags = Tags(
        klass=torch.arange(n) % N_CLASSES, point=torch.full((n,), -1), image=torch.full((n,), 99),
        view=torch.zeros(n, dtype=torch.int64), trust=torch.ones(n, dtype=torch.float64),
        position_mm=torch.zeros(n, 2, dtype=torch.float64), usable=torch.arange(n) < n - 2,
    )  # fmt: skip
    return Pixels(embeddings=torch.randn(n, DIM, generator=g, dtype=torch.float64), tags=tags)


def losses() -> dict[str, Loss]:
    points, classes = PairRule(SamePoint()), PairRule(SameClass())
    balanced, trusting = PairRule(SameClass(), denominator="balanced"), PairRule(SameClass(), trust=True)
    memory = make_memory()

    def views(rule: PairRule, **options: Any) -> Loss:
        return lambda x, share: contrast(
            share.of_view(as_pixels(x, share), 0), share.of_view(as_pixels(x, share), 1), rule,
            temperature=0.2, **options,
        )  # fmt: skip

    def among(rule: PairRule, **options: Any) -> Loss:
        return lambda x, share: contrast(as_pixels(x, share), None, rule, temperature=0.2, **options)

    def against(rule: PairRule) -> Loss:
        return lambda x, share: contrast(as_pixels(x, share), memory, rule, temperature=0.2, gather_keys=False)

    return {
        "across views": views(points),
        "across views, both directions": views(points, directions="both"),
        "across views with a memory": views(points, memory=memory),
        "classes across views, both directions, by trust": views(trusting, directions="both"),
        "classes across views, both directions, balanced": views(balanced, directions="both"),
        "among themselves": among(classes),
        "within a radius, among themselves": among(PairRule(Within(0.8, exclusion_mm=1.2))),
        "among themselves, both directions": among(classes, directions="both"),
        "among themselves, one positive at a time": among(PairRule(SameClass(), denominator="per_positive")),
        "among themselves, by trust": among(trusting),
        "among themselves, balanced": among(balanced),
        "among themselves with a memory": among(classes, memory=memory),
        "a memory alone": against(classes),
        "keys of its own process alone": lambda x, share: info_nce(
            x, None, classes.pairs(share.tags), temperature=0.2, sum_over_processes=sum_over_processes
        ),
        "gathered by hand": gathered_by_hand,
        "prototypes": against_prototypes,
        "local contrast": own_means,
    }


def as_pixels(x: Tensor, share: Share) -> Pixels:
    return Pixels(embeddings=x, tags=share.tags)


def gathered_by_hand(x: Tensor, share: Share) -> Tensor:
    pixels = as_pixels(x, share)
    keys, own = gather_pixels(pixels)
    pairs = PairRule(SameClass()).pairs(told_apart(pixels.tags), keys.tags, own)
    return info_nce(x, keys.embeddings, pairs, temperature=0.2, sum_over_processes=sum_over_processes)


def against_prototypes(x: Tensor, share: Share) -> Tensor:
    means = make_memory().embeddings[:N_CLASSES]
    tags = share.tags
    return prototype_cross_entropy(
        x, tags.need("klass"), means, temperature=0.2, anchors_usable=tags.usable, trust=tags.trust,
        sum_over_processes=sum_over_processes,
    )  # fmt: skip


def own_means(x: Tensor, share: Share) -> Tensor:
    rows = torch.arange(share.n * N_VIEWS).repeat_interleave(N_POINTS)
    found = class_means(as_pixels(x, share), rows, n_rows=share.n * N_VIEWS, n_classes=N_CLASSES)
    return local_contrast(
        x, rows, share.tags.need("klass"), found.means, temperature=0.2, anchors_usable=share.tags.usable,
        means_usable=found.usable, pairs=torch.arange(share.n * N_VIEWS).view(-1, 2),
        sum_over_processes=sum_over_processes,
    )  # fmt: skip


def halved(share: Share, dtype: torch.dtype) -> Pixels:
    return Pixels(embeddings=share.inputs.to(dtype), tags=share.tags)


def make_network() -> nn.Module:
    g = torch.Generator().manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), nn.Linear(8, DIM)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5, generator=g)
    return network


def gradient_and_loss(network: nn.Module, loss: Loss, share: Share) -> Tensor:
    value = loss(network(share.inputs), share)
    value.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()] + [value.detach().reshape(1)])


def memories(share: Share) -> dict[str, dict[str, Tensor]]:
    """What banks and statistics hold after two pushes."""
    pixels = replace(as_pixels(torch.tanh(share.inputs), share), tags=replace(share.tags, site=share.tags.image))
    parts = {
        "fifo": FIFOBank(80, 3, tags=("image", "site", "trust", "position_mm"), axes=2, dtype=torch.float64),
        "classes": ClassBank(40, 3, classes=(0, 2), tags=("image", "view"), dtype=torch.float64),
        "means": ClassBank(9, 3, classes=(1, 2), tags=("image",), store="means", dtype=torch.float64),
        "statistics": ClassStatistics(N_CLASSES, 3, dtype=torch.float64),
    }
    for part in parts.values():
        for places in (slice(0, share.n * 4), slice(share.n * 4, None)):
            part.push(pixels.pick(places)) if not isinstance(part, ClassStatistics) else part.update(
                pixels.pick(places)
            )
    return {name: dict(part.state_dict()) for name, part in parts.items()}


def refusals(rank: int) -> dict[str, str]:
    """What is said where the processes do not fit together."""
    said = {}
    tags = Tags(klass=torch.zeros(2, dtype=torch.int64), trust=torch.ones(2) if rank else None)
    for name, pixels in {
        "dimension": Pixels(embeddings=torch.ones(2, 3 + rank), tags=Tags()),
        "tags": Pixels(embeddings=torch.ones(2, 3), tags=tags),
    }.items():
        try:
            gather_pixels(pixels)
        except ValueError as error:
            said[name] = str(error)
    return said


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    whole, share = Share(list(range(N_SAMPLES))), Share(list(range(rank, N_SAMPLES, world)))
    alone = {name: gradient_and_loss(make_network(), loss, whole) for name, loss in losses().items()}
    alone_memories = memories(whole)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    shared = {
        name: gradient_and_loss(DistributedDataParallel(make_network()), loss, share) for name, loss in losses().items()
    }
    gathered, own = gather_pixels(as_pixels(share.inputs, share))
    found = {
        "alone": alone,
        "shared": shared,
        "alone memories": alone_memories,
        "shared memories": memories(share),
        "gathered": {"embeddings": gathered.embeddings, **gathered.tags.known()},
        "own": {"embeddings": share.inputs, **share.tags.known()},
        "offset": own,
        "half": {dtype: gather_pixels(halved(share, dtype))[0].embeddings for dtype in (torch.bfloat16, torch.float16)},
        "nothing": {"n": len(gather_pixels(as_pixels(share.inputs, share).pick(slice(0, 0)))[0])},
        "refusals": refusals(rank),
    }
    torch.save(found, folder / f"found{rank}.pt")
    dist.barrier()
    leave_processes()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
