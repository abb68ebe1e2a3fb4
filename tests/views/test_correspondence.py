"""Oracle: a picture of its own coordinates, whose values say where each pixel of a view came from (to 0.1 voxel)."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from scantling.data.sample import Sample
from scantling.shapes import IGNORE
from scantling.views import correspondence, geometry
from scantling.views.intensity import IntensityConfig
from scantling.views.maker import ViewConfig, make_views
from scantling.views.view import ViewBatch

UNCHANGED = IntensityConfig(**{name: 0.0 for name in IntensityConfig.model_fields if name.endswith("_probability")})
STRAIGHT = ViewConfig(
    n_views=2,
    rotation_probability=0.8,
    rotation_deg=180,
    rotation_3d_probability=0.7,
    rotation_3d_deg=180,
    scale_probability=0.5,
    scale=(0.7, 1.6),
    aspect=1.3,
    translate_probability=0.5,
    translate=0.2,
    flip_axes=(0, 1),
    crop_probability=0.7,
    crop_area=(0.2, 1.0),
    intensity=UNCHANGED,
)
BENT = {"elastic_probability": 1.0, "elastic_mm": 0.75, "elastic_spacing_mm": 6.0}  # in 3D the most that is allowed
GRIDS = {
    "pictures": ((30, 27), (16, 14), (0.8, 1.3)),
    "volumes": ((14, 15, 13), (8, 9, 7), (1.0, 0.9, 1.1)),
    "volumes with thick slices": ((8, 22, 20), (5, 12, 11), (8.0, 1.4, 1.4)),
}
TRACED = 40  # points of a view that are led to the other view and back
TOLERATED = 0.1
"""Voxels; what is found is far less: float32 positions, and the iteration that undoes the elastic field."""


@pytest.fixture(autouse=True)
def one_thread():
    """Views are small here: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def coordinate_sample(shape: tuple[int, ...], spacing: tuple[float, ...], number: int) -> Sample:
    """Channels are mm in the source, the label is the voxel's number in the array."""
    offset = torch.arange(1, len(shape) + 1, dtype=torch.float64) * (3.0 + number % 7)
    source_from_sample = torch.eye(len(shape) + 1, dtype=torch.float64)
    source_from_sample[:-1, -1] = offset
    axes = [torch.arange(n) * mm + start for n, mm, start in zip(shape, spacing, offset, strict=True)]
    return Sample(
        image=torch.stack(torch.meshgrid(*axes, indexing="ij")).float(),
        label_map=torch.arange(int(np.prod(shape))).reshape(shape),
        weight=torch.full(shape, 0.7),
        annotated=torch.tensor([True, True]),
        spacing_mm=spacing,
        source_from_sample=source_from_sample,
        case_index=number,
        patient_index=number,
        slice_position=0.5,
        key=(0, number),
    )


def pixel_indices(batch: ViewBatch) -> torch.Tensor:
    centres = geometry.pixel_centres_mm(batch.view_shape, (1.0,) * len(batch.view_shape))
    return centres.expand(*batch.label_maps.shape[:2], *centres.shape)


def in_sample(source_mm: torch.Tensor, samples: list[Sample]) -> np.ndarray:
    """Voxels of the sample `[sample, view, point, axis]`, by arithmetic of its own."""
    offsets = torch.stack([s.source_from_sample[:-1, -1] for s in samples])[:, None, None]
    return ((source_mm - offsets) / torch.tensor(samples[0].spacing_mm, dtype=torch.float64)).numpy()


