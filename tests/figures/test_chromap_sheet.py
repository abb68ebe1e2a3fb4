"""The sheet of a case: legend, pictures and overlays at one scale."""

from __future__ import annotations

import numpy as np
import pytest

from scantling.figures.chromap_sheet import MapPanel, SheetStyle, draw_chromap_sheet, sizes_of_row
from scantling.figures.colour_disk import disk_colours, disk_picture


def panel(shape: tuple[int, int] = (40, 60), place: tuple[float, float] = (0.6, 0.0), **changes: object) -> MapPanel:
    values: dict[str, object] = {
        "caption": "image", "picture": np.full((*shape, 3), 200, np.uint8),
        "places": np.full((5, 5, 2), place, np.float32),
    }  # fmt: skip
    return MapPanel(**{**values, **changes})  # type: ignore[arg-type]


def has_area(sheet: np.ndarray, colour: np.ndarray) -> int:
    return int((np.abs(sheet.astype(int) - colour.astype(int)) <= 1).all(axis=-1).sum())


def mixed(place: tuple[float, float], opacity: float = 0.5) -> np.ndarray:
    return np.rint((1 - opacity) * 200 + opacity * disk_colours(np.array(place)))


def test_every_view_has_its_picture_and_below_it_its_overlay() -> None:
    views = [panel(place=(0.9, 0.0)), panel(place=(-0.9, 0.0)), panel(place=(0.0, 0.9))]
    sheet = draw_chromap_sheet([views], title="case 1", notes=["a note"], height_px=80)
    for place in ((0.9, 0.0), (-0.9, 0.0), (0.0, 0.9)):
        assert has_area(sheet, mixed(place)) >= 120 * 80
    assert has_area(sheet, np.array([200, 200, 200])) >= 3 * 120 * 80
    assert (sheet[0] == 255).all()
    disk = disk_picture(92)
    assert any(
        np.array_equal(sheet[16 : 16 + 92, left : left + 92], disk) for left in range(40)
    )  # the legend stands at the top


def test_a_single_view_has_its_overlay_beside_it() -> None:
    one = draw_chromap_sheet([[panel()]], title="t", height_px=80)
    two = draw_chromap_sheet([[panel(), panel()]], title="t", height_px=80)
    assert two.shape[0] - one.shape[0] == 80 + 8
    assert has_area(one, mixed((0.6, 0.0))) >= 120 * 80


def test_panels_of_a_row_share_one_scale_so_that_a_millimetre_is_a_millimetre() -> None:
    thin = panel((10, 60), spacing=(4.0, 1.0))
    assert sizes_of_row([panel((40, 60)), thin], 100, 1000) == [(150, 100), (150, 100)]
    low = panel((10, 60))
    assert sizes_of_row([panel((40, 60)), low], 100, 1000) == [(150, 100), (150, 25)]
    widths = [width for width, _ in sizes_of_row([panel()] * 5, 1000, 608, gap=2)]
    assert widths == [120] * 5


def test_a_strip_fills_the_width_and_the_style_decides_how_strong_colours_are() -> None:
    style = SheetStyle(opacity=0.8)
    strip = [panel((20, 20), place=(0.0, -0.7), caption=f"slice {k}") for k in range(4)]
    plain = draw_chromap_sheet([[panel(), panel()]], title="t", height_px=80, style=style)
    sheet = draw_chromap_sheet([[panel(), panel()]], strips=[strip], title="t", height_px=80, style=style)
    assert sheet.shape[1] == plain.shape[1]
    assert has_area(sheet, mixed((0.0, -0.7), 0.8)) >= 4 * 60 * 60
    assert has_area(sheet, mixed((0.6, 0.0), 0.8)) >= 2 * 120 * 80


def test_long_captions_are_cut_and_a_sheet_without_panels_is_refused() -> None:
    long = draw_chromap_sheet([[panel(caption="x" * 500), panel()]], title="t", height_px=80)
    short = draw_chromap_sheet([[panel(caption="x"), panel()]], title="t", height_px=80)
    assert long.shape == short.shape
    with pytest.raises(ValueError, match="no panel"):
        draw_chromap_sheet([], title="t")


def test_the_same_panels_give_the_same_bytes() -> None:
    first, second = (draw_chromap_sheet([[panel(), panel()]], title="t", notes=["n"]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
