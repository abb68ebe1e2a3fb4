"""How a view's intensities may change: drawn as plain numbers, then applied; geometry is out of reach.

Every transform takes images and one parameter per image, and returns images of the same shape. Intensities
are the normalised ones (standard deviation near 1); ranges and means are those of each image and channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from scantling.config import Config
from scantling.shapes import Images

_TRUNCATE: Final = 3.0  # standard deviations kept of a Gaussian
_BIAS_ORDER: Final = 3


class IntensityConfig(Config):
    """How often, and how far, each property of the intensities changes. Ranges are uniform unless said.

    Attributes:
        bias: largest coefficient of the polynomial in the exponent of a smooth multiplicative field.
        blur: standard deviation in units of the finest voxel side; thick slices are blurred less, as in mm.
        low_resolution: factor on the voxels per axis, before enlarging again; not across thick slices.
        noise: standard deviation of white noise.
        contrast: factor on the distance from the mean.
        brightness: added, in plus or minus this.
        gamma: exponent on the intensities rescaled to [0, 1], log-uniform; mean and deviation are restored.
        inverted_gamma_probability: of doing so on the negative, after the plain one.
        solarise: from this fraction of the range upwards intensities are mirrored; 0 makes the negative.
        jitter_probability: of changing exposure and contrast together, before the blur; what leaves the image's range
            is cut, as `contrast` and `brightness` do not.
        exposure: factor on the distance from the darkest value, in the jitter.
        jitter_contrast: factor on the distance from the mean, in the jitter.
    """

    bias_probability: float = Field(default=0.1, ge=0, le=1)
    bias: float = Field(default=0.3, ge=0, le=2)
    blur_probability: float = Field(default=0.15, ge=0, le=1)
    blur: tuple[float, float] = (0.4, 1.0)
    low_resolution_probability: float = Field(default=0.15, ge=0, le=1)
    low_resolution: tuple[float, float] = (0.5, 1.0)
    noise_probability: float = Field(default=0.15, ge=0, le=1)
    noise: tuple[float, float] = (0.0, 0.2)
    contrast_probability: float = Field(default=0.3, ge=0, le=1)
    contrast: tuple[float, float] = (0.75, 1.3)
    brightness_probability: float = Field(default=0.3, ge=0, le=1)
    brightness: float = Field(default=0.3, ge=0)
    gamma_probability: float = Field(default=0.3, ge=0, le=1)
    gamma: tuple[float, float] = (0.7, 1.5)
    inverted_gamma_probability: float = Field(default=0.1, ge=0, le=1)
    solarise_probability: float = Field(default=0.0, ge=0, le=1)
    solarise: tuple[float, float] = (0.4, 0.8)
    jitter_probability: float = Field(default=0.0, ge=0, le=1)
    exposure: tuple[float, float] = (0.6, 1.4)
    jitter_contrast: tuple[float, float] = (0.6, 1.4)

    @field_validator("blur", "low_resolution", "noise", "contrast", "gamma", "solarise", "exposure", "jitter_contrast")
    @classmethod
    def _ranges_rise(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1] < float("inf"):
            raise ValueError("wanted low <= high, both finite and >= 0")
        return value

    @field_validator("low_resolution", "gamma")
    @classmethod
    def _factors_are_positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] <= 0:
            raise ValueError("wanted a low end above 0")
        return value


@dataclass(frozen=True, kw_only=True)
class IntensityDraw:
    """What happens to one view's intensities; None where nothing does.

    Attributes:
        bias: polynomial coefficients, one axis of length 4 per image axis, constant term 0.
        noise_seed: starts the generator of the white noise.
        jitter: factors of exposure and contrast.
    """

    bias: tuple[float, ...] | None = None
    blur: float | None = None
    low_resolution: float | None = None
    noise: float | None = None
    noise_seed: int = 0
    contrast: float | None = None
    brightness: float | None = None
    gamma: float | None = None
    inverted_gamma: float | None = None
    solarise: float | None = None
    jitter: tuple[float, float] | None = None


def draw_intensity(rng: np.random.Generator, config: IntensityConfig, *, dimensions: int) -> IntensityDraw:
    """Draw one view's changes.

    The number of draws does not depend on their outcome nor on the settings: changing one range leaves every
    other drawn value as it was.
    """
    gates, values = rng.random(9), rng.random(9)
    coefficients = rng.uniform(-1, 1, (_BIAS_ORDER + 1,) * dimensions)
    noise_seed = int(rng.integers(2**62))
    jitter_gate, *jitter_values = rng.random(3).tolist()  # what is new is drawn last: older draws stay as they were

    def within(position: int, probability: float, low: float, high: float) -> float | None:
        return float(low + (high - low) * values[position]) if gates[position] < probability else None

    def exponent(position: int, probability: float) -> float | None:
        logarithm = within(position, probability, *np.log(config.gamma).tolist())
        return None if logarithm is None else float(np.exp(logarithm))

    bias = None
    if gates[0] < config.bias_probability:
        orders = np.indices(coefficients.shape).sum(axis=0)
        kept = (orders >= 1) & (orders <= _BIAS_ORDER)
        bias = tuple((config.bias * coefficients * kept).ravel().tolist())
    jitter = None
    if jitter_gate < config.jitter_probability:
        exposure, contrast = (
            low + (high - low) * value
            for (low, high), value in zip((config.exposure, config.jitter_contrast), jitter_values, strict=True)
        )
        jitter = exposure, contrast
    return IntensityDraw(
        bias=bias,
        blur=within(1, config.blur_probability, *config.blur),
        low_resolution=within(2, config.low_resolution_probability, *config.low_resolution),
        noise=within(3, config.noise_probability, *config.noise),
        noise_seed=noise_seed,
        contrast=within(4, config.contrast_probability, *config.contrast),
        brightness=within(5, config.brightness_probability, -config.brightness, config.brightness),
        gamma=exponent(6, config.gamma_probability),
        inverted_gamma=exponent(7, config.inverted_gamma_probability),
        solarise=within(8, config.solarise_probability, *config.solarise),
        jitter=jitter,
    )


def apply_intensity(
    images: Images, draws: Sequence[IntensityDraw], *, spacing_mm: Sequence[float], thick_slices: bool
) -> Images:
    """All drawn changes, in the order light, jitter, optics, sampling, sensor, display. The input is not touched."""
    own = False  # whether `images` may be written to
    for name in _ORDER:
        drawn = [(row, getattr(draw, name)) for row, draw in enumerate(draws) if getattr(draw, name) is not None]
        if not drawn:
            continue
        rows, values = zip(*drawn, strict=True)
        seeds = [draws[row].noise_seed for row in rows]
        if len(rows) == len(images):
            changed = _change(name, images, values, seeds, spacing_mm=spacing_mm, thick_slices=thick_slices)
            own = own or changed is not images
            images = changed
            continue
        there = torch.tensor(rows, device=images.device)
        images = images if own else images.clone()
        own = True
        images[there] = _change(name, images[there], values, seeds, spacing_mm=spacing_mm, thick_slices=thick_slices)
    return images if own else images.clone()


def _change(
    name: str,
    images: Tensor,
    drawn: Sequence[float] | Sequence[tuple[float, ...]],
    noise_seeds: Sequence[int],
    *,
    spacing_mm: Sequence[float],
    thick_slices: bool,
) -> Tensor:
    """One kind of change, of images that all drew it; numbers go to the device, none comes back."""
    values = torch.tensor(drawn, dtype=torch.float32)
    match name:
        case "bias":
            return bias_field(images, values.reshape(-1, *[_BIAS_ORDER + 1] * (images.ndim - 2)).to(images.device))
        case "jitter":
            return jitter(images, *values.to(images.device).unbind(dim=1))
        case "blur":
            finest = min(spacing_mm)
            return gaussian_blur(images, values[:, None] * torch.tensor([finest / mm for mm in spacing_mm]))
        case "low_resolution":
            return low_resolution(images, values.tolist(), kept_axes=1 if thick_slices else 0)
        case "noise":
            noise = torch.stack([_white_noise(images.shape[1:], seed) for seed in noise_seeds])
            return add_noise(images, values.to(images.device), noise.to(images.device))
        case _:
            return _CURVES[name](images, values.to(images.device))


def bias_field(images: Images, coefficients: Float[Tensor, "batch *order"]) -> Images:
    """Images times `exp` of a polynomial over [-1, 1] per axis, measured from each image's minimum.

    Args:
        coefficients: `[image, i, j, ...]` multiplies `y**i * x**j ...`.

    Source: Sudre et al. 2017, "Longitudinal segmentation of age-related white matter hyperintensities",
        Sec. 2.2 (polynomial bias fields).
    """
    exponent = coefficients.to(images.dtype)
    for size in images.shape[2:]:  # contracts the leading order axis and appends the image axis
        steps = torch.linspace(-1, 1, size, dtype=images.dtype, device=images.device)
        powers = torch.stack([steps**k for k in range(exponent.shape[1])])
        exponent = torch.tensordot(exponent, powers, dims=([1], [0]))
    low, _ = _range(images)
    return low + (images - low) * exponent.exp().unsqueeze(1)


def jitter(images: Images, exposure: Float[Tensor, "batch"], contrast: Float[Tensor, "batch"]) -> Images:
    """Distances from the darkest value times `exposure`, then those from the mean times `contrast`, both cut.

    After either step what lies outside the range that the image had is moved to its ends, as it is where intensities
    are stored. A constant image stays as it is.

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations", App. A (colour
        jitter); the darkest and the brightest value stand for black and white, which normalised images no longer know.
    """
    low, high = _range(images)
    exposed = torch.clamp(low + (images - low) * _per_image(exposure, images), low, high)
    return torch.clamp(scale_contrast(exposed, contrast), low, high)


def gaussian_blur(images: Images, sigma_voxels: Float[Tensor, "batch axis"]) -> Images:
    """Images under a Gaussian of one width per image and axis, cut at 3 deviations, edges repeated.

    Args:
        sigma_voxels: on the CPU: how far the widest reaches decides how much is computed.
    """
    for axis in range(images.ndim - 2):
        sigma = sigma_voxels[:, axis]
        radii = (_TRUNCATE * sigma + 0.5).long()
        reach = int(radii.max())
        if reach == 0:
            continue
        offsets = torch.arange(-reach, reach + 1)
        kernel = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-6)[:, None]) ** 2)
        kernel = torch.where(offsets.abs() <= radii[:, None], kernel, 0.0)
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(images.device, images.dtype)
        images = _weighted_shifts(images, kernel, axis + 2)
    return images


def low_resolution(images: Images, factors: Sequence[float], *, kept_axes: int = 0) -> Images:
    """Images sampled on a coarser grid (nearest) and enlarged again (linear).

    Args:
        factors: per image, on the number of voxels of an axis; 1 changes nothing.
        kept_axes: leading image axes that keep their voxels.
    """
    size = list(images.shape[2:])
    mode = "bilinear" if len(size) == 2 else "trilinear"
    coarse = []
    for image, factor in zip(images, factors, strict=True):
        small = size[:kept_axes] + [max(1, round(n * factor)) for n in size[kept_axes:]]
        reduced = F.interpolate(image[None], size=small, mode="nearest-exact")
        coarse.append(F.interpolate(reduced, size=size, mode=mode, align_corners=False))
    return torch.cat(coarse)


def add_noise(images: Images, std: Float[Tensor, "batch"], noise: Images) -> Images:
    """Images plus `std` times standard normal `noise`."""
    return images + _per_image(std, images) * noise


def scale_contrast(images: Images, factor: Float[Tensor, "batch"]) -> Images:
    """Distance from the mean times a factor."""
    mean = images.flatten(2).mean(dim=2)[(..., *[None] * (images.ndim - 2))]
    return mean + (images - mean) * _per_image(factor, images)


def shift_brightness(images: Images, offset: Float[Tensor, "batch"]) -> Images:
    """Images plus an offset."""
    return images + _per_image(offset, images)


def gamma_curve(images: Images, exponent: Float[Tensor, "batch"], *, keep_statistics: bool = True) -> Images:
    """A power curve on the intensities rescaled to [0, 1]; a constant image stays as it is.

    Args:
        keep_statistics: restore each image's mean and standard deviation, so only the shape of the histogram
            changes.
    """
    low, high = _range(images)
    width = (high - low).clamp_min(1e-7)
    # x ** g as exp(g log x), twice as fast; log 0 = -inf leads back to 0
    curved = (images - low).div_(width).log_().mul_(_per_image(exponent, images)).exp_()
    if not keep_statistics:
        return curved.mul_(width).add_(low)
    std, mean = _deviation_and_mean(images)
    curved_std, curved_mean = _deviation_and_mean(curved)
    return curved.sub_(curved_mean).mul_(std / curved_std.clamp_min(1e-7)).add_(mean)


def inverted_gamma_curve(images: Images, exponent: Float[Tensor, "batch"]) -> Images:
    """The power curve on the negative, made positive again: bends the bright end instead of the dark one."""
    return -gamma_curve(-images, exponent)


def solarise(images: Images, threshold: Float[Tensor, "batch"]) -> Images:
    """Intensities mirrored in their range from a threshold (fraction of the range) upwards."""
    low, high = _range(images)
    above = images >= low + _per_image(threshold, images) * (high - low)
    return torch.where(above, low + high - images, images)


def _weighted_shifts(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    reach, size = kernel.shape[1] // 2, images.shape[axis]
    first, last = images.narrow(axis, 0, 1), images.narrow(axis, size - 1, 1)
    repeats = [reach if i == axis else 1 for i in range(images.ndim)]
    padded = torch.cat([first.repeat(repeats), images, last.repeat(repeats)], dim=axis)
    total = torch.zeros_like(images)
    for k in range(kernel.shape[1]):
        total.addcmul_(padded.narrow(axis, k, size), _per_image(kernel[:, k], images))
    return total


def _range(images: Tensor) -> tuple[Tensor, Tensor]:
    axes = tuple(range(2, images.ndim))
    return images.amin(dim=axes, keepdim=True), images.amax(dim=axes, keepdim=True)


def _deviation_and_mean(images: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image and channel, in two passes: `torch.std_mean` takes twenty times as long."""
    axes = tuple(range(2, images.ndim))
    mean = images.mean(dim=axes, keepdim=True)
    return (images - mean).square_().mean(dim=axes, keepdim=True).sqrt(), mean


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.dtype).reshape(-1, *[1] * (images.ndim - 1))


def _white_noise(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


_CURVES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "contrast": scale_contrast,
    "brightness": shift_brightness,
    "gamma": gamma_curve,
    "inverted_gamma": inverted_gamma_curve,
    "solarise": solarise,
}
_ORDER: Final = ("bias", "jitter", "blur", "low_resolution", "noise", *_CURVES)
