"""Oracles: InfoNCE one place at a time, keys of a teacher moved by hand; dual-view contrast, which it was run as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes.contract import SHAPES, SOLIDS, assert_contract, build
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
from scantling.contrast.sampling import shared_points
from scantling.recipes.pixel_contrast import inside_image
from scantling.seeding import torch_generator
from scantling.views.maker import make_views

SMALL = {"hidden": 32, "embedding": 16, "bank": 64, "momentum": 0.9, "temperature": 0.1, "views": CALM_VIEWS}
AS_RUN = {"key_encoder": False, "bank": 0, "negatives": "all", "points": 40, "temperature": 0.7}


@pytest.mark.parametrize(
    "task", [pytest.param(STRIPES, id="2D"), pytest.param(SOLID_STRIPES, id="3D", marks=pytest.mark.slow)]
)
def test_the_recipe_keeps_the_contract(task, tmp_path: Path) -> None:
    task = replace(task, falls_to=0.8)
    assert_contract("vader", tmp_path, SMALL, task=task, from_labels=False)


def stirred(recipe, amount: float = 0.05) -> None:
    """Moves the network, so that its teacher says something else."""
    with torch.no_grad():
        for parameter in recipe.encoder.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=torch_generator(0, "stir")).double())


@pytest.mark.parametrize("task", [STRIPES, SOLID_STRIPES], ids=["2D", "3D"])
@pytest.mark.parametrize("key_encoder", [True, False])
@pytest.mark.parametrize("negatives", ["other_images", "all"])
def test_the_loss_compares_a_place_with_itself_elsewhere_and_with_keys_of_other_images(task, key_encoder, negatives):
    settings = {"points": 6, "bank": 200, "key_encoder": key_encoder, "negatives": negatives, "momentum": 0.5}
    recipe = build("vader", settings | {"temperature": 0.2, "hidden": 12, "embedding": 5}, task=task)
    batch = exact_batch(recipe, task, 3)
    recipe.losses(batch, torch_generator(9, "recipe"))  # fills the bank
    stirred(recipe)
    recipe.after_step()
    recipe.eval()  # the teacher's statistics are the network's own, so the oracle can ask both alike
    fill = "none" if negatives == "other_images" else "outside"
    points = shared_points(batch, 6, torch_generator(0, "recipe"), views=(0, 1), fill=fill, among=inside_image(batch))
    asked = recipe.encoder(batch, points).detach()
    answered = recipe.teacher(batch, points) if key_encoder else asked
    held = recipe.bank.pixels()
    memory = [
        (int(image), key)
        for image, key, there in zip(held.tags.need("image"), held.embeddings, held.tags.need("usable"), strict=True)
        if there
    ]
    images = torch.unique(held.tags.need("image")[held.tags.need("usable")]).tolist()
    assert len(images) == 3
    assert 0 < len(memory) < 200
    directions = []
    for mine in range(2):
        terms = []
        for i in range(3):
            for p in range(6):
                if not points.usable[i, 0, p] or points.point[i, mine, p] < 0:
                    continue
                keys = [
                    answered[j, 1 - mine, q]
                    for j in range(3)
                    for q in range(6)
                    if points.usable[j, 1 - mine, q] and (j, q) != (i, p) and (j != i or negatives == "all")
                ]
                keys += [key for image, key in memory if image != images[i] or negatives == "all"]
                terms.append(nce_by_hand(asked[i, mine, p], [answered[i, 1 - mine, p]], keys, 0.2))
        directions.append(sum(terms) / len(terms))
    actual = recipe.losses(batch, torch_generator(0, "recipe"))["pixel_contrast"].item()
    assert actual == pytest.approx(sum(directions) / 2, rel=1e-9)


@pytest.mark.parametrize("task", [SHAPES, SOLIDS], ids=["2D", "3D"])
def test_as_it_was_run_it_is_dual_view_contrast_of_two_real_views(task) -> None:
    published = {"tap": "", "temperature": 0.7, "exclusion": 0.0}
    views = {"n_views": 2, "image_of_view": "own", "crop_area": [0.08, 1.0]}
    dual = build("dvd_cl", {"points": 40, "views": views, **published}, task=task)
    vader = build("vader", {**AS_RUN, "views": {"rotation_probability": 1.0}}, task=task)
    vader.encoder.network.load_state_dict(dual.network.state_dict())
    vader.encoder.projection.load_state_dict(dual.projection.state_dict())
    assert vader.views() == dual.views()
    samples = [task.source.sample(0, i) for i in range(4)]
    batch = make_views(samples, vader.views(), task.patch, seed=0)
    losses = [recipe.losses(batch, torch_generator(0, "recipe"))["pixel_contrast"] for recipe in (vader, dual)]
    torch.testing.assert_close(*losses)
    gradients = [
        torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad])
        for loss, network in zip(losses, (vader.encoder.network, dual.network), strict=True)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_keys_of_a_teacher_carry_no_gradient_and_those_of_the_network_do() -> None:
    gradients = []
    for key_encoder in (True, False):
        recipe = build("vader", {"bank": 0, "key_encoder": key_encoder, "points": 8}).double()
        batch = exact_batch(recipe, SHAPES)
        recipe.losses(batch, torch_generator(0, "recipe"))["pixel_contrast"].backward()
        gradients.append(recipe.encoder.projection.hidden.weight.grad.clone())
    assert gradients[0].any()
    assert not torch.allclose(*gradients)


def test_the_bank_holds_the_newest_keys_of_all_views_and_empty_places_are_nobodys_negatives() -> None:
    recipe = build("vader", {"bank": 500, "points": 5, "hidden": 8, "embedding": 4})
    assert not recipe.bank.pixels().tags.need("usable").any()
    batch = make_views([SHAPES.source.sample(0, i) for i in range(3)], recipe.views(), SHAPES.patch, seed=0)
    points = shared_points(batch, 5, torch_generator(0, "recipe"), views=(0, 1), among=inside_image(batch))
    keys = recipe.teacher(batch, points)[points.usable]
    recipe.losses(batch, torch_generator(0, "recipe"))
    held = recipe.bank.pixels()
    stored = held.embeddings[held.tags.need("usable")]
    assert len(stored) == len(keys)
    apart = torch.cdist(torch.nn.functional.normalize(keys, dim=1), stored)
    assert (apart.amin(dim=1) < 2e-3).all()  # distances of float32, by products


def test_teacher_and_bank_are_part_of_the_state_and_a_broken_off_step_leaves_no_trace() -> None:
    recipe = build("vader", {"bank": 100, "points": 8, "hidden": 8, "embedding": 4})
    names = recipe.state_dict().keys()
    assert {"teacher.updates", "bank.rings.embeddings", "bank.rings.tag_image"} <= names
    assert any(name.startswith("teacher.module.network.encoder") for name in names)
    assert_undone_steps_leave_no_trace(recipe, SHAPES)
    assert int(recipe.teacher.updates) == 1
    assert recipe.bank.fill() > 0


def test_without_overlap_there_is_nothing_to_learn() -> None:
    recipe = build("vader", {"bank": 50})
    batch = make_views([SHAPES.source.sample(0, i) for i in range(3)], recipe.views(), SHAPES.patch, seed=0)
    moved = batch.source_from_view.clone()
    moved[:, 1, 0, -1] += 1000.0
    assert_no_gradient(recipe, replace(batch, source_from_view=moved))
    assert recipe.bank.fill() == 0


def test_what_lies_beyond_the_tap_is_not_trained() -> None:
    assert_trained_up_to(build("vader"), "decoder.0")
    assert_trained_up_to(build("vader", {"tap": "encoder.1"}), "encoder.1")
