"""One pass over the pixels for each view, all views of a batch at once, by the cheapest way exact for each.

This is the way on an accelerator; `lookup` gives the same on the CPU, one view at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scantling.views import elastic, geometry

Way = Literal["copy", "slices", "full"]


def resample(
    images: Float[Tensor, "view channel *source"],
    marks: Float[Tensor, "view mark *source"],
    source_index_from_view_index: Float[Tensor, "view row row"],
    *,
    patch_size: Sequence[int],
    control_voxels: Float[Tensor, "view axis *control"] | None = None,
) -> tuple[Float[Tensor, "view channel *patch"], Float[Tensor, "view mark *patch"]]:
    """Images by linear, marks by nearest interpolation, both 0 outside the source; one pass each.

    Each view goes the cheapest way that is exact for its matrix: copied where voxel falls on voxel, slice by
    slice where the first axis of a volume does not mix with the others, else on the full grid.

    Args:
        marks: what must not be interpolated (label index + 1, weight).
        source_index_from_view_index: on the CPU, float64, in pixel indices (`geometry.index_matrix`).
        control_voxels: on the CPU, control points of the displacements, in voxels of the view (`elastic.field`).
    """
    matrices = source_index_from_view_index
    bent = [None] * len(matrices) if control_voxels is None else [c if c.any() else None for c in control_voxels]
    ways = [_way(matrix, control) for matrix, control in zip(matrices, bent, strict=True)]
    if len(set(ways)) == 1:
        return _RESAMPLE[ways[0]](images, marks, matrices, control_voxels, tuple(patch_size))
    out_images = images.new_empty((len(images), images.shape[1], *patch_size))
    out_marks = marks.new_empty((len(marks), marks.shape[1], *patch_size))
    for way in dict.fromkeys(ways):
        rows = torch.tensor([i for i, other in enumerate(ways) if other == way])
        there = rows.to(images.device)
        control = None if control_voxels is None else control_voxels[rows]
        parts = _RESAMPLE[way](images[there], marks[there], matrices[rows], control, tuple(patch_size))
        out_images[there], out_marks[there] = parts
    return out_images, out_marks


def _way(matrix: Tensor, control: Tensor | None) -> Way:
    values = matrix.tolist()
    dimensions = len(values) - 1
    aligned = all(abs(values[i][j]) == (i == j) for i in range(dimensions) for j in range(dimensions))
    if control is None and aligned and all(_is_whole(row[-1]) for row in values[:-1]):
        return "copy"
    within_slices = control is None or (control.shape[1] == 1 and not control[0].any())
    if dimensions == 3 and within_slices and not any(values[0][1:3]) and not values[1][0] and not values[2][0]:
        return "slices"
    return "full"


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < geometry.WHOLE_TOLERANCE


def _copy(
    images: Tensor, marks: Tensor, matrices: Tensor, control: Tensor | None, patch_size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    rows = matrices.tolist()
    if all(row == rows[0] for row in rows):
        return _cut(images, rows[0], patch_size), _cut(marks, rows[0], patch_size)
    cut_images = [_cut(images[i : i + 1], row, patch_size) for i, row in enumerate(rows)]
    cut_marks = [_cut(marks[i : i + 1], row, patch_size) for i, row in enumerate(rows)]
    return torch.cat(cut_images), torch.cat(cut_marks)


def _cut(source: Tensor, matrix: list[list[float]], patch_size: tuple[int, ...]) -> Tensor:
    """The box of voxels the view falls on, zeros where it leaves the source, mirrored where told so."""
    inside, padding, mirrored = [slice(None), slice(None)], [], []
    for axis, (length, size) in enumerate(zip(patch_size, source.shape[2:], strict=True)):
        first = round(matrix[axis][-1])
        if matrix[axis][axis] < 0:
            first -= length - 1
            mirrored.append(axis + 2)
        low, high = min(max(first, 0), size), max(min(first + length, size), 0)
        high = max(high, low)
        before = min(max(-first, 0), length)
        inside.append(slice(low, high))
        padding.append((before, length - before - (high - low)))
    box = source[tuple(inside)]
    if any(map(any, padding)):
        box = F.pad(box, [n for pair in reversed(padding) for n in pair])
    return box.flip(mirrored) if mirrored else box.contiguous()


def _full(
    images: Tensor, marks: Tensor, matrices: Tensor, control: Tensor | None, patch_size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    grid = _grid(matrices, control, images.shape[2:], patch_size, images.device)
    return (
        F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False),
        F.grid_sample(marks, grid, mode="nearest", padding_mode="zeros", align_corners=False),
    )


def _grid(
    matrices: Tensor,
    control: Tensor | None,
    source_shape: Sequence[int],
    patch_size: Sequence[int],
    device: torch.device,
) -> Float[Tensor, "view *patch axis"]:
    """The sampling grid of straight and bent views: what the matrix makes of each pixel and its displacement."""
    grid = geometry.normalised_grid(matrices, target_shape=source_shape, grid_shape=patch_size, device=device)
    if control is None or not bool(control.any()):
        return grid
    size = torch.tensor(list(source_shape), dtype=torch.float64)
    linear = 2 * matrices[:, :-1, :-1] / size[:, None]
    moved = torch.einsum("vij,vj...->vi...", linear, control.to(linear.dtype)).flip(1)  # grid_sample wants x first
    return grid + elastic.field(moved.to(device, torch.float32), patch_size).movedim(1, -1)


def _slices(
    images: Tensor, marks: Tensor, matrices: Tensor, control: Tensor | None, patch_size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Volumes whose first axis stays apart: linear along it, then one 2D grid for all slices as channels."""
    position = matrices[:, :1, 0] * torch.arange(patch_size[0], dtype=torch.float64) + matrices[:, :1, 3]
    whole = position.round()
    position = torch.where((position - whole).abs() < geometry.WHOLE_TOLERANCE, whole, position)
    in_slice = matrices[:, 1:, 1:]
    bent = None if control is None else control[:, 1:, 0]
    grid = _grid(in_slice, bent, images.shape[3:], patch_size[1:], images.device)
    lower = position.floor()
    upper_share = position - lower
    stack = _take_slices(images, lower, 1 - upper_share)
    if bool(upper_share.any()):
        stack = stack + _take_slices(images, lower + 1, upper_share)
    nearest = _take_slices(marks, position.round(), torch.ones_like(position))
    return _sample_slices(stack, grid, "bilinear"), _sample_slices(nearest, grid, "nearest")


