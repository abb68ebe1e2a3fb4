"""A case's CHRO-map as one picture: every view beside its colours, and the disk that says what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from scantling.figures.colour_disk import DiskColours, disk_colours, disk_picture
from scantling.figures.map_overlay import draw_map_overlay

_PAPER: Final = (255, 255, 255)
_INK: Final = (28, 28, 28)
_QUIET: Final = (96, 96, 96)
_GAP_PX: Final = 8
_TITLE_PX: Final = 17
_TEXT_PX: Final = 13
_DISK_PX: Final = 92
_LEAST_WIDTH_PX: Final = 480


@dataclass(frozen=True, kw_only=True, eq=False)
class MapPanel:
    """A picture, or a slice of a volume, with the places of its pixels in the colour disk.

    Attributes:
        places: on a grid of any size over the picture's extent.
        spacing: of rows and columns, so that pixels that are not square look right.
    """

    caption: str
    picture: UInt8[np.ndarray, "y x 3"]
    places: Float[np.ndarray, "_ _ 2"]
    spacing: tuple[float, float] = (1.0, 1.0)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height, in units of the spacing."""
        rows, columns = self.picture.shape[:2]
        return columns * self.spacing[1], rows * self.spacing[0]


@dataclass(frozen=True, kw_only=True)
class SheetStyle:
    """How panels are drawn.

    Attributes:
        opacity: share of the colour map in an overlay.
        over_colour: mix the map into a picture's own colours, not into its grey.
        nearest: the map in blocks.
    """

    colours: DiskColours = disk_colours
    opacity: float = 0.5
    over_colour: bool = False
    nearest: bool = False

    def overlay(self, panel: MapPanel) -> UInt8[np.ndarray, "y x 3"]:
        """The panel's picture under its colours, at the picture's resolution."""
        return draw_map_overlay(
            panel.picture, panel.places, opacity=self.opacity, colours=self.colours, over_colour=self.over_colour,
            nearest=self.nearest,
        )  # fmt: skip


def draw_chromap_sheet(
    rows: Sequence[list[MapPanel]],
    *,
    title: str,
    notes: Sequence[str] = (),
    strips: Sequence[Sequence[MapPanel]] = (),
    style: SheetStyle | None = None,
    height_px: int = 240,
    width_px: int = 1280,
) -> UInt8[np.ndarray, "row column 3"]:
    """Title and legend; of each row the pictures, and below them their overlays; then strips of overlays alone.

    Args:
        height_px, width_px: that no row exceeds.

    Raises:
        ValueError: there is no panel.
    """
    style = style or SheetStyle()
    if not any(rows):
        raise ValueError("chromap sheet: there is no panel")
    bands = [_header(title, notes, style)]
    for row in rows:
        sizes = sizes_of_row(row * (2 if len(row) == 1 else 1), height_px, width_px)[: len(row)]
        pictures = [_sized(panel.picture, size) for panel, size in zip(row, sizes, strict=True)]
        overlays = [_sized(style.overlay(panel), size) for panel, size in zip(row, sizes, strict=True)]
        captions = [panel.caption for panel in row]
        if len(row) == 1:  # below each other they would leave half the sheet empty
            bands.append(_beside([*pictures, *overlays], [*captions, "features"]))
        else:
            bands += [_beside(pictures, captions), _beside(overlays)]
    width = max(band.width for band in bands)
    for strip in strips:
        sizes = sizes_of_row(strip, height_px, width)
        drawn = [_sized(style.overlay(panel), size) for panel, size in zip(strip, sizes, strict=True)]
        bands.append(_beside(drawn, [panel.caption for panel in strip]))
    return np.asarray(_below(bands))


def sizes_of_row(
    panels: Sequence[MapPanel], most_height: int, most_width: int, gap: int = _GAP_PX
) -> list[tuple[int, int]]:
    """Width and height of panels beside each other, all at one scale: the largest at which the row fits."""
    width = sum(panel.extent[0] for panel in panels)
    scale = min((most_width - gap * (len(panels) - 1)) / width, most_height / max(panel.extent[1] for panel in panels))
    return [(max(1, int(scale * panel.extent[0])), max(1, int(scale * panel.extent[1]))) for panel in panels]


def _header(title: str, notes: Sequence[str], style: SheetStyle) -> Image.Image:
    """The legend, and beside it what is shown."""
    large, small = ImageFont.load_default(_TITLE_PX), ImageFont.load_default(_TEXT_PX)
    left = _DISK_PX + 2 * _GAP_PX
    width = left + int(max(large.getlength(title), *(small.getlength(note) for note in notes), 0)) + _GAP_PX
    header = Image.new("RGB", (max(width, _LEAST_WIDTH_PX), _DISK_PX + _GAP_PX), _PAPER)
    header.paste(Image.fromarray(disk_picture(_DISK_PX, style.colours)), (0, 0))
    pen = ImageDraw.Draw(header)
    top = (_DISK_PX - _TITLE_PX - (_TEXT_PX + 6) * len(notes)) // 2
    pen.text((left, top), title, fill=_INK, font=large)
    for k, note in enumerate(notes):
        pen.text((left, top + _TITLE_PX + 8 + (_TEXT_PX + 6) * k), note, fill=_QUIET, font=small)
    return header


def _sized(picture: UInt8[np.ndarray, "y x 3"], size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(picture)
    shrinks = size[1] < picture.shape[0]
    return image.resize(size, Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC)


def _beside(pictures: Sequence[Image.Image], captions: Sequence[str] = ()) -> Image.Image:
    """Pictures in a row, each under its caption, which is cut where it is too long."""
    font = ImageFont.load_default(_TEXT_PX)
    top = _TEXT_PX + 8 if any(captions) else 0
    width = sum(picture.width for picture in pictures) + _GAP_PX * (len(pictures) - 1)
    band = Image.new("RGB", (width, top + max(picture.height for picture in pictures)), _PAPER)
    pen, left = ImageDraw.Draw(band), 0
    for k, picture in enumerate(pictures):
        if captions:
            pen.text((left, 2), _cut(captions[k], font, picture.width), fill=_INK, font=font)
        band.paste(picture, (left, top))
        left += picture.width + _GAP_PX
    return band


def _below(bands: Sequence[Image.Image]) -> Image.Image:
    """Bands one below the other, with a margin around all."""
    margin = 2 * _GAP_PX
    width = max(band.width for band in bands) + 2 * margin
    height = sum(band.height for band in bands) + _GAP_PX * (len(bands) - 1) + 2 * margin
    sheet, top = Image.new("RGB", (width, height), _PAPER), margin
    for band in bands:
        sheet.paste(band, (margin, top))
        top += band.height + _GAP_PX
    return sheet


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: float) -> str:
    """The text, ended by an ellipsis where it is too long."""
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "...") > width_px:
        text = text[:-1]
    return text + "..."
