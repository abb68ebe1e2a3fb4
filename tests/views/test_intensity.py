"""Oracles: plain NumPy formulas one image at a time, and SciPy's Gaussian filter."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from scantling.errors import ConfigError
from scantling.seeding import numpy_generator
from scantling.views import intensity
from scantling.views.intensity import IntensityConfig, IntensityDraw, apply_intensity, draw_intensity

SHAPES = [(11, 14), (7, 9, 8)]
ALWAYS = IntensityConfig(
    **{name: 1.0 for name in IntensityConfig.model_fields if name.endswith("_probability")}, bias=0.2
)


def some_images(shape: tuple[int, ...], *, count: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(0.3, 1.2, (count, 2, *shape)).astype(np.float32))


def each(images: torch.Tensor):
    """Every image and channel as float64, with the number of its image."""
    for b, image in enumerate(images.numpy()):
        for c, channel in enumerate(image):
            yield b, c, channel.astype(np.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_brightness_noise_and_solarise_follow_their_formulas(shape):
    images = some_images(shape)
    values = torch.tensor([0.7, 0.9, 0.3])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    contrast = intensity.scale_contrast(images, values)
    bright = intensity.shift_brightness(images, values)
    noisy = intensity.add_noise(images, values, noise)
    solar = intensity.solarise(images, values)
    for b, c, x in each(images):
        v = values[b].item()
        np.testing.assert_allclose(contrast[b, c], (x - x.mean()) * v + x.mean(), atol=1e-5)
        np.testing.assert_allclose(bright[b, c], x + v, atol=1e-6)
        np.testing.assert_allclose(noisy[b, c], x + v * noise[b, c].numpy(), atol=1e-6)
        mirrored = np.where((x - x.min()) / np.ptp(x) >= v, x.min() + x.max() - x, x)
        np.testing.assert_allclose(solar[b, c], mirrored, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_bends_the_range_and_restores_the_statistics_on_request(shape):
    images = some_images(shape)
    exponents = torch.tensor([0.5, 1.0, 1.7])
    plain = intensity.gamma_curve(images, exponents, keep_statistics=False)
    kept = intensity.gamma_curve(images, exponents)
    inverted = intensity.inverted_gamma_curve(images, exponents)
    for b, c, x in each(images):
        g = exponents[b].item()
        curved = ((x - x.min()) / np.ptp(x)) ** g
        np.testing.assert_allclose(plain[b, c], curved * np.ptp(x) + x.min(), atol=1e-5)
        standard = (curved - curved.mean()) / curved.std()
        np.testing.assert_allclose(kept[b, c], standard * x.std() + x.mean(), atol=1e-5)
        curved = 1 - ((x.max() - x) / np.ptp(x)) ** g
        standard = (curved - curved.mean()) / curved.std()
        np.testing.assert_allclose(inverted[b, c], standard * x.std() + x.mean(), atol=1e-5)
    torch.testing.assert_close(kept[1], images[1], rtol=0, atol=1e-5)


def test_gamma_and_solarise_leave_a_constant_image():
    flat = torch.full((1, 1, 5, 5), 0.4)
    for transform in (intensity.gamma_curve, intensity.inverted_gamma_curve, intensity.solarise):
        torch.testing.assert_close(transform(flat, torch.tensor([0.7])), flat, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_blur_is_scipys_gaussian_of_each_images_own_width_per_axis(shape):
    images = some_images(shape)
    sigma = torch.tensor([[0.5, 0.9, 0.1], [1.6, 0.4, 1.0], [0.05, 0.1, 0.15]])[:, : len(shape)]
    blurred = intensity.gaussian_blur(images, sigma)
    for b, c, x in each(images):
        expected = scipy.ndimage.gaussian_filter(x, sigma[b].numpy(), truncate=3.0, mode="nearest")
        np.testing.assert_allclose(blurred[b, c], expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "kept_axes"), [((11, 14), 0), ((7, 9, 8), 0), ((7, 9, 8), 1)])
def test_low_resolution_takes_the_nearest_voxels_and_joins_them_by_straight_lines(shape, kept_axes):
    images = some_images(shape)
    factors = [0.5, 0.8, 1.0]
    coarse = intensity.low_resolution(images, factors, kept_axes=kept_axes)
    for b, c, x in each(images):
        for axis in range(kept_axes, x.ndim):
            n = x.shape[axis]
            small = max(1, round(n * factors[b]))
            taken = np.floor((np.arange(small) + 0.5) * n / small).astype(int)
            positions = (np.arange(n) + 0.5) * small / n - 0.5
            x = np.apply_along_axis(
                lambda line, at=positions, of=taken: np.interp(at, np.arange(len(of)), line[of]), axis, x
            )
        np.testing.assert_allclose(coarse[b, c], x, atol=1e-5)
    torch.testing.assert_close(coarse[2], images[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bias_field_is_the_exponential_of_its_polynomial(shape):
    rng = np.random.default_rng(5)
    images = some_images(shape)
    coefficients = rng.uniform(-0.2, 0.2, (3, *[4] * len(shape)))
    biased = intensity.bias_field(images, torch.from_numpy(coefficients).float())
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    value = np.polynomial.polynomial.polyval2d if len(shape) == 2 else np.polynomial.polynomial.polyval3d
    for b, c, x in each(images):
        expected = x.min() + (x - x.min()) * np.exp(value(*axes, coefficients[b]))
        np.testing.assert_allclose(biased[b, c], expected, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_jitter_multiplies_what_is_above_black_then_the_distance_from_the_mean_and_cuts_the_rest(
    shape,
):
    images = some_images(shape)
    exposures, contrasts = torch.tensor([0.6, 1.0, 1.4]), torch.tensor([1.3, 0.7, 1.4])
    jittered = intensity.jitter(images, exposures, contrasts)
    for b, c, x in each(images):
        raw = (x - x.min()) / np.ptp(x)
        raw = np.clip(raw * exposures[b].item(), 0, 1)
        raw = np.clip(contrasts[b].item() * raw + (1 - contrasts[b].item()) * raw.mean(), 0, 1)
        np.testing.assert_allclose(jittered[b, c], raw * np.ptp(x) + x.min(), atol=1e-5)
    assert (jittered[2] == images[2].flatten(1).amax(dim=1)[:, *[None] * len(shape)]).any()
    one = torch.ones(3)
    torch.testing.assert_close(intensity.jitter(images, one, one), images)
    flat = torch.full((1, 1, 5, 5), 0.4)
    torch.testing.assert_close(intensity.jitter(flat, torch.tensor([1.4]), torch.tensor([0.6])), flat)


def test_what_was_drawn_before_there_was_a_jitter_is_drawn_still():
    """The first draws of the generator, in their order, by hand: gates, values, bias coefficients, noise seed."""
    rng = numpy_generator(0, "test", 7)
    gates, values = rng.random(9), rng.random(9)
    coefficients = rng.uniform(-1, 1, (4, 4))
    seed = int(rng.integers(2**62))
    draw = draw_intensity(numpy_generator(0, "test", 7), ALWAYS, dimensions=2)
    assert gates.max() < 1
    assert draw.noise_seed == seed
    assert np.reshape(draw.bias, (4, 4))[1, 2] == 0.2 * coefficients[1, 2]
    for position, name in enumerate(("blur", "low_resolution", "noise", "contrast")):
        low, high = getattr(ALWAYS, name)
        assert getattr(draw, name) == low + (high - low) * values[position + 1]
    assert draw.solarise == ALWAYS.solarise[0] + (ALWAYS.solarise[1] - ALWAYS.solarise[0]) * values[8]
    without = draw_intensity(
        numpy_generator(0, "test", 7), ALWAYS.model_copy(update={"jitter_probability": 0.0}), dimensions=2
    )
    assert without == IntensityDraw(**{**vars(draw), "jitter": None})


def test_drawn_values_stay_in_their_ranges_and_off_means_none():
    config = ALWAYS
    for i in range(100):
        draw = draw_intensity(numpy_generator(0, "test", i), config, dimensions=2)
        for name in ("blur", "low_resolution", "noise", "contrast", "gamma", "solarise"):
            low, high = getattr(config, name)
            assert low - 1e-12 <= getattr(draw, name) <= high + 1e-12
        assert abs(draw.brightness) <= config.brightness
        exposure, contrast = draw.jitter
        assert config.exposure[0] <= exposure <= config.exposure[1]
        assert config.jitter_contrast[0] <= contrast <= config.jitter_contrast[1]
        coefficients = np.reshape(draw.bias, (4, 4))
        orders = np.indices((4, 4)).sum(axis=0)
        assert np.abs(coefficients).max() <= config.bias
        assert not coefficients[(orders > 3) | (orders == 0)].any()
        assert coefficients[(orders <= 3) & (orders >= 1)].all()
    off = IntensityConfig(**{name: 0.0 for name in IntensityConfig.model_fields if name.endswith("_probability")})
    draw = draw_intensity(numpy_generator(0, "test", 0), off, dimensions=3)
    assert draw == IntensityDraw(noise_seed=draw.noise_seed)


def test_only_the_views_that_drew_a_change_change_and_the_input_stays():
    images = some_images((12, 10), count=4)
    before = images.clone()
    draws = [
        IntensityDraw(),
        IntensityDraw(gamma=0.7),
        IntensityDraw(),
        IntensityDraw(noise=0.1, noise_seed=3),
    ]
    after = apply_intensity(images, draws, spacing_mm=(1.0, 1.0), thick_slices=False)
    assert torch.equal(images, before)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(after[1:2], intensity.gamma_curve(before[1:2], torch.tensor([0.7])))
    noise = torch.randn(before[3].shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(after[3], before[3] + 0.1 * noise)


@pytest.mark.parametrize(("shape", "spacing"), [((12, 10), (1.0, 1.0)), ((6, 12, 10), (5.0, 1.0, 1.0))])
def test_all_changes_are_applied_in_their_order_each_with_its_own_value(shape, spacing):
    images = some_images(shape, count=2)
    thick = len(shape) == 3
    draws = [draw_intensity(numpy_generator(1, "test", i), ALWAYS, dimensions=len(shape)) for i in range(2)]
    together = apply_intensity(images, draws, spacing_mm=spacing, thick_slices=thick)
    for i, d in enumerate(draws):
        one = lambda value: torch.tensor([value])  # noqa: E731
        x = intensity.bias_field(images[i : i + 1], torch.tensor(d.bias).reshape(1, *[4] * len(shape)))
        x = intensity.jitter(x, one(d.jitter[0]), one(d.jitter[1]))
        x = intensity.gaussian_blur(x, torch.tensor([[d.blur / mm for mm in spacing]]))
        x = intensity.low_resolution(x, [d.low_resolution], kept_axes=1 if thick else 0)
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(d.noise_seed))
        x = intensity.add_noise(x, one(d.noise), noise[None])
        x = intensity.shift_brightness(intensity.scale_contrast(x, one(d.contrast)), one(d.brightness))
        x = intensity.inverted_gamma_curve(intensity.gamma_curve(x, one(d.gamma)), one(d.inverted_gamma))
        x = intensity.solarise(x, one(d.solarise))
        torch.testing.assert_close(together[i : i + 1], x, rtol=1e-5, atol=1e-5)


def test_an_impossible_range_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"gamma = .*above 0"):
        IntensityConfig.parse({"gamma": (0.0, 1.5)}, where="test")
    with pytest.raises(ConfigError, match=r"noise = .*wanted low <= high"):
        IntensityConfig.parse({"noise": (0.3, 0.1)}, where="test")
