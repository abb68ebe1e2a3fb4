"""One of several processes that share a batch: `gradient_process.py RANK WORLD FOLDER`.

Each takes an equal share of the batch and computes every loss in DistributedDataParallel, whose gradients are
averaged. The first writes them to FOLDER, beside those of the whole batch without any of this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scantling.losses.segmentation import cross_entropy, dice_and_cross_entropy, dice_loss, weight_sum
from scantling.processes import sum_over_processes
from scantling.training.distributed import leave_processes


def make_network() -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(6, 3, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return network.double()


def make_batch() -> tuple[Tensor, ...]:
    """Four samples whose labelled weight, present classes and annotated classes all differ."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)
    label_maps = torch.randint(-1, 3, (4, 8, 8), generator=generator)
    label_maps[2] = label_maps[2].clamp(max=0)
    weights = torch.rand(4, 8, 8, generator=generator, dtype=torch.float64)
    weights[3] *= 0.1
    annotated = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool)
    return images, label_maps, weights, annotated


def losses(world: int) -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]]:
    """Per name the loss of a share and the loss of the whole batch in one process."""
    total = sum_over_processes

    def with_normaliser(logits: Tensor, *labelled: Tensor) -> Tensor:
        return cross_entropy(logits, *labelled, normaliser=total(weight_sum(*labelled)) / world)

    def per_sample(*batch: Tensor) -> Tensor:
        return dice_loss(*batch, per_sample=True)

    def both(*batch: Tensor) -> Tensor:
        return sum(dice_and_cross_entropy(*batch))

    return {
        "cross_entropy, normaliser": (with_normaliser, cross_entropy),
        "cross_entropy": (lambda *batch: cross_entropy(*batch, sum_over_processes=total), cross_entropy),
        "dice": (lambda *batch: dice_loss(*batch, sum_over_processes=total), dice_loss),
        "dice per sample": (
            lambda *batch: dice_loss(*batch, per_sample=True, sum_over_processes=total),
            per_sample,
        ),
        "both": (lambda *batch: sum(dice_and_cross_entropy(*batch, sum_over_processes=total)), both),
        "cross_entropy, uncorrected": (cross_entropy, cross_entropy),
    }


def gradient_and_loss(network: nn.Module, loss: Callable[..., Tensor], batch: list[Tensor]) -> Tensor:
    images, *labelled = batch
    value = loss(network(images), *labelled)
    value.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()] + [value.detach().reshape(1)])


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    whole = list(make_batch())
    share = [part.chunk(world)[rank] for part in whole]
    found = {
        name: {
            "shared": gradient_and_loss(DistributedDataParallel(make_network()), of_share, share),
            "alone": gradient_and_loss(make_network(), of_whole, whole),
        }
        for name, (of_share, of_whole) in losses(world).items()
    }
    if rank == 0:
        torch.save(found, folder / "gradients.pt")
    dist.barrier()
    leave_processes()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
