"""Images beside their counterfactuals and what changed: brighter in red, darker in blue, one scale for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8
from PIL import Image

from scantling.data.image import ImageGeometry
from scantling.figures.colours import Colour, hexadecimal
from scantling.figures.hanging import oriented_slices
from scantling.figures.overlay import contact_sheet
from scantling.figures.svg import QUIET, svg, text_at

Picture: TypeAlias = UInt8[np.ndarray, "_ _ 3"]

REJECTED: Final[Colour] = (213, 94, 0)  # vermilion, told apart by colour-blind readers
_DARKER_TO_BRIGHTER: Final[tuple[Colour, ...]] = (
    (5, 113, 176),
    (146, 197, 222),
    (247, 247, 247),
    (244, 165, 130),
    (202, 0, 32),
)
"""ColorBrewer RdBu (Harrower and Brewer 2003), safe for colour-blind readers."""
_NICE: Final = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
_FRAME_SHARE: Final = 40  # a frame is this part of the picture's height wide


@dataclass(frozen=True, kw_only=True, eq=False)
class GridRow:
    """One image and its counterfactuals, each one slice.

    Attributes:
        rejected: of each counterfactual.
        spacing: of rows and columns, so that pixels that are not square look right.
        slice_number: from 1; `n_slices` is 1 for a picture.
    """

    before: Num[np.ndarray, "channel y x"]
    after: tuple[Num[np.ndarray, "channel y x"], ...]
    rejected: tuple[bool, ...]
    spacing: tuple[float, float] = (1.0, 1.0)
    slice_number: int = 1
    n_slices: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class RowPictures:
    """A row drawn: the image, and of each counterfactual itself and what changed."""

    before: Picture
    pairs: tuple[tuple[Picture, Picture], ...]


def grid_row(
    before: Num[np.ndarray, "channel *spatial"],
    after: Sequence[Num[np.ndarray, "channel *spatial"]],
    geometry: ImageGeometry,
    *,
    rejected: Sequence[bool] = (),
) -> GridRow:
    """A picture as it is; of a volume, hung as readers hang it, the slice that changes most.

    Args:
        rejected: of each counterfactual; none of them by default.
    """
    marks = tuple(rejected) or (False,) * len(after)
    if before.ndim == 3:
        return GridRow(before=before, after=tuple(after), rejected=marks)
    hung, spacing = oriented_slices(before, geometry)
    others = [oriented_slices(one, geometry)[0] for one in after]
    changed = np.zeros(hung.shape[1])
    for other in others:
        changed += np.nan_to_num(np.abs(other.astype(np.float64) - hung)).sum(axis=(0, 2, 3))
    most = int(changed.argmax()) if changed.any() else hung.shape[1] // 2
    return GridRow(
        before=hung[:, most],
        after=tuple(other[:, most] for other in others),
        rejected=marks,
        spacing=spacing,
        slice_number=most + 1,
        n_slices=hung.shape[1],
    )


def change_limit(rows: Sequence[GridRow]) -> float:
    """The change that gets the strongest colour: a round share of the grey scale that hardly any pixel exceeds."""
    found = [np.abs(_changes(row, other)).ravel() for row in rows for other in row.after]
    if not found:
        return _NICE[0]
    high = float(np.percentile(np.concatenate(found), 99.5))
    return next((nice for nice in _NICE if nice >= high), _NICE[-1])


def draw_row(row: GridRow, *, limit: float, most_px: int = 320) -> RowPictures:
    """The pictures of a row; image and counterfactuals share one grey scale.

    Args:
        limit: share of the grey scale, as `change_limit` gives it.
        most_px: higher pictures shrink to this; others keep their rows.
    """
    height, window = min(most_px, row.before.shape[1]), _window(row)
    pairs = [
        (
            _resized(_grey_or_colour(other, window), row, height),
            _resized(change_colours(_changes(row, other), limit=limit), row, height),
        )
        for other in row.after
    ]
    return RowPictures(before=_resized(_grey_or_colour(row.before, window), row, height), pairs=tuple(pairs))


def draw_counterfactual_grid(rows: Sequence[GridRow], *, limit: float | None = None, height_px: int = 200) -> Picture:
    """One picture: a row an image, and after it each counterfactual followed by its change; rejected ones are framed.

    Raises:
        ValueError: there is no row.
    """
    limit = change_limit(rows) if limit is None else limit
    n_columns = 1 + 2 * max((len(row.after) for row in rows), default=0)
    cells: list[Picture] = []
    for row in rows:
        drawn = draw_row(row, limit=limit, most_px=height_px)
        shown = [_resized(drawn.before, None, height_px)]
        for pair, rejected in zip(drawn.pairs, row.rejected, strict=True):
            both = [_resized(picture, None, height_px) for picture in pair]
            shown += [_framed(picture) for picture in both] if rejected else both
        cells += shown + [np.full_like(shown[0], 255)] * (n_columns - len(shown))
    return contact_sheet(cells, columns=n_columns)


def change_colours(change: Float[np.ndarray, "y x"], *, limit: float) -> Picture:
    """Blue where it is negative, nearly white at 0, red where it is positive; full colour from `limit` on."""
    shares = np.clip(np.nan_to_num(change) / limit, -1, 1)
    stops = np.linspace(-1, 1, len(_DARKER_TO_BRIGHTER))
    table = np.array(_DARKER_TO_BRIGHTER, dtype=np.float64)
    mixed = np.stack([np.interp(shares, stops, table[:, part]) for part in range(3)], axis=-1)
    colours: Picture = np.rint(mixed).astype(np.uint8)
    return colours


def change_key(limit: float, *, width: int = 300) -> str:
    """The legend of the changes as SVG: a bar with its ends in percent of the grey scale."""
    left, right, top, height = 10, width - 10, 4, 12
    stops = "".join(
        f"<stop offset='{100 * index / (len(_DARKER_TO_BRIGHTER) - 1):g}%' stop-color='{hexadecimal(colour)}'/>"
        for index, colour in enumerate(_DARKER_TO_BRIGHTER)
    )
    bar = (
        f"<defs><linearGradient id='change'>{stops}</linearGradient></defs>"
        f"<rect x='{left}' y='{top}' width='{right - left}' height='{height}' fill='url(#change)' stroke='{QUIET}' "
        "stroke-width='0.5'/>"
    )
    y = top + height + 15
    ends = [
        text_at(f"−{100 * limit:g} % darker", left, y, colour=QUIET),
        text_at("0", (left + right) / 2, y, anchor="middle", colour=QUIET),
        text_at(f"+{100 * limit:g} % brighter", right, y, anchor="end", colour=QUIET),
    ]
    return svg([bar, *ends], width, y + 6, "Colours of the changes, in percent of the grey scale")


def _window(row: GridRow) -> tuple[float, float]:
    """The values that become black and white: those of bytes as they are, else percentiles of all that is shown."""
    if row.before.dtype == np.uint8:
        return 0.0, 255.0
    shown = [row.before[:1], *(other[:1] for other in row.after)]
    values = np.concatenate([np.asarray(one, dtype=np.float64).ravel() for one in shown])
    values = values[np.isfinite(values)]
    low, high = map(float, np.percentile(values, (0.5, 99.5))) if values.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _grey_or_colour(image: Shaped[np.ndarray, "channel y x"], window: tuple[float, float]) -> Picture:
    """Three channels of bytes as colour, else the first channel in grey."""
    if image.shape[0] == 3 and image.dtype == np.uint8:
        colours: Picture = np.ascontiguousarray(np.moveaxis(image, 0, -1))
        return colours
    low, high = window
    shown = np.clip((np.nan_to_num(image[0].astype(np.float64)) - low) / (high - low), 0, 1)
    return np.repeat(np.rint(shown * 255).astype(np.uint8)[..., None], 3, axis=-1)


def _changes(row: GridRow, other: Num[np.ndarray, "channel y x"]) -> Float[np.ndarray, "y x"]:
    """Change of what is shown, in shares of the grey scale; of colours their mean."""
    low, high = _window(row)
    n_shown = 3 if other.shape[0] == 3 and other.dtype == np.uint8 else 1
    moved = other[:n_shown].astype(np.float64) - row.before[:n_shown]
    return np.asarray(np.nan_to_num(moved).mean(axis=0) / (high - low))


def _resized(picture: Picture, row: GridRow | None, height_px: int) -> Picture:
    """At another height; where a row is given, its pixels become square."""
    n_rows, n_columns = picture.shape[:2]
    spacing = (1.0, 1.0) if row is None else row.spacing
    width_px = max(1, round(height_px * n_columns * spacing[1] / (n_rows * spacing[0])))
    resized = Image.fromarray(picture).resize((width_px, height_px), Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def _framed(picture: Picture) -> Picture:
    """A copy inside a frame of the colour of what is rejected."""
    result = picture.copy()
    width = max(3, picture.shape[0] // _FRAME_SHARE)
    for edge in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
        result[edge] = REJECTED
    return result
