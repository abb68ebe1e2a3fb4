"""Label contours over grey slices: prediction as a solid line, reference as a lighter dashed one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import scipy
from jaxtyping import Bool, Float, Integer, Shaped, UInt8
from PIL import Image

from scantling.figures.colours import Colour, class_colour, lighter

_MOST_OF_A_SLICE: Final = 0.6
"""Share of the area from which enlarging would gain little and lose the surroundings."""


def worst_slice(prediction: Integer[np.ndarray, "z y x"], reference: Integer[np.ndarray, "z y x"]) -> int:
    """The slice (first axis) with most wrong pixels; unknown reference pixels (< 0) do not count.

    Where nothing is wrong, the slice with most foreground.
    """
    wrong = ((prediction != reference) & (reference >= 0)).reshape(len(reference), -1).sum(axis=1)
    present = (reference > 0).reshape(len(reference), -1).sum(axis=1)
    return int(np.argmax(wrong if wrong.any() else present))


def window_around(mask: Bool[np.ndarray, "y x"], spacing: tuple[float, float] = (1.0, 1.0)) -> tuple[slice, slice]:
    """The rows and columns of a square around a mask, twice as wide as the mask; all of them where it would hold
    most of the slice, or where the mask is empty.

    Args:
        spacing: of rows and columns, so that the square is one in mm.
    """
    everything = (slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    if not mask.any():
        return everything
    ends = [(int(at.min()), int(at.max()) + 1) for at in np.nonzero(mask)]
    side_mm = 2 * max((last - first) * mm for (first, last), mm in zip(ends, spacing, strict=True))
    side_mm = max(side_mm, min(n * mm for n, mm in zip(mask.shape, spacing, strict=True)) / 3)
    window = []
    for (first, last), n, mm in zip(ends, mask.shape, spacing, strict=True):
        side = min(n, round(side_mm / mm))
        start = min(max((first + last - side) // 2, 0), n - side)
        window.append(slice(start, start + side))
    share = (window[0].stop - window[0].start) * (window[1].stop - window[1].start) / mask.size
    return everything if share > _MOST_OF_A_SLICE else (window[0], window[1])


def grey_to_rgb(image: Shaped[np.ndarray, "channel y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """Display values of a slice: three channels of bytes as colour, else the first channel in grey.

    Grey is stretched between the 0.5th and 99.5th percentile of the finite pixels.
    """
    if image.shape[0] == 3 and image.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(image, 0, -1))
    grey = image[0].astype(np.float64)
    finite = grey[np.isfinite(grey)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, low + 0.5
    shown = np.nan_to_num((grey - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    return np.repeat(np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)


def draw_overlay(
    picture: UInt8[np.ndarray, "y x 3"],
    *,
    prediction: Integer[np.ndarray, "y x"] | None = None,
    reference: Integer[np.ndarray, "y x"] | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
    height_px: int = 320,
    fill: float = 0.0,
) -> UInt8[np.ndarray, "row column 3"]:
    """A slice enlarged to `height_px` with the contours of every class drawn at full resolution.

    Args:
        spacing: of rows and columns; only their ratio matters, so that pixels that are not square look right.
        fill: opacity of the predicted classes' tint, in [0, 1].
    """
    rows, columns = picture.shape[:2]
    width_px = max(1, round(height_px * columns * spacing[1] / (rows * spacing[0])))
    size = (width_px, height_px)
    canvas = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), dtype=np.float64).copy()
    thickness = max(2, round(height_px / 180))
    if reference is not None:
        for value, mask in _enlarged(reference, size):
            line = _outline(mask, thickness) & _dashes(mask, period_px=max(8, height_px / 26))
            _stroke(canvas, line, lighter(class_colour(value), 0.5))
    if prediction is not None:
        for value, mask in _enlarged(prediction, size):
            if fill:
                canvas[mask] += fill * (np.array(class_colour(value)) - canvas[mask])
            _stroke(canvas, _outline(mask, thickness), class_colour(value))
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)


def contact_sheet(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    columns: int,
    gap_px: int = 8,
    background: Colour = (255, 255, 255),
) -> UInt8[np.ndarray, "row column 3"]:
    """Pictures side by side in rows of `columns`, each centred in a cell as large as the largest.

    Raises:
        ValueError: no picture, or no column.
    """
    if not pictures or columns < 1:
        raise ValueError(f"contact_sheet: needs a picture and a column, got {len(pictures)} and {columns}")
    height, width = max(p.shape[0] for p in pictures), max(p.shape[1] for p in pictures)
    n_rows, n_columns = -(-len(pictures) // columns), min(columns, len(pictures))
    shape = (n_rows * (height + gap_px) - gap_px, n_columns * (width + gap_px) - gap_px, 3)
    sheet = np.empty(shape, dtype=np.uint8)
    sheet[:] = background
    for position, picture in enumerate(pictures):
        row, column = divmod(position, columns)
        top = row * (height + gap_px) + (height - picture.shape[0]) // 2
        left = column * (width + gap_px) + (width - picture.shape[1]) // 2
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def png_bytes(picture: UInt8[np.ndarray, "y x 3"]) -> bytes:
    """The picture as a PNG file; equal pictures give equal bytes."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()


def _enlarged(
    label_map: Integer[np.ndarray, "y x"], size: tuple[int, int]
) -> list[tuple[int, Bool[np.ndarray, "row column"]]]:
    """Each class as a smooth mask on the canvas; where several reach, the strongest has the pixel."""
    values = [int(value) for value in np.unique(label_map) if value > 0]
    if not values:
        return []
    shares: list[Float[np.ndarray, "row column"]] = []
    for value in values:
        member = Image.fromarray((label_map == value).astype(np.float32))
        shares.append(np.asarray(member.resize(size, Image.Resampling.BICUBIC)))
    stacked = np.stack(shares)
    best = np.argmax(stacked, axis=0)
    inside = stacked.sum(axis=0) > 0.5
    return [(value, inside & (best == position)) for position, value in enumerate(values)]


def _outline(mask: Bool[np.ndarray, "row column"], thickness: int) -> Bool[np.ndarray, "row column"]:
    """The inner border of a mask, `thickness` pixels wide."""
    return np.asarray(mask & ~scipy.ndimage.binary_erosion(mask, iterations=thickness, border_value=1))


def _stroke(canvas: Float[np.ndarray, "row column 3"], line: Bool[np.ndarray, "row column"], colour: Colour) -> None:
    """Paint a line in place, with a dark hem so that it stands out on bright tissue too."""
    hem = scipy.ndimage.binary_dilation(line) & ~line
    canvas[hem] *= 0.45
    canvas[line] = colour


def _dashes(mask: Bool[np.ndarray, "row column"], *, period_px: float) -> Bool[np.ndarray, "row column"]:
    """True in every other stretch of about half a period along each component's contour."""
    parts, n_parts = scipy.ndimage.label(mask)
    drawn = np.zeros(mask.shape, dtype=bool)
    for part in range(1, n_parts + 1):
        rows, columns = np.nonzero(parts == part)
        perimeter = np.count_nonzero(_outline(parts == part, 1))
        n_dashes = max(3, round(perimeter / period_px))
        turn = np.arctan2(rows - rows.mean(), columns - columns.mean()) / (2 * np.pi) + 0.5
        drawn[rows, columns] = (turn * n_dashes) % 1.0 < 0.6
    return drawn
