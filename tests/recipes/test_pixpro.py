"""Oracles: the losses of the paper one pair of cells at a time, with places from the matrices."""

from __future__ import annotations

import itertools
import math
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
)
from scantling.contrast.cells import cell_counts, cell_means, cell_points
from scantling.contrast.counting import count_pairs
from scantling.contrast.pixels import Tags
from scantling.networks.projection import dense_features
from scantling.recipes.pixpro import _NearPairs, near_cells
from scantling.seeding import torch_generator
from scantling.views.maker import make_views

SMALL = {"hidden": 32, "embedding": 16, "grid": 4, "views": CALM_VIEWS}
CONTRAST = {**SMALL, "loss": "contrast", "temperature": 0.1}


@pytest.mark.parametrize(
    "task", [pytest.param(STRIPES, id="2D"), pytest.param(SOLID_STRIPES, id="3D", marks=pytest.mark.slow)]
)
def test_the_recipe_keeps_the_contract(task, tmp_path: Path) -> None:
    assert_contract("pixpro", tmp_path, SMALL, task=task, from_labels=False)


def test_pixel_contrast_keeps_the_contract(tmp_path: Path) -> None:
    assert_contract("pixpro", tmp_path, CONTRAST, task=replace(STRIPES, falls_to=0.85), from_labels=False)


def cosine(u, v) -> float:
    return float(u @ v / math.sqrt(float(u @ u) * float(v @ v)))


def near_by_hand(batch, counts, i: int, mine: int, other: int) -> list[tuple[int, int]]:
    """Pairs of cells of two views that lie within 0.7 diagonals of the larger cell, both at least half in the image."""
    shape, mm = batch.view_shape, torch.tensor(batch.spacing_mm)
    cells = list(itertools.product(*map(range, counts)))

    def place(view: int, cell) -> torch.Tensor:
        index = torch.tensor([(c + 0.5) * n / m - 0.5 for c, n, m in zip(cell, shape, counts, strict=True)])
        return (batch.source_from_view[i, view] @ torch.cat([index * mm, torch.ones(1)]).double())[:-1]

    def diagonal(view: int) -> float:
        sides = torch.tensor([n / m for n, m in zip(shape, counts, strict=True)]) * mm
        return math.sqrt(
            sum(float((batch.source_from_view[i, view, :-1, a] * sides[a]).norm()) ** 2 for a in range(len(shape)))
        )

    reach = 0.7 * max(diagonal(mine), diagonal(other))
    usable = cell_points(batch, counts).usable[i]
    return [
        (a, b)
        for a, b in itertools.product(range(len(cells)), repeat=2)
        if usable[mine, a]
        and usable[other, b]
        and float((place(mine, cells[a]) - place(other, cells[b])).norm()) <= reach
    ]


def said_and_meant(recipe, batch, counts):
    """Cells of the network and of the teacher, and what the network's cells gather, by loops."""
    usable = cell_points(batch, counts).usable
    own = recipe.encoder.projection(
        cell_means(dense_features(recipe.encoder.network, batch.images, "decoder.0"), counts)
    )
    own = own.detach()
    target = recipe.teacher(batch.images, counts)
    if recipe.transform is None:
        return own, target
    values = own @ recipe.transform.weight.detach().T + recipe.transform.bias.detach()
    gathered = torch.zeros_like(values)
    for i, view in itertools.product(range(len(own)), range(own.shape[1])):
        for a in range(own.shape[2]):
            for b in range(own.shape[2]):
                if usable[i, view, b]:
                    weight = max(cosine(own[i, view, a], own[i, view, b]), 0.0) ** 2
                    gathered[i, view, a] += weight * values[i, view, b]
    return gathered, target


