"""K-means: clusters of feature vectors, the same for the same generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float64, Int64

RESTARTS: Final = 8
MOST_ROUNDS: Final = 300


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Which cluster each pixel is in, where the clusters' centres are, and the sum of the squared distances to them."""

    assignment: Int64[np.ndarray, "pixel"]
    centres: Float64[np.ndarray, "cluster feature"]
    inertia: float


def kmeans(
    features: Float[np.ndarray, "pixel feature"], n_clusters: int, rng: np.random.Generator, *, restarts: int = RESTARTS
) -> Clusters:
    """The best of several runs of Lloyd's rounds, each from its own k-means++ start.

    Raises:
        ValueError: fewer pixels than clusters, or no cluster.

    Source: Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding"; Lloyd 1982.
    """
    if not 1 <= n_clusters <= len(features):
        raise ValueError(f"kmeans: {n_clusters} clusters of {len(features)} pixels; wanted 1 to {len(features)}")
    exact = np.asarray(features, dtype=np.float64)
    runs = (lloyd(exact, _careful_start(exact, n_clusters, rng)) for _ in range(restarts))
    return min(runs, key=lambda run: run.inertia)


def lloyd(features: Float64[np.ndarray, "pixel feature"], centres: Float64[np.ndarray, "cluster feature"]) -> Clusters:
    """Assign each pixel to the nearest centre and move the centres to their means, until no pixel changes.

    A cluster that loses all its pixels starts again at the pixel that is furthest from its centre.
    """
    centres = centres.copy()
    assignment = np.full(len(features), -1)
    for _ in range(MOST_ROUNDS):
        distances = _squared_distances(features, centres)
        nearest = distances.argmin(axis=1)
        if np.array_equal(nearest, assignment):
            break
        assignment = nearest
        sizes = np.bincount(assignment, minlength=len(centres))
        sums = np.eye(len(centres))[assignment].T @ features
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        lonely = np.argsort(distances[np.arange(len(features)), assignment])[::-1]
        for empty, pixel in zip(np.flatnonzero(sizes == 0), lonely, strict=False):
            centres[empty] = features[pixel]
    inertia = float(np.square(features - centres[assignment]).sum())
    return Clusters(assignment=assignment, centres=centres, inertia=inertia)


def _careful_start(
    features: Float64[np.ndarray, "pixel feature"], n_clusters: int, rng: np.random.Generator
) -> Float64[np.ndarray, "{n_clusters} feature"]:
    """Pixels as centres, each drawn by its squared distance to those before; evenly once none is away from them."""
    chosen = [int(rng.integers(len(features)))]
    nearest = _squared_distances(features, features[chosen])[:, 0]
    while len(chosen) < n_clusters:
        chances = nearest / nearest.sum() if nearest.sum() > 0 else None
        chosen.append(int(rng.choice(len(features), p=chances)))
        nearest = np.minimum(nearest, _squared_distances(features, features[chosen[-1:]])[:, 0])
    return features[chosen]


def _squared_distances(
    features: Float64[np.ndarray, "pixel feature"], centres: Float64[np.ndarray, "cluster feature"]
) -> Float64[np.ndarray, "pixel cluster"]:
    squares = np.square(features).sum(axis=1)[:, None] + np.square(centres).sum(axis=1)
    distances: Float64[np.ndarray, "pixel cluster"] = np.clip(squares - 2 * (features @ centres.T), 0, None)
    return distances
