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
from scantling.views import elastic, geometry

_MAX_SCALE: Final = 16.0
_CROP_TRIES: Final = 10  # boxes drawn until one fits, as published crops do


class SpatialConfig(Config):
    """How far a view may be cropped, turned, scaled, moved, mirrored and bent.

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
            slices: it is only turned, scaled, cropped and bent within the slice.
        crop_probability: of showing a box of the sample, anywhere inside it, resized to the view; else the view
            starts from the middle of the sample at its own size.
        crop_area: share of the sample's area or volume that the box covers; of the slice's area if slices are
            thick.
        crop_aspect: largest ratio by which the box's in-plane sides differ from the view's, log-uniform, >= 1.
        elastic_probability: of bending the view by a smooth field (cubic B-spline).
        elastic_mm: displacement of a control point along each axis, uniform in plus or minus this. Refused where
            the bent view could fold (`elastic.require_invertible`).
        elastic_spacing_mm: distance of the control points; along an axis shorter than this nothing varies.
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
    crop_probability: float = Field(default=0.0, ge=0, le=1)
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: float = Field(default=4 / 3, ge=1, le=_MAX_SCALE)
    elastic_probability: float = Field(default=0.0, ge=0, le=1)
    elastic_mm: float = Field(default=4.0, ge=0)
    elastic_spacing_mm: float = Field(default=40.0, gt=0)

    @field_validator("scale")
    @classmethod
    def _scale_is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not 1 / _MAX_SCALE <= low <= high <= _MAX_SCALE:
            raise ValueError(f"wanted low <= high, both within 1/{_MAX_SCALE:g} and {_MAX_SCALE:g}")
        return value

    @field_validator("crop_area")
    @classmethod
    def _area_is_a_share(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("wanted 0 < low <= high <= 1: shares of the sample")
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
        crop: box that the view shows before all this: first edge and length per axis, in voxels of the sample;
            None: the box of the view's own size in the middle of the sample.
        elastic_mm: displacements of the control points, `[axis, *control]` flattened; None: not bent.
    """

    rotation_deg: tuple[float, ...]
    scale: tuple[float, ...]
    shift_voxels: tuple[int, ...]
    flips: tuple[bool, ...]
    crop: tuple[tuple[float, float], ...] | None = None
    elastic_mm: tuple[float, ...] | None = None


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
    rng: np.random.Generator,
    config: SpatialConfig,
    *,
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
    sample_shape: Sequence[int] | None = None,
) -> SpatialDraw:
    """Draw one view's place.

    The number of draws does not depend on their outcome nor on the settings: changing one range leaves every
    other drawn value as it was. Only the control points of the elastic field, which come last, are as many as
    the field needs.

    Args:
        sample_shape: what a crop is cut from; None: as large as the view.
    """
    dimensions = len(patch_size)
    thick = has_thick_slices(spacing_mm, config.thick_slice_ratio)
    gates, angles = rng.random(4), rng.uniform(-1, 1, 3)
    log_scale, log_aspect = rng.random(), rng.uniform(-1, 1)
    shifts, mirrors = rng.uniform(-1, 1, 3), rng.random(3)
    crop_gate, tries, place = rng.random(), rng.random((_CROP_TRIES, 2)), rng.random(3)
    elastic_gate = rng.random()

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
    crop = None
    if crop_gate < config.crop_probability:
        shape = patch_size if sample_shape is None else sample_shape
        crop = _box(config, tries, place, patch_size=patch_size, sample_shape=shape, kept_axes=1 if thick else 0)
    displacements = None
    if elastic_gate < config.elastic_probability:
        displacements = _control_points(rng, config, patch_size=patch_size, spacing_mm=spacing_mm, thick=thick)
    return SpatialDraw(
        rotation_deg=(float(in_plane), *out_of_plane),
        scale=tuple(scale),
        shift_voxels=tuple(shift),
        flips=tuple(flips),
        crop=crop,
        elastic_mm=displacements,
    )


def _box(
    config: SpatialConfig,
    tries: Float[np.ndarray, "try 2"],
    place: Float[np.ndarray, "3"],
    *,
    patch_size: Sequence[int],
    sample_shape: Sequence[int],
    kept_axes: int,
) -> tuple[tuple[float, float], ...]:
    """The first drawn box that fits into the sample; if none does, the largest of the view's shape, in the middle.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", Sec. 6 (area and aspect of training crops).
    """
    patch, sample = (np.array(size[kept_axes:], dtype=float) for size in (patch_size, sample_shape))
    low, high = config.crop_area
    zoom = (low + (high - low) * tries[:, 0]) * sample.prod() / patch.prod()
    stretch = np.exp(0.5 * np.log(config.crop_aspect) * (2 * tries[:, 1] - 1))
    sides = patch * zoom[:, None] ** (1 / len(patch))
    sides[:, -2] *= stretch
    sides[:, -1] /= stretch
    fitting = np.flatnonzero((sides <= sample).all(axis=1))
    side = sides[fitting[0]] if len(fitting) else patch * (sample / patch).min()
    first = (sample - side) * (place[: len(patch)] if len(fitting) else 0.5)
    kept = [(float((s - p) // 2), float(p)) for s, p in zip(sample_shape, patch_size, strict=True)][:kept_axes]
    return (*kept, *zip(first.tolist(), side.tolist(), strict=True))


def _control_points(
    rng: np.random.Generator,
    config: SpatialConfig,
    *,
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
    thick: bool,
) -> tuple[float, ...]:
    shape = elastic.control_shape(
        patch_size, spacing_mm, control_spacing_mm=config.elastic_spacing_mm, kept_axes=1 if thick else 0
    )
    points = rng.uniform(-config.elastic_mm, config.elastic_mm, (len(shape), *shape))
    if thick:
        points[0] = 0.0
    return tuple(points.ravel().tolist())


def sample_from_view(
    draws: Sequence[SpatialDraw],
    *,
    sample_shape: Sequence[int],
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
) -> Float[Tensor, "draw row row"]:
    """The matrices, in mm, of views: of a box of their sample, or of its middle.

    A view is mirrored and scaled, then turned, about its own centre, then shifted. Sample and view share one
    spacing; where their sizes differ by an odd number the middle is the lower of the two, so that a view with
    nothing drawn lies on the sample's voxels. A box is resized to the view, so that the edges of both meet.
    """
    dimensions = len(patch_size)
    spacing = torch.tensor(list(spacing_mm), dtype=torch.float64)
    size = torch.tensor(list(patch_size), dtype=torch.float64)
    middle = tuple((float((s - p) // 2), float(p)) for s, p in zip(sample_shape, patch_size, strict=True))
    box = torch.tensor([d.crop or middle for d in draws], dtype=torch.float64)
    start = box[..., 0] + (box[..., 1] - size) / 2
    shift = torch.tensor([d.shift_voxels for d in draws]) + start
    sign = 1 - 2 * torch.tensor([d.flips for d in draws], dtype=torch.float64)
    zoom = torch.tensor([d.scale for d in draws], dtype=torch.float64) * (size / box[..., 1])
    linear = geometry.scaling(sign / zoom)
    angles = torch.tensor([d.rotation_deg for d in draws], dtype=torch.float64)
    for column, plane in reversed(list(enumerate(planes(dimensions)))):
        if bool((angles[:, column] != 0).any()):
            turn = geometry.rotation(angles[:, column], dimensions=dimensions, plane=plane)
            linear = geometry.compose(turn, linear)
    centre = ((size - 1) / 2 * spacing).expand(len(draws), dimensions)
    return geometry.compose(geometry.translation(shift * spacing), geometry.about(linear, centre))
