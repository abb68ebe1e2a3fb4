"""Oracle: SupCon of the labelled pixels, one pair at a time."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes.contract import SHAPES, SOLIDS, assert_contract, build, small_plan
from recipes.textures import SOLID_STRIPES, STRIPES, assert_no_gradient, assert_trained_up_to, exact_batch
from scantling.data.plan import ClassPlan
from scantling.errors import ConfigError
from scantling.networks.projection import dense_features
from scantling.recipes.ssdcl import block_points
from scantling.seeding import torch_generator
from scantling.shapes import IGNORE
from scantling.views.maker import make_views

SMALL = {"hidden": 32, "embedding": 16, "temperature": 0.1}


@pytest.mark.parametrize(
    "task", [pytest.param(STRIPES, id="2D"), pytest.param(SOLID_STRIPES, id="3D", marks=pytest.mark.slow)]
)
def test_the_recipe_keeps_the_contract(task, tmp_path: Path) -> None:
    assert_contract("ssdcl", tmp_path, SMALL, task=replace(task, falls_to=0.85))


@pytest.mark.parametrize("sampling", ["block", "random"])
def test_other_ways_to_draw_pixels_keep_the_contract(sampling: str, tmp_path: Path) -> None:
    settings = {**SMALL, "sampling": sampling, "block": 12, "points": 60, "views": {"n_views": 1}}
    assert_contract("ssdcl", tmp_path, settings, task=replace(STRIPES, falls_to=0.9))


@pytest.mark.parametrize("background_anchors", [False, True])
@pytest.mark.parametrize("across_images", [False, True])
@pytest.mark.parametrize("task", [SHAPES, SOLIDS], ids=["2D", "3D"])
def test_the_loss_is_supcon_of_every_fourth_pixel_by_class_weighed_by_trust(task, across_images, background_anchors):
    settings = {"background_anchors": background_anchors, "across_images": across_images, "hidden": 12, "embedding": 5}
    recipe = build("ssdcl", {**settings, "stride": 4}, task=task)
    batch = exact_batch(recipe, task, 3)
    g = torch.Generator().manual_seed(0)
    labels = batch.label_maps.masked_fill(torch.rand(batch.label_maps.shape, generator=g) < 0.2, IGNORE)
    trust = torch.tensor([1.0, 0.25, 0.6]).reshape(3, 1, *[1] * (labels.ndim - 2))
    batch = replace(batch, label_maps=labels, weights=batch.weights * trust)

    every_fourth = [range(2, n, 4) for n in batch.view_shape]
    maps = recipe.projection(dense_features(recipe.network, batch.images, "decoder.0").movedim(2, -1)).detach()
    pixels = [
        (i, int(labels[(i, view, *at)]), float(batch.weights[(i, view, *at)]), maps[(i, view, *at)].numpy())
        for i in range(3)
        for view in range(2)
        for at in itertools.product(*every_fourth)
        if labels[(i, view, *at)] != IGNORE and batch.weights[(i, view, *at)] > 0
    ]
    total = weight = 0.0
    for n, (image, klass, trust_in_it, anchor) in enumerate(pixels):
        others = [p for m, p in enumerate(pixels) if m != n and (across_images or p[0] == image)]
        logits = [anchor @ k / math.sqrt((anchor @ anchor) * (k @ k)) / 0.7 for *_, k in others]
        alike = [(p[2], logit) for p, logit in zip(others, logits, strict=True) if p[1] == klass]
        if alike and (klass != 0 or background_anchors):
            log_total = math.log(sum(map(math.exp, logits)))
            terms = sum(trusted * (log_total - logit) for trusted, logit in alike)
            total += trust_in_it * terms / sum(trusted for trusted, _ in alike)
            weight += trust_in_it
    assert weight > 5
    actual = recipe.losses(batch, torch_generator(0, "recipe"))["pixel_contrast"].item()
    assert actual == pytest.approx(total / weight, rel=1e-6)


def test_a_block_is_all_its_pixels_at_one_place_in_every_view_and_every_block_comes() -> None:
    recipe = build("ssdcl")
    batch = make_views([SHAPES.source.sample(0, i) for i in range(2)], recipe.views(), SHAPES.patch, seed=0)
    everywhere = torch.ones_like(batch.weights, dtype=torch.bool)
    places = set()
    for step in range(40):
        points = block_points(batch, 12, torch_generator(step, "block"), among=everywhere)
        assert points.usable.all()
        first = points.indices[0, 0]
        assert (points.indices == first).all()
        top, left = first.amin(dim=0).int().tolist()
        places.add((top, left))
        expected = {(y, x) for y in range(top, top + 12) for x in range(left, left + 12)}
        assert {tuple(at) for at in first.int().tolist()} == expected
        assert len(first) == 144
    assert places == set(itertools.product((0, 12, 20), repeat=2))
    whole = block_points(batch, 99, torch_generator(0, "block"), among=everywhere)
    assert len(whole) == 32 * 32


def test_a_block_leaves_out_what_nobody_labelled() -> None:
    recipe = build("ssdcl", {"sampling": "block", "block": 32})
    batch = make_views(
        [replace(SHAPES.source, unknown_left_half=True).sample(0, 0)], recipe.views(), SHAPES.patch, seed=0
    )
    points = recipe._points(batch, torch_generator(0, "block"))
    assert torch.equal(points.usable.view(1, 2, 32, 32), batch.label_maps != IGNORE)


@pytest.mark.parametrize("sampling", ["stride", "block", "random"])
def test_without_labels_or_trust_there_is_nothing_to_learn(sampling: str) -> None:
    for name, value in (("label_maps", IGNORE), ("weights", 0)):
        recipe = build("ssdcl", {"sampling": sampling, "points": 50})
        batch = make_views([SHAPES.source.sample(0, i) for i in range(3)], recipe.views(), SHAPES.patch, seed=0)
        assert_no_gradient(recipe, replace(batch, **{name: torch.full_like(getattr(batch, name), value)}))


def test_a_batch_of_one_class_gives_zero_gradients_but_for_its_own_spread() -> None:
    """All anchors are alike: each of n has n - 1 positives and no negative, so the loss is at least log(n - 1)."""
    recipe = build("ssdcl", {"stride": 16})
    batch = make_views([SHAPES.source.sample(0, i) for i in range(2)], recipe.views(), SHAPES.patch, seed=0)
    one = replace(batch, label_maps=torch.ones_like(batch.label_maps))
    loss = recipe.losses(one, torch_generator(0, "recipe"))["pixel_contrast"]
    assert loss.item() >= torch.tensor(15.0).log().item() - 1e-5
    loss.backward()
    assert all(p.grad.isfinite().all() for p in recipe.parameters() if p.requires_grad)


def test_a_plan_without_classes_is_refused() -> None:
    alone = replace(SHAPES, plan=small_plan(classes=ClassPlan(names=("background",), stored=((0,),))))
    with pytest.raises(ConfigError, match="ssdcl learns from label maps, and the plan has no class") as caught:
        build("ssdcl", task=alone)
    assert caught.value.code == "E-CFG-66"


def test_what_lies_beyond_the_tap_is_not_trained() -> None:
    assert_trained_up_to(build("ssdcl"), "decoder.0")
    assert_trained_up_to(build("ssdcl", {"tap": "encoder.0"}), "encoder.0")
