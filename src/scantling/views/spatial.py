"""Where a view lies in its sample: drawn as plain numbers, turned into one matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from scantling.config import Config
from scantling.views import geometry

_MAX_SCALE: Final = 16.0


class SpatialConfig(Config):
    """How far a view may be turned, scaled, moved and mirrored.

    Attributes:
        rotation_deg: in-plane angle, uniform in plus or minus this.
        rotation_3d_deg: angle about each of the two in-plane axes of a volume, uniform in plus or minus this;
            never for volumes with thick slices.
        rotation_3d_probability: of rotating a volume out of its planes as well.
        scale: magnification, log-uniform; 2 shows structures twice as large. Along the first axis of a volume
            only if its slices are not thick.
        aspect: largest ratio between the magnifications of the two in-plane axes, log-uniform, >= 1.
        translate: shift in plus or minus this fraction of the view's extent, in whole voxels.
        flip_axes: array axes of the view that may be mirrored, each with `flip_probability`.
        thick_slice_ratio: a volume whose first spacing is more than this many times its finest one has thick
            slices: it is only turned and scaled within the slice.
    """

    rotation_probability: float = Field(default=0.5, ge=0, le=1)
    rotation_deg: float = Field(default=20.0, ge=0, le=180)
    rotation_3d_probability: float = Field(default=0.2, ge=0, le=1)
    rotation_3d_deg: float = Field(default=15.0, ge=0, le=180)
    scale_probability: float = Field(default=0.5, ge=0, le=1)
    scale: tuple[float, float] = (0.8, 1.25)
    aspect: float = Field(default=1.0, ge=1, le=_MAX_SCALE)
    translate_probability: float = Field(default=0.5, ge=0, le=1)
    translate: float = Field(default=0.05, ge=0, le=1)
    flip_axes: tuple[int, ...] = ()
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    thick_slice_ratio: float = Field(default=2.0, ge=1)

    @field_validator("scale")
    @classmethod
    def _scale_is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not 1 / _MAX_SCALE <= low <= high <= _MAX_SCALE:
            raise ValueError(f"wanted low <= high, both within 1/{_MAX_SCALE:g} and {_MAX_SCALE:g}")
        return value

    @field_validator("flip_axes")
    @classmethod
    def _axes_are_axes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= axis <= 2 for axis in value):
            raise ValueError("wanted array axes: 0, 1 (and 2 for volumes)")
        return value


@dataclass(frozen=True, kw_only=True)
class SpatialDraw:
    """One view's place in its sample.

    Attributes:
        rotation_deg: per plane: `(0, 1)` in 2D; `(1, 2)`, `(0, 2)`, `(0, 1)` in 3D.
        scale: magnification per axis.
        shift_voxels: of the view's centre in the sample, per axis, whole.
        flips: mirrored axes of the view.
    """

    rotation_deg: tuple[float, ...]
    scale: tuple[float, ...]
    shift_voxels: tuple[int, ...]
    flips: tuple[bool, ...]


def planes(dimensions: int) -> tuple[tuple[int, int], ...]:
    """The planes a view is turned in, in-plane rotation first."""
    return ((0, 1),) if dimensions == 2 else ((1, 2), (0, 2), (0, 1))


def has_thick_slices(spacing_mm: Sequence[float], ratio: float) -> bool:
    """Whether the first axis of a volume is too coarse to interpolate along."""
    return len(spacing_mm) == 3 and spacing_mm[0] > ratio * min(spacing_mm) * (1 + 1e-6)


def no_draw(dimensions: int) -> SpatialDraw:
    """The view in the middle of its sample, as it is."""
    return SpatialDraw(
        rotation_deg=(0.0,) * len(planes(dimensions)),
        scale=(1.0,) * dimensions,
        shift_voxels=(0,) * dimensions,
        flips=(False,) * dimensions,
    )


def draw_spatial(
    rng: np.random.Generator, config: SpatialConfig, *, patch_size: Sequence[int], spacing_mm: Sequence[float]
) -> SpatialDraw:
    """Draw one view's place.

    The number of draws does not depend on their outcome nor on the settings: changing one range leaves every
    other drawn value as it was.
    """
    dimensions = len(patch_size)
    thick = has_thick_slices(spacing_mm, config.thick_slice_ratio)
    gates, angles = rng.random(4), rng.uniform(-1, 1, 3)
    log_scale, log_aspect = rng.random(), rng.uniform(-1, 1)
    shifts, mirrors = rng.uniform(-1, 1, 3), rng.random(3)

    in_plane = config.rotation_deg * angles[0] if gates[0] < config.rotation_probability else 0.0
    out_of_plane = [0.0] * (len(planes(dimensions)) - 1)
    if gates[1] < config.rotation_3d_probability and not thick:
        out_of_plane = [float(config.rotation_3d_deg * a) for a in angles[1 : 1 + len(out_of_plane)]]
    scale = [1.0] * dimensions
    if gates[2] < config.scale_probability:
        low, high = map(math.log, config.scale)
        zoom = math.exp(low + (high - low) * log_scale)
        stretch = math.exp(0.5 * math.log(config.aspect) * log_aspect)
        scale = [1.0 if thick else zoom] * (dimensions - 2) + [zoom * stretch, zoom / stretch]
    shift = [0] * dimensions
    if gates[3] < config.translate_probability:
        shift = [round(config.translate * n * s) for n, s in zip(patch_size, shifts, strict=False)]
    flips = [i in config.flip_axes and bool(mirrors[i] < config.flip_probability) for i in range(dimensions)]
    return SpatialDraw(
        rotation_deg=(float(in_plane), *out_of_plane),
        scale=tuple(scale),
        shift_voxels=tuple(shift),
        flips=tuple(flips),
    )


def sample_from_view(
    draws: Sequence[SpatialDraw],
    *,
    sample_shape: Sequence[int],
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
) -> Float[Tensor, "draw row row"]:
    """The matrices, in mm, of views that start in the middle of their sample.

    A view is mirrored and scaled, then turned, about its own centre, then shifted. Sample and view share one
    spacing; where their sizes differ by an odd number the middle is the lower of the two, so that a view with
    nothing drawn lies on the sample's voxels.
    """
    dimensions = len(patch_size)
    spacing = torch.tensor(list(spacing_mm), dtype=torch.float64)
    size = torch.tensor(list(patch_size), dtype=torch.float64)
    start = torch.tensor([(s - p) // 2 for s, p in zip(sample_shape, patch_size, strict=True)])
    shift = torch.tensor([d.shift_voxels for d in draws]) + start
    sign = 1 - 2 * torch.tensor([d.flips for d in draws], dtype=torch.float64)
    linear = geometry.scaling(sign / torch.tensor([d.scale for d in draws], dtype=torch.float64))
    angles = torch.tensor([d.rotation_deg for d in draws], dtype=torch.float64)
    for column, plane in reversed(list(enumerate(planes(dimensions)))):
        if bool((angles[:, column] != 0).any()):
            turn = geometry.rotation(angles[:, column], dimensions=dimensions, plane=plane)
            linear = geometry.compose(turn, linear)
    centre = ((size - 1) / 2 * spacing).expand(len(draws), dimensions)
    return geometry.compose(geometry.translation(shift * spacing), geometry.about(linear, centre))
