"""Oracle of the geometry: a picture of its own coordinates, whose values say where each pixel came from."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from scantling.data.sample import Sample
from scantling.errors import ConfigError, PlanMismatch
from scantling.shapes import IGNORE
from scantling.views import geometry
from scantling.views.intensity import IntensityConfig
from scantling.views.maker import ViewConfig, make_views
from scantling.views.view import ViewBatch

UNCHANGED = IntensityConfig(**{name: 0.0 for name in IntensityConfig.model_fields if name.endswith("_probability")})
MOVING = ViewConfig(
    n_views=2,
    rotation_probability=0.8,
    rotation_deg=180,
    rotation_3d_probability=0.5,
    rotation_3d_deg=180,
    scale_probability=0.8,
    scale=(0.7, 1.6),
    aspect=1.3,
    translate_probability=0.8,
    translate=0.35,
    flip_axes=(0, 1),
    intensity=UNCHANGED,
)
STILL = ViewConfig(
    rotation_probability=0,
    rotation_3d_probability=0,
    scale_probability=0,
    translate_probability=0,
    intensity=UNCHANGED,
)
GRIDS = {
    "picture": ((40, 36), (24, 20), (1.0, 1.0)),
    "picture with oblong pixels": ((40, 36), (24, 20), (0.8, 1.7)),
    "volume": ((18, 20, 16), (12, 10, 11), (1.0, 0.9, 1.1)),
    "volume with thick slices": ((9, 30, 28), (6, 20, 18), (8.0, 1.4, 1.4)),
}


def coordinate_sample(shape: tuple[int, ...], spacing: tuple[float, ...], number: int) -> Sample:
    """Channels are the voxel's own indices, its label is its number in the array."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    source_from_sample = torch.eye(len(shape) + 1, dtype=torch.float64)
    source_from_sample[:-1, -1] = torch.arange(1, len(shape) + 1) * (10.0 + number)
    return Sample(
        image=torch.stack(axes),
        label_map=torch.arange(int(np.prod(shape))).reshape(shape),
        weight=torch.full(shape, 0.7),
        annotated=torch.tensor([True, True, False]),
        spacing_mm=spacing,
        source_from_sample=source_from_sample,
        case_index=number,
        patient_index=number // 2,
        slice_position=0.25,
        key=(3, number),
    )


def noisy_sample(shape: tuple[int, ...], spacing: tuple[float, ...], number: int) -> Sample:
    generator = torch.Generator().manual_seed(number)
    plain = coordinate_sample(shape, spacing, number)
    image = torch.randn((2, *shape), generator=generator)
    label_map = torch.randint(-1, 3, shape, generator=generator)
    return Sample(**{**vars(plain), "image": image, "label_map": label_map})


def sample_indices(batch: ViewBatch, samples: list[Sample]) -> np.ndarray:
    """Where the matrices say each pixel lies, in voxels of its sample `[sample, view, pixel, axis]`."""
    rows, views, *patch = batch.label_maps.shape
    centres = geometry.pixel_centres_mm(patch, batch.spacing_mm).expand(rows, views, -1, -1)
    in_source = geometry.transform_points(batch.source_from_view, centres)
    sample_from_source = geometry.invert(torch.stack([s.source_from_sample for s in samples]))
    sample_from_source = sample_from_source[:, None].expand(-1, views, -1, -1)
    in_sample = geometry.transform_points(sample_from_source, in_source)
    return geometry.indices_from_mm(in_sample, batch.spacing_mm).numpy()


@pytest.mark.parametrize("grid", GRIDS)
def test_a_thousand_views_say_exactly_where_each_pixel_came_from(grid):
    shape, patch, spacing = GRIDS[grid]
    size = np.array(shape)
    inside_seen = outside_seen = 0
    samples = [coordinate_sample(shape, spacing, i) for i in range(50)]
    for seed in range(10):
        batch = make_views(samples, MOVING, patch, seed=seed)
        claimed = sample_indices(batch, samples)
        shown = batch.images.flatten(3).transpose(2, 3).numpy()
        within = ((claimed >= 0) & (claimed <= size - 1)).all(axis=-1)
        assert np.abs(shown - claimed)[within].max() < 1e-3

        labels, weights = batch.label_maps.flatten(2).numpy(), batch.weights.flatten(2).numpy()
        covered = labels != IGNORE
        nearest = np.stack(np.unravel_index(labels[covered], shape), axis=-1)
        assert np.abs(nearest - claimed[covered]).max() <= 0.5 + 1e-4
        assert (weights[covered] == np.float32(0.7)).all()
        assert (weights[~covered] == 0).all()
        beyond = np.maximum(-0.5 - claimed, claimed - (size - 0.5)).max(axis=-1)
        assert covered[beyond < -1e-4].all()
        assert not covered[beyond > 1e-4].any()
        inside_seen += int(within.sum())
        outside_seen += int((~covered).sum())
    assert inside_seen > 100_000
    assert outside_seen > 1_000


