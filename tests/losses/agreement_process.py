"""One of several processes that share a batch: `agreement_process.py RANK WORLD FOLDER`.

Each takes an equal share of the batch and computes every loss of alignment and consistency in
DistributedDataParallel, whose gradients are averaged. The first writes them to FOLDER, beside those of the whole
batch without any of this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scantling.losses.alignment import align, dice_distances, energy_distance, window_alignment
from scantling.losses.consistency import (
    hard_cross_entropy,
    kl_divergence,
    logit_mse,
    prediction_entropy,
    probability_mse,
    soft_cross_entropy,
)
from scantling.processes import sum_over_processes
from scantling.training.distributed import leave_processes

Loss = Callable[..., Tensor]


def make_network() -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(6, 3, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return network.double()


def make_batch() -> list[Tensor]:
    """Four samples of which very different shares of the pixels count: images, targets, labels, weights, matrices."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(4, 1, 6, 6, generator=generator, dtype=torch.float64)
    targets = torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64)
    label_maps = torch.randint(-1, 3, (4, 6, 6), generator=generator)
    weights = torch.rand(4, 6, 6, generator=generator, dtype=torch.float64)
    weights[3] *= 0.1
    weights[2, :4] = 0
    matrices = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
    matrices[:, :2, 2] = torch.tensor([[0.0, 0.0], [4.5, 4.5], [1.5, 0.0], [0.0, 2.5]])
    return [images, targets, label_maps, weights, matrices]


def losses(total: Callable[[Tensor], Tensor] | None) -> dict[str, Loss]:
    """Per name a loss of predictions, targets, labels, weights and matrices."""

    def rows(maps: Tensor) -> Tensor:
        return maps.flatten(2).transpose(1, 2).flatten(0, 1)

    def aligned(x: Tensor, t: Tensor, _: Tensor, w: Tensor, __: Tensor) -> Tensor:
        return align(rows(x), rows(t), distance="l2", weights=w.flatten(), sum_over_processes=total)

    def windows(x: Tensor, t: Tensor, _: Tensor, w: Tensor, m: Tensor, mean_over: str = "anchor") -> Tensor:
        identity = torch.eye(3, dtype=torch.float64).expand_as(m)
        return window_alignment(
            x,
            t,
            second_index_from_first_index=m,
            source_from_second_index=identity,
            radius_mm=1.5,
            weights=w,
            mean_over=mean_over,
            sum_over_processes=total,
        )

    def energy(x: Tensor, t: Tensor, *_: Tensor) -> Tensor:
        first, second = torch.stack((x, 2 * x)).softmax(dim=2), torch.stack((t, -t)).softmax(dim=2)
        return energy_distance(first, second, dice_distances, sum_over_processes=total)

    def hard(x: Tensor, _: Tensor, labels: Tensor, w: Tensor, __: Tensor) -> Tensor:
        return hard_cross_entropy(x, labels, w, sum_over_processes=total)

    def soft(loss: Loss, *, of_logits: bool = False) -> Loss:
        def call(x: Tensor, t: Tensor, labels: Tensor, w: Tensor, _: Tensor) -> Tensor:
            target = t if of_logits else t.softmax(dim=1)
            return loss(x, target, w, label_maps=labels, sum_over_processes=total)

        return call

    def entropy(x: Tensor, _: Tensor, labels: Tensor, w: Tensor, __: Tensor) -> Tensor:
        return prediction_entropy(x, w, label_maps=labels, sum_over_processes=total)

    return {
        "align": aligned,
        "window alignment": windows,
        "window alignment, pairs": lambda *batch: windows(*batch, mean_over="pair"),
        "energy distance": energy,
        "hard cross-entropy": hard,
        "soft cross-entropy": soft(soft_cross_entropy),
        "KL": soft(kl_divergence),
        "probabilities": soft(probability_mse),
        "logits": soft(logit_mse, of_logits=True),
        "entropy": entropy,
    }


def gradient_and_loss(network: nn.Module, loss: Loss, batch: list[Tensor]) -> Tensor:
    images, *rest = batch
    value = loss(network(images), *rest)
    value.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()] + [value.detach().reshape(1)])


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    whole = make_batch()
    share = [part.chunk(world)[rank] for part in whole]
    alone, own = losses(None), losses(sum_over_processes)
    found = {
        name: {
            "shared": gradient_and_loss(DistributedDataParallel(make_network()), own[name], share),
            "alone": gradient_and_loss(make_network(), alone[name], whole),
            "uncorrected": gradient_and_loss(DistributedDataParallel(make_network()), alone[name], share),
        }
        for name in own
    }
    if rank == 0:
        torch.save(found, folder / "gradients.pt")
    dist.barrier()
    leave_processes()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
