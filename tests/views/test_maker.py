"""Oracle of the geometry: a picture of its own coordinates, whose values say where each pixel came from."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import scipy.ndimage
import torch
from pydantic import ValidationError

from scantling.data.sample import Sample
from scantling.errors import ConfigError, PlanMismatch
from scantling.seeding import numpy_generator
from scantling.shapes import IGNORE
from scantling.views import geometry, maker
from scantling.views.intensity import IntensityConfig
from scantling.views.maker import ViewConfig, make_views
from scantling.views.spatial import draw_spatial
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
def test_two_hundred_views_say_exactly_where_each_pixel_came_from(grid):
    shape, patch, spacing = GRIDS[grid]
    size = np.array(shape)
    inside_seen = outside_seen = 0
    samples = [coordinate_sample(shape, spacing, i) for i in range(50)]
    for seed in range(2):
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
    assert inside_seen > 20_000
    assert outside_seen > 200


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


EVERYWHERE = MOVING.model_copy(
    update={
        "crop_probability": 0.6,
        "crop_area": (0.2, 0.9),
        "elastic_probability": 0.6,
        "elastic_mm": 1.2,
        "elastic_spacing_mm": 10.0,
    }
)


def mixed_samples() -> list[Sample]:
    shapes = [(40, 36), (37, 36), (40, 36), (22, 50), (40, 36), (37, 36)]
    return [noisy_sample(shape, (1.0, 1.3), i) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("config", [MOVING, EVERYWHERE])
def test_the_geometry_of_a_view_does_not_depend_on_its_batch(config):
    samples = mixed_samples()
    together = make_views(samples, config, (24, 20), seed=5)
    turned = make_views(samples[::-1], config, (24, 20), seed=5)
    for row, sample in enumerate(samples):
        alone = make_views([sample], config, (24, 20), seed=5)
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


def with_alternatives(sample: Sample, count: int) -> Sample:
    generator = torch.Generator().manual_seed(100 + sample.case_index)
    others = torch.randn((count, *sample.image.shape), generator=generator)
    return Sample(**{**vars(sample), "alternatives": others})


def assert_the_same_views(actual: ViewBatch, expected: ViewBatch) -> None:
    assert torch.equal(actual.source_from_view, expected.source_from_view)
    assert torch.equal(actual.displacements, expected.displacements)
    assert torch.equal(actual.image_numbers, expected.image_numbers)
    # a pixel exactly between two voxels may round either way
    assert (actual.label_maps != expected.label_maps).double().mean() < 1e-3
    assert ((actual.weights - expected.weights).abs() > 1e-6).double().mean() < 1e-3
    assert ((actual.images - expected.images).abs() > 1e-3).double().mean() < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("grid", GRIDS)
def test_views_made_on_a_gpu_are_those_made_on_the_cpu(grid):
    shape, patch, spacing = GRIDS[grid]
    samples = [with_alternatives(noisy_sample(shape, spacing, i), 1 + i % 2) for i in range(6)]
    config = EVERYWHERE.model_copy(update={"intensity": IntensityConfig(), "image_of_view": "each", "n_views": 3})
    expected = make_views(samples, config, patch, seed=0)
    actual = make_views(samples, config, patch, seed=0, device="cuda").to(torch.device("cpu"))
    assert_the_same_views(actual, expected)


@pytest.mark.parametrize("grid", GRIDS)
def test_views_made_all_together_are_those_made_one_by_one(grid, monkeypatch):
    shape, patch, spacing = GRIDS[grid]
    samples = [with_alternatives(noisy_sample(shape, spacing, i), 1 + i % 2) for i in range(5)]
    samples.append(with_alternatives(noisy_sample(tuple(n + 3 for n in shape), spacing, 5), 2))
    config = EVERYWHERE.model_copy(update={"intensity": UNCHANGED, "image_of_view": "each", "n_views": 3})
    expected = make_views(samples, config, patch, seed=0)
    monkeypatch.setattr(maker, "_one_by_one", maker._together)
    assert_the_same_views(make_views(samples, config, patch, seed=0), expected)


def test_views_show_the_images_of_their_anatomy_in_turn_with_the_labels_of_the_case():
    plain = [noisy_sample((30, 28), (1.0, 1.0), i) for i in range(3)]
    samples = [plain[0], with_alternatives(plain[1], 1), with_alternatives(plain[2], 3)]
    each = ViewConfig(n_views=3, image_of_view="each", intensity=UNCHANGED)
    batch = make_views(samples, each, (20, 18), seed=0, train=False)
    assert batch.image_numbers.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 2]]
    middle = (slice(5, 25), slice(5, 23))
    for row, sample in enumerate(samples):
        for view, number in enumerate(batch.image_numbers[row].tolist()):
            image = sample.image if number == 0 else sample.alternatives[number - 1]
            assert torch.equal(batch.images[row, view], image[(slice(None), *middle)])
            assert torch.equal(batch.label_maps[row, view], sample.label_map[middle])
            assert torch.equal(batch.weights[row, view], sample.weight[middle])
    # which image is shown changes nothing else
    config = MOVING.model_copy(update={"n_views": 3})
    own = make_views(samples, config, (20, 18), seed=0)
    turned = make_views(samples, config.model_copy(update={"image_of_view": "each"}), (20, 18), seed=0)
    assert own.image_numbers.tolist() == [[0, 0, 0]] * 3
    assert torch.equal(own.label_maps, turned.label_maps)
    assert torch.equal(own.source_from_view, turned.source_from_view)
    assert torch.equal(own.images[:, 0], turned.images[:, 0])
    assert not torch.equal(own.images[1, 1], turned.images[1, 1])


def test_any_view_shows_one_of_the_alternatives_with_the_probability_that_is_set():
    plain = [noisy_sample((4, 4), (1.0, 1.0), i) for i in range(600)]
    samples = [with_alternatives(sample, i % 4) if i % 4 else sample for i, sample in enumerate(plain)]
    some = STILL.model_copy(update={"n_views": 4, "image_of_view": "any"})
    numbers = torch.tensor(maker._image_numbers(samples, some, seed=0, train=True)).reshape(600, 4)
    assert some.alternative_probability == 0.5
    assert (numbers[0::4] == 0).all()  # nothing else to show
    for count in (1, 2, 3):
        shown = torch.bincount(numbers[count::4].flatten(), minlength=count + 1).double()
        assert len(shown) == count + 1
        share = torch.tensor([0.5] + [0.5 / count] * count)
        # four standard deviations of a binomial
        assert ((shown / 600 - share).abs() < 4 * (share * (1 - share) / 600).sqrt()).all()
    alike = (numbers[1::4, 0] == 0) == (numbers[1::4, 1] == 0)
    assert 0.35 < alike.double().mean() < 0.65  # each view draws for itself
    for probability, low, high in ((0.0, 0, 0), (1.0, 1, 3)):
        config = some.model_copy(update={"alternative_probability": probability})
        drawn = make_views(samples[3:40:4], config, (4, 4), seed=0).image_numbers
        assert (drawn.min(), drawn.max()) == (low, high)


def test_what_any_view_shows_is_drawn_by_its_key_and_changes_nothing_else(monkeypatch):
    samples = [with_alternatives(noisy_sample((30, 28), (1.0, 1.0), i), 2) for i in range(6)]
    config = MOVING.model_copy(update={"n_views": 3, "image_of_view": "any"})
    batch = make_views(samples, config, (20, 18), seed=0)
    assert set(batch.image_numbers.unique().tolist()) == {0, 1, 2}
    turned = make_views(samples[::-1], config, (20, 18), seed=0)
    assert torch.equal(turned.images.flip(0), batch.images)
    assert torch.equal(turned.image_numbers.flip(0), batch.image_numbers)
    assert not torch.equal(make_views(samples, config, (20, 18), seed=1).image_numbers, batch.image_numbers)
    own = make_views(samples, config.model_copy(update={"image_of_view": "own"}), (20, 18), seed=0)
    assert torch.equal(own.label_maps, batch.label_maps)
    assert torch.equal(own.source_from_view, batch.source_from_view)
    same = batch.image_numbers == 0
    assert torch.equal(own.images[same], batch.images[same])
    # a view of alternative k is the view of a sample whose own image that is
    for number in (1, 2):
        swapped = [Sample(**{**vars(sample), "image": sample.alternatives[number - 1]}) for sample in samples]
        views = make_views(swapped, config.model_copy(update={"image_of_view": "own"}), (20, 18), seed=0)
        shown = batch.image_numbers == number
        assert torch.equal(views.images[shown], batch.images[shown])
    still = make_views(samples, config, (20, 18), seed=0, train=False)
    assert (still.image_numbers == 0).all()
    monkeypatch.setattr(maker, "_one_by_one", maker._together)
    bent = EVERYWHERE.model_copy(update={"intensity": UNCHANGED, "image_of_view": "any", "n_views": 3})
    expected = make_views(samples, bent, (20, 18), seed=0)
    monkeypatch.undo()
    assert_the_same_views(make_views(samples, bent, (20, 18), seed=0), expected)


def test_an_impossible_probability_or_kind_of_alternatives_is_refused():
    for wrong in ({"alternative_probability": 1.5}, {"alternative_probability": -0.1}, {"image_of_view": "some"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            ViewConfig(**wrong)


def test_contexts_go_with_their_samples():
    plain = [noisy_sample((30, 28), (1.0, 1.0), i) for i in range(3)]
    told = [Sample(**{**vars(one), "context": torch.tensor([1.0, float(i), -2.0])}) for i, one in enumerate(plain)]
    batch = make_views(told, ViewConfig(n_views=2), (20, 18), seed=0)
    assert batch.contexts.tolist() == [[1.0, 0.0, -2.0], [1.0, 1.0, -2.0], [1.0, 2.0, -2.0]]
    assert torch.equal(batch.to(torch.device("cpu")).contexts, batch.contexts)
    without = make_views(plain, ViewConfig(n_views=2), (20, 18), seed=0)
    assert without.contexts is None
    assert torch.equal(without.images, batch.images)
    with pytest.raises(
        PlanMismatch, match=r"sample \(3, 1\): its context has no values, but .* \(3, 0\) .* 3; a batch"
    ):
        make_views([told[0], plain[1]], ViewConfig(), (20, 18), seed=0)
    with pytest.raises(PlanMismatch, match=r"sample \(3, 1\): its context has 3 values, but .* none; a batch"):
        make_views([plain[0], told[1]], ViewConfig(), (20, 18), seed=0)
    short = Sample(**{**vars(told[1]), "context": torch.zeros(2)})
    with pytest.raises(PlanMismatch, match="its context has 2 values, but"):
        make_views([told[0], short], ViewConfig(), (20, 18), seed=0)


def test_the_intensities_of_the_other_views_can_have_ranges_of_their_own():
    brighter = UNCHANGED.model_copy(update={"contrast_probability": 1.0, "contrast": (2.0, 2.0)})
    samples = [noisy_sample((30, 28), (1.0, 1.0), i) for i in range(2)]
    plain = make_views(samples, STILL.model_copy(update={"n_views": 3}), (20, 18), seed=0)
    config = STILL.model_copy(update={"n_views": 3, "intensity_of_others": brighter})
    batch = make_views(samples, config, (20, 18), seed=0)
    assert torch.equal(batch.images[:, 0], plain.images[:, 0])
    mean = plain.images.mean(dim=(3, 4), keepdim=True)
    expected = mean + 2 * (plain.images - mean)
    torch.testing.assert_close(batch.images[:, 1:], expected[:, 1:], rtol=1e-5, atol=1e-5)


LOOK_OF_FIRST = UNCHANGED.model_copy(
    update={
        "brightness_probability": 0.8,
        "brightness": 0.4,
        "contrast_probability": 0.8,
        "contrast": (0.6, 1.4),
        "blur_probability": 0.5,
        "blur": (0.1, 2.0),
    }
)
PUBLISHED = ViewConfig(
    n_views=4,
    rotation_probability=1,
    rotation_deg=15,
    scale_probability=0,
    translate_probability=0,
    crop_probability=1,
    crop_area=(0.08, 1.0),
    crop_aspect=4 / 3,
    intensity=LOOK_OF_FIRST,
    intensity_of_others=LOOK_OF_FIRST.model_copy(update={"solarise_probability": 0.2, "solarise": (0.5, 0.5)}),
    image_of_view="each",
)
"""Pixel-level counterfactual contrast: the real image under T1, three counterfactuals under T2."""


def test_the_published_transforms_of_a_dual_view_are_settings_of_ours():
    shape, patch = (64, 64), (28, 28)
    samples = [with_alternatives(noisy_sample(shape, (1.0, 1.0), i), 3) for i in range(40)]
    again = ViewConfig.parse(tomllib.loads(PUBLISHED.to_toml()), where="test")
    assert again == PUBLISHED
    batch = make_views(samples, PUBLISHED, patch, seed=0)
    assert batch.images.shape == (40, 4, 2, 28, 28)
    assert batch.image_numbers.tolist() == [[0, 1, 2, 3]] * 40
    sample_from_source = geometry.invert(torch.stack([s.source_from_sample for s in samples]))[:, None]
    matrices = geometry.compose(sample_from_source.expand(-1, 4, -1, -1), batch.source_from_view)
    linear = matrices[..., :2, :2].flatten(0, 1).numpy()
    # linear = rotation @ sides: the determinant is the area, the columns' lengths the sides, their turn the angle
    area = np.linalg.det(linear) * np.prod(patch) / np.prod(shape)
    sides = np.linalg.norm(linear, axis=1)
    angle = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    assert 0.08 <= area.min() < 0.2 < 0.8 < area.max() <= 1
    assert 3 / 4 - 1e-9 <= (sides[:, 0] / sides[:, 1]).min() < 0.8 < 1.25 < (sides[:, 0] / sides[:, 1]).max() <= 4 / 3
    assert -15 <= angle.min() < -13 < 13 < angle.max() <= 15


def test_a_view_is_the_published_rotation_and_crop_composed():
    """The method's matrix leads from image to view in [0, 1]^2, x first: `crop @ T(.5) @ R @ T(-.5)`."""
    sample = noisy_sample((64, 64), (1.0, 1.0), 0)
    batch = make_views([sample], PUBLISHED.model_copy(update={"image_of_view": "own"}), (28, 28), seed=3)
    for view in range(4):
        rng = numpy_generator(3, "view", *sample.key, view)
        draw = draw_spatial(rng, PUBLISHED, patch_size=(28, 28), spacing_mm=(1.0, 1.0), sample_shape=(64, 64))
        turn = np.radians(-draw.rotation_deg[0])  # it turns the image, ours turns the view
        rotation = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        centred = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        rotated_from_image = centred @ rotation @ np.linalg.inv(centred)
        (top, height), (left, width) = draw.crop
        # ours turns the box about its own centre, the method the image about its own: the same view of a moved box
        middle = rotated_from_image @ [(left + width / 2) / 64, (top + height / 2) / 64, 1]
        box = np.array([[64 / width, 0, 0.5], [0, 64 / height, 0.5], [0, 0, 1]])
        view_from_rotated = box @ np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1]])
        view_from_image = view_from_rotated @ rotated_from_image
        points = np.random.default_rng(view).uniform(0, 28, (5, 2)) - 0.5
        in_view = np.column_stack([(points[:, ::-1] + 0.5) / 28, np.ones(5)])
        expected = (np.linalg.inv(view_from_image) @ in_view.T).T[:, 1::-1] * 64 - 0.5
        place = geometry.transform_points(batch.source_from_view[0, view], torch.from_numpy(points))
        offset = sample.source_from_sample[:2, 2].numpy()
        np.testing.assert_allclose(place.numpy() - offset, expected, atol=1e-9)


