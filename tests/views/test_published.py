"""Oracles: the published transforms in NumPy and SciPy, one picture at a time, and a picture of its own coordinates."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from scantling.config import Config
from scantling.data.sample import Sample
from scantling.errors import ConfigError
from scantling.seeding import numpy_generator
from scantling.views.intensity import draw_intensity
from scantling.views.maker import ViewConfig, make_views
from scantling.views.published import laid_over, published_views
from scantling.views.spatial import draw_spatial

SIDE, DRAWS = 48, 600
SEED = 0
PUBLISHED = published_views()


def picture(seed: int = 0, *, alternatives: int = 0, side: int = SIDE, dimensions: int = 2) -> Sample:
    """Smooth noise, normalised, as large as the view."""
    rng = np.random.default_rng(seed)
    shape = (side,) * dimensions
    images = [scipy.ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in range(1 + alternatives)]
    images = [torch.from_numpy((x - x.mean()) / x.std()).float()[None] for x in images]
    return Sample(
        image=images[0], label_map=torch.zeros(shape, dtype=torch.int64), weight=torch.ones(shape),
        annotated=torch.tensor([True]), spacing_mm=(1.0,) * dimensions,
        source_from_sample=torch.eye(dimensions + 1, dtype=torch.float64), case_index=seed, patient_index=seed,
        slice_position=0.5, key=(0, seed), alternatives=torch.stack(images[1:]) if alternatives else None,
    )  # fmt: skip


def looks(view: int) -> list:
    config = PUBLISHED.intensity if view == 0 else PUBLISHED.intensity_of_others
    assert config is not None
    return [draw_intensity(numpy_generator(0, "look", view, i), config, dimensions=2) for i in range(DRAWS)]


def places(n: int = DRAWS) -> list:
    return [
        draw_spatial(numpy_generator(0, "place", i), PUBLISHED, patch_size=(SIDE, SIDE), spacing_mm=(1.0, 1.0))
        for i in range(n)
    ]


def assert_uniform(values, low: float, high: float) -> None:
    """Kolmogorov-Smirnov against the uniform distribution; the draws are fixed, so this is no matter of luck."""
    assert scipy.stats.kstest(values, "uniform", args=(low, high - low), method="asymp").pvalue > 0.01


def assert_share(count: int, probability: float) -> None:
    assert scipy.stats.binomtest(count, DRAWS, probability).pvalue > 0.01


@pytest.mark.parametrize("view", [0, 1])
def test_the_effects_are_drawn_as_often_and_as_far_as_published(view):
    draws = looks(view)
    jitters = [d.jitter for d in draws if d.jitter is not None]
    blurs = [d.blur for d in draws if d.blur is not None]
    solarised = [d.solarise for d in draws if d.solarise is not None]
    assert_share(len(jitters), 0.8)
    exposures, contrasts = zip(*jitters, strict=True)
    assert_uniform(exposures, 0.6, 1.4)
    assert_uniform(contrasts, 0.6, 1.4)
    assert abs(np.corrcoef(exposures, contrasts)[0, 1]) < 0.1
    assert_share(len(blurs), 0.5)
    assert_uniform(blurs, 0.1, 2.0)
    assert set(solarised) == ({0.5} if view else set())
    if view:
        assert_share(len(solarised), 0.2)
    for name in ("bias", "low_resolution", "noise", "contrast", "brightness", "gamma", "inverted_gamma"):
        assert all(getattr(d, name) is None for d in draws)


def reference_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Area and aspect of the first of ten boxes that fits, in shares of a square image."""
    found = []
    while len(found) < n:
        for _ in range(10):
            area, ratio = rng.uniform(0.08, 1.0), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if width <= 1 and height <= 1:
                found.append((height, width, rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)))
                break
        else:
            found.append((1, 1, 0, 0))
    return np.array(found)


def test_turns_and_boxes_have_the_published_distribution():
    draws = places()
    assert_uniform([d.rotation_deg[0] for d in draws], -15, 15)
    boxes = np.array(
        [[*(length / SIDE for _, length in d.crop), *(first / SIDE for first, _ in d.crop)] for d in draws]
    )
    expected = reference_boxes(np.random.default_rng(1), DRAWS)
    quantities = {
        "area": lambda b: b[:, 0] * b[:, 1],
        "aspect": lambda b: np.log(b[:, 1] / b[:, 0]),
        "top": lambda b: b[:, 2],
        "left": lambda b: b[:, 3],
    }
    for name, of in quantities.items():
        assert scipy.stats.ks_2samp(of(boxes), of(expected), method="asymp").pvalue > 0.01, name
    assert all(d.scale == (1, 1) and d.shift_voxels == (0, 0) and d.flips == (False, False) for d in draws)
    assert all(d.elastic_mm is None for d in draws)


def published_effects(x: np.ndarray, jitter, blur, solarise) -> np.ndarray:
    """Brightness, contrast, blur, solarising of a picture whose darkest value is black and brightest is white."""
    black, white = x.min(), x.max()
    x = (x - black) / (white - black)
    if jitter is not None:
        x = np.clip(jitter[0] * x, 0, 1)
        x = np.clip(jitter[1] * x + (1 - jitter[1]) * x.mean(), 0, 1)
    if blur is not None:
        x = scipy.ndimage.gaussian_filter(x, blur, truncate=3.0, mode="nearest")
    if solarise is not None:
        low, high = x.min(), x.max()
        x = np.where((x - low) / (high - low) >= solarise, low + high - x, x)
    return black + x * (white - black)


