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
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy
from jaxtyping import Bool, Float, Float64, Int

from scantling.evaluation.surface_area import area_table, cell_codes

Convention = Literal["monai", "medpy", "deepmind"]
Average = Literal["pooled", "directed"]

Points = Int[np.ndarray, "_ axis"]
"""Array indices, one row an element; equals `np.argwhere`."""

_FAST_BUILD = {"leafsize": 32, "balanced_tree": False, "compact_nodes": False}
_REACH = 6
_N_OFFSETS = 128
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
    prediction_surface, predicted, prediction_weight = _elements(prediction, spacing_mm, convention)
    reference_surface, expected, reference_weight = _elements(reference, spacing_mm, convention)
    return SurfaceDistances(
        convention=convention,
        from_prediction_mm=_to_nearest(predicted, reference_surface, expected, spacing_mm),
        from_reference_mm=_to_nearest(expected, prediction_surface, predicted, spacing_mm),
        prediction_weight=prediction_weight,
        reference_weight=reference_weight,
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
        return max(_weighted_percentile(mm, weight, percentile) for mm, weight in zip(directed, weights, strict=True))
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


def _elements(
    mask: Bool[np.ndarray, "*spatial"], spacing_mm: tuple[float, ...], convention: Convention
) -> tuple[Bool[np.ndarray, "*cells"], Points, Float64[np.ndarray, "element"]]:
    """The surface elements of a mask: as a mask, as points, and what each weighs."""
    if convention != "deepmind":
        surface = surface_mask(mask)
        points = np.argwhere(surface)
        return surface, points, np.ones(len(points))
    table, codes = area_table(spacing_mm), cell_codes(mask)
    cut = (table > 0)[codes]
    return cut, np.argwhere(cut), table[codes[cut]]


def _to_nearest(
    points: Points, surface: Bool[np.ndarray, "*cells"], elements: Points, spacing_mm: tuple[float, ...]
) -> Float64[np.ndarray, "point"]:
    """Distance in mm of each point to the nearest element of a surface, which is given as mask and as points.

    Most points have an element close by: the nearest offsets are tried one after the other, for all points at
    once. What is left asks a tree.
    """
    if not len(elements):
        return np.full(len(points), np.inf)
    result, left = _to_near_elements(points, surface, spacing_mm)
    if left.size:
        scale = np.asarray(spacing_mm)
        # few points are left, so a tree that is built fast is worth more than one that is searched fast
        result[left], _ = scipy.spatial.cKDTree(elements * scale, **_FAST_BUILD).query(points[left] * scale)
    return result


def _to_near_elements(
    points: Points, surface: Bool[np.ndarray, "*cells"], spacing_mm: tuple[float, ...]
) -> tuple[Float64[np.ndarray, "point"], Int[np.ndarray, "left"]]:
    """Distances of the points that have an element within the nearest offsets; and the other points' positions."""
    offsets, offsets_mm = _nearest_offsets(spacing_mm)
    margin = np.abs(offsets).max(axis=0)
    padded = np.pad(surface, [(int(n), int(n)) for n in margin])
    strides = np.cumprod([1, *padded.shape[:0:-1]])[::-1]
    result = np.full(len(points), np.nan)
    left, at = np.arange(len(points)), (points + margin) @ strides
    flat = padded.ravel()
    for step, mm in zip((offsets @ strides).tolist(), offsets_mm.tolist(), strict=True):
        hit = flat[at + step]
        result[left[hit]] = mm
        miss = ~hit
        left, at = left[miss], at[miss]
        if not left.size:
            break
    return result, left


@lru_cache(maxsize=32)
def _nearest_offsets(
    spacing_mm: tuple[float, ...],
) -> tuple[Int[np.ndarray, "offset axis"], Float64[np.ndarray, "offset"]]:
    """The shortest offsets between pixels in the order of their length in mm, none left out."""
    steps = np.arange(-_REACH, _REACH + 1)
    offsets = np.stack(np.meshgrid(*[steps] * len(spacing_mm), indexing="ij"), axis=-1).reshape(-1, len(spacing_mm))
    lengths_mm = np.linalg.norm(offsets * np.asarray(spacing_mm), axis=1)
    order = np.argsort(lengths_mm, kind="stable")
    complete = lengths_mm[order] <= _REACH * min(spacing_mm)  # longer ones may reach beyond the grid of offsets
    chosen = order[complete][:_N_OFFSETS]
    return offsets[chosen], lengths_mm[chosen]


def _weighted_percentile(
    values: Float[np.ndarray, "element"], weights: Float[np.ndarray, "element"], percentile: float
) -> float:
    """The smallest value up to which the elements hold `percentile` % of the weight."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    position = int(np.searchsorted(cumulated, percentile / 100 * cumulated[-1]))
    return float(values[order[min(position, len(values) - 1)]])
