"""Colours of a disk: hue is the angle, and colourfulness the radius, at one lightness, as even as the eye sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

DiskColours: TypeAlias = Callable[[Float[np.ndarray, "*place 2"]], UInt8[np.ndarray, "*place 3"]]

LIGHTNESS: Final = 0.75
CHROMA: Final = 0.1275
"""OKLCH: of all lightnesses the one whose largest chroma that a screen (sRGB) can show at every hue is largest."""

# Ottosson 2020, "A perceptual color space for image processing": linear sRGB -> cone responses, their cube roots -> Lab
_CONES_FROM_LINEAR: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB_FROM_ROOTS: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_LINEAR_FROM_CONES: Final = np.linalg.inv(_CONES_FROM_LINEAR)
_ROOTS_FROM_LAB: Final = np.linalg.inv(_LAB_FROM_ROOTS)


def disk_colours(places: Float[np.ndarray, "*place 2"]) -> UInt8[np.ndarray, "*place 3"]:
    """sRGB bytes of places in the unit disk; beyond it the colour of the rim in that direction.

    Equal distances in the disk are about equally different colours; all are equally light, so the picture below an
    overlay keeps its own light and dark. The centre is grey. Places that are not finite get the centre's colour.
    """
    inside = within_disk(np.nan_to_num(places, nan=0.0, posinf=0.0, neginf=0.0))
    lab = np.empty((*inside.shape[:-1], 3), dtype=inside.dtype)
    lab[..., 0] = LIGHTNESS
    lab[..., 1:] = CHROMA * inside
    colours: UInt8[np.ndarray, "*place 3"] = np.rint(np.clip(srgb_from_oklab(lab), 0, 1) * 255).astype(np.uint8)
    return colours


def within_disk(places: Float[np.ndarray, "*place 2"]) -> Float[np.ndarray, "*place 2"]:
    """Places beyond the rim moved onto it."""
    radius = np.hypot(places[..., 0], places[..., 1])
    inside: Float[np.ndarray, "*place 2"] = places / np.maximum(radius, 1)[..., None]
    return inside


def disk_picture(
    side: int, colours: DiskColours = disk_colours, *, around: tuple[int, int, int] = (255, 255, 255)
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The disk as a legend: the first coordinate runs to the right, the second upwards; the rim is smooth."""
    at = (np.arange(side) + 0.5) * 2 / side - 1
    places = np.stack(np.broadcast_arrays(at[None, :], -at[:, None]), axis=-1)
    radius = np.hypot(places[..., 0], places[..., 1])
    cover = np.clip((1 - radius) * side / 2 + 0.5, 0, 1)[..., None]
    shown = cover * colours(places) + (1 - cover) * np.array(around, dtype=np.float64)
    picture: UInt8[np.ndarray, "{side} {side} 3"] = np.rint(shown).astype(np.uint8)
    return picture


def srgb_from_oklab(lab: Float[np.ndarray, "*place 3"]) -> Float[np.ndarray, "*place 3"]:
    """Display values; outside [0, 1] where a screen cannot show the colour."""
    linear = (lab @ _ROOTS_FROM_LAB.T.astype(lab.dtype)) ** 3 @ _LINEAR_FROM_CONES.T.astype(lab.dtype)
    size = np.abs(linear)
    encoded = np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** (1 / 2.4) - 0.055)
    display: Float[np.ndarray, "*place 3"] = np.copysign(encoded, linear)
    return display


def oklab_from_srgb(display: Float[np.ndarray, "*place 3"]) -> Float[np.ndarray, "*place 3"]:
    """Lightness and the two chromatic axes of display values in [0, 1]."""
    linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    lab: Float[np.ndarray, "*place 3"] = np.cbrt(linear @ _CONES_FROM_LINEAR.T) @ _LAB_FROM_ROOTS.T
    return lab
