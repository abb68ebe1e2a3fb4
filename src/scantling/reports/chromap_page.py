"""A case's CHRO-map as a page: move over a pixel, and its most similar pixels light up in every view."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from PIL import Image

import scantling
from scantling.data.resampling import resample
from scantling.figures.chromap_sheet import MapPanel, SheetStyle, sizes_of_row
from scantling.figures.map_overlay import grey_of, places_on_grid
from scantling.figures.overlay import png_bytes
from scantling.reports.html import Markup, element, join

MOST_PIXELS: Final = 4 * 224 * 224
"""Of all views together, that can be moved over; larger ones are made smaller."""
MOST_BYTES: Final = 1_850_000
"""Of a page; features of nothing but noise are made still smaller."""
_LEVELS: Final = 63
"""A direction's largest entry: 7 bits of each, which moves a cosine by less than 0.01."""
_PLACE_LEVELS: Final = 127
_ZERO: Final = 128
_PICTURE_PX: Final = 512
"""Longest side of a picture in the page."""
_ROW_PX: Final = 1184
_MOST_PX: Final = 560
_GAP_PX: Final = 14
_QUALITY: Final = 88
_HINT: Final = (
    "Alike pixels have one colour. Move over a picture: the pixels most similar to the one you point at light up in "
    "every view."
)
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True, eq=False)
class PagePanel:
    """A panel and what its pixels are compared by.

    Attributes:
        scores: the cosine of two pixels' scores is their similarity; on a grid of any size over the picture's extent.
    """

    panel: MapPanel
    scores: Float[np.ndarray, "component _ _"]


def chromap_page(rows: Sequence[Sequence[PagePanel]], *, title: str, about: Sequence[str], style: SheetStyle) -> Markup:
    """The whole HTML document; it needs no other file and no network, and equal panels give equal bytes.

    Args:
        rows: of panels beside each other, at one scale.
        about: said in a line below the title.

    Raises:
        ValueError: there is no panel.
    """
    panels = [one for row in rows for one in row]
    if not panels:
        raise ValueError("chromap page: there is no panel")
    share = min(1.0, math.sqrt(MOST_PIXELS / sum(math.prod(one.scores.shape[1:]) for one in panels)))
    pictures = [_jpeg(style, one) for one in panels]
    while True:
        codes = [_codes(one, share, style.nearest) for one in panels]
        size = sum(map(len, pictures)) + sum(len(png) for png, _ in codes)
        if size * 4 / 3 <= MOST_BYTES or share < 0.05:
            break
        share *= max(0.5, min(0.95, math.sqrt(MOST_BYTES / (size * 4 / 3))))
    described = [
        {"rows": shape[0], "columns": shape[1], "codes": _uri(png, "png"), "picture": _uri(jpeg, "jpeg")}
        for (png, shape), jpeg in zip(codes, pictures, strict=True)
    ]
    data = {
        "dimensions": len(panels[0].scores), "side": 2 * _PLACE_LEVELS + 1, "disk": _uri(_disk(style), "png"),
        "blocks": style.nearest, "hint": _HINT, "panels": described,
    }  # fmt: skip
    return _document(rows, data, title=title, about=about, opacity=style.opacity)


def _document(
    rows: Sequence[Sequence[PagePanel]], data: dict[str, Any], *, title: str, about: Sequence[str], opacity: float
) -> Markup:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Markup(_beside("chromap.css"))),
    )
    top = element("header", element("h1", title), element("p", "  ·  ".join(part for part in about if part)))
    controls = element(
        "div",
        element("canvas", id="legend", width=208, height=208, role="img", aria_label="the disk of colours"),
        element(
            "div",
            element("output", _HINT, id="readout"),
            element(
                "div",
                _slider("opacity", "colours", 0, 100, round(100 * opacity)),
                _slider("share", "how many light up", 1, 25, 5),
                class_="sliders",
            ),
        ),
        class_="controls",
    )
    note = (
        f"Similarity is the cosine of {data['dimensions']} principal components of the features. Rings mark the most "
        "similar pixel of each view. A click holds a pixel, Escape lets go."
    )
    footer = element("footer", element("p", note), element("p", f"Written by scantling {scantling.__version__}."))
    plain = element("noscript", element("p", "This page needs JavaScript; the picture beside it shows the same map."))
    body = element("main", top, controls, plain, _figures(rows), footer)
    stored = Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
    scripts = (
        element("script", stored, id="data", type="application/json"),
        element("script", Markup(_beside("chromap.js"))),
    )
    page = element("html", head, element("body", body, scripts), lang="en")
    return join(Markup("<!DOCTYPE html>\n"), page, "\n")


def _slider(name: str, label: str, least: int, most: int, value: int) -> Markup:
    return element("label", label, element("input", type="range", id=name, min=least, max=most, value=value))


def _figures(rows: Sequence[Sequence[PagePanel]]) -> list[Markup]:
    """A canvas for each panel, twice as fine as it is shown."""
    written, index = [], 0
    for row in rows:
        figures = []
        sizes = sizes_of_row([one.panel for one in row], _MOST_PX, _ROW_PX, _GAP_PX)
        for one, (width, height) in zip(row, sizes, strict=True):
            caption = element("figcaption", element("span", one.panel.caption), element("span", class_="nearest"))
            canvas = element("canvas", width=2 * width, height=2 * height, role="img", aria_label=one.panel.caption)
            part = int(10_000 * width / (_ROW_PX - _GAP_PX * (len(row) - 1))) / 10_000
            figures.append(element("figure", canvas, caption, data_panel=index, style=f"--part: {part}"))
            index += 1
        written.append(element("div", figures, class_="panels", style=f"--gaps: {_GAP_PX * (len(row) - 1)}px"))
    return written


def _codes(one: PagePanel, share: float, blocks: bool) -> tuple[bytes, tuple[int, int]]:
    """Directions of the scores, then places in the disk, as planes of one grey PNG; and the shape of a plane."""
    rows, columns = (max(1, round(share * n)) for n in one.scores.shape[1:])
    scores = np.stack([resample(plane, (rows, columns), "linear") for plane in one.scores])
    length = np.sqrt(np.square(scores).sum(axis=0))
    directions = np.divide(scores, length, out=np.zeros_like(scores), where=length > 0)
    places = np.moveaxis(places_on_grid(one.panel.places, (rows, columns), nearest=blocks), -1, 0)
    planes = np.concatenate([np.rint(directions * _LEVELS), np.rint(places * _PLACE_LEVELS)]) + _ZERO
    stream = io.BytesIO()
    stacked = Image.fromarray(planes.astype(np.uint8).reshape(-1, columns))
    stacked.save(stream, format="PNG")
    return stream.getvalue(), (rows, columns)


def _disk(style: SheetStyle) -> bytes:
    """The colour of every place that the codes can name, as a picture."""
    at = np.arange(-_PLACE_LEVELS, _PLACE_LEVELS + 1) / _PLACE_LEVELS
    places = np.stack(np.broadcast_arrays(at[None, :], -at[:, None]), axis=-1)
    return png_bytes(style.colours(places))


def _jpeg(style: SheetStyle, one: PagePanel) -> bytes:
    """The picture below the colours, in grey unless they are mixed into its own; no larger than it is shown."""
    picture = one.panel.picture
    image = Image.fromarray(picture if style.over_colour else np.rint(grey_of(picture)).astype(np.uint8))
    if max(image.size) > _PICTURE_PX:
        factor = _PICTURE_PX / max(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=_QUALITY)
    return stream.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
