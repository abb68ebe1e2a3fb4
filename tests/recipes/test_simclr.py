"""Oracle: NT-Xent one pair of vectors at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes.contract import SHAPES, assert_contract, build
from recipes.textures import (
    CALM_VIEWS,
    SOLID_STRIPES,
    STRIPES,
    assert_no_gradient,
    assert_trained_up_to,
    exact_batch,
    nce_by_hand,
)
from scantling.networks import untrained
from scantling.networks.projection import dense_features
from scantling.seeding import torch_generator
from scantling.views.maker import make_views

SMALL = {"hidden": 32, "embedding": 16, "temperature": 0.2, "views": CALM_VIEWS}


@pytest.mark.parametrize(
    "task", [pytest.param(STRIPES, id="2D"), pytest.param(SOLID_STRIPES, id="3D", marks=pytest.mark.slow)]
)
def test_the_recipe_keeps_the_contract(task, tmp_path: Path) -> None:
    assert_contract("simclr", tmp_path, SMALL, task=task, from_labels=False)


@pytest.mark.parametrize("task", [STRIPES, SOLID_STRIPES], ids=["2D", "3D"])
@pytest.mark.parametrize("n_views", [2, 3])
def test_the_loss_is_nt_xent_over_all_views_of_the_batch(task, n_views: int) -> None:
    recipe = build("simclr", {"views": {"n_views": n_views}}, task=task)
    batch = exact_batch(recipe, task, 4)
    actual = recipe.losses(batch, torch_generator(0, "recipe"))["image_contrast"].item()
    maps = dense_features(recipe.network, batch.images, "encoder.1")
    vectors = recipe.projection.projection(maps.flatten(3).mean(dim=3)).detach()
    terms = [
        nce_by_hand(
            vectors[i, v],
            [vectors[i, w] for w in range(n_views) if w != v],
            [vectors[j, w] for j in range(4) if j != i for w in range(n_views)],
            0.5,
        )
        for i in range(4)
        for v in range(n_views)
    ]
    assert actual == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_two_samples_of_one_image_are_no_negatives_of_each_other() -> None:
    recipe = build("simclr")
    batch = exact_batch(recipe, STRIPES, 3)
    twins = replace(batch, case_indices=torch.tensor([0, 5, 0]))
    actual = recipe.losses(twins, torch_generator(0, "recipe"))["image_contrast"].item()
    maps = dense_features(recipe.network, batch.images, "encoder.1")
    vectors = recipe.projection.projection(maps.flatten(3).mean(dim=3)).detach()
    others = {0: [1], 1: [0, 2], 2: [1]}
    terms = [
        nce_by_hand(vectors[i, v], [vectors[i, 1 - v]], [vectors[j, w] for j in others[i] for w in range(2)], 0.5)
        for i in range(3)
        for v in range(2)
    ]
    assert actual == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_an_image_alone_gives_zero_with_zero_gradients() -> None:
    recipe = build("simclr")
    batch = make_views([STRIPES.source.sample(0, 0)], recipe.views(), STRIPES.patch, seed=0)
    assert_no_gradient(recipe, batch, rounding=1e-6)


def test_the_decoder_is_neither_trained_nor_kept() -> None:
    recipe = build("simclr")
    assert_trained_up_to(recipe, "encoder.1")
    kept = recipe.network.state_dict().keys() - untrained(recipe.network)
    assert kept
    assert all(name.startswith("encoder.") for name in kept)
    batch = make_views([SHAPES.source.sample(0, i) for i in range(3)], recipe.views(), SHAPES.patch, seed=0)
    sum(recipe.losses(batch, torch_generator(0, "recipe")).values()).backward()
    assert all((p.grad is not None) == p.requires_grad for p in recipe.parameters())
