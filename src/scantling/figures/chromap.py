"""CHRO-maps: every pixel in the colour of its features, so that alike pixels have one colour in every view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
from jaxtyping import Float, Num, UInt8

from scantling.config import nearest
from scantling.errors import ConfigError
from scantling.figures.colour_disk import DiskColours, disk_colours, disk_picture
from scantling.figures.fitted_chromap import ChroMap
from scantling.figures.map_overlay import draw_map_overlay, shown
from scantling.figures.published_chromap import hsv_colours, published_places

Mode = Literal["pca", "umap"]
COLOURS: Final[dict[str, DiskColours]] = {"pca": disk_colours, "umap": hsv_colours}
"""Of the disk, in each mode."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureColours:
    """What `chromap` makes of features.

    Attributes:
        places: of each pixel in the unit disk: the angle is its hue, the radius how colourful it is.
        colours: sRGB bytes.
        chromap: the fitted map, for further features; None of mode "umap", which cannot be applied to others.
    """

    places: Float[np.ndarray, "*stack_and_space 2"]
    colours: UInt8[np.ndarray, "*stack_and_space 3"]
    mode: Mode
    chromap: ChroMap | None

    def overlay(
        self, image: Num[np.ndarray, "channel y x"], view: tuple[int, ...] = (), *, opacity: float = 0.5
    ) -> UInt8[np.ndarray, "y x 3"]:
        """A picture of any size under the colours of one view, at the picture's resolution; grey where it has colour.

        Args:
            view: index of the view (and of the slice of a volume) among those the features were given for.
        """
        picture = shown(image)
        blocks = self.mode == "umap"
        return draw_map_overlay(
            picture, self.places[view], opacity=opacity, colours=COLOURS[self.mode], over_colour=blocks, nearest=blocks
        )

    def legend(self, side: int = 160) -> UInt8[np.ndarray, "{side} {side} 3"]:
        """The disk."""
        return disk_picture(side, COLOURS[self.mode])


def chromap(
    features: Any,
    *,
    mode: str = "pca",
    spatial_axes: int = 2,
    like: ChroMap | None = None,
    unit_length: bool = True,
    each_feature: bool = False,
    share: float = 1.0,
    seed: int = 0,
) -> FeatureColours:
    """Colours of dense features: one map of all views together.

    In mode "pca" the two main directions of all vectors, divided by their length, span the map; the least ellipse
    around it becomes the disk. Colours do not depend on the axes in which features are written, up to a turn of the
    disk, which `ChroMap.align_to` undoes.

    Args:
        features: an array or tensor `[*views, feature, *spatial]`.
        mode: "pca", or "umap" for the published algorithm (extra `umap`; minutes).
        spatial_axes: 3 for volumes.
        like: a map that was fitted before, to be applied as it is.
        unit_length: divide vectors by their length first.
        each_feature: standardise every feature by itself; see `fit_principal_axes`.
        share: of the points that the ellipse must hold; below 1, outliers take the colour of the rim.

    Raises:
        ConfigError: an unknown mode, or umap-learn is missing.
        ValueError: the array has too few axes or no value, or a feature is not finite.
    """
    array = np.asarray(features.detach().cpu().float() if hasattr(features, "detach") else features)
    known = require_mode(mode)
    if array.ndim < spatial_axes + 1 or not array.size:
        raise ValueError(f"chromap: wanted [..., feature, {spatial_axes} spatial axes], got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("chromap: the features are not all finite")
    stack, space = array.shape[: -spatial_axes - 1], array.shape[-spatial_axes:]
    views = array.reshape(math.prod(stack), -1, math.prod(space)).astype(np.float32, copy=False)
    if known == "umap":
        joined = np.concatenate(list(views), axis=1)
        flat, fitted = published_places(joined, seed=seed, unit_length=unit_length), None
    else:
        fitted = like or ChroMap.fit(
            list(views), unit_length=unit_length, each_feature=each_feature, share=share, seed=seed
        )
        flat = np.concatenate([fitted.places(view) for view in views])
    places = flat.reshape(*stack, *space, 2)
    return FeatureColours(places=places, colours=COLOURS[known](places), mode=known, chromap=fitted)


def require_mode(name: str) -> Mode:
    """The mode of a name.

    Raises:
        ConfigError: there is none; the message suggests the nearest.
    """
    if name in COLOURS:
        return cast(Mode, name)
    raise ConfigError(f"--mode {name}: there is no such mode{nearest(name, COLOURS)}", code="E-FIG-02")
