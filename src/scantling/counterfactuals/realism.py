"""How far counterfactuals lie from real images, as the Frechet distance of Gaussians fitted to a judge's features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float64

_DRAWS: Final = 20
_FEWEST: Final = 2  # images that a covariance can be fitted to

Rows = Float[np.ndarray, "_ feature"]


@dataclass(frozen=True, kw_only=True)
class GaussianFit:
    """Mean and covariance of features.

    Attributes:
        shrinkage: share of the covariance that was replaced by a multiple of the identity, in [0, 1].
    """

    mean: Float64[np.ndarray, "feature"]
    covariance: Float64[np.ndarray, "feature feature"]
    shrinkage: float


@dataclass(frozen=True, kw_only=True)
class Realism:
    """Frechet distances to real images that have the wanted attribute, all between groups of the same size.

    Small groups lie apart even where both are real, so `between_real` is the least that can be asked for, and
    `unchanged`, of the images before the intervention, is what no intervention would give.

    Attributes:
        counterfactual, between_real, unchanged: in squared units of the features; means over draws of groups.
        group: images a group; 0 where there are too few, and the distances are NaN.
        n_counterfactual, n_real: what the groups were drawn from.
    """

    counterfactual: float
    between_real: float
    unchanged: float
    group: int
    n_counterfactual: int
    n_real: int


def realism(
    counterfactual: Rows, real: Rows, unchanged: Rows, rng: np.random.Generator, *, draws: int = _DRAWS
) -> Realism:
    """Distance of counterfactuals to real images, beside that of real to real and of unchanged to real.

    In each draw the real images are split in two, one half the reference, the other what could be hoped for.

    Args:
        counterfactual: features of counterfactuals, a row an image.
        real: of real images that have the wanted attribute by nature.
        unchanged: of the images the counterfactuals were made of.
    """
    group = min(len(counterfactual), len(unchanged), len(real) // 2)
    group = group if group >= _FEWEST else 0
    rows = [_one_draw(counterfactual, real, unchanged, group, rng) for _ in range(draws if group else 0)]
    means = np.mean(rows, axis=0) if rows else np.full(3, math.nan)
    return Realism(
        counterfactual=float(means[0]),
        between_real=float(means[1]),
        unchanged=float(means[2]),
        group=group,
        n_counterfactual=len(counterfactual),
        n_real=len(real),
    )


def gaussian_fit(features: Rows, *, shrinkage: float | None = None) -> GaussianFit:
    """Mean and covariance, the latter drawn towards its mean variance times the identity.

    Args:
        shrinkage: how far, in [0, 1]; None lets the data tell (nearly 0 for very many rows).

    Raises:
        ValueError: fewer than two rows.

    Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".
    """
    n, dim = features.shape
    if n < _FEWEST:
        raise ValueError(f"a covariance needs at least {_FEWEST} rows of features, got {n}")
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    covariance = centred.T @ centred / n
    target = float(np.trace(covariance)) / dim * np.eye(dim)
    if shrinkage is None:
        apart = float(np.square(covariance - target).sum())
        norms = np.square(centred).sum(axis=1)
        noise = float(np.square(norms).sum() / n - np.square(covariance).sum()) / n
        shrinkage = min(max(noise, 0.0) / apart, 1.0) if apart > 0 else 0.0
    return GaussianFit(
        mean=mean, covariance=(1 - shrinkage) * covariance + shrinkage * target, shrinkage=float(shrinkage)
    )


def frechet_distance(first: GaussianFit, second: GaussianFit) -> float:
    """|m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), >= 0, in squared units of the features.

    Source: Dowson and Landau 1982, "The Frechet distance between multivariate normal distributions"; on
    features of a network as in Heusel et al. 2017, "GANs trained by a two time-scale update rule".
    """
    root = _root(first.covariance)
    product = np.linalg.eigvalsh(root @ second.covariance @ root)
    shared = float(np.sqrt(product.clip(min=0)).sum())
    traces = float(np.trace(first.covariance) + np.trace(second.covariance))
    return max(float(np.square(first.mean - second.mean).sum()) + traces - 2 * shared, 0.0)


def _one_draw(
    counterfactual: Rows, real: Rows, unchanged: Rows, group: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    shuffled = rng.permutation(len(real))
    reference = gaussian_fit(real[shuffled[:group]])
    others = (
        counterfactual[rng.permutation(len(counterfactual))[:group]],
        real[shuffled[group : 2 * group]],
        unchanged[rng.permutation(len(unchanged))[:group]],
    )
    first, second, third = (frechet_distance(gaussian_fit(rows), reference) for rows in others)
    return first, second, third


def _root(covariance: Float64[np.ndarray, "feature feature"]) -> Float64[np.ndarray, "feature feature"]:
    """The symmetric root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)
