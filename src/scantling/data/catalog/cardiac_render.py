"""Cine frames of the cardiac phantom: one heart under any scanner, with partial volume, bias and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32, Int16
from scipy.ndimage import gaussian_filter

from scantling.data.catalog.cardiac_anatomy import SUB_SLICES, CardiacAnatomy, CardiacShapes, cardiac_shapes
from scantling.errors import ConfigError
from scantling.seeding import numpy_generator


@dataclass(frozen=True, kw_only=True)
class MagnetScanner:
    """Grey values of tissues in [0, 1], noise as a share of full scale, and strength of the bias field."""

    blood: float
    muscle: float
    fat: float
    liver: float
    lung: float
    noise: float
    bias: float
    full_scale: float


MAGNET_SCANNERS: Final[dict[str, MagnetScanner]] = {
    "A": MagnetScanner(blood=0.80, muscle=0.26, fat=0.95, liver=0.36, lung=0.05, noise=0.030, bias=0.25,
                       full_scale=500),
    "B": MagnetScanner(blood=0.62, muscle=0.34, fat=0.70, liver=0.40, lung=0.09, noise=0.055, bias=0.50,
                       full_scale=1400),
}  # fmt: skip


def render_cardiac(
    anatomy: CardiacAnatomy,
    *,
    scanner: str,
    noise_key: str,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> Int16[np.ndarray, "z y x"]:
    """A cine frame of this heart; equal keys give equal noise and bias field under every scanner.

    Raises:
        ConfigError: no such scanner.
    """
    if scanner not in MAGNET_SCANNERS:
        raise ConfigError(f"scanner {scanner!r}: not a phantom scanner; known are {', '.join(MAGNET_SCANNERS)}")
    machine = MAGNET_SCANNERS[scanner]
    thin = _tissues(anatomy, cardiac_shapes(anatomy, shape, spacing_mm), machine, pixel_mm=spacing_mm[-1])
    volume = thin.reshape(shape[0], SUB_SLICES, *shape[1:]).mean(axis=1)

    texture = numpy_generator(anatomy.texture_key, "cardiac-texture", *shape)
    cloud = texture.standard_normal(shape, dtype=np.float32)
    volume = volume * (1 + 0.10 * _unit(gaussian_filter(cloud, (0, 1.2, 1.2))))

    rng = numpy_generator(0, "cardiac-noise", noise_key, *shape)
    volume = volume * _bias_field(rng, shape, machine.bias)
    real, imaginary = machine.noise * rng.standard_normal((2, *shape), dtype=np.float32)
    seen = np.hypot(volume + real, imaginary)  # Rician: the magnitude of a noisy complex signal
    return np.asarray(np.rint(seen * machine.full_scale).astype(np.int16))


def _tissues(
    anatomy: CardiacAnatomy, shapes: CardiacShapes, machine: MagnetScanner, *, pixel_mm: float
) -> Float32[np.ndarray, "thin y x"]:
    """Grey values before texture, bias and noise, painted back to front with borders one pixel soft."""
    x, y = shapes.x + anatomy.centre_x, shapes.y + anatomy.centre_y  # the chest does not follow the heart

    def paint(below: Float32[np.ndarray, "thin y x"], inside_mm: np.ndarray, value: float | np.ndarray) -> np.ndarray:
        cover = np.clip(inside_mm / pixel_mm + 0.5, 0, 1)
        return np.asarray(below + cover * (value - below), dtype=np.float32)

    chest = (1 - np.hypot(x / anatomy.chest_x, y / anatomy.chest_y)) * anatomy.chest_y
    volume = np.full(x.shape, 0.01, dtype=np.float32)
    volume = paint(volume, chest, machine.fat)
    volume = paint(volume, chest - anatomy.fat, machine.muscle * 1.1)
    volume = paint(volume, chest - anatomy.fat - 7, machine.lung)
    rng = numpy_generator(anatomy.texture_key, "cardiac-surroundings")
    for _ in range(12):  # vessels of the lung
        at_x, at_y, radius = rng.uniform(-75, 75), rng.uniform(-60, 40), rng.uniform(1.2, 4.0)
        spot = np.minimum(radius - np.hypot(x - at_x, y - at_y), chest - anatomy.fat - 9)
        volume = paint(volume, spot, machine.blood * 0.75)
    liver = y - anatomy.liver_y - 0.0030 * (x + 10) ** 2 + 0.25 * x
    volume = paint(volume, np.minimum(liver, chest - anatomy.fat - 4), machine.liver)
    stomach = 20 - np.hypot((x - 45) / 1.4, y - anatomy.liver_y - 6)
    volume = paint(volume, np.minimum(stomach, chest - anatomy.fat - 6), machine.muscle * 1.4)

    outside = -np.maximum(shapes.outer, shapes.right)
    present = np.isfinite(outside)
    volume = paint(volume, np.where(present, 5.0 - outside, -1e3), machine.fat * 0.75)  # epicardial fat
    above_base = np.where(shapes.height >= 1, 1.0, -np.inf)  # atria and great vessels: blood without a label
    for at_x, at_y, radius in ((-2.0, 2.0, 21.0), (-34.0, 8.0, 19.0), (-12.0, -26.0, 13.0)):
        room = radius - np.hypot(shapes.x - at_x, shapes.y - at_y)
        volume = paint(volume, np.minimum(room, above_base * 1e3), machine.blood * 0.92)
    volume = paint(volume, shapes.right + 2.2, machine.muscle * 1.1)
    volume = paint(volume, shapes.right, machine.blood * 0.95)
    volume = paint(volume, shapes.outer, machine.muscle)
    volume = paint(volume, shapes.cavity, machine.blood)
    muscles = np.full(x.shape, -np.inf, dtype=np.float32)
    level = 1 - np.abs(shapes.height - 0.45) / 0.38
    for side in (-0.9, 0.9):
        angle = anatomy.papillary_angle + 1.2 + side
        at = 0.62 * anatomy.cavity * (0.6 + 0.4 * shapes.height)
        away = np.hypot(shapes.x - at * math.cos(angle), shapes.y - at * math.sin(angle))
        muscles = np.maximum(muscles, anatomy.papillary_size * level - away)
    return paint(volume, np.minimum(muscles, shapes.cavity), machine.muscle * 1.15)


def _bias_field(rng: np.random.Generator, shape: tuple[int, int, int], strength: float) -> Float32[np.ndarray, "z y x"]:
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    weights = rng.standard_normal(5).astype(np.float32)
    plane = weights[0] * x[None, None, :] + weights[1] * y[None, :, None] + 0.4 * weights[2] * z[:, None, None]
    bowl = weights[3] * (x**2)[None, None, :] + weights[4] * (y**2)[None, :, None]
    return np.asarray(np.exp(np.float32(strength * 0.5) * (plane + 0.6 * bowl)).astype(np.float32))


def _unit(field: Float32[np.ndarray, "*spatial"]) -> Float32[np.ndarray, "*spatial"]:
    return field / max(float(field.std()), 1e-9)
