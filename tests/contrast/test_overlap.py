"""Places that another view shows too: against matrices multiplied by hand, one place and one view at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from contrast.view_batches import coordinate_batch, plain_batch
from scantling.contrast.overlap import overlap_points
from scantling.contrast.points import Points
from scantling.views.view import ViewBatch


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def other_views_that_show(batch: ViewBatch, points: Points, b: int, v: int, i: int) -> list[int]:
    """By matrices in homogeneous coordinates."""
    spacing = np.array(batch.spacing_mm)
    matrices = batch.source_from_view[b].numpy()
    place = np.append(points.indices[b, v, i].double().numpy() * spacing, 1.0)
    found = []
    for other in range(matrices.shape[0]):
        index = (np.linalg.inv(matrices[other]) @ matrices[v] @ place)[:-1] / spacing
        pixel = np.floor(index + 0.5).astype(int)
        on_it = (pixel >= 0).all() and (pixel < np.array(batch.view_shape)).all()
        if other != v and on_it and batch.weights[(b, other, *pixel)] > 0:
            found.append(other)
    return found


@pytest.mark.parametrize("dimensions", ["2D", "3D"])
def test_every_place_is_shown_by_another_view_and_is_drawn_once(dimensions: str) -> None:
    batch = coordinate_batch(dimensions, n_samples=2, n_views=3)
    points = overlap_points(batch, 30, rng())
    assert points.usable.all()
    for b in range(2):
        for v in range(3):
            assert len({tuple(place.tolist()) for place in points.indices[b, v]}) == 30
            for i in range(30):
                assert batch.weights[(b, v, *points.indices[b, v, i].long())] > 0
                assert other_views_that_show(batch, points, b, v, i)


def test_views_are_drawn_for_each_anew_and_a_place_need_not_be_in_all_of_them() -> None:
    batch = plain_batch((8, 12), shifts=((0.0, 0.0), (0.0, 8.0), (0.0, 16.0)))
    points = overlap_points(batch, 16, rng())
    columns = points.indices[..., 1]
    assert (columns[:, 0] >= 8).all()  # the first and the last view have nothing in common
    assert (columns[:, 2] <= 3).all()
    middle = columns[:, 1]
    assert ((middle <= 3) | (middle >= 8)).all()
    assert (middle <= 3).any()
    assert (middle >= 8).any()
    assert not torch.equal(points.indices[0, 0], points.indices[1, 0])


def test_where_little_is_shared_all_of_it_is_taken_and_other_pixels_fill_up() -> None:
    batch = plain_batch((6, 10), n_samples=1, shifts=((0.0, 0.0), (0.0, 9.0)))
    points = overlap_points(batch, 20, rng())
    assert points.usable.all()
    for v, shared in enumerate((9, 0)):
        columns = points.indices[0, v, :, 1]
        assert sorted(points.indices[0, v, columns == shared, 0].tolist()) == [0, 1, 2, 3, 4, 5]
        assert len({tuple(place.tolist()) for place in points.indices[0, v]}) == 20


def test_only_eligible_pixels_are_drawn_and_only_they_count_in_the_other_view() -> None:
    batch = plain_batch((6, 10), n_samples=1)
    among = torch.zeros(1, 2, 6, 10, dtype=torch.bool)
    among[0, 0, :3], among[0, 1, 2:] = True, True
    points = overlap_points(batch, 15, rng(), among=among)
    first = points.indices[0, 0, points.usable[0, 0]]
    assert (first[:10, 0] == 2).all()  # the row that both have, then the others
    assert (first[:, 0] <= 2).all()
    assert (points.indices[0, 1, :10, 0] == 2).all()
    assert (points.indices[0, 1, :, 0] >= 2).all()


def test_a_view_with_less_than_its_quota_leaves_places_empty_and_nothing_eligible_leaves_all() -> None:
    batch = plain_batch((3, 4), n_samples=1)
    assert overlap_points(batch, 20, rng()).usable.sum(dim=-1).tolist() == [[12, 12]]
    silent = replace(batch, weights=torch.zeros_like(batch.weights))
    assert not overlap_points(silent, 20, rng()).usable.any()


def test_the_same_generator_gives_the_same_places() -> None:
    batch = coordinate_batch("2D", n_views=3)
    first, same, other = (overlap_points(batch, 10, rng(seed)).indices for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
