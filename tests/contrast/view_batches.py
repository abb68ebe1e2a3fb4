"""Batches of views whose images hold each voxel's own place in its case, for the tests of the samplers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scantling.data.sample import Sample
from scantling.views.intensity import IntensityConfig
from scantling.views.maker import ViewConfig, make_views
from scantling.views.view import ViewBatch

UNCHANGED = IntensityConfig(**{name: 0.0 for name in IntensityConfig.model_fields if name.endswith("_probability")})
GRIDS = {
    "2D": ((60, 56), (40, 36), (0.8, 1.7)),
    "3D": ((24, 28, 26), (16, 20, 18), (1.0, 0.9, 1.1)),
}


def moving(n_views: int) -> ViewConfig:
    return ViewConfig(
        n_views=n_views,
        rotation_probability=1.0,
        rotation_deg=180,
        rotation_3d_probability=1.0,
        rotation_3d_deg=60,
        scale_probability=1.0,
        scale=(0.8, 1.3),
        translate_probability=1.0,
        translate=0.1,
        flip_axes=(0, 1),
        intensity=UNCHANGED,
    )


def coordinate_sample(dimensions: str, number: int) -> Sample:
    """Channels are the position in mm in the case; the crop starts away from the case's first voxel."""
    shape, _, spacing = GRIDS[dimensions]
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    source_from_sample = torch.eye(len(shape) + 1, dtype=torch.float64)
    source_from_sample[:-1, -1] = torch.arange(1, len(shape) + 1) * (7.0 + number)
    positions = [axis * mm + source_from_sample[i, -1] for i, (axis, mm) in enumerate(zip(axes, spacing, strict=True))]
    labels = (axes[0] // 7 + axes[1] // 9).long() % 4 - 1
    return Sample(
        image=torch.stack(positions).to(torch.float32),
        label_map=labels,
        weight=torch.full(shape, 0.5 + number / 10),
        annotated=torch.tensor([True, number % 2 == 0, True]),
        spacing_mm=spacing,
        source_from_sample=source_from_sample,
        case_index=number // 2,
        patient_index=number // 4,
        slice_position=0.25 if number < 2 else 0.5,
        key=(3, number),
    )


def coordinate_batch(dimensions: str, *, n_samples: int = 3, n_views: int = 2, seed: int = 0) -> ViewBatch:
    samples = [coordinate_sample(dimensions, number) for number in range(n_samples)]
    return make_views(samples, moving(n_views), GRIDS[dimensions][1], seed=seed)


def well_inside(batch: ViewBatch) -> Tensor:
    """Pixels whose neighbours are seen and in the case: there coordinates are linear, further out they drop to 0."""
    outside = (batch.weights <= 0).flatten(0, 1).unsqueeze(1).float()
    pool = F.max_pool2d if outside.dim() == 4 else F.max_pool3d
    outside = F.pad(outside, (2,) * (2 * len(batch.view_shape)), value=1.0)
    return (pool(outside, 5, stride=1) == 0).reshape(batch.weights.shape)


def plain_batch(
    shape: tuple[int, ...], *, n_samples: int = 2, shifts: tuple[tuple[float, ...], ...] | None = None
) -> ViewBatch:
    """Views of 1 mm pixels, all background; view v starts `shifts[v]` mm into the source. By default two alike."""
    shifts = ((0.0,) * len(shape),) * 2 if shifts is None else shifts
    matrices = torch.eye(len(shape) + 1, dtype=torch.float64).repeat(n_samples, len(shifts), 1, 1)
    matrices[:, :, :-1, -1] = torch.tensor(shifts, dtype=torch.float64)
    each = (n_samples, len(shifts))
    return ViewBatch(
        images=torch.zeros(*each, 1, *shape),
        label_maps=torch.zeros(*each, *shape, dtype=torch.int64),
        weights=torch.ones(*each, *shape),
        annotated=torch.ones(n_samples, 2, dtype=torch.bool),
        source_from_view=matrices,
        spacing_mm=(1.0,) * len(shape),
        case_indices=torch.arange(n_samples),
        patient_indices=torch.arange(n_samples),
        slice_positions=torch.full((n_samples,), 0.5),
    )