def test_what_is_switched_off_changes_no_number_that_is_drawn():
    """Crop, elastic field and images of the anatomy draw after all that was drawn before they existed."""
    rng = numpy_generator(0, "view", 3, 0, 0)
    gates, angles = rng.random(4), rng.uniform(-1, 1, 3)
    config = ViewConfig(rotation_probability=1, crop_probability=1, elastic_probability=1)
    place = {"patch_size": (40, 36), "spacing_mm": (1.0, 1.0)}
    draw = draw_spatial(numpy_generator(0, "view", 3, 0, 0), config, **place)
    off = draw_spatial(numpy_generator(0, "view", 3, 0, 0), ViewConfig(rotation_probability=1), **place)
    assert draw.rotation_deg == off.rotation_deg == (20 * angles[0],)
    assert (gates[2] < 0.5) == (off.scale != (1.0, 1.0))
    assert (draw.scale, draw.shift_voxels, draw.flips) == (off.scale, off.shift_voxels, off.flips)
    assert off.crop is None
    assert off.elastic_mm is None
    assert draw.crop is not None
    assert draw.elastic_mm is not None


def test_a_batch_without_a_bent_view_has_no_displacements_and_moves_as_a_whole():
    samples = [noisy_sample((30, 28), (1.0, 1.0), i) for i in range(2)]
    straight = make_views(samples, MOVING, (20, 18), seed=0)
    assert straight.displacements is None
    bent = make_views(samples, EVERYWHERE, (20, 18), seed=0)
    moved = bent.to(torch.device("cpu"))
    assert torch.equal(moved.displacements, bent.displacements)
    assert moved.view_shape == (20, 18)
    assert straight.to(torch.device("cpu")).displacements is None


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
    with pytest.raises(ConfigError, match=r"elastic_mm = 4: .* along 2 axes a view may fold above 1\.88 mm"):
        make_views([one], ViewConfig(elastic_probability=1, elastic_spacing_mm=10), (24, 20), seed=0)
    short = with_alternatives(one, 2)
    object.__setattr__(short, "alternatives", short.alternatives[..., 1:])
    with pytest.raises(PlanMismatch, match=r"size \[2, 40, 35\] but its image has \[2, 40, 36\]"):
        make_views([short], ViewConfig(), (24, 20), seed=0)
