"""One of two processes that pretrain on one batch: `shared_pretraining.py RANK COUNT FOLDER`.

Writes, for each recipe, the terms and gradients of a second look at the batch, when the first is in the memories, and
the memories. Places are drawn for each sample by its own number, so that they do not depend on who has it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from recipes.contract import SHAPES, build
from scantling.contrast import sampling
from scantling.contrast.points import Points
from scantling.recipes import vader
from scantling.seeding import torch_generator
from scantling.training.distributed import leave_processes
from scantling.training.step import _Terms
from scantling.views.maker import make_views
from scantling.views.view import ViewBatch

IMAGES = 5
SMALL = {"hidden": 16, "embedding": 8}
RECIPES: dict[str, dict[str, Any]] = {
    "simclr": {},
    "vader": {"bank": 4096, "points": 12},
    "densecl": {"bank": 64, "grid": 4},
    "pixpro": {"grid": 5},
    "pixpro contrast": {"grid": 5, "loss": "contrast"},
    "ssdcl": {},
}


def _of_one(batch: ViewBatch, row: int) -> ViewBatch:
    names = ("images", "label_maps", "weights", "annotated", "source_from_view", "case_indices", "patient_indices",
             "slice_positions", "image_numbers")  # fmt: skip
    return replace(batch, **{name: getattr(batch, name)[row : row + 1] for name in names})


def _drawn_by_sample(batch: ViewBatch, n: int, rng: torch.Generator, *, among: torch.Tensor, **options: Any) -> Points:
    """`shared_points` of each sample on its own."""
    parts = [
        sampling.shared_points(
            _of_one(batch, row), n, torch_generator(0, "places", int(case)), among=among[row : row + 1], **options
        )
        for row, case in enumerate(batch.case_indices)
    ]
    places = torch.cat([part.point + (part.point >= 0) * row * n for row, part in enumerate(parts)])
    return replace(
        parts[0],
        indices=torch.cat([part.indices for part in parts]),
        usable=torch.cat([part.usable for part in parts]),
        point=places,
    )


def second_look(name: str, rank: int, count: int) -> dict[str, torch.Tensor]:
    """Terms, gradients and memories of this process's share of five images."""
    recipe = build(name.split()[0], {**SMALL, **RECIPES[name]})
    samples = [SHAPES.source.sample(0, i) for i in range(rank, IMAGES, count)]
    batch = make_views(samples, recipe.views(), SHAPES.patch, seed=0)
    terms_of = DistributedDataParallel(_Terms(recipe)) if count > 1 else recipe.losses
    for _ in range(2):
        recipe.zero_grad(set_to_none=True)
        terms = terms_of(batch, torch_generator(0, "recipe"))
        torch.stack(list(terms.values())).sum().backward()
    found = {f"gradient {key}": p.grad.clone() for key, p in recipe.named_parameters() if p.grad is not None}
    found |= {f"term {key}": term.detach() for key, term in terms.items()}
    for key, value in recipe.named_buffers():
        if key.endswith("rings.embeddings"):  # whose order is that of the processes
            found[f"memory {key}"] = value[value.abs().sum(dim=1).argsort(stable=True)].clone()
    return found


def looks(rank: int, count: int) -> dict[str, dict[str, torch.Tensor]]:
    vader.shared_points = _drawn_by_sample
    try:
        return {name: second_look(name, rank, count) for name in RECIPES}
    finally:
        vader.shared_points = sampling.shared_points


def main(rank: int, count: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    torch.save(looks(rank, count), folder / f"{rank}.pt")
    leave_processes()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
