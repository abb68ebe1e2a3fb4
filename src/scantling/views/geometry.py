"""Matrices between views and sources: mm to mm, homogeneous, pixel-centre convention, named by direction.

A matrix `to_from` maps points of `from` to points of `to`, so chains check themselves:
`source_from_view = source_from_sample @ sample_from_view`. Points are in mm along the array axes `(y, x)` or
`(z, y, x)` and measured from the centre of the first pixel, so pixel `i` lies at `i * spacing_mm`. Matrices
are float64: two views of one source agree to far less than a thousandth of a pixel after any chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

WHOLE_TOLERANCE: Final = 1e-6
"""Voxels: a shift this close to a whole number is whole; float64 chains err by less than 1e-10."""


def translation(offset_mm: Float[Tensor, "*batch axis"]) -> Float[Tensor, "*batch row column"]:
    """The matrix that adds an offset."""
    matrix = _identity(offset_mm.shape[:-1], offset_mm.shape[-1], offset_mm.device)
    matrix[..., :-1, -1] = offset_mm
    return matrix


def scaling(factors: Float[Tensor, "*batch axis"]) -> Float[Tensor, "*batch row column"]:
    """The matrix that multiplies each axis by its factor; a factor of -1 mirrors about the origin."""
    matrix = _identity(factors.shape[:-1], factors.shape[-1], factors.device)
    matrix.diagonal(dim1=-2, dim2=-1)[..., :-1] = factors
    return matrix


def rotation(
    angle_deg: Float[Tensor, "*batch"], *, dimensions: int, plane: tuple[int, int]
) -> Float[Tensor, "*batch row column"]:
    """The matrix that turns the first axis of `plane` towards the second about the origin.

    Args:
        plane: array axes; `(0, 1)` in 2D, `(1, 2)` for in-slice rotation in 3D.
    """
    first, second = plane
    angle = torch.deg2rad(angle_deg.to(torch.float64))
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = _identity(angle.shape, dimensions, angle.device)
    matrix[..., first, first] = cos
    matrix[..., second, second] = cos
    matrix[..., second, first] = sin
    matrix[..., first, second] = -sin
    return matrix


def compose(*matrices: Float[Tensor, "*batch row row"]) -> Float[Tensor, "*batch row row"]:
    """The product, left to right as written: `compose(c_from_b, b_from_a)` is `c_from_a`.

    Summed term by term in float64: a matrix has the same bits alone and in a batch, a zero stays a zero.
    """
    product = matrices[0].to(torch.float64)
    for matrix in matrices[1:]:
        right = matrix.to(torch.float64)
        terms = [product[..., :, k : k + 1] * right[..., k : k + 1, :] for k in range(right.shape[-2])]
        product = terms[0]
        for term in terms[1:]:
            product = product + term
    return product


def about(
    linear: Float[Tensor, "*batch row row"], centre_mm: Float[Tensor, "*batch axis"]
) -> Float[Tensor, "*batch row row"]:
    """The linear map made to leave `centre_mm` where it is; for the identity it is the identity, exactly."""
    centre = centre_mm.to(torch.float64)
    moved = transform_points(linear, centre.unsqueeze(-2)).squeeze(-2)
    return compose(translation(centre - moved), linear)


def invert(matrix: Float[Tensor, "*batch row row"]) -> Float[Tensor, "*batch row row"]:
    """`from_to` of `to_from`."""
    exact = matrix.to(torch.float64)
    # elsewhere than on the CPU asking whether it was singular would wait for the device
    inverse: Tensor = torch.linalg.inv(exact) if exact.is_cpu else torch.linalg.inv_ex(exact).inverse
    inverse[..., -1, :-1] = 0
    inverse[..., -1, -1] = 1
    return inverse


def transform_points(
    matrix: Float[Tensor, "*batch row row"], points_mm: Float[Tensor, "*batch point axis"]
) -> Float[Tensor, "*batch point axis"]:
    """Where a matrix takes points, in float64."""
    points = points_mm.to(torch.float64)
    placed = matrix[..., None, :-1, -1].to(torch.float64)
    linear = matrix[..., :-1, :-1].to(torch.float64)
    moved = points[..., 0:1] * linear[..., None, :, 0]
    for axis in range(1, points.shape[-1]):
        moved = moved + points[..., axis : axis + 1] * linear[..., None, :, axis]
    return moved + placed


def mm_from_indices(indices: Float[Tensor, "*batch axis"], spacing_mm: Sequence[float]) -> Float[Tensor, "*batch axis"]:
    """Positions of pixel indices, which need not be whole."""
    exact = indices.to(torch.float64)
    return torch.stack([exact[..., axis] * mm for axis, mm in enumerate(spacing_mm)], dim=-1)


def indices_from_mm(
    points_mm: Float[Tensor, "*batch axis"], spacing_mm: Sequence[float]
) -> Float[Tensor, "*batch axis"]:
    """Pixel indices of positions, not rounded."""
    exact = points_mm.to(torch.float64)
    return torch.stack([exact[..., axis] / mm for axis, mm in enumerate(spacing_mm)], dim=-1)


def pixel_centres_mm(
    shape: Sequence[int], spacing_mm: Sequence[float], *, device: torch.device | None = None
) -> Float[Tensor, "pixel axis"]:
    """Positions of all pixels of a grid, last axis fastest."""
    axes = [torch.arange(n, dtype=torch.float64, device=device) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(axes))


def index_matrix(
    target_from_grid: Float[Tensor, "*batch row row"],
    *,
    target_spacing_mm: Sequence[float],
    grid_spacing_mm: Sequence[float],
) -> Float[Tensor, "*batch row row"]:
    """The same map between pixel indices instead of mm; equal spacings leave a pure mirror exact."""
    matrix = target_from_grid.to(torch.float64).clone()
    matrix[..., :-1, :-1] *= _spacing(grid_spacing_mm, matrix.device)
    matrix[..., :-1, :] /= _spacing(target_spacing_mm, matrix.device)[:, None]
    return matrix


def normalised_grid(
    index_from_index: Float[Tensor, "batch row row"],
    *,
    target_shape: Sequence[int],
    grid_shape: Sequence[int],
    device: torch.device | None = None,
) -> Float[Tensor, "batch *grid axis"]:
    """The sampling grid of `grid_sample(align_corners=False)` for a map from grid indices to target indices.

    A sum of one small vector per axis, made in float64; a general affine grid costs seven times as much.
    """
    dimensions = len(grid_shape)
    size = torch.tensor(list(target_shape), dtype=torch.float64)
    matrix = index_from_index.to("cpu", torch.float64)
    linear = (2 * matrix[:, :-1, :-1] / size[:, None]).flip(1)  # grid_sample wants x first
    origin = ((2 * matrix[:, :-1, -1] + 1) / size - 1).flip(1)
    grid: Tensor | None = None
    for axis in range(dimensions):
        steps = torch.arange(grid_shape[axis], dtype=torch.float64)
        term = steps[None, :, None] * linear[:, None, :, axis]
        if axis == dimensions - 1:
            term = term + origin[:, None, :]
        view = [len(matrix), *[1] * dimensions, dimensions]
        view[axis + 1] = grid_shape[axis]
        part = term.to(torch.float32).reshape(view).to(device or index_from_index.device)
        grid = part if grid is None else grid + part
    assert grid is not None  # there is at least one axis
    return grid


def overlap_mask(
    second_from_first: Float[Tensor, "*batch row row"],
    *,
    first_shape: Sequence[int],
    first_spacing_mm: Sequence[float],
    second_shape: Sequence[int],
    second_spacing_mm: Sequence[float],
) -> Bool[Tensor, "..."]:
    """Pixels of the first view whose centre lies on a pixel of the second: index in [-0.5, n - 0.5)."""
    batch = second_from_first.shape[:-2]
    centres = pixel_centres_mm(first_shape, first_spacing_mm, device=second_from_first.device)
    moved = transform_points(second_from_first, centres.expand(*batch, *centres.shape))
    indices = indices_from_mm(moved, second_spacing_mm)
    size = torch.tensor(list(second_shape), dtype=torch.float64, device=indices.device)
    inside = ((indices >= -0.5) & (indices < size - 0.5)).all(dim=-1)
    return inside.reshape(*batch, *first_shape)


def distances_mm(
    first_mm: Float[Tensor, "*batch first axis"], second_mm: Float[Tensor, "*batch second axis"]
) -> Float[Tensor, "*batch first second"]:
    """Euclidean distance of every pair of points; by differences, so near points keep their digits."""
    distances: Tensor = torch.cdist(first_mm, second_mm, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def _identity(batch: Sequence[int], dimensions: int, device: torch.device) -> Tensor:
    size = dimensions + 1
    return torch.eye(size, dtype=torch.float64, device=device).expand(*batch, size, size).clone()


def _spacing(spacing_mm: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(list(spacing_mm), dtype=torch.float64, device=device)
