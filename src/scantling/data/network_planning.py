"""Patch, batch and the shape of the U-Net from image size, voxel shape and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from scantling.errors import ConfigError

DeviceKind = Literal["cpu", "cuda"]

MIN_COARSEST: Final = 4
"""Samples per axis that the coarsest feature map keeps."""
MAX_ANISOTROPY: Final = 2.0
"""An axis more than this many times coarser than the finest is neither halved nor convolved along."""
CPU_PATCH_VOXELS: Final = {2: 256**2, 3: 64**3}
CPU_BATCH_VOXELS: Final = {2: 8 * 160**2, 3: 2 * 64**3}
CPU_BATCHES: Final = {2: (2, 16), 3: (2, 2)}
CUDA_PATCH_VOXELS: Final = {2: 512**2, 3: 160**3}
CUDA_BATCHES: Final = {2: (2, 32), 3: (2, 8)}
CUDA_DEFAULT_GB: Final = 12.0
CONTEXT: Final = 2.0
"""On a CPU a 2D patch need not be longer than this many times the structures' extent."""
MIN_CONTEXT_SIDE: Final = 160
FIRST_FEATURES: Final = {("cpu", 2): 16, ("cpu", 3): 12, ("cuda", 2): 32, ("cuda", 3): 32}
MAX_FEATURES: Final = {("cpu", 2): 256, ("cpu", 3): 160, ("cuda", 2): 512, ("cuda", 3): 320}
MAX_STAGES: Final = {("cpu", 2): 5, ("cpu", 3): 4, ("cuda", 2): 7, ("cuda", 3): 6}
TENSORS_PER_FEATURE: Final = 15
"""Full-resolution maps alive in a training step per feature of the first stage: 2 convolutions in the encoder
and 2 in the decoder, 3 tensors each (convolution, norm, activation), a quarter more for coarser stages."""
MEMORY_SHARE: Final = 0.7
"""Of the memory, what activations may take; the rest is weights, workspace and the batch itself."""


@dataclass(frozen=True, kw_only=True)
class NetworkLayout:
    """Patch and stages that fit each other: the patch is a multiple of the product of the strides."""

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    batch_size: int
    reasons: dict[str, str]


def features_for(n_stages: int, dimensions: int, device_kind: DeviceKind) -> tuple[int, ...]:
    """Width of each stage: doubled from stage to stage up to the device's limit."""
    first, limit = FIRST_FEATURES[device_kind, dimensions], MAX_FEATURES[device_kind, dimensions]
    return tuple(min(limit, first * 2**stage) for stage in range(n_stages))