def test_a_view_is_made_in_the_published_order_turn_and_box_then_jitter_blur_and_solarising():
    samples = [picture(i) for i in range(24)]
    no_effects = published_views(effects=False)
    plain = make_views(samples, no_effects, (SIDE, SIDE), seed=SEED)
    batch = make_views(samples, PUBLISHED, (SIDE, SIDE), seed=SEED)
    assert torch.equal(plain.source_from_view, batch.source_from_view)
    kinds = set()
    for i, sample in enumerate(samples):
        for view in range(4):
            config = PUBLISHED.intensity if view == 0 else PUBLISHED.intensity_of_others
            drawn = draw_intensity(numpy_generator(SEED, "view intensity", *sample.key, view), config, dimensions=2)
            resampled = plain.images[i, view, 0].double().numpy()
            expected = published_effects(resampled, drawn.jitter, drawn.blur, drawn.solarise)
            # a value on the threshold may fall on either side of it
            wrong = np.abs(batch.images[i, view, 0].numpy() - expected) > 1e-4
            assert wrong.mean() < (1e-3 if drawn.solarise is not None else 1e-12)
            kinds.add((drawn.jitter is not None, drawn.blur is not None, drawn.solarise is not None))
    assert len(kinds) == 8


def test_a_box_is_turned_about_its_own_middle_and_enlarged_to_the_view():
    """Four corners of each view, by the formulas of turning and scaling, against the matrices."""
    samples = [picture(i) for i in range(8)]
    batch = make_views(samples, PUBLISHED, (SIDE, SIDE), seed=2)
    for i, sample in enumerate(samples):
        for view in range(4):
            rng = numpy_generator(2, "view", *sample.key, view)
            drawn = draw_spatial(rng, PUBLISHED, patch_size=(SIDE, SIDE), spacing_mm=(1.0, 1.0))
            (top, height), (left, width) = drawn.crop
            angle = math.radians(drawn.rotation_deg[0])
            for y, x in ((0, 0), (0, SIDE - 1), (SIDE - 1, 0), (SIDE - 1, SIDE - 1)):
                from_middle = ((y + 0.5) / SIDE - 0.5) * height, ((x + 0.5) / SIDE - 0.5) * width
                expected = (
                    top - 0.5 + height / 2 + math.cos(angle) * from_middle[0] - math.sin(angle) * from_middle[1],
                    left - 0.5 + width / 2 + math.sin(angle) * from_middle[0] + math.cos(angle) * from_middle[1],
                )
                actual = batch.source_from_view[i, view] @ torch.tensor([y, x, 1.0], dtype=torch.float64)
                np.testing.assert_allclose(actual[:2].numpy(), expected, atol=1e-9)


def test_view_zero_is_the_image_itself_and_the_others_its_counterfactuals_in_turn():
    with_two, without = picture(0, alternatives=2), picture(1)
    batch = make_views([with_two, without], published_views(5), (SIDE, SIDE), seed=0)
    assert batch.image_numbers.tolist() == [[0, 1, 2, 0, 1], [0, 0, 0, 0, 0]]
    own = make_views([with_two], published_views(5, "own"), (SIDE, SIDE), seed=0)
    assert own.image_numbers.tolist() == [[0] * 5]
    assert torch.equal(own.source_from_view, batch.source_from_view[:1])


def test_volumes_are_turned_in_the_plane_of_their_slices_and_cropped_along_all_axes():
    batch = make_views([picture(i, side=16, dimensions=3) for i in range(6)], published_views(2), (12, 12, 12), seed=0)
    linear = batch.source_from_view[..., :3, :3]
    assert (linear[..., 0, 1:] == 0).all()
    assert (linear[..., 1:, 0] == 0).all()
    assert (linear[..., 1, 2] != 0).all()
    assert (linear[..., 0, 0] != 1).all()
    assert batch.images.isfinite().all()


def test_each_factor_of_the_ablation_can_be_left_out():
    still = published_views(2, rotation=False, crop=False, effects=False)
    sample = picture()
    batch = make_views([sample], still, (SIDE, SIDE), seed=0)
    assert torch.equal(batch.images[0, 0], sample.image)
    assert torch.equal(batch.images[0, 1], sample.image)
    turned, cropped = (published_views(**{name: False}) for name in ("crop", "rotation"))
    assert (turned.rotation_probability, turned.crop_probability) == (1, 0)
    assert (cropped.rotation_probability, cropped.crop_probability) == (0, 1)


_TWO = published_views(2)


class _Settings(Config):
    views: Annotated[ViewConfig, laid_over(_TWO)] = _TWO


def test_settings_say_what_differs_from_the_recipes_own_views():
    parsed = _Settings.parse({"views": {"rotation_deg": 5, "intensity": {"blur_probability": 0.1}}}, where="test")
    changed = {
        "rotation_deg": 5.0,
        "intensity": _TWO.intensity.model_copy(update={"blur_probability": 0.1}),
    }
    assert parsed.views == _TWO.model_copy(update=changed)
    assert _Settings().views == _TWO
    assert _Settings.parse({"views": ViewConfig()}, where="test").views == ViewConfig()


def test_resolved_settings_read_back_are_the_same(tmp_path):
    for settings in (_Settings(), _Settings(views=published_views(3, "own", effects=False))):
        settings.save(tmp_path / "settings.toml")
        assert _Settings.load(tmp_path / "settings.toml") == settings


def test_a_misspelt_setting_of_the_views_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"views.rotation_degg.*did you mean 'rotation_deg'"):
        _Settings.parse({"views": {"rotation_degg": 5}}, where="test")
