"""The CHRO-map as published: UMAP to a plane, an ellipse around it, hue and saturation of HSV."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float64, Shaped, UInt8

from scantling.errors import ConfigError
from scantling.figures.enclosing_ellipse import Ellipse
from scantling.seeding import derived_seed

OPACITY: Final = 0.5
_HUES: Final = 179
"""The largest hue of a byte-sized HSV picture, which counts degrees by two."""


def published_places(
    features: Float[np.ndarray, "feature *place"], *, seed: int = 0, unit_length: bool = True
) -> Float[np.ndarray, "*place 2"]:
    """Features of length 1, each standardised, taken to a plane by UMAP with its defaults, its ellipse to the disk.

    It takes minutes for hundreds of thousands of points, and is fitted anew for every call.

    Args:
        seed: the published one has none, so that its maps differ from run to run.

    Raises:
        ConfigError: umap-learn is not installed.

    Source: Lafargue-Hauret et al. 2026, "Pixel-level counterfactual contrastive learning": CHRO-map, and its released
        code, https://github.com/lafarguem/cf-dense-contrastive-learning/blob/6c32631/pretraining/evaluation/visualizations.py
    """
    require_umap()
    rows = features.reshape(len(features), -1).T.astype(np.float32)
    if unit_length:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    rows = (rows - rows.mean(axis=0)) / (rows.std(axis=0, ddof=1) + np.float32(1e-5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own parts: a missing tensorflow, starts that fall back
        from umap import UMAP

        reducer: Any = UMAP(random_state=derived_seed(seed, "umap") % 2**32, n_jobs=1)
        points = np.asarray(reducer.fit_transform(rows), dtype=np.float64)
    return released_ellipse(points).place(points).astype(np.float32).reshape(*features.shape[1:], 2)


def require_umap() -> None:
    """Refuse what needs umap-learn where it is not installed.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("umap") is None:
        raise ConfigError(
            "--mode umap: needs umap-learn; install it with: pip install 'scantling[umap]'", code="E-FIG-03"
        )


def released_ellipse(points: Float[np.ndarray, "point 2"]) -> Ellipse:
    """The ellipse of the released code: an ascent that stops early, then grown until it holds every point.

    Its step is the one for lifted points (x, y, 1), where the largest distance tends to 3, applied to distances that
    are not lifted and tend to 2: it stops once the largest is 3, with more area than needed (`enclosing_ellipse` has
    the least). `gap` is not known, and NaN.

    Source: as `published_places`, `get_mvee` and `ensure_full_containment`.
    """
    points = np.asarray(points, dtype=np.float64)
    weights = np.full(len(points), 1 / len(points))
    for _ in range(1000):
        centre, covariance = _weighted(points, weights)
        distance = _squares(points - centre, np.linalg.inv(covariance))
        farthest = int(distance.argmax())
        step = float(np.clip((distance[farthest] - 3) / (3 * (distance[farthest] - 1)), 0, 1))
        moved = (1 - step) * weights
        moved[farthest] += step
        change = float(np.linalg.norm(moved - weights))
        weights = moved
        if change <= 1e-5:
            break
    centre, covariance = _weighted(points, weights)
    shape = np.linalg.inv(covariance) / 2
    farthest_square = float(_squares(points - centre, shape).max())
    if farthest_square > 1:
        shape /= farthest_square + 1e-6
    lengths, axes = np.linalg.eigh(shape)
    return Ellipse(centre=centre, to_disk=(axes * np.sqrt(lengths)) @ axes.T, gap=float("nan"))


def hsv_colours(places: Float[np.ndarray, "*place 2"]) -> UInt8[np.ndarray, "*place 3"]:
    """Hue of the angle in 180 steps, saturation of the radius in 256, full value; bytes cut off, not rounded."""
    angle = np.arctan2(places[..., 1], places[..., 0])
    hue = np.clip((angle + np.pi) / (2 * np.pi) * _HUES, 0, _HUES).astype(np.uint8)
    saturation = np.clip(np.hypot(places[..., 0], places[..., 1]) * 255, 0, 255).astype(np.uint8)
    return rgb_from_hsv(hue, saturation)


def rgb_from_hsv(
    hue: UInt8[np.ndarray, "*place"], saturation: UInt8[np.ndarray, "*place"]
) -> UInt8[np.ndarray, "*place 3"]:
    """sRGB bytes of full value; `hue` counts degrees by two."""
    sextant = hue.astype(np.float64) * 2 / 60
    share = saturation / 255
    channels = []
    for shift in (5, 3, 1):  # red, green, blue: how far each is from the sextants in which it is full
        at = (shift + sextant) % 6
        channels.append(1 - share * np.clip(np.minimum(at, 4 - at), 0, 1))
    colours: UInt8[np.ndarray, "*place 3"] = np.rint(np.stack(channels, axis=-1) * 255).astype(np.uint8)
    return colours


def _weighted(
    points: Float64[np.ndarray, "point 2"], weights: Shaped[np.ndarray, "point"]
) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2 2"]]:
    centre = points.T @ weights
    centred = points - centre
    return centre, (centred.T * weights) @ centred


def _squares(
    centred: Float64[np.ndarray, "point 2"], shape: Float64[np.ndarray, "2 2"]
) -> Float64[np.ndarray, "point"]:
    squares: Float64[np.ndarray, "point"] = np.einsum("ij,jk,ik->i", centred, shape, centred)
    return squares
