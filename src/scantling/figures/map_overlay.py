"""A colour map over the picture it belongs to, at the picture's own resolution."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Num, UInt8

from scantling.data.resampling import resample, resample_nearest
from scantling.figures.colour_disk import DiskColours, disk_colours

Window = tuple[float, float]
_LUMINANCE: Final = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)  # ITU-R BT.709


def grey_window(*images: Num[np.ndarray, "channel *spatial"]) -> Window:
    """The values that become black and white: the 0.5th and the 99.5th percentile of all first channels together."""
    values = np.concatenate([image[0].ravel() for image in images])
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = map(float, np.percentile(values, (0.5, 99.5))) if values.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def is_colour(image: Num[np.ndarray, "channel *spatial"]) -> bool:
    """Whether three channels of bytes are to be shown as red, green and blue."""
    return image.shape[0] == 3 and image.dtype == np.uint8


def shown(image: Num[np.ndarray, "channel y x"], window: Window | None = None) -> UInt8[np.ndarray, "y x 3"]:
    """A picture as it is looked at: bytes of colour as they are, else the first channel in grey.

    Args:
        window: values of black and white, so that several pictures share them; None is the picture's own.
    """
    if is_colour(image):
        return np.ascontiguousarray(np.moveaxis(image, 0, -1))
    low, high = window or grey_window(image)
    grey = np.clip((np.nan_to_num(image[0].astype(np.float32)) - low) / (high - low), 0, 1)
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)


def grey_of(picture: UInt8[np.ndarray, "y x 3"]) -> Float[np.ndarray, "y x"]:
    """How light each pixel is, from 0 to 255."""
    grey: Float[np.ndarray, "y x"] = picture.astype(np.float32) @ _LUMINANCE
    return grey


def places_on_grid(
    places: Float[np.ndarray, "*own 2"], shape: tuple[int, ...], *, nearest: bool = False
) -> Float[np.ndarray, "*wanted 2"]:
    """Places in the disk on another grid of the same extent, linear between those there are: so are their colours."""
    if places.shape[:-1] == shape:
        return places
    if nearest:
        return resample_nearest(places, (*shape, 2))
    return np.stack([resample(np.ascontiguousarray(places[..., k]), shape, "linear") for k in (0, 1)], axis=-1)


def draw_map_overlay(
    picture: UInt8[np.ndarray, "y x 3"],
    places: Float[np.ndarray, "_ _ 2"],
    *,
    opacity: float = 0.5,
    colours: DiskColours = disk_colours,
    over_colour: bool = False,
    nearest: bool = False,
) -> UInt8[np.ndarray, "y x 3"]:
    """The colour map mixed into a picture.

    Args:
        places: in the disk, on a grid of any size over the picture's extent.
        opacity: share of the map, in [0, 1].
        over_colour: mix it into the picture's own colours; else into its grey, so that hues are the map's alone.
        nearest: the map in blocks, not smooth.

    Raises:
        ValueError: `opacity` is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity: wanted a share from 0 to 1, got {opacity}")
    below = picture.astype(np.float32) if over_colour else grey_of(picture)[..., None]
    above = colours(places_on_grid(places, picture.shape[:2], nearest=nearest))
    return np.rint((1 - opacity) * below + opacity * above).astype(np.uint8)
