"""The shape of embedded pixels, and how far they know the classes: measures with and without labels.

Features are rows, labels class indices with IGNORE where nobody looked; pixels of unknown class are left out of
every measure that asks for labels. What cannot be said is NaN: a spread of no pixels, a distance between centres of
one class.
"""

from __future__ import annotations

import itertools
from typing import Final, Literal

import numpy as np
import scipy
from jaxtyping import Bool, Float, Float64, Int64, Integer

Features = Float[np.ndarray, "pixel feature"]
Labels = Integer[np.ndarray, "pixel"]

BLOCK: Final = 1024
"""Pixels compared at a time with all others."""


def unit_vectors(features: Features) -> Float64[np.ndarray, "pixel feature"]:
    """Each row at length 1; a row of zeros stays one."""
    exact = np.asarray(features, dtype=np.float64)
    largest = np.abs(exact).max(axis=1, keepdims=True, initial=0.0)  # squares must neither overflow nor vanish
    scaled = np.divide(exact, largest, out=np.zeros_like(exact), where=largest > 0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: Float64[np.ndarray, "pixel feature"] = np.divide(scaled, length, out=np.zeros_like(scaled), where=length > 0)
    return unit


def alignment(first: Features, second: Float[np.ndarray, "other feature"]) -> float:
    """Mean squared distance between unit vectors that should agree, row by row: 0 is aligned, 2 is unrelated.

    Source: Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity
    on the Hypersphere", Sec. 4.1 (alpha = 2).
    """
    if first.shape != second.shape:
        raise ValueError(f"alignment: got features {first.shape} and {second.shape}; wanted pairs, row by row")
    squared = np.square(unit_vectors(first) - unit_vectors(second)).sum(axis=1)
    return float(squared.mean()) if len(squared) else np.nan


def uniformity(features: Features) -> float:
    """Logarithm of the mean over pairs of pixels of exp(-2 d^2), d the distance of their unit vectors: 0 for one
    point, lower is more evenly spread, towards -4 in many dimensions.

    Source: as `alignment`, Sec. 4.1 (t = 2).
    """
    unit = unit_vectors(features)
    n = len(unit)
    if n < 2:
        return np.nan
    total = 0.0
    for start in range(0, n, BLOCK):
        block = unit[start : start + BLOCK]
        total += float(np.exp(-2 * _squared_distances(block, unit[start:])[_later_pairs(len(block), n - start)]).sum())
    return float(np.log(total / (n * (n - 1) / 2)))


def effective_rank(features: Features) -> float:
    """Exponential of the entropy of the normalised singular values of the features' matrix; NaN of nothing or zeros.

    1 where all rows are multiples of one, the dimension where no direction is preferred.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", Eq. 3.
    """
    exact = np.asarray(features, dtype=np.float64)
    largest = np.abs(exact).max(initial=0.0)
    if not largest > 0:
        return np.nan
    moment = (exact / largest).T @ (exact / largest)
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(moment), 0, None))
    return float(np.exp(scipy.special.entr(singular / singular.sum()).sum()))


def feature_spread(features: Features) -> float:
    """Mean over dimensions of the standard deviation of unit vectors, as a share of that of evenly spread ones.

    0 where all are one point, 1 where they point in all directions alike.

    Source: Chen and He 2021, "Exploring Simple Siamese Representation Learning", Sec. 4.1.
    """
    if not features.size:
        return np.nan
    return float(unit_vectors(features).std(axis=0).mean() * np.sqrt(features.shape[1]))


def centre_distance_over_spread(
    features: Features, labels: Labels, *, spread: Literal["distance", "variance"] = "distance"
) -> float:
    """How far apart the classes' centres lie, over how far the pixels of a class lie from their own centre.

    Mean distance between two centres, over the mean over classes of the root of the mean squared distance to the
    centre, of unit vectors. Below 1 the classes lie in each other; NaN of fewer than two classes.

    Args:
        spread: "variance" leaves the root out, as the released code of dual- and multi-view contrast does: that is
            the figure its authors' table prints, and it depends on the scale.

    Source: Lafargue-Hauret et al. 2026, "Pixel-level Counterfactual Contrastive Learning", table of representations.
    """
    unit = unit_vectors(features)
    known = _classes(labels)
    if len(known) < 2:
        return np.nan
    of_class = [unit[labels == k] for k in known]
    centres = [rows.mean(axis=0) for rows in of_class]
    within = [np.square(rows - c).sum(axis=1).mean() for rows, c in zip(of_class, centres, strict=True)]
    between = np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(centres, 2)])
    width = np.mean(within if spread == "variance" else np.sqrt(within))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(between, width))


def purity(clusters: Integer[np.ndarray, "pixel"], labels: Labels) -> float:
    """Share of the pixels of known class whose cluster has mostly pixels of that class; NaN where there is none."""
    table = _contingency(clusters, labels)
    return float(table.max(axis=1).sum() / table.sum()) if table.sum() else np.nan


def balanced_pixels(labels: Labels, per_class: int, rng: np.random.Generator) -> Int64[np.ndarray, "drawn"]:
    """Places of up to `per_class` random pixels of each class, without replacement, so that no class swamps another.

    A class with fewer gives all it has; pixels of unknown class are never drawn. In ascending order.
    """
    drawn = [_some(np.flatnonzero(labels == k), per_class, rng) for k in _classes(labels)]
    return np.sort(np.concatenate(drawn)) if drawn else np.empty(0, dtype=np.int64)


def _some(places: Int64[np.ndarray, "place"], most: int, rng: np.random.Generator) -> Int64[np.ndarray, "some"]:
    return places if len(places) <= most else rng.choice(places, most, replace=False, shuffle=False)


def _classes(labels: Labels) -> Integer[np.ndarray, "klass"]:
    """Known classes that occur, ascending."""
    found = np.unique(labels)
    return found[found >= 0]


def _contingency(clusters: Integer[np.ndarray, "pixel"], labels: Labels) -> Int64[np.ndarray, "cluster klass"]:
    """Pixels of each cluster and class, the unknown left out."""
    _, rows = np.unique(clusters[labels >= 0], return_inverse=True)
    _, columns = np.unique(labels[labels >= 0], return_inverse=True)
    table = np.zeros((rows.max(initial=-1) + 1, columns.max(initial=-1) + 1), dtype=np.int64)
    np.add.at(table, (rows, columns), 1)
    return table


def _squared_distances(
    first: Float64[np.ndarray, "a feature"], second: Float64[np.ndarray, "b feature"]
) -> Float64[np.ndarray, "a b"]:
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1)
    distances: Float64[np.ndarray, "a b"] = np.clip(squares - 2 * (first @ second.T), 0, None)
    return distances


def _later_pairs(rows: int, columns: int) -> Bool[np.ndarray, "{rows} {columns}"]:
    """Of a block of rows against itself and all that come after: each pair once."""
    return np.arange(columns) > np.arange(rows)[:, None]
