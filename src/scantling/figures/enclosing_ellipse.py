"""The least ellipse around points in a plane, with a certificate of how much less area any other could have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.spatial import ConvexHull, QhullError

_FLAT: Final = 1e-9
"""A cloud is a line where it is less than this part of its length wide: what rounding alone could make."""
_MOST_STEPS: Final = 10_000
_MOST_CONCENTRATIONS: Final = 50
_STARTS: Final = 16
"""Directions whose outermost corners the ascent starts with: the optimum has weights on five corners at most."""
_DIMENSIONS: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Ellipse:
    """An ellipse, as what takes it to the unit disk.

    Attributes:
        to_disk: symmetric: `(point - centre) @ to_disk` lies in the unit disk where the point lies in the ellipse, and
            directions are not turned. Of rank 1 for points on a line, 0 for a single one.
        gap: no ellipse that encloses the points has less area than this one's divided by `1 + gap`.
    """

    centre: Float64[np.ndarray, "2"]
    to_disk: Float64[np.ndarray, "2 2"]
    gap: float

    @property
    def area(self) -> float:
        """0 where the points lie on a line."""
        lengths = np.linalg.eigvalsh(self.to_disk)
        return math.pi / float(np.prod(lengths)) if lengths.min() > 0 else 0.0

    def place(self, points: Float[np.ndarray, "point 2"]) -> Float64[np.ndarray, "point 2"]:
        """Where points lie in the unit disk, or beyond it."""
        placed: Float64[np.ndarray, "point 2"] = (points - self.centre) @ self.to_disk
        return placed


def enclosing_ellipse(points: Float[np.ndarray, "point 2"], *, gap: float = 1e-6, share: float = 1.0) -> Ellipse:
    """The ellipse of least area that holds every point.

    Only corners of the convex hull can touch it, so the ascent sees tens of points, not hundreds of thousands. Points
    on a line give that line, a single one gives an ellipse without extent.

    Args:
        gap: relative excess of area over the least at which the ascent stops; where hundreds of corners nearly touch
            the ellipse, it stops after 10,000 steps with what `Ellipse.gap` says.
        share: of the points that must be inside; below 1 the outermost are left out, see `_core`.

    Raises:
        ValueError: there is no point, one is not finite, or `gap` or `share` is out of range.

    Source: Khachiyan 1996, "Rounding of polytopes in the real number model of computation"; the bound as in Todd and
        Yildirim 2007, "On Khachiyan's algorithm for the computation of minimum-volume enclosing ellipsoids".
    Differs: steps towards the farthest point and away from the nearest are one, an exchange (Böhning 1986, "A vertex-
        exchange-method in D-optimal design theory"): hundreds of times fewer steps where many points nearly touch.
    """
    points = np.asarray(points, dtype=np.float64)
    if not len(points) or not np.isfinite(points).all():
        raise ValueError(f"enclosing_ellipse: wanted finite points, got {len(points)}, or some that are not finite")
    if gap <= 0 or not 0 < share <= 1:
        raise ValueError(f"enclosing_ellipse: wanted gap > 0 and 0 < share <= 1, got {gap} and {share}")
    if share < 1:
        points = points[_core(points, share)]
    corners = _corners(points)
    middle = corners.mean(axis=0)
    spread, axes = _axes(corners - middle)
    if spread[0] == 0:
        return Ellipse(centre=middle, to_disk=np.zeros((2, 2)), gap=0.0)
    if spread[1] <= _FLAT * spread[0]:
        return _line(corners, axes[:, 0])
    scale = axes / spread  # to a cloud that is about as wide as long, where the ascent is exact
    return _unscaled(_ascend((corners - middle) @ scale, gap), middle, scale, points)


def _corners(points: Float64[np.ndarray, "point 2"]) -> Float64[np.ndarray, "corner 2"]:
    """Corners of the convex hull; every point where there is none."""
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):  # a line, or fewer than three points
        return np.unique(points, axis=0)
    corners: Float64[np.ndarray, "corner 2"] = points[hull.vertices]
    return corners


def _axes(
    centred: Float64[np.ndarray, "point 2"],
) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2 2"]]:
    """Root mean square extent along the principal axes, largest first, and the axes as columns."""
    _, singular, axes = np.linalg.svd(np.vstack([centred, np.zeros((2, 2))]), full_matrices=False)
    return singular / math.sqrt(len(centred)), axes.T


def _line(corners: Float64[np.ndarray, "point 2"], along: Float64[np.ndarray, "2"]) -> Ellipse:
    """The ellipse of no width around a segment."""
    at = (corners - corners[0]) @ along
    middle = corners[0] + along * (at.min() + at.max()) / 2
    return Ellipse(centre=middle, to_disk=np.outer(along, along) * 2 / (at.max() - at.min()), gap=0.0)


def _ascend(
    corners: Float64[np.ndarray, "corner 2"], gap: float
) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2 2"]]:
    """Centre and covariance of the corners' weights: the dual ascent on lifted points (x, y, 1).

    A step moves weight from the nearest corner that has some to the farthest, by the amount that raises the
    determinant of the moments most. At the optimum every corner with weight is at the lifted distance 3, and before it
    the area exceeds the least one by at most the factor (largest distance - 1) / 2.
    """
    lifted = np.column_stack([corners, np.ones(len(corners))])
    angles = 0.1 + np.arange(_STARTS) * 2 * math.pi / _STARTS  # 0.1: no two corners of a square are outermost
    first = np.unique((corners @ np.stack([np.cos(angles), np.sin(angles)])).argmax(axis=0))
    weights = np.zeros(len(corners))
    weights[first] = 1 / len(first)
    for _ in range(_MOST_STEPS):
        inverse = np.linalg.inv(lifted.T @ (weights[:, None] * lifted))
        distance = np.einsum("ij,ij->i", lifted @ inverse, lifted)
        farthest, nearest = int(distance.argmax()), int(np.where(weights > 0, distance, np.inf).argmin())
        far, near = float(distance[farthest]), float(distance[nearest])
        if (far - 1) / _DIMENSIONS <= 1 + gap:
            break
        between = float(lifted[nearest] @ inverse @ lifted[farthest])
        curvature = 2 * (far * near - between**2)
        moved = min((far - near) / curvature, weights[nearest]) if curvature > 0 else weights[nearest]
        weights[farthest] += moved
        weights[nearest] = weights[nearest] - moved if moved < weights[nearest] else 0.0
    centre = weights @ corners
    centred = corners - centre
    return centre, centred.T @ (weights[:, None] * centred)


def _unscaled(
    found: tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2 2"]],
    middle: Float64[np.ndarray, "2"],
    scale: Float64[np.ndarray, "2 2"],
    points: Float64[np.ndarray, "point 2"],
) -> Ellipse:
    """The ellipse in the points' own coordinates, grown until it holds each of them."""
    centre, covariance = found
    back = np.linalg.inv(scale)
    centre = middle + centre @ back
    lengths, axes = np.linalg.eigh(back.T @ covariance @ back)
    inverse_root = (axes / np.sqrt(lengths)) @ axes.T
    farthest = float(np.square((points - centre) @ inverse_root).sum(axis=1).max())
    return Ellipse(
        centre=centre,
        to_disk=inverse_root / math.sqrt(farthest),
        gap=max(farthest / _DIMENSIONS - 1, 0.0),
    )


def _core(points: Float64[np.ndarray, "point 2"], share: float) -> Bool[np.ndarray, "point"]:
    """The share of the points that is nearest to its own centre by its own covariance.

    From the medians and the median deviations on, the nearest points give the next centre and covariance until they
    stay the same: the concentration steps of Rousseeuw and Van Driessen 1999, "A fast algorithm for the minimum
    covariance determinant estimator".
    """
    n_kept = max(1, math.ceil(share * len(points)))
    centre = np.median(points, axis=0)
    deviation = np.median(np.abs(points - centre), axis=0)
    inverse = np.diag([1 / value**2 if value > 0 else 1.0 for value in deviation])
    kept = np.zeros(len(points), dtype=bool)
    for _ in range(_MOST_CONCENTRATIONS):
        centred = points - centre
        distance = np.einsum("ij,ij->i", centred @ inverse, centred)
        now = distance <= np.partition(distance, n_kept - 1)[n_kept - 1]
        if (now == kept).all():
            break
        kept = now
        centre = points[kept].mean(axis=0)
        inverse = np.linalg.pinv(np.cov(points[kept], rowvar=False, bias=True), hermitian=True)
    return kept
