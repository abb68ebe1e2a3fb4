"""Released sampling and masks: against loops over voxels and over blocks of the mask."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from contrast.view_batches import coordinate_batch, plain_batch
from scantling.contrast.pixels import Pixels, Tags
from scantling.contrast.points import tags_of
from scantling.contrast.released import (
    in_image_sides,
    mirrored_class_contrast,
    released_tags,
    rounded_overlap_points,
    same_grid_points,
)
from scantling.shapes import IGNORE
from scantling.views.view import ViewBatch


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def overlapping_voxels(batch: ViewBatch, b: int, views: tuple[int, int]) -> list[tuple[tuple[int, ...], ...]]:
    """For each voxel of the source that both views show, the pixels it is read at."""
    spacing, size = np.array(batch.spacing_mm), np.array(batch.view_shape)
    view_from_source = [np.linalg.inv(batch.source_from_view[b, view].numpy()) for view in views]
    found = []
    for voxel in itertools.product(range(-30, 110), repeat=len(size)):
        mm = np.append(voxel * spacing, 1.0)
        shares = [((matrix @ mm)[:-1] / spacing + 0.5) / size for matrix in view_from_source]  # sides are 1 long
        if all(0 <= x < 1 for share in shares for x in share):
            pixels = (np.clip(np.round(share * size), 0, size - 1).astype(int) for share in shares)
            found.append(tuple(tuple(pixel.tolist()) for pixel in pixels))
    return found


def test_aligned_points_are_voxels_that_both_views_show_rounded_and_moved_to_the_border() -> None:
    batch = coordinate_batch("2D", n_samples=2, n_views=3)
    batch = replace(batch, source_from_view=batch.source_from_view.clone())
    batch.source_from_view[..., :-1, -1] -= 7.0  # so that the source's voxels are few
    points = rounded_overlap_points(batch, 4000, rng(), views=(2, 0))
    assert points.views == (2, 0)
    assert points.usable.all()
    assert points.point is not None
    for b in range(2):
        shown = overlapping_voxels(batch, b, (2, 0))
        aligned = points.point[b, 0] >= 0
        assert torch.equal(points.point[b, 0], points.point[b, 1])
        assert int(aligned.sum()) == len(shown) < 4000
        drawn = [tuple(tuple(p.int().tolist()) for p in pair) for pair in points.indices[b, :, aligned].transpose(0, 1)]
        assert sorted(drawn) == sorted(shown)
        assert points.point[b, 0, aligned].unique().numel() == len(shown)
    assert len(set(points.point[points.point >= 0].tolist())) == int((points.point[:, 0] >= 0).sum())
    at_border = points.indices[:, :, :, 0] == batch.view_shape[0] - 1
    assert at_border.any()  # what is beyond is moved there, and what is not aligned often is
    assert torch.equal(points.indices, points.indices.round())


def test_with_enough_overlap_the_quota_is_aligned_and_without_replacement() -> None:
    batch = plain_batch((8, 12), shifts=((0.0, 0.0), (0.0, 4.0)))
    points = rounded_overlap_points(batch, 40, rng(), views=(0, 1))
    assert points.point is not None
    assert (points.point >= 0).all()
    first, second = points.indices.unbind(dim=1)
    # an index i is read at round(i + 1/2), and rounding halves goes to the even number
    assert ((first[..., 1] - second[..., 1] - 4).abs() <= 1).all()
    assert points.point[0].unique().numel() == 40


def test_without_overlap_nothing_is_aligned_and_all_places_are_filled() -> None:
    batch = plain_batch((6, 6), shifts=((0.0, 0.0), (0.0, 50.0)))
    points = rounded_overlap_points(batch, 10, rng(), views=(0, 1))
    assert points.point is not None
    assert (points.point == -1).all()
    assert points.usable.all()


@pytest.mark.parametrize("dimensions", ["2D", "3D"])
def test_a_pool_reads_all_views_at_the_same_places_with_replacement(dimensions: str) -> None:
    batch = coordinate_batch(dimensions, n_views=3)
    points = same_grid_points(batch, 3000, rng())
    for view in (1, 2):
        assert torch.equal(points.indices[:, view], points.indices[:, 0])
    assert not torch.equal(points.indices[0], points.indices[1])
    for axis, n in enumerate(batch.view_shape):
        assert points.indices[..., axis].unique().tolist() == list(range(n))
    assert len({tuple(place.tolist()) for place in points.indices[0, 0]}) < 3000


@pytest.mark.parametrize("dimensions", ["2D", "3D"])
def test_positions_are_of_the_first_edge_of_a_pixel_in_units_of_the_sides(dimensions: str) -> None:
    batch = coordinate_batch(dimensions, n_views=2)
    points = same_grid_points(batch, 6, rng())
    tags = in_image_sides(tags_of(points, batch), points, batch)
    assert tags.position_mm is not None
    found = tags.position_mm.reshape(*points.indices.shape).numpy()
    size = np.array(batch.view_shape)
    # normalised coordinates x of a view, and the matrix between them and those of the image
    side = np.diag(np.append(size * np.array(batch.spacing_mm), 1.0))
    for b, v, i in itertools.product(range(3), range(2), range(6)):
        image_from_view = np.linalg.inv(side) @ batch.source_from_view[b, v].numpy() @ side
        x = points.indices[b, v, i].double().numpy() / size  # index over width, as released
        offset = (
            np.linalg.inv(side) @ batch.source_from_view[b, v].numpy() @ np.append(-0.5 * np.array(batch.spacing_mm), 1)
        )
        wanted = image_from_view[:-1, :-1] @ x + offset[:-1]
        np.testing.assert_allclose(found[b, v, i], wanted, rtol=1e-5, atol=1e-6)


def test_outside_the_image_is_background_and_trust_and_partial_labels_are_unknown_to_it() -> None:
    batch = plain_batch((4, 4), n_samples=1)
    labels, weights = batch.label_maps.clone(), batch.weights.clone()
    labels[..., 0, :], weights[..., 0, :] = IGNORE, 0  # outside
    labels[..., 1, :] = IGNORE  # inside, and nobody looked
    labels[..., 2, :] = 1
    batch = replace(batch, label_maps=labels, weights=weights * 0.3)
    points = same_grid_points(batch, 200, rng())
    tags = released_tags(points, batch)
    assert tags.annotated is None
    assert tags.trust is None
    rows = points.indices[..., 0].flatten().long()
    assert torch.equal(tags.need("klass"), torch.tensor([0, IGNORE, 1, 0])[rows])


def mask_by_blocks(mine: Tensor, theirs: Tensor) -> np.ndarray:
    """Blocks on and above the diagonal from the labels; a block below is the transposed one above."""
    n = len(mine)
    edges = [min(part * math.ceil(n / 3), n) for part in range(4)]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    mask = np.zeros((n, n), dtype=bool)
    for i, j in itertools.product(range(3), repeat=2):
        if i <= j:
            mask[parts[i], parts[j]] = (mine[parts[i], None] == theirs[None, parts[j]]).numpy()
    for i, j in itertools.product(range(3), repeat=2):
        if i > j:
            mask[parts[i], parts[j]] = mask[parts[j], parts[i]].T
    return mask


@pytest.mark.parametrize("n", [1, 2, 9, 31])
@pytest.mark.parametrize("without", [(), (0,)])
def test_the_mirrored_mask_is_the_one_filled_by_blocks(n: int, without: tuple[int, ...]) -> None:
    g = rng(n)
    mine = torch.randint(0, 3, (n,), generator=g)
    theirs = torch.where(torch.rand(n, generator=g) < 0.7, mine, torch.randint(0, 3, (n,), generator=g))
    z = [torch.randn(n, 4, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    sides = [Pixels(embeddings=e, tags=Tags(klass=y)) for e, y in zip(z, (mine, theirs), strict=True)]
    found = mirrored_class_contrast(*sides, temperature=0.7, without=without)
    mask = mask_by_blocks(mine, theirs)
    first, second = (e.detach().numpy() / np.linalg.norm(e.detach().numpy(), axis=1, keepdims=True) for e in z)
    s = first @ second.T / 0.7
    terms = [
        np.log(np.exp(s[i]).sum()) - s[i, mask[i]].mean()
        for i in range(n)
        if mask[i].any() and int(mine[i]) not in without
    ]
    assert found.item() == pytest.approx(np.mean(terms) if terms else 0.0, rel=1e-10)
    found.backward()
    assert all(e.grad is not None and e.grad.isfinite().all() for e in z)
    if n == 31:
        assert (mask != (mine[:, None] == theirs[None]).numpy()).any()


def test_a_mirrored_mask_needs_as_many_keys_as_anchors() -> None:
    sides = [Pixels(embeddings=torch.randn(n, 4), tags=Tags(klass=torch.zeros(n, dtype=torch.long))) for n in (3, 4)]
    with pytest.raises(ValueError, match="square: got 3 anchors and 4 keys"):
        mirrored_class_contrast(*sides, temperature=0.7, without=())
