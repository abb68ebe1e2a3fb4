"""DVD-CL and S-DVD-CL against their formulas, written out over all pairs of pixels in float64."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from contrast.view_batches import plain_batch
from recipes.contract import PATCH, SOLIDS, Shapes, Solids, Task, build
from recipes.pixel_contrasts import (
    SMALL,
    Heard,
    Listener,
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
from scantling.contrast.points import gather
from scantling.shapes import IGNORE

IN_3D = replace(SOLIDS, source=Solids(alternatives=3))
TASKS = {"2D": with_counterfactuals(), "3D": IN_3D}


def cross_entropy_of_points(anchors: Pixels, keys: Pixels, *, near_mm: float = 0.0) -> float:
    """Of each anchor that both views show: log of the sum over the other view's pixels, minus the logit of itself.

    Pixels of the image that are nearer than `near_mm` are left out of the sum.
    """
    s = similarities(anchors, keys)
    mine, theirs = number(anchors.tags, "point"), number(keys.tags, "point")
    places = [number(side.tags, "position_mm").astype(np.float64) for side in (anchors, keys)]
    images = [number(side.tags, "image") for side in (anchors, keys)]
    there = usable(keys.tags)
    terms = []
    for i in range(len(s)):
        if mine[i] < 0:
            continue
        same = mine[i] == theirs
        assert same.sum() == 1
        near = (images[1] == images[0][i]) & (np.linalg.norm(places[1] - places[0][i], axis=1) < near_mm)
        terms.append(np.log(np.exp(s[i, (there & ~near) | same]).sum()) - s[i, same][0])
    return float(np.mean(terms)) if terms else 0.0


def both_ways(heard: Heard, **how: Any) -> float:
    return float(
        np.mean(
            [(cross_entropy_of_points(a, k, **how) + cross_entropy_of_points(k, a, **how)) / 2 for a, k in heard.sides]
        )
    )


@pytest.mark.parametrize("dimensions", TASKS)
@pytest.mark.parametrize("n_views", [2, 4])
def test_dvd_is_the_cross_entropy_against_the_diagonal_both_ways_and_over_pairs(dimensions: str, n_views: int) -> None:
    heard = hear("dvd_cl", {"exclusion": 0.0, "views": {"n_views": n_views}}, task=TASKS[dimensions])
    assert len(heard.sides) == n_views - 1
    assert heard.loss.item() == pytest.approx(both_ways(heard), rel=1e-10)
    for a, k in heard.sides:
        aligned = number(a.tags, "point") >= 0
        assert len(a) == len(k) == 3 * 20
        assert aligned.any()
        assert usable(a.tags).all()
        assert (number(a.tags, "view") == 0).all()
    assert [int(k.tags.need("view")[0]) for _, k in heard.sides] == list(range(1, n_views))


def test_a_matched_pair_shows_one_place_of_the_source() -> None:
    heard = hear("dvd_cl", task=TASKS["3D"])
    for a, k in heard.sides:
        mine, theirs = a.tags.need("point"), k.tags.need("point")
        for point in mine[mine >= 0]:
            first, second = a.tags.need("position_mm")[mine == point], k.tags.need("position_mm")[theirs == point]
            torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


def test_where_views_share_little_other_pixels_fill_up_and_are_negatives_only() -> None:
    batch = plain_batch(PATCH, shifts=((0.0, 0.0), (0.0, 30.5)))
    batch = replace(batch, images=torch.randn(batch.images.shape, dtype=torch.float64))
    batch = replace(batch, annotated=torch.ones(2, 3, dtype=torch.bool))
    heard = hear("dvd_cl", {"exclusion": 0.0, "points": 300, "views": {"n_views": 2}}, batch=batch)
    ((first, second),) = heard.sides
    aligned = number(first.tags, "point") >= 0
    assert 0 < aligned.sum() < 600
    assert usable(first.tags).all()
    assert usable(second.tags).all()
    assert heard.loss.item() == pytest.approx(both_ways(heard), rel=1e-10)


def test_pixels_are_read_where_their_tags_say() -> None:
    """With images that hold each voxel's place and the view's number, and no network between, an embedding is both."""
    recipe = build("dvd_cl", {**SMALL, "views": {"crop_area": [0.5, 1.0]}})
    batch = batch_for(recipe, [Shapes().sample(0, i) for i in range(2)], PATCH)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in PATCH], indexing="ij")
    places = torch.stack([*axes, torch.ones(PATCH, dtype=torch.float64)])
    own = torch.einsum("bvrc,cyx->bvryx", batch.source_from_view, places)
    own[:, :, 2] = torch.arange(4)[None, :, None, None]
    heard = Heard(loss=torch.tensor(0.0))
    recipe.diagnostics = Listener(heard)
    recipe.embedded = lambda batch, points, interpolation: gather(own, points, batch.view_shape)
    recipe.losses(batch, torch.Generator().manual_seed(0))
    for pixels in itertools.chain(*heard.sides):
        said = torch.cat((pixels.tags.need("position_mm"), pixels.tags.need("view").float()[:, None]), dim=1)
        torch.testing.assert_close(pixels.embeddings.float(), said, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "near_mm"),
    [({"exclusion_mm": 7.0}, 7.0), ({"exclusion": 0.25}, 0.25 * 32), ({}, 0.1 * 32)],
)
def test_near_places_are_left_out_of_the_negatives(settings: dict[str, Any], near_mm: float) -> None:
    heard = hear("dvd_cl", settings, task=TASKS["2D"])
    assert heard.loss.item() == pytest.approx(both_ways(heard, near_mm=near_mm), rel=1e-10)
    assert heard.loss.item() < both_ways(heard) - 0.001


def test_an_exclusion_in_mm_is_a_distance_in_the_patient_where_slices_are_thick() -> None:
    heard = hear("dvd_cl", {"exclusion_mm": 5.0}, task=IN_3D)
    assert heard.loss.item() == pytest.approx(both_ways(heard, near_mm=5.0), rel=1e-10)


def test_a_share_of_the_side_is_of_the_shorter_side_within_the_slice() -> None:
    heard = hear("dvd_cl", {"exclusion": 0.3}, task=IN_3D)
    assert heard.loss.item() == pytest.approx(both_ways(heard, near_mm=0.3 * 16), rel=1e-10)


def test_all_pairs_are_all_pairs() -> None:
    heard = hear("dvd_cl", {"all_pairs": True, "exclusion": 0.0}, task=TASKS["2D"])
    views = [(int(a.tags.need("view")[0]), int(k.tags.need("view")[0])) for a, k in heard.sides]
    assert views == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert heard.loss.item() == pytest.approx(both_ways(heard), rel=1e-10)


def class_contrast(
    anchors: Pixels,
    keys: Pixels,
    *,
    background: bool = False,
    trust: bool = True,
) -> float:
    """Positives of the anchor's class among the other view's pixels, by sums over classes.

    Each anchor's mean logit is its product with the sum of its class's keys. Two background pixels are no pair.
    """
    s = similarities(anchors, keys)
    z, y = [], []
    for side in (anchors, keys):
        e = side.embeddings.detach().numpy()
        z.append(e / np.linalg.norm(e, axis=1, keepdims=True))
        y.append(np.where(usable(side.tags), number(side.tags, "klass"), IGNORE))
    weights = [
        number(side.tags, "trust").astype(np.float64) if trust else np.ones(len(side)) for side in (anchors, keys)
    ]
    total = mass = 0.0
    for i, klass in enumerate(y[0]):
        count = weights[1][y[1] == klass].sum()
        if klass == IGNORE or (klass == 0 and not background) or count == 0:
            continue
        class_sum = (z[1] * weights[1][:, None])[y[1] == klass].sum(axis=0)
        log_z = np.log(np.exp(s[i, y[1] != IGNORE]).sum())
        total += weights[0][i] * (log_z - z[0][i] @ class_sum / (count * 0.7))
        mass += weights[0][i]
    return total / mass if mass else 0.0


@pytest.mark.parametrize("dimensions", TASKS)
@pytest.mark.parametrize("background", [False, True])
def test_s_dvd_is_the_contrast_of_classes_across_two_views(dimensions: str, background: bool) -> None:
    heard = hear("s_dvd_cl", {"background_anchors": background}, task=TASKS[dimensions])
    wanted = [class_contrast(*sides, background=background) for a, k in heard.sides for sides in ((a, k), (k, a))]
    assert len(wanted) == 6
    assert heard.loss.item() == pytest.approx(np.mean(wanted), rel=1e-6)


def test_anchors_and_positives_are_weighed_by_trust() -> None:
    recipe = build("s_dvd_cl", {**SMALL, "views": {"crop_area": [0.4, 1.0]}}, task=TASKS["2D"])
    samples = [
        replace(TASKS["2D"].source.sample(0, i), weight=torch.full((40, 40), w)) for i, w in enumerate((1.0, 0.2, 0.7))
    ]
    batch = batch_for(recipe, samples, PATCH)
    heard = hear("s_dvd_cl", task=TASKS["2D"], batch=batch)
    ways = [sides for a, k in heard.sides for sides in ((a, k), (k, a))]
    assert heard.loss.item() == pytest.approx(np.mean([class_contrast(*sides) for sides in ways]), rel=1e-6)
    assert abs(heard.loss.item() - np.mean([class_contrast(*sides, trust=False) for sides in ways])) > 1e-4


def test_where_a_class_was_not_looked_for_background_may_be_it() -> None:
    heard = hear("s_dvd_cl", task=with_counterfactuals(annotated=(True, True, False)))
    wanted = []
    for a, k in heard.sides:
        for anchors, keys in ((a, k), (k, a)):
            mine, theirs = number(anchors.tags, "klass"), number(keys.tags, "klass")
            certain = [[y if y == 1 else None for y in side] for side in (mine, theirs)]
            positive = np.array([[p is not None and p == q for q in certain[1]] for p in certain[0]])
            # a disc is not what is called background where discs were looked for; of two backgrounds nothing is known
            apart = np.array([[{p, q} == {0, 1} for q in theirs] for p in mine])
            wanted.append(sup_con(similarities(anchors, keys), positive, positive | apart))
    assert heard.loss.item() == pytest.approx(np.mean(wanted), rel=1e-6)


def test_class_balanced_pixels_are_on_average_equally_many_of_each_class() -> None:
    shares = {}
    for balanced in (True, False):
        heard = hear("s_dvd_cl", {"class_balanced": balanced, "points": 30}, task=TASKS["2D"])
        seen = np.concatenate([number(side.tags, "klass") for side in itertools.chain(*heard.sides)])
        shares[balanced] = np.array([(seen == k).mean() for k in range(3)])
        wanted = [class_contrast(*sides) for a, k in heard.sides for sides in ((a, k), (k, a))]
        assert heard.loss.item() == pytest.approx(np.mean(wanted), rel=1e-6)
    assert np.abs(shares[True] - 1 / 3).max() < 0.1
    assert shares[False][0] > 0.6


def test_released_dvd_adds_both_directions_each_with_pixels_of_its_own_and_leaves_nothing_out() -> None:
    heard = hear("dvd_cl", {"compat": "released"}, task=TASKS["2D"])
    assert len(heard.sides) == 6
    views = [(int(a.tags.need("view")[0]), int(k.tags.need("view")[0])) for a, k in heard.sides]
    assert views == [(0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (3, 0)]
    total = 0.0
    for anchors, keys in heard.sides:
        s = similarities(anchors, keys)
        n = len(s)
        assert usable(keys.tags).all()
        aligned = number(anchors.tags, "point") >= 0
        mask = np.eye(n, dtype=bool) & aligned[:, None]  # N x N, in the order (image, pixel)
        assert np.array_equal(number(anchors.tags, "point")[aligned], number(keys.tags, "point")[aligned])
        total += np.mean([np.log(np.exp(s[i]).sum()) - s[i, i] for i in range(n) if mask[i].any()])
    assert heard.loss.item() == pytest.approx(total / 3, rel=1e-10)
    assert heard.points is not None
    indices = heard.points.indices
    assert torch.equal(indices, indices.round())
    assert not torch.equal(indices[:, 0], indices[:, 3])  # the way back draws anew


def test_released_s_dvd_fills_a_part_of_the_mask_by_a_mirror_image() -> None:
    heard = hear("s_dvd_cl", {"compat": "released", "points": 50}, task=TASKS["2D"])
    total, unmirrored, wrong = 0.0, 0.0, 0
    for anchors, keys in heard.sides:
        s, n = similarities(anchors, keys), len(anchors)
        mine, theirs = number(anchors.tags, "klass"), number(keys.tags, "klass")
        assert (mine >= 0).all()
        right = mine[:, None] == theirs[None, :]
        part = np.arange(n) // math.ceil(n / 3)
        mask = np.where(part[:, None] <= part[None, :], right, right.T)
        wrong += (mask != right).sum()
        compared = np.ones((n, n), dtype=bool)
        anchor = (mine != 0)[:, None]  # background is no anchor, and stays among the columns
        total += sup_con(s, mask & anchor, compared)
        unmirrored += sup_con(s, right & anchor, compared)
    assert wrong > 0
    assert heard.loss.item() == pytest.approx(total / 3, rel=1e-10)
    assert abs(heard.loss.item() - unmirrored / 3) > 1e-5


@pytest.mark.parametrize("compat", ["intended", "released"])
def test_a_batch_without_labels_gives_zero_and_zero_gradients(compat: str) -> None:
    settings = {**SMALL, "compat": compat}
    recipe = build("s_dvd_cl", settings)
    batch = unlabelled(batch_for(recipe, [Shapes().sample(0, i) for i in range(2)], PATCH))
    batch = replace(batch, weights=torch.ones_like(batch.weights), images=batch.images.float())
    loss = recipe.losses(batch, torch.Generator().manual_seed(0))["pixel_contrast"]
    assert loss.item() == 0.0
    loss.backward()
    trained = [p for p in recipe.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)


def test_unlabelled_images_beside_labelled_ones_change_nothing() -> None:
    recipe = build("s_dvd_cl", SMALL)
    samples = [Shapes().sample(0, i) for i in range(3)]
    batch = unlabelled(batch_for(recipe, samples, PATCH), rows=[1])
    heard = hear("s_dvd_cl", batch=batch, settings={"views": {"crop_area": [0.08, 1.0]}})
    wanted = [class_contrast(*sides) for a, k in heard.sides for sides in ((a, k), (k, a))]
    assert heard.loss.item() == pytest.approx(np.mean(wanted), rel=1e-6)
    for side in itertools.chain(*heard.sides):
        assert not usable(side.tags)[number(side.tags, "image") // 2**20 == 1].any()


@pytest.mark.parametrize("settings", [{}, {"compat": "released"}, {"exclusion_mm": 4.0}])
def test_views_without_overlap_have_no_positive_and_one_image_is_enough(settings: dict[str, Any]) -> None:
    recipe = build("dvd_cl", {**SMALL, **settings})
    batch = batch_for(recipe, [Shapes().sample(0, 0)], PATCH)
    batch = replace(batch, images=batch.images.float())
    apart = replace(batch, source_from_view=batch.source_from_view.clone())
    apart.source_from_view[:, 1:, 0, -1] += 500.0
    for each, expected in ((apart, False), (batch, True)):
        recipe.zero_grad()
        loss = recipe.losses(each, torch.Generator().manual_seed(0))["pixel_contrast"]
        loss.backward()
        assert (loss.item() > 0) == expected
        gradients = [p.grad for p in recipe.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in gradients)
        assert any(g.any() for g in gradients) == expected


def test_a_label_that_nobody_trusts_says_nothing_against_its_pixel() -> None:
    recipe = build("dvd_cl", SMALL)
    batch = batch_for(recipe, [Shapes().sample(0, i) for i in range(2)], PATCH)
    distrusted = replace(batch, weights=torch.zeros_like(batch.weights))
    assert hear("dvd_cl", batch=distrusted).loss.item() == hear("dvd_cl", batch=batch).loss.item() > 0


def test_views_show_the_counterfactuals_in_turn_or_as_a_control_the_image_as_often() -> None:
    task: Task = TASKS["2D"]
    recipe = build("dvd_cl", SMALL, task=task)
    batch = batch_for(recipe, [task.source.sample(0, 0)], PATCH)
    assert batch.image_numbers is not None
    assert batch.image_numbers.tolist() == [[0, 1, 2, 3]]
    own = build("dvd_cl", {**SMALL, "views": {"image_of_view": "own"}}, task=task)
    control = batch_for(own, [task.source.sample(0, 0)], PATCH)
    assert control.images.shape == batch.images.shape
    assert control.image_numbers is not None
    assert control.image_numbers.tolist() == [[0, 0, 0, 0]]
