"""One of two processes that share a batch of images: `shared_pixel_contrast.py RANK COUNT FOLDER`.

Writes the terms and gradients of dual- and multi-view contrast as this process sees them. Places are drawn alike for
every image, so that they can be compared with those of one process that has the whole batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from recipes.contract import PATCH, Shapes, build
from recipes.pixel_contrasts import SMALL, with_counterfactuals
from scantling.data.sample import Sample
from scantling.seeding import torch_generator
from scantling.training.distributed import leave_processes
from scantling.training.step import _Terms
from scantling.views.maker import make_views

SAMPLES = 5
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dvd": ("dvd_cl", {"views": {"n_views": 3}}),
    "dvd, near places left out": ("dvd_cl", {"exclusion": 0.2, "all_pairs": True, "views": {"n_views": 3}}),
    "dvd, as released": ("dvd_cl", {"compat": "released", "views": {"n_views": 2}}),
    "s-dvd": ("s_dvd_cl", {"views": {"n_views": 2}}),
    "mvd": ("mvd_cl", {"radius": 0.2}),
    "mvd, as released": ("mvd_cl", {"compat": "released"}),
    "s-mvd": ("s_mvd_cl", {}),
    "s-mvd, as released": ("s_mvd_cl", {"compat": "released"}),
    "s-mvd, one process without labels": ("s_mvd_cl", {"views": {"n_views": 2}}),
}


def pattern(shape: Sequence[int]) -> Tensor:
    """Numbers in [0, 1) that look random, the same for each of the first axis."""
    n = int(torch.Size(shape[1:]).numel())
    return (torch.arange(1, n + 1, dtype=torch.float64) * 0.6180339887498949 % 1).reshape(1, *shape[1:]).expand(*shape)


def rand(shape: Sequence[int], *, dtype: torch.dtype = torch.float32, **_: Any) -> Tensor:
    return pattern(tuple(shape)).to(dtype).clone()


def randint(high: int, shape: Sequence[int], **_: Any) -> Tensor:
    return (pattern((1, *shape))[0] if len(shape) == 1 else pattern(tuple(shape))).mul(high).long()


def randperm(n: int, **_: Any) -> Tensor:
    return pattern((1, n))[0].argsort()


def sample_of(case: str, number: int) -> Sample:
    task = with_counterfactuals(2)
    assert isinstance(task.source, Shapes)
    sample = task.source.sample(0, number)
    if case.endswith("without labels") and number % 2:
        sample = replace(sample, label_map=torch.full_like(sample.label_map, -1))
    return replace(sample, weight=torch.full_like(sample.weight, 0.5 + 0.1 * number))


def terms_and_gradients(case: str, rank: int, count: int) -> dict[str, Tensor]:
    """Of this process's share of five images."""
    name, settings = CASES[case]
    recipe = build(name, {**SMALL, **settings, "views": {"crop_area": [0.4, 1.0], **settings.get("views", {})}})
    samples = [sample_of(case, number) for number in range(rank, SAMPLES, count)]
    batch = make_views(samples, recipe.views(), PATCH, seed=0)
    terms_of = DistributedDataParallel(_Terms(recipe)) if count > 1 else recipe.losses
    with mock.patch.multiple(torch, rand=rand, randint=randint, randperm=randperm):
        terms = terms_of(batch, torch_generator(0, "recipe"))
    torch.stack(list(terms.values())).sum().backward()
    found = {name: p.grad.clone() for name, p in recipe.named_parameters() if p.grad is not None}
    assert len(found) == sum(p.requires_grad for p in recipe.parameters())
    return found | {f"term {name}": term.detach() for name, term in terms.items()}


def main(rank: int, count: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    torch.save({case: terms_and_gradients(case, rank, count) for case in CASES}, folder / f"{rank}.pt")
    leave_processes()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
