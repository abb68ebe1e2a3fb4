"""Draw one case's CHRO-map: its sheet, its page, and of pictures each overlay at the image's own resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from scantling.data.case import Case
from scantling.errors import DataError
from scantling.figures.chromap import COLOURS, Mode
from scantling.figures.chromap_sheet import MapPanel, SheetStyle, draw_chromap_sheet
from scantling.figures.fitted_chromap import ChroMap
from scantling.figures.map_overlay import Window, grey_window, shown
from scantling.figures.overlay import png_bytes
from scantling.figures.published_chromap import published_places
from scantling.figures.volume_cuts import Cut, slice_strip, three_planes
from scantling.files import write_atomic
from scantling.inference.case_views import EmbeddedView
from scantling.reports.chromap_page import PagePanel, chromap_page
from scantling.workflows.chromap_anchors import Anchors, draw_anchors
from scantling.workflows.chromap_map import places_of

OVERLAYS: Final = "overlays"
_A_ROW: Final = 6
"""Views of pictures beside each other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MappedView:
    """A view with what is drawn of it, at the prepared resolution, axes as in the image.

    Attributes:
        caption: "" for the only view of a case.
        scores: along the principal axes, by whose cosine pixels are compared.
    """

    view: EmbeddedView
    caption: str
    places: Float[np.ndarray, "*space 2"]
    scores: Float[np.ndarray, "component *space"]


@dataclass(frozen=True, kw_only=True)
class DrawnCase:
    """The files of one case."""

    case_id: str
    views: tuple[str, ...]
    picture: Path
    page: Path
    overlays: tuple[Path, ...]
    anchors: dict[str, Anchors]


def map_views(views: Sequence[EmbeddedView], chromap: ChroMap | None, *, seed: int) -> tuple[MappedView, ...]:
    """Places and scores of every view; without a map the published one is fitted on this case alone."""
    if chromap is not None:
        places = [places_of(chromap, view) for view in views]
        axes = chromap.axes
    else:
        flat = [view.embedding.features.reshape(len(view.embedding.features), -1) for view in views]
        joined = np.concatenate(flat, axis=1)
        axes = ChroMap.fit([joined], seed=seed).axes
        parts = np.split(published_places(joined, seed=seed), np.cumsum([part.shape[1] for part in flat])[:-1])
        places = [_own_axes(view, part) for view, part in zip(views, parts, strict=True)]
    return tuple(
        MappedView(
            view=view,
            caption=_caption(view.case) if len(views) > 1 else "",
            places=each,
            scores=view.embedding.in_image_axes(axes.scores(view.embedding.features)),
        )
        for view, each in zip(views, places, strict=True)
    )


def draw_case(
    mapped: Sequence[MappedView],
    out: Path,
    *,
    mode: Mode,
    opacity: float,
    notes: Sequence[str],
    seed: int,
) -> DrawnCase:
    """Write the files of one case.

    Raises:
        DataError: a name of it cannot be a file name.
        ResourceError: the disk is full.
    """
    names = [each.view.case.case_id for each in mapped]
    for name in names:
        if Path(name).name != name or not name:
            raise DataError(f"case {name!r}: its name cannot be a file name; rename it", code="E-FIG-11")
    published = mode == "umap"
    style = SheetStyle(colours=COLOURS[mode], opacity=opacity, over_colour=published, nearest=published)
    window = grey_window(*(each.view.image.array for each in mapped))
    is_volume = len(mapped[0].view.image.geometry.shape) == 3
    overlays: tuple[Path, ...] = ()
    if is_volume:
        geometry = mapped[0].view.image.geometry
        rows = [[_slice(each, cut, window) for cut in three_planes(geometry)] for each in mapped]
        strips = [[_slice(each, cut, window) for cut in slice_strip(geometry)] for each in mapped]
    else:
        panels = [_picture(each, window) for each in mapped]
        rows, strips = [panels[k : k + _A_ROW] for k in range(0, len(panels), _A_ROW)], []
        overlays = tuple(out / OVERLAYS / f"{name}.png" for name in names)
        for path, one in zip(overlays, panels, strict=True):
            write_atomic(path, png_bytes(style.overlay(one.panel)))
    sheet = draw_chromap_sheet(
        [[one.panel for one in row] for row in rows],
        strips=[[one.panel for one in strip] for strip in strips],
        title=names[0], notes=notes, style=style,
    )  # fmt: skip
    picture, page = out / f"{names[0]}.png", out / f"{names[0]}.html"
    write_atomic(picture, png_bytes(sheet))
    html = chromap_page([*rows, *strips], title=f"{names[0]}: CHRO-map", about=notes, style=style)
    write_atomic(page, html.encode("utf-8"))
    return DrawnCase(
        case_id=names[0], views=tuple(names), picture=picture, page=page, overlays=overlays,
        anchors={name: draw_anchors(each.view, each.places, seed) for name, each in zip(names, mapped, strict=True)},
    )  # fmt: skip


def _picture(mapped: MappedView, window: Window) -> PagePanel:
    image = mapped.view.image
    panel = MapPanel(
        caption=mapped.caption or "image",
        picture=shown(image.array, window),
        places=mapped.places,
        spacing=(image.geometry.spacing_mm[0], image.geometry.spacing_mm[1]),
    )
    return PagePanel(panel=panel, scores=mapped.scores)


def _slice(mapped: MappedView, cut: Cut, window: Window) -> PagePanel:
    """A slice of a volume; its map lies on a grid of its own over the same extent."""
    geometry = mapped.view.image.geometry
    picture, spacing = cut.of(mapped.view.image.array, geometry)
    places, _ = cut.of(np.moveaxis(mapped.places, -1, 0), geometry)
    scores, _ = cut.of(mapped.scores, geometry)
    panel = MapPanel(
        caption=f"{mapped.caption}, {cut.name}" if mapped.caption else cut.name,
        picture=shown(picture, window),
        places=np.moveaxis(places, 0, -1),
        spacing=spacing,
    )
    return PagePanel(panel=panel, scores=scores)


def _caption(case: Case) -> str:
    """What tells a view from the others of its case."""
    if case.counterfactual_of is None:
        return "image"
    return case.attribute("intervention").replace(";", "; ") or case.case_id


def _own_axes(view: EmbeddedView, places: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "*space 2"]:
    embedding = view.embedding
    maps = np.ascontiguousarray(places.T).reshape(2, *embedding.features.shape[1:])
    return np.moveaxis(embedding.in_image_axes(maps, nearest=True), 0, -1)