@pytest.mark.parametrize("grid", GRIDS)
def test_the_same_point_shows_the_same_place_in_both_views_of_a_pair(grid):
    shape, patch, spacing = GRIDS[grid]
    samples = [coordinate_sample(shape, spacing, i) for i in range(40)]
    batch = make_views(samples, MOVING, patch, seed=2)
    first, second = batch.source_from_view[:, 0], batch.source_from_view[:, 1]
    second_from_first = geometry.compose(geometry.invert(second), first)
    claims = sample_indices(batch, samples)
    compared = 0
    for row in range(len(samples)):
        centres = geometry.pixel_centres_mm(patch, spacing)
        landed = geometry.indices_from_mm(geometry.transform_points(second_from_first[row], centres), spacing).numpy()
        shown = batch.images[row, 0].reshape(len(shape), -1).numpy()
        again = np.stack([scipy.ndimage.map_coordinates(c.numpy(), landed.T, order=1) for c in batch.images[row, 1]])
        claimed = claims[row, 0]
        # two linear interpolations of a linear picture agree where no zero from outside is mixed in
        safe = ((claimed >= 3) & (claimed <= np.array(shape) - 4)).all(axis=1)
        safe &= ((landed >= 0) & (landed <= np.array(patch) - 1)).all(axis=1)
        assert np.abs(shown - again)[:, safe].max(initial=0) < 1e-3
        compared += int(safe.sum())
    assert compared > 1000


@pytest.mark.parametrize("grid", GRIDS)
def test_the_overlap_of_a_view_with_its_sample_is_where_it_has_weight(grid):
    shape, patch, spacing = GRIDS[grid]
    samples = [coordinate_sample(shape, spacing, i) for i in range(10)]
    batch = make_views(samples, MOVING, patch, seed=3)
    sample_from_source = geometry.invert(torch.stack([s.source_from_sample for s in samples]))
    mask = geometry.overlap_mask(
        geometry.compose(sample_from_source, batch.source_from_view[:, 1]),
        first_shape=patch,
        first_spacing_mm=spacing,
        second_shape=shape,
        second_spacing_mm=spacing,
    )
    differing = mask != (batch.weights[:, 1] > 0)
    assert differing.double().mean() < 1e-4  # a pixel exactly on the border may round either way


