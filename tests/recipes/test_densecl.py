"""Oracles: the two losses of the paper one vector at a time, and matches found by looking at all cells."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from recipes.contract import SHAPES, assert_contract, build
from recipes.textures import (
    CALM_VIEWS,
    SOLID_STRIPES,
    STRIPES,
    assert_no_gradient,
    assert_trained_up_to,
    assert_undone_steps_leave_no_trace,
    exact_batch,
    nce_by_hand,
)
from scantling.contrast.cells import cell_counts, cell_points
from scantling.recipes.densecl import nearest_cells
from scantling.seeding import torch_generator
from scantling.views.maker import make_views

SMALL = {"hidden": 32, "embedding": 16, "bank": 8, "grid": 4, "momentum": 0.9, "views": CALM_VIEWS}


@pytest.mark.parametrize(
    "task", [pytest.param(STRIPES, id="2D"), pytest.param(SOLID_STRIPES, id="3D", marks=pytest.mark.slow)]
)
def test_the_recipe_keeps_the_contract(task, tmp_path: Path) -> None:
    assert_contract("densecl", tmp_path, SMALL, task=task, from_labels=False)


def unit_mean(embeddings: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    return sum(e for e, there in zip(embeddings, usable, strict=True) if there) / int(usable.sum())


@pytest.mark.parametrize("task", [STRIPES, SOLID_STRIPES], ids=["2D", "3D"])
def test_the_losses_are_those_of_the_paper_for_images_and_for_cells(task) -> None:
    settings = {"grid": 3, "bank": 50, "momentum": 0.5, "dense_share": 0.3, "hidden": 12, "embedding": 5}
    recipe = build("densecl", settings, task=task)
    batch = exact_batch(recipe, task, 3)
    recipe.losses(batch, torch_generator(9, "recipe"))  # fills the banks
    with torch.no_grad():
        for parameter in recipe.encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch_generator(0, "stir")).double())
    recipe.after_step()
    recipe.eval()
    memories = {}
    for name, bank in (("images", recipe.images), ("means", recipe.means)):
        held = bank.pixels()
        rows = zip(held.tags.need("image").tolist(), held.embeddings.clone(), held.tags.need("usable"), strict=True)
        memories[name] = [(image, key) for image, key, there in rows if there]
        assert len(memories[name]) == 6
    numbers = sorted({image for image, _ in memories["images"]})

    counts = cell_counts(batch.view_shape, 3)
    usable = cell_points(batch, counts).usable
    (f, r, q), (g, t, k) = recipe.encoder(batch.images, counts), recipe.teacher(batch.images, counts)
    f, r, q = f.detach(), r.detach(), q.detach()
    image_terms, cell_terms = [], []
    for mine, other in ((0, 1), (1, 0)):
        for i in range(3):
            negatives = [k[j, other] for j in range(3) if j != i]
            negatives += [key for image, key in memories["images"] if image != numbers[i]]
            image_terms.append(nce_by_hand(q[i, mine], [k[i, other]], negatives, 0.2))
        own = []
        for i in range(3):
            means = [unit_mean(t[j, other], usable[j, other]) for j in range(3) if j != i]
            means += [key for image, key in memories["means"] if image != numbers[i]]
            for cell in range(math.prod(counts)):
                if not usable[i, mine, cell]:
                    continue
                alike = [
                    float(F.cosine_similarity(f[i, mine, cell], g[i, other, d], dim=0)) if usable[i, other, d] else -9.0
                    for d in range(math.prod(counts))
                ]
                own.append(nce_by_hand(r[i, mine, cell], [t[i, other, alike.index(max(alike))]], means, 0.2))
        cell_terms.append(sum(own) / len(own))
    terms = recipe.losses(batch, torch_generator(0, "recipe"))
    assert terms["image_contrast"].item() == pytest.approx(0.7 * sum(image_terms) / 6, rel=1e-6)
    assert terms["cell_contrast"].item() == pytest.approx(0.3 * sum(cell_terms) / 2, rel=1e-6)


def test_a_cell_is_matched_with_the_usable_one_whose_features_point_the_same_way() -> None:
    g = torch.Generator().manual_seed(0)
    others = torch.randn(2, 6, 4, generator=g)
    order = torch.tensor([[3, 1, 5], [0, 4, 2]])
    features = 3 * others.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
    usable = torch.ones(2, 6, dtype=torch.bool)
    assert torch.equal(nearest_cells(features, others, usable), order)
    usable[0, 3] = False
    found = nearest_cells(features, others, usable)
    assert found[0, 0] != 3
    assert torch.equal(found[1], order[1])
    assert not nearest_cells(features.requires_grad_(), others, usable).requires_grad


def test_banks_hold_whole_views_and_their_mean_cells_and_a_broken_off_step_leaves_no_trace() -> None:
    recipe = build("densecl", {"bank": 100, "grid": 3, "hidden": 8, "embedding": 4})
    assert {"images.rings.embeddings", "means.rings.embeddings", "teacher.updates"} <= recipe.state_dict().keys()
    assert_undone_steps_leave_no_trace(recipe, SHAPES)
    assert recipe.images.fill() == pytest.approx(8 / 100)
    assert recipe.means.fill() == pytest.approx(8 / 100)
    assert build("densecl", {"bank": 0}).images is None


def test_an_image_alone_gives_zero_with_zero_gradients() -> None:
    recipe = build("densecl", {"bank": 50})
    batch = make_views([SHAPES.source.sample(0, 0)], recipe.views(), SHAPES.patch, seed=0)
    assert_no_gradient(recipe, batch, rounding=1e-6)


def test_cells_outside_the_image_take_no_part_and_a_view_without_any_is_no_negative() -> None:
    recipe = build("densecl", {"bank": 50, "grid": 3})
    batch = make_views([SHAPES.source.sample(0, i) for i in range(3)], recipe.views(), SHAPES.patch, seed=0)
    outside = replace(batch, weights=torch.zeros_like(batch.weights), label_maps=torch.full_like(batch.label_maps, -1))
    terms = recipe.losses(outside, torch_generator(0, "recipe"))
    assert terms["cell_contrast"].item() == 0
    assert terms["image_contrast"].item() > 0
    assert recipe.means.fill() == 0


def test_what_lies_beyond_the_tap_and_the_encoder_is_not_trained() -> None:
    assert_trained_up_to(build("densecl"), "decoder.0")
    assert_trained_up_to(build("densecl", {"tap": "encoder.0"}), "encoder.1")