@pytest.mark.parametrize("task", [STRIPES, SOLID_STRIPES, SOLIDS], ids=["2D", "3D", "3D, thick slices"])
@pytest.mark.parametrize("loss", ["propagation", "contrast"])
def test_the_loss_is_that_of_the_paper_over_near_cells(task, loss) -> None:
    settings = {
        "grid": 3,
        "hidden": 12,
        "embedding": 5,
        "loss": loss,
        "momentum": 0.5,
        "views": {"crop_area": [0.3, 1.0]},
    }
    recipe = build("pixpro", settings, task=task)
    batch = exact_batch(recipe, task, 3)
    outside = torch.zeros_like(batch.weights, dtype=torch.bool)
    outside[:, 1, ..., : batch.view_shape[-1] // 3 + 1] = True  # a third of the cells of view 1
    batch = replace(
        batch, weights=batch.weights.masked_fill(outside, 0), label_maps=batch.label_maps.masked_fill(outside, -1)
    )
    with torch.no_grad():
        for parameter in recipe.encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch_generator(0, "stir")).double())
    recipe.after_step()
    recipe.eval()
    counts = cell_counts(batch.view_shape, 3)
    said, meant = said_and_meant(recipe, batch, counts)
    usable = cell_points(batch, counts).usable
    directions, found = [], 0
    for mine, other in ((0, 1), (1, 0)):
        images = []
        for i in range(3):
            pairs = near_by_hand(batch, counts, i, mine, other)
            found += len(pairs)
            if not pairs:
                continue
            if loss == "propagation":
                images.append(sum(1 - cosine(said[i, mine, a], meant[i, other, b]) for a, b in pairs) / len(pairs))
                continue
            terms = []
            for anchor in sorted({a for a, _ in pairs}):
                scores = {
                    b: math.exp(cosine(said[i, mine, anchor], meant[i, other, b]) / 0.3)
                    for b in range(meant.shape[2])
                    if usable[i, other, b]
                }
                positives = [scores[b] for a, b in pairs if a == anchor]
                terms.append(-math.log(sum(positives) / sum(scores.values())))
            images.append(sum(terms) / len(terms))
        directions.append(sum(images) / len(images))
    assert found > 20
    assert not usable.all()
    (actual,) = recipe.losses(batch, torch_generator(0, "recipe")).values()
    assert actual.item() == pytest.approx(sum(directions) / 2, rel=1e-6)


def test_nearness_is_the_same_from_both_sides_and_knows_the_scale_of_the_views() -> None:
    recipe = build("pixpro", {"views": {"rotation_probability": 0.0, "crop_probability": 0.0}})
    batch = make_views([SHAPES.source.sample(0, 0)], recipe.views(), SHAPES.patch, seed=0)
    counts = (8, 8)
    points = cell_points(batch, counts)
    near = near_cells(batch, points, counts, (0, 1), threshold=0.7)
    assert torch.equal(near[0], torch.eye(64, dtype=torch.bool))  # the next cell is a side away: 0.707 diagonals
    assert near_cells(batch, points, counts, (0, 1), threshold=0.71)[0].sum() == 64 + 2 * 2 * 7 * 8
    zoomed = batch.source_from_view.clone()
    zoomed[:, 1, :-1, :-1] *= 3  # one view shows three times as much: its cells are three times as large
    wide = replace(batch, source_from_view=zoomed)
    there = near_cells(wide, points, counts, (0, 1), threshold=0.7)
    assert torch.equal(there, near_cells(wide, points, counts, (1, 0), threshold=0.7).transpose(1, 2))
    assert there.sum() > 64


def test_teacher_is_part_of_the_state_and_a_broken_off_step_leaves_no_trace() -> None:
    recipe = build("pixpro", {"hidden": 8, "embedding": 4, "grid": 3})
    assert "teacher.updates" in recipe.state_dict()
    assert not any(name.startswith("teacher.module.transform") for name in recipe.state_dict())
    assert_undone_steps_leave_no_trace(recipe, SHAPES)
    assert int(recipe.teacher.updates) == 1


@pytest.mark.parametrize("loss", ["propagation", "contrast"])
def test_without_overlap_there_is_nothing_to_learn(loss) -> None:
    recipe = build("pixpro", {"loss": loss, "grid": 4})
    batch = make_views([SHAPES.source.sample(0, i) for i in range(3)], recipe.views(), SHAPES.patch, seed=0)
    moved = batch.source_from_view.clone()
    moved[:, 1, 0, -1] += 1000.0
    assert_no_gradient(recipe, replace(batch, source_from_view=moved))


def test_the_diagnostics_see_the_pairs_that_are_learnt_from() -> None:
    near = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    anchors, keys = Tags(usable=torch.ones(12, dtype=torch.bool)), Tags(usable=torch.ones(15, dtype=torch.bool))
    positives, negatives = count_pairs(_NearPairs(near).pairs(anchors, keys))
    assert torch.equal(positives.long(), near.sum(dim=2).flatten())
    assert torch.equal(negatives.long(), (~near).sum(dim=2).flatten())


def test_what_lies_beyond_the_tap_is_not_trained() -> None:
    assert_trained_up_to(build("pixpro"), "decoder.0")
    assert_trained_up_to(build("pixpro", {"tap": "encoder.1"}), "encoder.1")
    assert build("pixpro", {"loss": "contrast"}).transform is None