def _take_slices(
    volumes: Float[Tensor, "view channel z y x"],
    indices: Float[Tensor, "view slice"],
    share: Float[Tensor, "view slice"],
) -> Float[Tensor, "view slice channel y x"]:
    """Slices by index times their share; slices outside the volume are 0."""
    size = volumes.shape[2]
    share = torch.where((indices >= 0) & (indices < size), share, 0.0)
    rows = torch.arange(len(volumes), device=volumes.device)[:, None]
    taken = volumes[rows, :, indices.clamp(0, size - 1).long().to(volumes.device)]
    if bool((share == 1).all()):
        return taken
    return taken.mul_(share.to(volumes.device, volumes.dtype)[:, :, None, None, None])


def _sample_slices(
    stack: Float[Tensor, "view slice channel y x"], grid: Float[Tensor, "view row column 2"], mode: str
) -> Float[Tensor, "view channel slice row column"]:
    n, depth, channels = stack.shape[:3]
    flat = stack.reshape(n, depth * channels, *stack.shape[3:])
    out = F.grid_sample(flat, grid, mode=mode, padding_mode="zeros", align_corners=False)
    return out.reshape(n, depth, channels, *out.shape[2:]).transpose(1, 2).contiguous()


_RESAMPLE: Final = {"copy": _copy, "slices": _slices, "full": _full}