@pytest.mark.parametrize("grid", GRIDS)
def test_without_training_a_view_is_the_middle_of_its_sample_bit_for_bit(grid):
    shape, patch, spacing = GRIDS[grid]
    samples = [noisy_sample(shape, spacing, i) for i in range(3)]
    batch = make_views(samples, ViewConfig(n_views=2), patch, seed=1, train=False)
    middle = tuple(slice((s - p) // 2, (s - p) // 2 + p) for s, p in zip(shape, patch, strict=True))
    for row, sample in enumerate(samples):
        for view in range(2):
            assert torch.equal(batch.images[row, view], sample.image[(slice(None), *middle)])
            assert torch.equal(batch.label_maps[row, view], sample.label_map[middle])
            assert torch.equal(batch.weights[row, view], sample.weight[middle])
    assert batch.case_indices.tolist() == [0, 1, 2]
    assert batch.patient_indices.tolist() == [0, 0, 1]
    assert batch.slice_positions.tolist() == [0.25] * 3
    assert batch.annotated.tolist() == [[True, True, False]] * 3
    assert batch.spacing_mm == spacing


def test_a_sample_smaller_than_the_view_is_padded_with_zero_ignore_and_no_weight():
    sample = noisy_sample((5, 10), (1.0, 1.0), 0)
    batch = make_views([sample], ViewConfig(), (8, 6), seed=0, train=False)
    assert torch.equal(batch.images[0, 0, :, 2:7], sample.image[:, :, 2:8])
    assert torch.equal(batch.label_maps[0, 0, 2:7], sample.label_map[:, 2:8])
    outside = torch.tensor([0, 1, 7])
    assert not batch.images[0, 0][:, outside].any()
    assert (batch.label_maps[0, 0, outside] == IGNORE).all()
    assert not batch.weights[0, 0, outside].any()
    assert batch.source_from_view[0, 0, :2, 2].tolist() == [10.0 - 2, 20.0 + 2]


def test_moved_and_mirrored_views_are_copies_without_interpolation():
    config = STILL.model_copy(
        update={"translate_probability": 1.0, "translate": 0.3, "flip_axes": (0, 1), "n_views": 4}
    )
    shape, patch, spacing = GRIDS["picture with oblong pixels"]
    batch = make_views([coordinate_sample(shape, spacing, i) for i in range(8)], config, patch, seed=0)
    covered = batch.weights > 0
    numbers = batch.images[:, :, 0] * shape[1] + batch.images[:, :, 1]
    assert torch.equal(numbers[covered], batch.label_maps[covered].float())


def mixed_samples() -> list[Sample]:
    shapes = [(40, 36), (37, 36), (40, 36), (22, 50), (40, 36), (37, 36)]
    return [noisy_sample(shape, (1.0, 1.3), i) for i, shape in enumerate(shapes)]


def test_the_geometry_of_a_view_does_not_depend_on_its_batch():
    samples = mixed_samples()
    together = make_views(samples, MOVING, (24, 20), seed=5)
    turned = make_views(samples[::-1], MOVING, (24, 20), seed=5)
    for row, sample in enumerate(samples):
        alone = make_views([sample], MOVING, (24, 20), seed=5)
        for name in ("images", "label_maps", "weights", "source_from_view"):
            expected = getattr(alone, name)[0]
            assert torch.equal(getattr(together, name)[row], expected)
            assert torch.equal(getattr(turned, name)[len(samples) - 1 - row], expected)


def test_the_intensities_of_a_view_do_not_depend_on_its_batch():
    samples = mixed_samples()
    often = IntensityConfig(**{name: 0.5 for name in IntensityConfig.model_fields if name.endswith("_probability")})
    config = STILL.model_copy(update={"intensity": often, "n_views": 2})
    together = make_views(samples, config, (24, 20), seed=6)
    plain = make_views(samples, config, (24, 20), seed=6, train=False)
    assert not torch.allclose(together.images, plain.images)
    assert torch.equal(together.label_maps, plain.label_maps)
    assert torch.equal(together.source_from_view, plain.source_from_view)
    for row, sample in enumerate(samples):
        alone = make_views([sample], config, (24, 20), seed=6)
        torch.testing.assert_close(together.images[row], alone.images[0], rtol=1e-5, atol=1e-5)


def test_the_same_key_gives_the_same_bits_and_another_key_seed_or_view_does_not():
    sample = noisy_sample((40, 36), (1.0, 1.0), 0)
    config = ViewConfig(
        n_views=2, rotation_probability=1, intensity=IntensityConfig(noise_probability=1, blur_probability=1)
    )
    state = torch.get_rng_state()
    views = make_views([sample], config, (24, 20), seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    again = make_views([sample], config, (24, 20), seed=0)
    for name in ("images", "label_maps", "weights", "source_from_view"):
        assert torch.equal(getattr(views, name), getattr(again, name))
    other_key = make_views([Sample(**{**vars(sample), "key": (4, 0)})], config, (24, 20), seed=0)
    other_seed = make_views([sample], config, (24, 20), seed=1)
    for other in (other_key, other_seed):
        assert not torch.allclose(views.source_from_view, other.source_from_view)
        assert not torch.allclose(views.images, other.images)
    assert not torch.allclose(views.source_from_view[:, 0], views.source_from_view[:, 1])


def test_labels_only_take_values_of_the_source_and_integers_of_any_width_are_read():
    sample = noisy_sample((40, 36), (1.0, 1.0), 1)
    narrow = Sample(**{**vars(sample), "label_map": sample.label_map.to(torch.int8)})
    views = make_views([sample], MOVING, (24, 20), seed=0)
    assert set(views.label_maps.unique().tolist()) <= {IGNORE, 0, 1, 2}
    assert views.label_maps.dtype == torch.int64
    assert torch.equal(make_views([narrow], MOVING, (24, 20), seed=0).label_maps, views.label_maps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("grid", GRIDS)
def test_views_made_on_a_gpu_are_those_made_on_the_cpu(grid):
    shape, patch, spacing = GRIDS[grid]
    samples = [noisy_sample(shape, spacing, i) for i in range(6)]
    config = MOVING.model_copy(update={"intensity": IntensityConfig()})
    expected = make_views(samples, config, patch, seed=0)
    actual = make_views(samples, config, patch, seed=0, device="cuda").to(torch.device("cpu"))
    torch.testing.assert_close(actual.source_from_view, expected.source_from_view, rtol=0, atol=0)
    assert (actual.label_maps != expected.label_maps).double().mean() < 1e-3
    assert ((actual.images - expected.images).abs() > 1e-3).double().mean() < 1e-3


def test_what_does_not_belong_together_is_refused_in_one_sentence():
    one, other = noisy_sample((40, 36), (1.0, 1.0), 0), noisy_sample((40, 36), (1.0, 2.0), 1)
    with pytest.raises(PlanMismatch, match="got no samples"):
        make_views([], ViewConfig(), (24, 20), seed=0)
    with pytest.raises(PlanMismatch, match=r"sample \(3, 1\).*spacing \[1.0, 2.0\] mm"):
        make_views([one, other], ViewConfig(), (24, 20), seed=0)
    with pytest.raises(PlanMismatch, match="has 2 axes but patch size"):
        make_views([one], ViewConfig(), (8, 24, 20), seed=0)
    with pytest.raises(ConfigError, match=r"flip_axes = \[2\]: views have 2 axes"):
        make_views([one], ViewConfig(flip_axes=(2,)), (24, 20), seed=0)
