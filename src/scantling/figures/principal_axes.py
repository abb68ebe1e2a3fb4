"""The main directions of a set of feature vectors: the same for the same set, and for any axes it is written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float64

COMPONENTS: Final = 8
_SMALLEST: Final = 1e-12
"""A vector shorter than this has no direction, and a feature that varies less has no scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PrincipalAxes:
    """What takes a feature vector to its scores.

    Attributes:
        unit_length: vectors are first divided by their length: similarity in contrastive learning is the cosine.
        mean, scale: of each feature over the set it was fitted on.
        components: directions, most variance first; each has its largest entry positive.
        explained: the share of all variance along each direction.
    """

    unit_length: bool
    mean: Float64[np.ndarray, "feature"]
    scale: Float64[np.ndarray, "feature"]
    components: Float64[np.ndarray, "component feature"]
    explained: Float64[np.ndarray, "component"]

    def scores(
        self, features: Float[np.ndarray, "feature *place"], n_components: int | None = None
    ) -> Float[np.ndarray, "component *place"]:
        """Coordinates along the directions, in float32."""
        weights = self.components[:n_components] / self.scale
        flat = np.ascontiguousarray(features, dtype=np.float32).reshape(len(features), -1)
        scores = weights.astype(np.float32) @ flat
        if self.unit_length:
            scores /= np.maximum(np.sqrt(np.einsum("fp,fp->p", flat, flat)), np.float32(_SMALLEST))
        scores -= (weights @ self.mean).astype(np.float32)[:, None]
        result: Float[np.ndarray, "component *place"] = scores.reshape(-1, *features.shape[1:])
        return result


def fit_principal_axes(
    sample: Float[np.ndarray, "point feature"],
    *,
    n_components: int = COMPONENTS,
    unit_length: bool = True,
    each_feature: bool = False,
) -> PrincipalAxes:
    """Principal components of a sample, in float64; as many as there are features where those are fewer.

    Args:
        each_feature: every feature is divided by its own standard deviation, as published, and not all by a common
            one. Then the result depends on the axes in which the features are written: turning the feature space,
            which changes no similarity, changes the map.

    Raises:
        ValueError: the sample is empty or not finite.
    """
    rows = np.asarray(sample, dtype=np.float64)
    if not rows.size or not np.isfinite(rows).all():
        raise ValueError(f"principal axes: wanted finite features, got {rows.shape}, or some that are not finite")
    if unit_length:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SMALLEST)
    mean = rows.mean(axis=0)
    centred = rows - mean
    deviation = np.sqrt(np.square(centred).mean(axis=0))
    if not each_feature:
        deviation = np.full_like(deviation, np.sqrt(np.square(deviation).mean()))
    scale = np.where(deviation > _SMALLEST, deviation, 1.0)
    centred /= scale
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1].T
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    total = variances.sum()
    return PrincipalAxes(
        unit_length=unit_length,
        mean=mean,
        scale=scale,
        components=np.ascontiguousarray(directions[:n_components]),
        explained=variances[:n_components] / (total if total > 0 else 1.0),
    )
