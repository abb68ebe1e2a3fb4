"""Samples in, views out: every random choice drawn by key, one matrix and one resampling a view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from scantling.data.sample import Sample
from scantling.errors import ConfigError, PlanMismatch
from scantling.seeding import numpy_generator
from scantling.shapes import IGNORE
from scantling.views import geometry
from scantling.views.intensity import IntensityConfig, IntensityDraw, apply_intensity, draw_intensity
from scantling.views.resampling import resample
from scantling.views.spatial import (
    SpatialConfig,
    SpatialDraw,
    draw_spatial,
    has_thick_slices,
    no_draw,
    sample_from_view,
)
from scantling.views.view import ViewBatch

_CPU: Final = torch.device("cpu")


class ViewConfig(SpatialConfig):
    """Which views of each sample a recipe wants to see; the defaults suit supervised training."""

    n_views: int = Field(default=1, ge=1)
    intensity: IntensityConfig = Field(default_factory=IntensityConfig)


def make_views(
    samples: Sequence[Sample],
    config: ViewConfig,
    patch_size: tuple[int, ...],
    *,
    seed: int,
    train: bool = True,
    device: torch.device | str = _CPU,
) -> ViewBatch:
    """`config.n_views` views of each sample, made on `device`.

    A view depends on `seed`, its sample (with its key) and its number alone: not on the batch it is made in
    nor on the order of calls. Where a view leaves its sample, the image is 0, the label IGNORE, the weight 0.

    Args:
        train: off, every view is the middle of its sample, bit for bit.

    Raises:
        ConfigError: a mirrored axis that the views do not have.
        PlanMismatch: no samples, or samples that differ in channels, axes, classes or spacing.
    """
    _require_one_kind(samples, config, patch_size)
    device = torch.device(device)
    spatial, intensity = _draw(samples, config, patch_size, seed=seed, train=train)
    spacing_mm = samples[0].spacing_mm
    n_views, rows = config.n_views, len(samples) * config.n_views

    images: Tensor | None = None
    marks: Tensor | None = None
    matrices = torch.empty((rows, len(patch_size) + 1, len(patch_size) + 1), dtype=torch.float64)
    for members in _by_shape(samples):
        views = [i * n_views + v for i in members for v in range(n_views)]
        group = sample_from_view(
            [spatial[row] for row in views],
            sample_shape=samples[members[0]].label_map.shape,
            patch_size=patch_size,
            spacing_mm=spacing_mm,
        )
        matrices[views] = group
        parts = _resample_group([samples[i] for i in members], group, n_views, patch_size, device)
        if len(members) == len(samples):
            images, marks = parts
            continue
        if images is None or marks is None:
            images, marks = (part.new_empty((rows, *part.shape[1:])) for part in parts)
        images[views], marks[views] = parts
    assert images is not None
    assert marks is not None
    if train:
        thick = has_thick_slices(spacing_mm, config.thick_slice_ratio)
        images = apply_intensity(images, intensity, spacing_mm=spacing_mm, thick_slices=thick)
    return _as_batch(samples, images, marks, matrices, n_views)


def _draw(
    samples: Sequence[Sample], config: ViewConfig, patch_size: tuple[int, ...], *, seed: int, train: bool
) -> tuple[list[SpatialDraw], list[IntensityDraw]]:
    dimensions = len(patch_size)
    spatial, intensity = [], []
    for sample in samples:
        for view in range(config.n_views):
            if not train:
                spatial.append(no_draw(dimensions))
                intensity.append(IntensityDraw())
                continue
            key = (*sample.key, view)
            place = numpy_generator(seed, "view", *key)
            look = numpy_generator(seed, "view intensity", *key)
            spatial.append(draw_spatial(place, config, patch_size=patch_size, spacing_mm=sample.spacing_mm))
            intensity.append(draw_intensity(look, config.intensity, dimensions=dimensions))
    return spatial, intensity


def _by_shape(samples: Sequence[Sample]) -> list[list[int]]:
    """Positions of the samples that share a shape; crops of one plan mostly do."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, sample in enumerate(samples):
        groups.setdefault(tuple(sample.label_map.shape), []).append(position)
    return list(groups.values())


