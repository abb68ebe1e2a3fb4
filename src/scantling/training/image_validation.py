"""The score that chooses an image model's checkpoint: the bound on images of held-back patients."""

from __future__ import annotations

import torch
from torch import nn

from scantling.counterfactuals.hvae import HVAE
from scantling.counterfactuals.whole_images import WholeImages
from scantling.inference.device import autocast
from scantling.processes import process_count, process_rank, sum_over_processes
from scantling.seeding import torch_generator
from scantling.training.loop_state import Validate, Validation


def bound_validation(
    images: WholeImages,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    precision: torch.dtype | None,
    beta: float,
) -> Validate:
    """A function that gives minus the bound's loss on these images, in nats a value, its draws the same every time.

    Several processes share the images; each gets the score of all.
    """
    own = list(range(len(images.cases)))[process_rank() :: process_count()]

    @torch.inference_mode()
    def validate(network: nn.Module) -> Validation:
        assert isinstance(network, HVAE)
        total = torch.zeros(2, dtype=torch.float64)
        for start in range(0, len(own), batch_size):
            rows = own[start : start + batch_size]
            generator = torch_generator(seed, "validation", start, process_rank())
            with autocast(device, precision):
                elbo = network(images.values(rows).to(device), images.contexts[rows].to(device), generator=generator)
            losses = (elbo.nll + beta * elbo.kl).double().cpu()
            total += torch.stack([losses.sum(), torch.tensor(float(len(rows)), dtype=torch.float64)])
        total = sum_over_processes(total)
        return Validation(score=-float(total[0] / total[1]), measure="bound")

    return validate
