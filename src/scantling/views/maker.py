"""Samples in, views out: every random choice drawn by key, one matrix and one resampling a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from scantling.data.sample import Sample
from scantling.errors import ConfigError, PlanMismatch
from scantling.seeding import numpy_generator
from scantling.shapes import IGNORE
from scantling.views import elastic, geometry
from scantling.views.intensity import IntensityConfig, IntensityDraw, apply_intensity, draw_intensity
from scantling.views.lookup import resample_view
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
    """Which views of each sample a recipe wants to see; the defaults suit supervised training.

    Attributes:
        intensity: how the intensities of a view change.
        intensity_of_others: the same for views 1, 2, ... where they differ from view 0; None: as `intensity`.
        image_of_view: "own": every view shows the case's own image; "each": view `v` shows image `v` of the
            anatomy, 0 the case's own and then its alternatives, starting again where there are fewer than views;
            "any": each view shows one of the alternatives, drawn evenly, with `alternative_probability`, else the
            case's own, as it does without training.
        alternative_probability: in [0, 1]; half by default, so that real images keep half of the say.
    """

    n_views: int = Field(default=1, ge=1)
    intensity: IntensityConfig = Field(default_factory=IntensityConfig)
    intensity_of_others: IntensityConfig | None = None
    image_of_view: Literal["own", "each", "any"] = "own"
    alternative_probability: float = Field(default=0.5, ge=0, le=1)


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where the views lie and what they show; rows are the views of the first sample, of the second, ..."""

    sample_from_view: Float[Tensor, "row side side"]
    control_mm: Float[Tensor, "row axis *control"] | None
    image_numbers: list[int]


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
        ConfigError: a mirrored axis that the views do not have, or an elastic field that could fold them.
        PlanMismatch: no samples, or samples that differ in channels, axes, classes or spacing.
    """
    _require_one_kind(samples, config, patch_size)
    device = torch.device(device)
    spatial, intensity = _draw(samples, config, patch_size, seed=seed, train=train)
    shown = _image_numbers(samples, config, seed=seed, train=train)
    places = _place(samples, spatial, config, patch_size, shown)
    make = _one_by_one if device.type == "cpu" else _together
    images, labels, weights = make(samples, places, patch_size, device)
    if train:
        spacing_mm = samples[0].spacing_mm
        thick = has_thick_slices(spacing_mm, config.thick_slice_ratio)
        images = apply_intensity(images, intensity, spacing_mm=spacing_mm, thick_slices=thick)
    return _as_batch(samples, images, labels, weights, places)


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
            shape = sample.label_map.shape
            changes = (config.intensity_of_others if view else None) or config.intensity
            spatial.append(
                draw_spatial(
                    place, config, patch_size=patch_size, spacing_mm=sample.spacing_mm, sample_shape=tuple(shape)
                )
            )
            intensity.append(draw_intensity(look, changes, dimensions=dimensions))
    return spatial, intensity


def _place(
    samples: Sequence[Sample],
    draws: Sequence[SpatialDraw],
    config: ViewConfig,
    patch_size: tuple[int, ...],
    image_numbers: list[int],
) -> _Places:
    n_views, spacing_mm = config.n_views, samples[0].spacing_mm
    matrices = torch.empty((len(draws), len(patch_size) + 1, len(patch_size) + 1), dtype=torch.float64)
    for members in _by_shape(samples):
        rows = [i * n_views + v for i in members for v in range(n_views)]
        matrices[rows] = sample_from_view(
            [draws[row] for row in rows],
            sample_shape=samples[members[0]].label_map.shape,
            patch_size=patch_size,
            spacing_mm=spacing_mm,
        )
    bent = {row: draw.elastic_mm for row, draw in enumerate(draws) if draw.elastic_mm is not None}
    control = None
    if bent:
        shape = _control_shape(config, patch_size, spacing_mm)
        control = torch.zeros((len(draws), len(shape), *shape), dtype=torch.float64)
        for row, values in bent.items():
            control[row] = torch.tensor(values, dtype=torch.float64).reshape(control.shape[1:])
    return _Places(sample_from_view=matrices, control_mm=control, image_numbers=image_numbers)


def _image_numbers(samples: Sequence[Sample], config: ViewConfig, *, seed: int, train: bool) -> list[int]:
    """Which image each view shows: 0 the case's own, k its k-th alternative; of the first sample's views first."""
    numbers = []
    for sample in samples:
        count = 0 if sample.alternatives is None else len(sample.alternatives)
        for view in range(config.n_views):
            number = 0
            if count and config.image_of_view == "each":
                number = view % (1 + count)
            elif count and train and config.image_of_view == "any":
                rng = numpy_generator(seed, "view image", *sample.key, view)
                if rng.random() < config.alternative_probability:
                    number = 1 + int(rng.integers(count))
            numbers.append(number)
    return numbers


def _control_shape(config: SpatialConfig, patch_size: Sequence[int], spacing_mm: tuple[float, ...]) -> tuple[int, ...]:
    thick = has_thick_slices(spacing_mm, config.thick_slice_ratio)
    return elastic.control_shape(
        patch_size, spacing_mm, control_spacing_mm=config.elastic_spacing_mm, kept_axes=1 if thick else 0
    )


def _image(sample: Sample, number: int) -> Tensor:
    if number == 0 or sample.alternatives is None:
        return sample.image
    return sample.alternatives[number - 1]


def _by_shape(samples: Sequence[Sample]) -> list[list[int]]:
    """Positions of the samples that share a shape; crops of one plan mostly do."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, sample in enumerate(samples):
        groups.setdefault(tuple(sample.label_map.shape), []).append(position)
    return list(groups.values())


