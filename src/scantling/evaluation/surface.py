"""How far two surfaces are from each other: the distances are taken once and read by every metric.

Conventions, by the tool that made each known:

- `monai` (the default, ours): the surface is the mask without its erosion by the 6 face neighbours (4 in 2D),
  so voxels at the image border are surface. HD95 is the larger of the two directed 95th percentiles.
- `medpy`: the same surface; HD95 is the 95th percentile of both directions pooled, which is seldom larger.
- `deepmind`: the surface runs between voxels and each piece of it weighs its area, so thick slices do not
  count pixels of different size alike. HD95 is the larger of the two directed area-weighted percentiles.

Two surfaces of which one is empty have no distance: NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.spatial import cKDTree

from scantling.evaluation.surface_area import area_table, cell_codes

Convention = Literal["monai", "medpy", "deepmind"]
Average = Literal["pooled", "directed"]

_ROUNDING = 1 + 1e-9  # a distance that equals the tolerance up to float rounding is within it


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """For each surface element of either mask the distance in mm to the nearest element of the other.

    A weight is 1, or the element's area in mm2 (contour length in mm) under the `deepmind` convention. Where
    the other mask is empty, distances are infinite.
    """

    convention: Convention
    from_prediction_mm: Float64[np.ndarray, "predicted"]
    from_reference_mm: Float64[np.ndarray, "expected"]
    prediction_weight: Float64[np.ndarray, "predicted"]
    reference_weight: Float64[np.ndarray, "expected"]

    @property
    def defined(self) -> bool:
        """Whether both masks have a surface."""
        return bool(self.from_prediction_mm.size and self.from_reference_mm.size)


def surface_distances(
    prediction: Bool[np.ndarray, "*spatial"],
    reference: Bool[np.ndarray, "*spatial"],
    spacing_mm: tuple[float, ...],
    *,
    convention: Convention = "monai",
) -> SurfaceDistances:
    """The distances between the surfaces of two masks on one grid; crop both to one box to save time."""
    if convention == "deepmind":
        table = area_table(spacing_mm)
        prediction_area, reference_area = table[cell_codes(prediction)], table[cell_codes(reference)]
        prediction_surface, reference_surface = prediction_area > 0, reference_area > 0
    else:
        prediction_area = reference_area = None
        prediction_surface, reference_surface = surface_mask(prediction), surface_mask(reference)
    shared = prediction_surface & reference_surface
    only_prediction = prediction_surface & ~shared
    only_reference = reference_surface & ~shared
    scale = np.asarray(spacing_mm, dtype=np.float64)
    n_shared = int(np.count_nonzero(shared))
    shared_mm, prediction_mm, reference_mm = (
        np.argwhere(elements) * scale for elements in (shared, only_prediction, only_reference)
    )
    return SurfaceDistances(
        convention=convention,
        from_prediction_mm=_to_nearest(prediction_mm, [shared_mm, reference_mm], n_shared),
        from_reference_mm=_to_nearest(reference_mm, [shared_mm, prediction_mm], n_shared),
        prediction_weight=_weights(prediction_area, shared, only_prediction),
        reference_weight=_weights(reference_area, shared, only_reference),
    )


def surface_mask(mask: Bool[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
    """The pixels of a mask with a face neighbour outside it, or outside the image."""
    interior = mask.copy()
    for axis in range(mask.ndim):
        inner, beside = np.moveaxis(interior, axis, 0), np.moveaxis(mask, axis, 0)
        inner[1:] &= beside[:-1]
        inner[:-1] &= beside[1:]
        inner[0] = inner[-1] = False
    return np.asarray(mask & ~interior)


def hausdorff_distance(distances: SurfaceDistances, *, percentile: float = 95) -> float:
    """The distance in mm that `percentile` % of the surfaces do not exceed, by the distances' convention.

    NaN where a mask is empty. 100 gives the plain Hausdorff distance under every convention.
    """
    if not distances.defined:
        return float("nan")
    directed = [distances.from_prediction_mm, distances.from_reference_mm]
    if distances.convention == "medpy":
        return float(np.percentile(np.concatenate(directed), percentile))
    if distances.convention == "deepmind":
        weights = [distances.prediction_weight, distances.reference_weight]
        return max(
            _weighted_percentile(mm, weight, percentile) for mm, weight in zip(directed, weights, strict=True)
        )
    return float(max(np.percentile(mm, percentile) for mm in directed))


def average_surface_distance(distances: SurfaceDistances, *, average: Average = "pooled") -> float:
    """The mean distance in mm between the surfaces; NaN where a mask is empty.

    Args:
        average: "pooled" takes one mean over both surfaces, so that the larger one weighs more;
            "directed" takes the mean of the two directed means.
    """
    if not distances.defined:
        return float("nan")
    sums = [
        float(distances.from_prediction_mm @ distances.prediction_weight),
        float(distances.from_reference_mm @ distances.reference_weight),
    ]
    weights = [float(distances.prediction_weight.sum()), float(distances.reference_weight.sum())]
    if average == "directed":
        return (sums[0] / weights[0] + sums[1] / weights[1]) / 2
    return sum(sums) / sum(weights)


def surface_dice(distances: SurfaceDistances, *, tolerance_mm: float) -> float:
    """The share of both surfaces that lies within the tolerance of the other (NSD), in [0, 1].

    0 where exactly one mask is empty, NaN where both are.

    Source: Nikolov et al. 2018, "Deep learning to achieve clinically applicable segmentation of head and neck
    anatomy for radiotherapy", Eq. 1 (there weighted by area: the `deepmind` convention).
    """
    limit = tolerance_mm * _ROUNDING
    total = float(distances.prediction_weight.sum() + distances.reference_weight.sum())
    if total == 0:
        return float("nan")
    within = distances.prediction_weight[distances.from_prediction_mm <= limit].sum()
    within += distances.reference_weight[distances.from_reference_mm <= limit].sum()
    return float(within) / total


def _to_nearest(
    points_mm: Float64[np.ndarray, "point axis"],
    others_mm: list[Float64[np.ndarray, "_ axis"]],
    n_shared: int,
) -> Float64[np.ndarray, "element"]:
    """Distances of the shared elements (0) and then of the others to the nearest of `others_mm`."""
    targets = np.concatenate(others_mm)
    if not len(targets):
        return np.full(len(points_mm), np.inf)
    if not len(points_mm):
        return np.zeros(n_shared)
    # unbalanced: splitting at the middle instead of the median builds twice as fast and is searched as fast
    nearest, _ = cKDTree(targets, balanced_tree=False).query(points_mm)
    return np.concatenate([np.zeros(n_shared), np.asarray(nearest, dtype=np.float64)])


def _weights(
    area: Float64[np.ndarray, "*cells"] | None,
    shared: Bool[np.ndarray, "*cells"],
    alone: Bool[np.ndarray, "*cells"],
) -> Float64[np.ndarray, "element"]:
    if area is None:
        return np.ones(int(np.count_nonzero(shared)) + int(np.count_nonzero(alone)))
    return np.concatenate([area[shared], area[alone]])


def _weighted_percentile(
    values: Float[np.ndarray, "element"], weights: Float[np.ndarray, "element"], percentile: float
) -> float:
    """The smallest value up to which the elements hold `percentile` % of the weight."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    position = int(np.searchsorted(cumulated, percentile / 100 * cumulated[-1]))
    return float(values[order[min(position, len(values) - 1)]])
