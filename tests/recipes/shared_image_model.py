"""One of two processes that share a batch of images: `shared_image_model.py RANK COUNT FOLDER`.

Writes the terms and gradients of an image model as this process sees them; nothing is drawn, so that they can be
compared with those of one process that has the whole batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from recipes.contract import build
from recipes.test_counterfactual_vae import settings, task
from scantling.counterfactuals import hvae
from scantling.seeding import torch_generator
from scantling.training.distributed import leave_processes
from scantling.training.step import _Terms
from scantling.views.maker import make_views

IMAGES = 5


def terms_and_gradients(rank: int, count: int) -> dict[str, torch.Tensor]:
    """Of this process's share of five images."""
    hvae._noise = lambda like, generator: torch.zeros_like(like)
    chosen = task()
    recipe = build("counterfactual_vae", settings(weight=0.0), task=chosen)
    with torch.no_grad():
        for parameter in recipe.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch_generator(1, "stir")))
    samples = [chosen.source.sample(0, i) for i in range(rank, IMAGES, count)]
    batch = make_views(samples, recipe.views(), chosen.patch, seed=0)
    terms_of = DistributedDataParallel(_Terms(recipe)) if count > 1 else recipe.losses
    terms = terms_of(batch, torch_generator(0, "recipe"))
    torch.stack(list(terms.values())).sum().backward()
    found = {name: p.grad.clone() for name, p in recipe.named_parameters() if p.grad is not None}
    return found | {f"term {name}": term.detach() for name, term in terms.items()}


def main(rank: int, count: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    torch.save(terms_and_gradients(rank, count), folder / f"{rank}.pt")
    leave_processes()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