def _in_voxels(places: _Places, spacing_mm: Sequence[float]) -> tuple[Tensor, Tensor | None]:
    """Matrices and control points of the views in voxels instead of mm."""
    matrices = geometry.index_matrix(places.sample_from_view, target_spacing_mm=spacing_mm, grid_spacing_mm=spacing_mm)
    if places.control_mm is None:
        return matrices, None
    side = torch.tensor(list(spacing_mm), dtype=torch.float64)
    return matrices, places.control_mm / side.reshape(-1, *[1] * len(spacing_mm))


def _one_by_one(
    samples: Sequence[Sample], places: _Places, patch_size: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, label maps and weights of all views on the CPU: no sample is copied or converted whole."""
    matrices, control = _in_voxels(places, samples[0].spacing_mm)
    n_views = len(matrices) // len(samples)
    images = torch.empty((len(matrices), samples[0].image.shape[0], *patch_size), device=device)
    labels = torch.empty((len(matrices), *patch_size), dtype=torch.int64, device=device)
    weights = torch.empty((len(matrices), *patch_size), device=device)
    for row, (matrix, number) in enumerate(zip(matrices, places.image_numbers, strict=True)):
        sample = samples[row // n_views]
        resample_view(
            _image(sample, number).to(device, torch.float32),
            (sample.label_map.to(device), sample.weight.to(device, torch.float32)),
            matrix,
            outside=(IGNORE, 0.0),
            into=(images[row], (labels[row], weights[row])),
            control_voxels=None if control is None or not bool(control[row].any()) else control[row],
        )
    return images, labels, weights


def _together(
    samples: Sequence[Sample], places: _Places, patch_size: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, label maps and weights of all views, all samples of one shape at once."""
    matrices, control = _in_voxels(places, samples[0].spacing_mm)
    n_views, channels = len(matrices) // len(samples), samples[0].image.shape[0]
    images = torch.empty((len(matrices), channels, *patch_size), device=device)
    marks = torch.empty((len(matrices), 2, *patch_size), device=device)
    for members in _by_shape(samples):
        rows = [i * n_views + v for i in members for v in range(n_views)]
        shown = [(row // n_views, places.image_numbers[row]) for row in rows]
        each = list(dict.fromkeys(shown))  # an image that several views show is moved once
        order = torch.tensor([each.index(one) for one in shown], device=device)
        sources = torch.stack([_image(samples[i], number) for i, number in each]).to(device, torch.float32)
        # label + 1 makes the 0 outside the crop come back as IGNORE; nearest sampling keeps whole numbers whole
        labels = torch.stack([samples[i].label_map for i in members]).to(device, torch.float32) - IGNORE
        weights = torch.stack([samples[i].weight for i in members]).to(device, torch.float32)
        there = torch.tensor(rows, device=device)
        images[there], marks[there] = resample(
            sources[order],
            torch.stack([labels, weights], dim=1).repeat_interleave(n_views, dim=0),
            matrices[rows],
            patch_size=patch_size,
            control_voxels=None if control is None else control[rows],
        )
    return images, marks[:, 0].long() + IGNORE, marks[:, 1]


def _as_batch(
    samples: Sequence[Sample], images: Tensor, label_maps: Tensor, weights: Tensor, places: _Places
) -> ViewBatch:
    device, batch = images.device, len(samples)
    n_views = len(images) // batch

    def by_view(rows: Tensor) -> Tensor:
        return rows.reshape(batch, n_views, *rows.shape[1:])

    def whole(values: list[int]) -> Int[Tensor, "count"]:
        return torch.tensor(values, device=device)

    source = torch.stack([s.source_from_sample.to(_CPU, torch.float64) for s in samples])
    source = source[:, None].expand(-1, n_views, -1, -1)
    return ViewBatch(
        images=by_view(images),
        label_maps=by_view(label_maps),
        weights=by_view(weights),
        annotated=torch.stack([s.annotated for s in samples]).to(device),
        source_from_view=geometry.compose(source, by_view(places.sample_from_view)).to(device),
        spacing_mm=samples[0].spacing_mm,
        case_indices=whole([s.case_index for s in samples]),
        patient_indices=whole([s.patient_index for s in samples]),
        slice_positions=torch.tensor([s.slice_position for s in samples], device=device),
        displacements=None if places.control_mm is None else by_view(places.control_mm).to(device),
        image_numbers=by_view(whole(places.image_numbers)),
        contexts=_contexts(samples, device),
    )


def _contexts(samples: Sequence[Sample], device: torch.device) -> Float[Tensor, "batch context"] | None:
    given = [sample.context for sample in samples if sample.context is not None]
    return torch.stack(given).to(device) if given else None


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
    if config.elastic_probability > 0:
        varying = sum(points > 1 for points in _control_shape(config, patch_size, first.spacing_mm))
        elastic.require_invertible(config.elastic_mm, config.elastic_spacing_mm, varying_axes=varying)
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
        if sample.alternatives is not None and sample.alternatives.shape[1:] != sample.image.shape:
            raise PlanMismatch(
                f"sample {sample.key}: its alternatives have channels and size {list(sample.alternatives.shape[1:])} "
                f"but its image has {list(sample.image.shape)}; they must share one grid",
                code="E-PLN-24",
            )
        if _context_length(sample) != _context_length(first):
            raise PlanMismatch(
                f"sample {sample.key}: its context has {_context_length(sample) or 'no'} values, but that of sample "
                f"{first.key} beside it {_context_length(first) or 'none'}; a batch shares the attributes",
                code="E-PLN-25",
            )


def _context_length(sample: Sample) -> int | None:
    return None if sample.context is None else len(sample.context)


def _kind(sample: Sample) -> str:
    return (
        f"{sample.image.shape[0]} channels, {len(sample.annotated)} classes, "
        f"spacing {[round(mm, 4) for mm in sample.spacing_mm]} mm"
    )
