"""A linear classifier on features that stay as they are: what it can tell apart, the features have made linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy
from jaxtyping import Float, Float64, Integer

L2: Final = 1e-3
"""Of the weights on standardised features, beside the mean cross-entropy."""
TOLERANCE: Final = 1e-5
"""Largest component of the gradient at which the fit is done: probabilities are then right to about 0.001."""
MOST_ROUNDS: Final = 2000


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Logits of a pixel are `weight @ features + bias`, of the features as they are: standardising is folded in.

    Attributes:
        classes: that the fit saw, ascending; rows of `weight` and entries of `bias`.
        loss: what was minimised, at the end.
        gradient: its largest component there; above the tolerance where the rounds did not suffice.
    """

    classes: Integer[np.ndarray, "klass"]
    weight: Float64[np.ndarray, "klass feature"]
    bias: Float64[np.ndarray, "klass"]
    loss: float
    gradient: float

    def logits(self, features: Float[np.ndarray, "pixel feature"]) -> Float64[np.ndarray, "pixel klass"]:
        """One logit for each class the fit saw."""
        logits: Float64[np.ndarray, "pixel klass"] = np.asarray(features, dtype=np.float64) @ self.weight.T + self.bias
        return logits

    def predict(self, features: Float[np.ndarray, "pixel feature"]) -> Integer[np.ndarray, "pixel"]:
        """The class of each pixel; of equal logits the first wins."""
        labels: Integer[np.ndarray, "pixel"] = self.classes[self.logits(features).argmax(axis=1)]
        return labels


def fit_linear_probe(
    features: Float[np.ndarray, "pixel feature"],
    labels: Integer[np.ndarray, "pixel"],
    *,
    weights: Float[np.ndarray, "pixel"] | None = None,
    l2: float = L2,
    tolerance: float = TOLERANCE,
) -> LinearProbe:
    """Multinomial logistic regression on standardised features, in double precision, by L-BFGS.

    Minimised is the weighted mean cross-entropy plus `l2`/2 times the sum of the squared weights, biases left out.
    Pixels of unknown class (below 0) are left out. Where all pixels are of one class, it is what is predicted.

    Args:
        weights: of the pixels, such as how many each stands for; by default all count alike.
        tolerance: largest component of the gradient at the end.

    Raises:
        ValueError: no pixel of known class, a feature that is not finite, or `l2` not above 0.
    """
    if l2 <= 0:
        raise ValueError(f"linear probe: l2 must be > 0, or classes that can be told apart have no minimum; got {l2}")
    known = labels >= 0
    if not known.any():
        raise ValueError(f"linear probe: none of {len(labels)} pixels has a known class")
    exact = np.asarray(features[known], dtype=np.float64)
    if not np.isfinite(exact).all():
        raise ValueError("linear probe: features must be finite")
    share = np.ones(len(exact)) if weights is None else np.asarray(weights[known], dtype=np.float64)
    share = share / share.sum()
    classes, targets = np.unique(labels[known], return_inverse=True)
    mean = share @ exact
    deviation = np.sqrt(share @ np.square(exact - mean))
    # what varies by rounding alone is constant
    scale = np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1e-300), deviation, np.inf)
    fitted = _minimised((exact - mean) / scale, targets, share, len(classes), l2, tolerance)
    weight = fitted.x[len(classes) :].reshape(len(classes), -1) / scale
    return LinearProbe(
        classes=classes,
        weight=weight,
        bias=fitted.x[: len(classes)] - weight @ mean,
        loss=float(fitted.fun),
        gradient=float(np.abs(fitted.jac).max()),
    )


def _minimised(
    standard: Float64[np.ndarray, "pixel feature"],
    targets: Integer[np.ndarray, "pixel"],
    share: Float64[np.ndarray, "pixel"],
    n_classes: int,
    l2: float,
    tolerance: float,
) -> scipy.optimize.OptimizeResult:
    """Biases and then weights at the minimum, from zeros."""
    rows = np.arange(len(targets))

    def loss_and_gradient(flat: Float64[np.ndarray, "number"]) -> tuple[float, Float64[np.ndarray, "number"]]:
        bias, weight = flat[:n_classes], flat[n_classes:].reshape(n_classes, -1)
        logits = standard @ weight.T + bias
        logits -= logits.max(axis=1, keepdims=True)
        probs = np.exp(logits)
        total = probs.sum(axis=1)
        loss = share @ (np.log(total) - logits[rows, targets]) + l2 / 2 * np.square(weight).sum()
        residual = probs * (share / total)[:, None]
        residual[rows, targets] -= share
        gradient = np.concatenate([residual.sum(axis=0), (residual.T @ standard + l2 * weight).ravel()])
        return float(loss), gradient

    return scipy.optimize.minimize(
        loss_and_gradient,
        np.zeros(n_classes * (standard.shape[1] + 1)),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": tolerance, "ftol": 0.0, "maxiter": MOST_ROUNDS, "maxfun": 2 * MOST_ROUNDS, "maxcor": 20},
    )
