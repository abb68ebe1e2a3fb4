"""Two views of one anatomy side by side, and which point of the one is which point of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from scantling.figures.colours import Colour, class_colour
from scantling.figures.overlay import grey_to_rgb

_FINER: Final = 3  # drawn so many times larger and made smaller, which smooths slanted lines
_GAP_PX: Final = 28
_TEXT_PX: Final = 15
_DOT_PX: Final = 5.0
_PAPER: Final = (255, 255, 255)
_INK: Final = (34, 34, 34)
_FRAME: Final = (255, 255, 255)
_ALONE: Final = (170, 170, 170)


class _Panel(NamedTuple):
    """Where a view lies on the canvas, in fine pixels."""

    left: float
    top: float
    scale: float
    shape: tuple[int, int]

    @property
    def right(self) -> float:
        return self.left + self.shape[1] * self.scale

    def place(self, indices: Float[np.ndarray, "_ 2"]) -> list[tuple[float, float]]:
        """Canvas (x, y) of (row, column) indices; index 0 is the centre of the first pixel."""
        return [
            (self.left + (float(column) + 0.5) * self.scale, self.top + (float(row) + 0.5) * self.scale)
            for row, column in indices
        ]

    def holds(self, indices: Float[np.ndarray, "_ 2"]) -> list[bool]:
        """Whether indices lie inside the view, borders of its outer pixels included."""
        inside = (indices >= -0.5) & (indices <= np.array(self.shape) - 0.5)
        return [bool(row.all()) for row in inside]


def draw_correspondence(
    first: Shaped[np.ndarray, "channel y x"],
    second: Shaped[np.ndarray, "channel v u"],
    first_points: Float[np.ndarray, "point 2"],
    second_points: Float[np.ndarray, "point 2"],
    *,
    shared: Bool[np.ndarray, "point"] | None = None,
    first_frame: Float[np.ndarray, "_ 2"] | None = None,
    second_frame: Float[np.ndarray, "_ 2"] | None = None,
    captions: Sequence[str] = ("", ""),
    height_px: int = 320,
    joined: bool = True,
) -> UInt8[np.ndarray, "row column 3"]:
    """Both views in grey; a shared point has one number and one colour in both, and a line from one to the other.

    Args:
        first_points, second_points: (row, column) indices in each view, whole numbers at pixel centres.
        shared: False for a point that is no pair: a small cross in each view that it lies in. None is all.
        first_frame: corners of a region in the first view's indices, such as what the second one sees; dashed.
        second_frame: likewise in the second.
        captions: over the first and over the second view.
    """
    shared = np.ones(len(first_points), dtype=bool) if shared is None else shared
    top = _FINER * (_TEXT_PX + 10 if any(captions) else 0)
    height = _FINER * height_px
    panels, left = [], 0.0
    for image in (first, second):
        panels.append(_Panel(left, top, height / image.shape[1], (image.shape[1], image.shape[2])))
        left += image.shape[2] * height / image.shape[1] + _FINER * _GAP_PX
    canvas = Image.new("RGB", (round(left - _FINER * _GAP_PX), top + height), _PAPER)
    for panel, image in zip(panels, (first, second), strict=True):
        size = (round(image.shape[2] * panel.scale), height)
        shown = Image.fromarray(grey_to_rgb(image)).resize(size, Image.Resampling.BICUBIC)
        canvas.paste(shown, (round(panel.left), top))
    pen = ImageDraw.Draw(canvas)
    for panel, frame in zip(panels, (first_frame, second_frame), strict=True):
        if frame is not None:
            _dashed_outline(canvas, panel, frame)
    _points(pen, panels, (first_points, second_points), shared, joined=joined)
    for panel, caption in zip(panels, captions, strict=True):
        pen.text((panel.left, 0), caption, fill=_INK, font=ImageFont.load_default(_FINER * _TEXT_PX))
    small = (canvas.width // _FINER, canvas.height // _FINER)
    return np.asarray(canvas.resize(small, Image.Resampling.BOX))


def _points(
    pen: ImageDraw.ImageDraw,
    panels: Sequence[_Panel],
    points: tuple[Float[np.ndarray, "point 2"], Float[np.ndarray, "point 2"]],
    shared: Bool[np.ndarray, "point"],
    *,
    joined: bool,
) -> None:
    """Lines first, dots and numbers over them."""
    for panel, indices in zip(panels, points, strict=True):
        for place, here, pair in zip(panel.place(indices), panel.holds(indices), shared, strict=True):
            if here and not pair:
                _cross(pen, place)
    pairs = np.flatnonzero(shared)
    places = [panel.place(indices[pairs]) for panel, indices in zip(panels, points, strict=True)]
    for position, (start, end) in enumerate(zip(*places, strict=True)):
        if joined:
            pen.line([start, end], fill=class_colour(position + 1), width=_FINER + 1)
    for side in places:
        for position, place in enumerate(side):
            _numbered_dot(pen, place, position + 1, before=panels[-1].right)


def _numbered_dot(pen: ImageDraw.ImageDraw, place: tuple[float, float], value: int, *, before: float) -> None:
    """The number stands on the dot's right, or on its left where it would reach beyond `before`."""
    colour = class_colour(value)
    _disc(pen, place, _FINER * (_DOT_PX + 1), (0, 0, 0))
    _disc(pen, place, _FINER * _DOT_PX, colour)
    font = ImageFont.load_default(_FINER * _TEXT_PX * 0.85)
    (x, y), away, length = place, _FINER * (_DOT_PX + 3), font.getlength(str(value))
    left = x + away if x + away + length < before else x - away - length
    at = (left, y - _FINER * _TEXT_PX * 0.55)
    pen.text(at, str(value), fill=colour, font=font, stroke_width=_FINER, stroke_fill=(0, 0, 0))


def _disc(pen: ImageDraw.ImageDraw, place: tuple[float, float], radius: float, colour: Colour) -> None:
    x, y = place
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _cross(pen: ImageDraw.ImageDraw, place: tuple[float, float]) -> None:
    (x, y), arm = place, _FINER * 3.5
    for slope in (1, -1):
        pen.line([(x - arm, y - slope * arm), (x + arm, y + slope * arm)], fill=_ALONE, width=2 * _FINER)


def _dashed_outline(canvas: Image.Image, panel: _Panel, frame: Float[np.ndarray, "_ 2"]) -> None:
    """A closed outline in dashes, cut off at the view's border."""
    size = (round(panel.shape[1] * panel.scale), round(panel.shape[0] * panel.scale))
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    corners = np.array(_Panel(0.0, 0.0, panel.scale, panel.shape).place(frame))
    dash = _FINER * 6.0
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = float(np.linalg.norm(end - start))
        for from_start in np.arange(0, length, 2 * dash):
            ends = np.array([from_start, min(from_start + dash, length)])[:, None] / max(length, 1e-9)
            piece = start + ends * (end - start)
            pen.line([(float(x), float(y)) for x, y in piece], fill=255, width=2 * _FINER)
    canvas.paste(Image.new("RGB", size, _FRAME), (round(panel.left), round(panel.top)), mask)