def _resample_group(
    samples: Sequence[Sample],
    matrices: Float[Tensor, "view row row"],
    n_views: int,
    patch_size: tuple[int, ...],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    images = torch.stack([s.image for s in samples]).to(device, torch.float32)
    # label + 1 makes the 0 outside the crop come back as IGNORE; nearest sampling keeps whole numbers whole
    labels = torch.stack([s.label_map for s in samples]).to(device, torch.float32) - IGNORE
    weights = torch.stack([s.weight for s in samples]).to(device, torch.float32)
    marks = torch.stack([labels, weights], dim=1)
    if n_views > 1:
        images, marks = (part.repeat_interleave(n_views, dim=0) for part in (images, marks))
    spacing = samples[0].spacing_mm
    index = geometry.index_matrix(matrices, target_spacing_mm=spacing, grid_spacing_mm=spacing)
    return resample(images, marks, index, patch_size=patch_size)


def _as_batch(
    samples: Sequence[Sample], images: Tensor, marks: Tensor, sample_from_views: Tensor, n_views: int
) -> ViewBatch:
    device, batch = images.device, len(samples)

    def by_view(rows: Tensor) -> Tensor:
        return rows.reshape(batch, n_views, *rows.shape[1:])

    def whole(values: list[int]) -> Int[Tensor, "batch"]:
        return torch.tensor(values, device=device)

    source = torch.stack([s.source_from_sample.to(_CPU, torch.float64) for s in samples])
    source = source[:, None].expand(-1, n_views, -1, -1)
    return ViewBatch(
        images=by_view(images),
        label_maps=by_view(marks[:, 0].long() + IGNORE),
        weights=by_view(marks[:, 1]),
        annotated=torch.stack([s.annotated for s in samples]).to(device),
        source_from_view=geometry.compose(source, by_view(sample_from_views)).to(device),
        spacing_mm=samples[0].spacing_mm,
        case_indices=whole([s.case_index for s in samples]),
        patient_indices=whole([s.patient_index for s in samples]),
        slice_positions=torch.tensor([s.slice_position for s in samples], device=device),
    )


def _require_one_kind(samples: Sequence[Sample], config: ViewConfig, patch_size: tuple[int, ...]) -> None:
    if not samples:
        raise PlanMismatch("a batch of views: got no samples, wanted at least one", code="E-PLN-21")
    if any(axis >= len(patch_size) for axis in config.flip_axes):
        raise ConfigError(
            f"flip_axes = {list(config.flip_axes)}: views have {len(patch_size)} axes; "
            f"name axes below {len(patch_size)}",
            code="E-CFG-21",
        )
    first = samples[0]
    for sample in samples:
        if sample.label_map.ndim != len(patch_size):
            raise PlanMismatch(
                f"sample {sample.key}: has {sample.label_map.ndim} axes but patch size {list(patch_size)} "
                f"has {len(patch_size)}; plan and samples must belong together",
                code="E-PLN-22",
            )
        same = sample.image.shape[0] == first.image.shape[0] and sample.annotated.shape == first.annotated.shape
        near = all(abs(a - b) <= 1e-6 * b for a, b in zip(sample.spacing_mm, first.spacing_mm, strict=True))
        if not (same and near):
            raise PlanMismatch(
                f"sample {sample.key}: {_kind(sample)}, but sample {first.key} beside it: {_kind(first)}; "
                "a batch shares channels, classes and spacing (resample with one plan)",
                code="E-PLN-23",
            )


def _kind(sample: Sample) -> str:
    return (
        f"{sample.image.shape[0]} channels, {len(sample.annotated)} classes, "
        f"spacing {[round(mm, 4) for mm in sample.spacing_mm]} mm"
    )
