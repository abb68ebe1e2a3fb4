"""MVD-CL and S-MVD-CL against their formulas, written out over all pairs of pixels in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from contrast.view_batches import plain_batch
from recipes.contract import PATCH, SOLID_PATCH, SOLIDS, Shapes, Solids, build
from recipes.pixel_contrasts import (
    SMALL,
    Heard,
    batch_for,
    hear,
    number,
    similarities,
    sup_con,
    unlabelled,
    usable,
    with_counterfactuals,
)
from scantling.contrast.pixels import Pixels
from scantling.shapes import IGNORE

IN_3D = replace(SOLIDS, source=Solids(alternatives=3))
TASKS = {"2D": with_counterfactuals(), "3D": IN_3D}


def near_in_each_image(pixels: Pixels, radius_mm: float) -> float:
    """Positives live inside one image; the sum is over all pixels but the anchor."""
    s = similarities(pixels, pixels)
    image = number(pixels.tags, "image")
    place = number(pixels.tags, "position_mm").astype(np.float64)
    there = usable(pixels.tags)
    terms = []
    for one in np.unique(image):
        members = np.flatnonzero((image == one) & there)
        for i in members:
            others = members[members != i]
            near = others[np.linalg.norm(place[others] - place[i], axis=1) < radius_mm]
            everyone = np.flatnonzero(there & (np.arange(len(s)) != i))
            if len(near):
                terms.append(np.log(np.exp(s[i, everyone]).sum()) - s[i, near].mean())
    return float(np.mean(terms)) if terms else 0.0


@pytest.mark.parametrize("sampling", ["overlap", "random"])
@pytest.mark.parametrize("n_views", [2, 4])
def test_mvd_is_the_contrast_of_near_pixels_in_one_pool_of_views(n_views: int, sampling: str) -> None:
    settings = {"sampling": sampling, "views": {"n_views": n_views}}
    heard = hear("mvd_cl", settings, task=TASKS["2D"])
    ((pixels, keys),) = heard.sides
    assert keys is pixels
    assert len(pixels) == 3 * n_views * 20
    assert usable(pixels.tags).all()
    assert heard.loss.item() == pytest.approx(near_in_each_image(pixels, 0.1 * 32), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "only_shared"),
    [
        ("mvd_cl", {}, True),
        ("mvd_cl", {"sampling": "random"}, False),
        ("s_mvd_cl", {}, False),
        ("s_mvd_cl", {"sampling": "overlap"}, True),
    ],
)
def test_by_default_places_that_another_view_shows_are_drawn_where_pairs_are_by_place(
    name: str, settings: dict[str, Any], only_shared: bool
) -> None:
    batch = plain_batch(PATCH, shifts=((0.0, 0.0), (0.0, 16.0)))
    batch = replace(batch, images=batch.images.double(), annotated=torch.ones(2, 3, dtype=torch.bool))
    heard = hear(name, {**settings, "views": {"n_views": 2}}, batch=batch)
    assert heard.points is not None
    columns = heard.points.indices[..., 1]
    assert bool((columns[:, 0] >= 16).all() and (columns[:, 1] <= 15).all()) == only_shared


@pytest.mark.parametrize(("settings", "radius_mm"), [({"radius_mm": 5.0}, 5.0), ({"radius": 0.2}, 0.2 * 16)])
def test_the_radius_is_a_distance_in_the_patient_where_slices_are_thick(
    settings: dict[str, Any], radius_mm: float
) -> None:
    """Places by matrices in mm, from the indices that were read: along the slices a voxel is 2 mm."""
    recipe = build("mvd_cl", SMALL, task=IN_3D)
    batch = batch_for(recipe, [IN_3D.source.sample(0, i) for i in range(2)], SOLID_PATCH)
    heard = hear("mvd_cl", settings, task=IN_3D, batch=batch)
    assert heard.points is not None
    ((pixels, _),) = heard.sides
    mm = heard.points.indices.double() * torch.tensor([2.0, 1.0, 1.0])
    homogeneous = torch.cat((mm, torch.ones_like(mm[..., :1])), dim=-1)
    places = torch.einsum("bvrc,bvpc->bvpr", batch.source_from_view, homogeneous)[..., :-1].flatten(0, 2).numpy()
    image = np.arange(2).repeat(4 * 20)
    near = np.linalg.norm(places[:, None] - places[None], axis=2) < radius_mm
    positive = near & (image[:, None] == image[None]) & ~np.eye(len(image), dtype=bool)
    wanted = sup_con(similarities(pixels, pixels), positive, ~np.eye(len(image), dtype=bool))
    assert heard.loss.item() == pytest.approx(wanted, rel=1e-6)
    in_voxels = np.linalg.norm((places[:, None] - places[None]) / [2, 1, 1], axis=2) < radius_mm
    assert (in_voxels != near).any()


def class_contrast(pixels: Pixels, *, background: bool, trust: bool = True) -> float:
    """The anchor times the sum of its class, without itself, over the class's count; no pair of two backgrounds
    unless it is asked for."""
    s = similarities(pixels, pixels)
    e = pixels.embeddings.detach().numpy()
    z = e / np.linalg.norm(e, axis=1, keepdims=True)
    y = np.where(usable(pixels.tags), number(pixels.tags, "klass"), IGNORE)
    w = number(pixels.tags, "trust").astype(np.float64) if trust else np.ones(len(y))
    total = mass = 0.0
    for i, klass in enumerate(y):
        count = w[y == klass].sum() - w[i]
        if klass == IGNORE or (klass == 0 and not background) or count <= 1e-12:
            continue
        class_sum = (z * w[:, None])[y == klass].sum(axis=0)
        others = (y != IGNORE) & (np.arange(len(y)) != i)
        total += w[i] * (np.log(np.exp(s[i, others]).sum()) - (z[i] @ class_sum - w[i]) / (count * 0.7))
        mass += w[i]
    return total / mass if mass else 0.0


@pytest.mark.parametrize("dimensions", TASKS)
@pytest.mark.parametrize("background", [False, True])
def test_s_mvd_is_the_contrast_of_classes_in_one_pool_of_views(dimensions: str, background: bool) -> None:
    heard = hear("s_mvd_cl", {"background_anchors": background}, task=TASKS[dimensions])
    ((pixels, _),) = heard.sides
    assert heard.loss.item() == pytest.approx(class_contrast(pixels, background=background), rel=1e-6)
    assert abs(heard.loss.item() - class_contrast(pixels, background=not background)) > 1e-4


@pytest.mark.parametrize("sampling", ["random", "overlap", "class_balanced"])
def test_silver_labels_count_as_far_as_they_are_trusted_and_only_where_there_are_any(sampling: str) -> None:
    recipe = build("s_mvd_cl", SMALL, task=TASKS["2D"])
    samples = [TASKS["2D"].source.sample(0, i) for i in range(4)]
    samples = [replace(s, weight=torch.full((40, 40), w)) for s, w in zip(samples, (1.0, 0.2, 0.0, 0.7), strict=True)]
    batch = unlabelled(batch_for(recipe, samples, PATCH), rows=[3])
    heard = hear("s_mvd_cl", {"sampling": sampling}, task=TASKS["2D"], batch=batch)
    ((pixels, _),) = heard.sides
    assert heard.loss.item() == pytest.approx(class_contrast(pixels, background=False), rel=1e-6)
    assert abs(heard.loss.item() - class_contrast(pixels, background=False, trust=False)) > 1e-4
    there = usable(pixels.tags).reshape(4, -1)
    assert there[0].all()
    assert not there[2:].any()


def test_where_a_class_was_not_looked_for_background_may_be_it() -> None:
    heard = hear("s_mvd_cl", task=with_counterfactuals(annotated=(True, True, False)))
    ((pixels, _),) = heard.sides
    y = number(pixels.tags, "klass")
    self = np.eye(len(y), dtype=bool)
    positive = (y[:, None] == 1) & (y[None] == 1) & ~self
    apart = ((y[:, None] == 1) & (y[None] == 0)) | ((y[:, None] == 0) & (y[None] == 1))
    assert heard.loss.item() == pytest.approx(
        sup_con(similarities(pixels, pixels), positive, positive | apart), rel=1e-6
    )


def test_class_balanced_pixels_are_on_average_equally_many_of_each_class_that_a_view_shows() -> None:
    counts = {}
    for sampling in ("class_balanced", "random"):
        ((pixels, _),) = hear("s_mvd_cl", {"sampling": sampling, "points": 12}, task=TASKS["2D"]).sides
        klass = number(pixels.tags, "klass").reshape(12, 12)
        counts[sampling] = np.array([[(row == k).sum() for k in range(3)] for row in klass])
        assert (counts[sampling].sum(axis=1) == 12).all()
    shown = (counts["class_balanced"] > 0).all(axis=1)
    assert np.abs(counts["class_balanced"][shown].mean(axis=0) - 4).max() < 1
    assert counts["random"][:, 0].mean() > 7


def released(name: str, **settings: Any) -> Heard:
    heard = hear(name, {"compat": "released", **settings}, task=TASKS["2D"])
    assert heard.points is not None
    indices = heard.points.indices
    for view in range(1, 4):
        assert torch.equal(indices[:, view], indices[:, 0])  # the same places of the grid in all views
    assert torch.equal(indices, indices.round())
    return heard


def test_released_mvd_takes_the_same_grid_in_all_views_and_measures_in_sides_of_the_image() -> None:
    recipe = build("mvd_cl", SMALL, task=TASKS["2D"])
    batch = batch_for(recipe, [TASKS["2D"].source.sample(0, i) for i in range(2)], PATCH)
    heard = hear("mvd_cl", {"compat": "released", "points": 30}, task=TASKS["2D"], batch=batch)
    assert heard.points is not None
    ((pixels, _),) = heard.sides
    n = len(pixels)
    # x = index / width in the view, and from there to the image; both have sides of 1
    mm = heard.points.indices.double() - 0.5  # pixels are 1 mm, and the first edge is half of one before the centre
    homogeneous = torch.cat((mm, torch.ones_like(mm[..., :1])), dim=-1)
    p = torch.einsum("bvrc,bvpc->bvpr", batch.source_from_view, homogeneous)[..., :2].flatten(0, 2).numpy() / 32
    image = np.arange(2).repeat(4 * 30)
    self = np.eye(n, dtype=bool)
    near = np.linalg.norm(p[:, None] - p[None], axis=2) < 0.1
    positive = near & (image[:, None] == image[None]) & ~self
    assert heard.loss.item() == pytest.approx(sup_con(similarities(pixels, pixels), positive, ~self), rel=1e-6)


def test_released_s_mvd_has_background_as_anchors_whatever_it_is_told() -> None:
    told, not_told = (released("s_mvd_cl", background_anchors=flag) for flag in (True, False))
    assert told.loss.item() == not_told.loss.item()
    ((pixels, _),) = told.sides
    y = number(pixels.tags, "klass")
    self = np.eye(len(y), dtype=bool)
    assert (y >= 0).all()  # beyond the image is background
    s = similarities(pixels, pixels)
    same = (y[:, None] == y[None]) & ~self
    assert told.loss.item() == pytest.approx(sup_con(s, same, ~self), rel=1e-10)
    masked = sup_con(s, same & (y != 0)[:, None], ~self)
    assert abs(told.loss.item() - masked) > 1e-3


@pytest.mark.parametrize("compat", ["intended", "released"])
def test_a_batch_without_labels_gives_zero_and_zero_gradients(compat: str) -> None:
    recipe = build("s_mvd_cl", {**SMALL, "compat": compat})
    batch = unlabelled(batch_for(recipe, [Shapes().sample(0, i) for i in range(2)], PATCH))
    batch = replace(batch, weights=torch.ones_like(batch.weights), images=batch.images.float())
    loss = recipe.losses(batch, torch.Generator().manual_seed(0))["pixel_contrast"]
    assert loss.item() == 0.0
    loss.backward()
    trained = [p for p in recipe.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)


@pytest.mark.parametrize("settings", [{}, {"compat": "released"}, {"sampling": "random"}])
def test_views_without_overlap_still_have_neighbours_and_one_image_is_enough(settings: dict[str, Any]) -> None:
    recipe = build("mvd_cl", {**SMALL, **settings})
    batch = batch_for(recipe, [Shapes().sample(0, 0)], PATCH)
    apart = replace(batch, images=batch.images.float(), source_from_view=batch.source_from_view.clone())
    apart.source_from_view[:, :, 0, -1] += 500.0 * torch.arange(4)
    loss = recipe.losses(apart, torch.Generator().manual_seed(0))["pixel_contrast"]
    loss.backward()
    assert loss.item() > 0
    gradients = [p.grad for p in recipe.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients)
