"""A smooth displacement of a view's points: a cubic B-spline over a coarse grid of control points, exact anywhere.

Control points are displacements in mm along the view's axes, `[axis, *control]`. Along an axis of `k` points the
view, from the centre of its first pixel to that of its last, is cut into `k - 3` equal cells, with a point at each
joint and one beyond each end; along an axis with one point nothing varies. So the field needs nothing but its
control points and the view's shape and spacing, and is the same at pixel centres and between them. Beyond the
view a point moves as the nearest one of the view does.

A bent view shows at `x` what lies at `x + u(x)`. Along an axis with cells of `h` mm the derivative of `u` is at
most the largest difference of neighbouring points over `h`, so displacements of at most `a` mm change, over all
axes, by at most `sum(2 a / h)` per mm. Below 1 the map is one to one and `x = y - u(x)` can be solved by iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from scantling.errors import ConfigError

STEEPEST: Final = 0.75
"""Largest change of the displacement per mm (maximum norm) of fields that are allowed."""
_STEPS: Final = 16  # 0.75 ** 16 = 0.01: the worst field allowed is off by 1 % of its displacement, a usual one by 1e-9
_CHUNK: Final = 2**22  # looked-up values at once: 100 MB in 3D
_NEIGHBOURS: Final = 4  # control points that a cubic spline joins along an axis


def control_shape(
    patch_size: Sequence[int], spacing_mm: Sequence[float], *, control_spacing_mm: float, kept_axes: int = 0
) -> tuple[int, ...]:
    """How many control points a view needs per axis so that they are at least `control_spacing_mm` apart.

    Args:
        kept_axes: leading axes along which nothing varies.
    """
    lengths = [(n - 1) * mm for n, mm in zip(patch_size, spacing_mm, strict=True)]
    cells = [int(length / control_spacing_mm + 1e-9) for length in lengths]
    return tuple(1 if c == 0 or axis < kept_axes else c + _NEIGHBOURS - 1 for axis, c in enumerate(cells))


def require_invertible(elastic_mm: float, control_spacing_mm: float, *, varying_axes: int) -> None:
    """Refuse displacements that could fold the view.

    Raises:
        ConfigError: they change by more than `STEEPEST` per mm over the axes along which they vary.
    """
    largest = STEEPEST * control_spacing_mm / (2 * max(varying_axes, 1))
    if elastic_mm > largest * (1 + 1e-9):
        raise ConfigError(
            f"elastic_mm = {elastic_mm:g}: with control points {control_spacing_mm:g} mm apart along {varying_axes} "
            f"axes a view may fold above {largest:.3g} mm; lower it or raise elastic_spacing_mm",
            code="E-CFG-25",
        )


def field(
    control_mm: Float[Tensor, "view axis *control"], patch_size: Sequence[int]
) -> Float[Tensor, "view axis *pixel"]:
    """The displacement at every pixel's centre; one pixel long along an axis with a single control point."""
    values = control_mm
    for size, points in zip(patch_size, control_mm.shape[2:], strict=True):
        # contracts the leading control axis and appends the pixel axis, so the axes end in their order
        weights = _weights_of_pixels(size, points).to(values)
        values = torch.tensordot(values, weights, dims=([2], [1]))
    return values


def displacement(
    points_mm: Float[Tensor, "view point axis"],
    control_mm: Float[Tensor, "view axis *control"],
    *,
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
) -> Float[Tensor, "view point axis"]:
    """The displacement at any points of each view, in float64."""
    n_views, count, dimensions = points_mm.shape
    table = control_mm.to(torch.float64).flatten(2).transpose(1, 2).reshape(-1, dimensions)
    chunk = max(1, _CHUNK // (_NEIGHBOURS**dimensions * dimensions * max(n_views, 1)))
    shape = control_mm.shape[2:]
    points = points_mm.to(torch.float64)
    parts = [
        _look_up(points[:, first : first + chunk], table, shape, patch_size, spacing_mm)
        for first in range(0, count, chunk)
    ]
    return torch.cat(parts, dim=1) if parts else points


def undo(
    bent_mm: Float[Tensor, "view point axis"],
    control_mm: Float[Tensor, "view axis *control"],
    *,
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
) -> Float[Tensor, "view point axis"]:
    """The points `x` that the field takes to `x + u(x) = bent_mm`: `x = bent_mm - u(x)` by iteration."""
    bent = bent_mm.to(torch.float64)
    points = bent
    for _ in range(_STEPS):
        points = bent - displacement(points, control_mm, patch_size=patch_size, spacing_mm=spacing_mm)
    return points


def _look_up(
    points_mm: Float[Tensor, "view point axis"],
    table: Float[Tensor, "entry axis"],
    shape: Sequence[int],
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
) -> Float[Tensor, "view point axis"]:
    """Sum of the neighbouring control points, each times the product of its weights along the axes."""
    n_views, count = points_mm.shape[:2]
    device = points_mm.device
    entries = torch.arange(n_views, device=device)[:, None, None]
    weights = torch.ones((n_views, count, 1), dtype=torch.float64, device=device)
    for axis, (points, size, mm) in enumerate(zip(shape, patch_size, spacing_mm, strict=True)):
        entries = entries * points
        if points == 1:
            continue
        cells = points - (_NEIGHBOURS - 1)
        position = (points_mm[..., axis] * (cells / ((size - 1) * mm))).clamp(0, cells)
        cell = position.floor().clamp(max=cells - 1)
        along = _cubic(position - cell)
        neighbours = cell.long().unsqueeze(-1) + torch.arange(_NEIGHBOURS, device=device)
        entries = (entries.unsqueeze(-1) + neighbours.unsqueeze(-2)).flatten(2)
        weights = (weights.unsqueeze(-1) * along.unsqueeze(-2)).flatten(2)
    found = table[entries.expand(n_views, count, weights.shape[2])]
    summed: Tensor = torch.einsum("vpk,vpka->vpa", weights, found)
    return summed


def _weights_of_pixels(size: int, points: int) -> Float[Tensor, "pixel control"]:
    if points == 1:
        return torch.ones((1, 1), dtype=torch.float64)
    cells = points - (_NEIGHBOURS - 1)
    position = torch.arange(size, dtype=torch.float64) * (cells / (size - 1))
    cell = position.floor().clamp(max=cells - 1)
    weights = torch.zeros((size, points), dtype=torch.float64)
    return weights.scatter_(1, cell.long()[:, None] + torch.arange(_NEIGHBOURS), _cubic(position - cell))


def _cubic(share: Float[Tensor, "*point"]) -> Float[Tensor, "*point 4"]:
    """Weights of the four neighbours at `share` of the way through a cell.

    Source: Rueckert et al. 1999, "Nonrigid registration using free-form deformations", Sec. II-B.
    """
    t, s = share, 1 - share
    weights = (s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3)
    return torch.stack(weights, dim=-1) / 6