def pairs(grid: str, *, bent: bool, count: int, seed: int) -> tuple[list[Sample], ViewBatch]:
    shape, patch, spacing = GRIDS[grid]
    samples = [coordinate_sample(shape, spacing, i) for i in range(count)]
    config = STRAIGHT.model_copy(update=BENT if bent else {})
    return samples, make_views(samples, config, patch, seed=seed)


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize(("grid", "count"), [("pictures", 500), ("volumes", 500), ("volumes with thick slices", 60)])
def test_a_thousand_view_pairs_say_where_each_pixel_came_from_and_lead_there_and_back(grid, count, bent):
    shape, _, spacing = GRIDS[grid]
    voxel = torch.tensor(spacing, dtype=torch.float64)
    inside_seen = outside_seen = shared = 0
    size = np.array(shape)
    for seed in range(count // 50):
        samples, batch = pairs(grid, bent=bent, count=50, seed=seed)
        indices = pixel_indices(batch)
        source = correspondence.source_positions_mm(batch, indices)
        claimed = in_sample(source, samples)

        # what a pixel shows is where correspondence says it comes from
        shown = batch.images.flatten(3).transpose(2, 3)
        within = ((claimed >= 0) & (claimed <= size - 1)).all(axis=-1)
        assert ((shown - source).abs() / voxel).amax(dim=-1)[torch.from_numpy(within)].max() < 0.01 < TOLERATED

        # its label is that of the voxel there, and nothing is known outside
        labels, weights = batch.label_maps.flatten(2).numpy(), batch.weights.flatten(2).numpy()
        covered = labels != IGNORE
        nearest = np.stack(np.unravel_index(labels[covered], shape), axis=-1)
        assert np.abs(nearest - claimed[covered]).max() <= 0.5 + 1e-3
        assert (weights[covered] == np.float32(0.7)).all()
        assert (weights[~covered] == 0).all()
        beyond = np.maximum(-0.5 - claimed, claimed - (size - 0.5)).max(axis=-1)
        assert covered[beyond < -1e-3].all()
        assert not covered[beyond > 1e-3].any()

        # the same points in the other view, and back
        some = torch.randperm(source.shape[2], generator=torch.Generator().manual_seed(seed))[:TRACED]
        there = correspondence.view_indices(batch, source[:, :, some].flip(1))
        again = correspondence.source_positions_mm(batch, there).flip(1)
        assert ((again - source[:, :, some]).abs() / voxel).max() < 1e-3 < TOLERATED
        own = correspondence.view_indices(batch, source[:, :, some])
        assert (own - indices[:, :, some]).abs().max() < 1e-3 < TOLERATED
        inside_seen += int(within.sum())
        outside_seen += int((~covered).sum())
        shared += int(correspondence.inside(batch, there).sum())
    assert bent == (batch.displacements is not None)
    if bent:
        assert batch.displacements.abs().flatten(2).amax(dim=2).min() > 0.3
    assert inside_seen > 100 * count
    assert outside_seen > 1000
    assert shared > 1000


@pytest.mark.parametrize("grid", GRIDS)
def test_both_views_of_a_pair_show_the_same_at_corresponding_places(grid):
    _, patch, spacing = GRIDS[grid]
    samples, batch = pairs(grid, bent=True, count=20, seed=99)
    source = correspondence.source_positions_mm(batch, pixel_indices(batch))[:, :1]
    landed = correspondence.view_indices(batch, source.expand(-1, 2, -1, -1))
    compared = 0
    for row in range(len(samples)):
        shown = batch.images[row, 0].flatten(1).numpy()
        places = landed[row, 1].numpy()
        again = np.stack([scipy.ndimage.map_coordinates(c.numpy(), places.T, order=1) for c in batch.images[row, 1]])
        visible = np.stack([scipy.ndimage.map_coordinates(
            (batch.weights[row, 1].numpy() > 0).astype(float), places.T, order=1)])[0] == 1  # fmt: skip
        safe = visible & ((places >= 1) & (places <= np.array(patch) - 2)).all(axis=1)
        safe &= batch.weights[row, 0].flatten().numpy() > 0
        # at the rim of the sample zeros from outside are mixed in
        claimed = in_sample(source[row : row + 1], samples[row : row + 1])[0, 0]
        safe &= ((claimed >= 2) & (claimed <= np.array(GRIDS[grid][0]) - 3)).all(axis=1)
        difference = np.abs(shown - again) / np.array(spacing)[:, None]
        # the second view is a bent picture joined by straight lines: off by its curvature, below a tenth of a voxel
        assert difference[:, safe].max(initial=0) < TOLERATED
        compared += int(safe.sum())
    assert compared > 300


def test_without_a_field_correspondence_is_the_product_of_the_matrices():
    _, batch = pairs("volumes", bent=False, count=5, seed=3)
    points = torch.rand((5, 2, 7, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9
    second_from_first = torch.linalg.inv(batch.source_from_view[:, 1]) @ batch.source_from_view[:, 0]
    voxel = torch.tensor(batch.spacing_mm, dtype=torch.float64)
    placed = torch.cat([points[:, 0] * voxel, torch.ones((5, 7, 1), dtype=torch.float64)], dim=-1)
    expected = torch.einsum("bij,bpj->bpi", second_from_first, placed)[..., :3] / voxel
    source = correspondence.source_positions_mm(batch, points)[:, :1].expand(-1, 2, -1, -1)
    torch.testing.assert_close(correspondence.view_indices(batch, source)[:, 1], expected, rtol=0, atol=1e-9)


def test_a_point_is_inside_up_to_the_edges_of_the_pixels():
    _, batch = pairs("pictures", bent=False, count=1, seed=0)
    height, width = batch.view_shape
    places = [(-0.5, 0.0), (-0.51, 0.0), (height - 0.51, 3.0), (height - 0.5, 3.0), (5.0, width - 0.5), (5.0, 1.5)]
    indices = torch.tensor(places, dtype=torch.float64).expand(1, 2, -1, -1)
    assert correspondence.inside(batch, indices)[0, 1].tolist() == [True, False, True, False, False, True]


@pytest.mark.parametrize("grid", ["pictures", "volumes"])
def test_the_overlap_of_two_views_is_what_one_pixel_after_the_other_says(grid):
    _, batch = pairs(grid, bent=True, count=4, seed=7)
    mask = correspondence.overlap(batch, 1, 0)
    assert mask.shape == (4, *batch.view_shape)
    seen = 0
    pixels = list(np.ndindex(*batch.view_shape))[::17]
    for pixel in pixels:
        indices = torch.tensor(pixel, dtype=torch.float64).expand(4, 2, 1, -1)
        source = correspondence.source_positions_mm(batch, indices)[:, 1:].expand(-1, 2, -1, -1)
        for row, landed in enumerate(correspondence.view_indices(batch, source)[:, 0, 0].tolist()):
            expected = all(-0.5 <= place < n - 0.5 for place, n in zip(landed, batch.view_shape, strict=True))
            assert bool(mask[(row, *pixel)]) == expected
            seen += expected
    assert 0.1 < seen / (4 * len(pixels)) < 0.95


def test_points_at_the_edge_of_memory_are_placed_as_a_few_are(monkeypatch):
    _, batch = pairs("pictures", bent=True, count=3, seed=1)
    indices = pixel_indices(batch)
    whole = correspondence.source_positions_mm(batch, indices)
    monkeypatch.setattr("scantling.views.elastic._CHUNK", 5000)
    assert torch.equal(correspondence.source_positions_mm(batch, indices), whole)