def patch_and_stages(
    sides: Sequence[int],
    spacing_mm: Sequence[float],
    extents_mm: Sequence[float] | None,
    *,
    device_kind: DeviceKind,
    memory_gb: float | None,
    forced: Sequence[int] | None = None,
) -> NetworkLayout:
    """Patch, strides, kernels and batch.

    Args:
        sides: median shape of the prepared images, along the network's axes.
        spacing_mm: of the prepared images.
        extents_mm: sides of the box around all structures; None where there are no labels.
        forced: the wanted patch; rounded up to a multiple of the strides.

    Raises:
        ConfigError: the forced patch has another number of axes, or no positive size.
    """
    dimensions = len(sides)
    budget, batch_budget = _budgets(dimensions, device_kind, memory_gb)
    if forced is not None:
        if len(forced) != dimensions or min(forced) < 1:
            raise ConfigError(f"patch_size = {list(forced)}: wanted {dimensions} whole numbers > 0", code="E-CFG-12")
        wanted, why = list(forced), "as asked"
    else:
        wanted, why = _wanted_patch(sides, spacing_mm, extents_mm, budget, device_kind)
    strides, kernels = stages(wanted, spacing_mm, MAX_STAGES[device_kind, dimensions])
    totals = [math.prod(stride[axis] for stride in strides) for axis in range(dimensions)]
    patch = tuple(math.ceil(n / total) * total for n, total in zip(wanted, totals, strict=True))
    low, high = (CPU_BATCHES if device_kind == "cpu" else CUDA_BATCHES)[dimensions]
    batch_size = min(max(batch_budget // math.prod(patch), low), high)
    coarsest = " x ".join(str(n // total) for n, total in zip(patch, totals, strict=True))
    limit = "a short step" if device_kind == "cpu" else "memory"
    divided = " x ".join(map(str, totals))
    return NetworkLayout(
        patch_size=patch,
        strides=strides,
        kernels=kernels,
        batch_size=batch_size,
        reasons={
            "patch_size": f"{why}; a multiple of {divided}, which the network divides it by",
            "network": f"{len(strides)} stages, so that the coarsest map of a patch is {coarsest}",
            "batch_size": f"{batch_size} patches, about what {limit} allows",
        },
    )


def stages(
    patch: Sequence[int], spacing_mm: Sequence[float], max_stages: int
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Strides and kernels of each stage: axes are halved while they are fine enough and stay long enough.

    Source: Isensee et al. 2021, nnU-Net, Online Methods, architecture template.
    """
    size, spacing = list(patch), list(spacing_mm)
    strides: list[tuple[int, ...]] = [(1,) * len(size)]
    kernels = [_kernel(size, spacing)]
    while len(strides) < max_stages:
        finest = min(spacing)
        stride = tuple(
            2 if math.ceil(n / 2) >= MIN_COARSEST and mm <= MAX_ANISOTROPY * finest else 1
            for n, mm in zip(size, spacing, strict=True)
        )
        if max(stride) == 1:
            break
        size = [math.ceil(n / step) for n, step in zip(size, stride, strict=True)]
        spacing = [mm * step for mm, step in zip(spacing, stride, strict=True)]
        strides.append(stride)
        kernels.append(_kernel(size, spacing))
    return tuple(strides), tuple(kernels)


def _kernel(size: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    finest = min(spacing_mm)
    return tuple(1 if mm > MAX_ANISOTROPY * finest or n == 1 else 3 for n, mm in zip(size, spacing_mm, strict=True))


def _wanted_patch(
    sides: Sequence[int],
    spacing_mm: Sequence[float],
    extents_mm: Sequence[float] | None,
    budget: int,
    device_kind: DeviceKind,
) -> tuple[list[int], str]:
    """The image, cut to the structures' surroundings (2D on a CPU) and to the voxels that memory allows."""
    wanted = [max(n, MIN_COARSEST) for n in sides]
    why = "the whole image of median size"
    if extents_mm is not None and device_kind == "cpu" and len(wanted) == 2:
        limits = [
            max(MIN_CONTEXT_SIDE, math.ceil(CONTEXT * extent / mm))
            for extent, mm in zip(extents_mm, spacing_mm, strict=True)
        ]
        if any(n > limit for n, limit in zip(wanted, limits, strict=True)):
            wanted = [min(n, limit) for n, limit in zip(wanted, limits, strict=True)]
            why = f"{CONTEXT:g} times the extent of the structures, or {MIN_CONTEXT_SIDE} pixels"
    if math.prod(wanted) > budget:
        why = f"as much of the image as {budget} voxels hold, nearly cubic in mm"
        wanted = _shrink(wanted, spacing_mm, budget)
    return wanted, why


def _shrink(patch: Sequence[int], spacing_mm: Sequence[float], budget: int) -> list[int]:
    """The box nearest to a cube in mm that fits into `patch` and holds at most `budget` voxels."""
    low, high = 0.0, max(n * mm for n, mm in zip(patch, spacing_mm, strict=True))

    def box(side_mm: float) -> list[int]:
        return [min(n, max(MIN_COARSEST, int(side_mm / mm + 1e-6))) for n, mm in zip(patch, spacing_mm, strict=True)]

    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(box(middle)) <= budget else (low, middle)
    return box(low)


def _budgets(dimensions: int, device_kind: DeviceKind, memory_gb: float | None) -> tuple[int, int]:
    """Voxels in one patch, and in a whole batch."""
    per_voxel = FIRST_FEATURES[device_kind, dimensions] * TENSORS_PER_FEATURE * 4
    if device_kind == "cpu":
        patch, batch = CPU_PATCH_VOXELS[dimensions], CPU_BATCH_VOXELS[dimensions]
        if memory_gb is not None:
            batch = min(batch, int(MEMORY_SHARE * memory_gb * 1e9 / per_voxel))
        return min(patch, max(batch // 2, 1)), batch
    batch = int(MEMORY_SHARE * (CUDA_DEFAULT_GB if memory_gb is None else memory_gb) * 1e9 / per_voxel)
    return min(CUDA_PATCH_VOXELS[dimensions], batch // 2), batch
