"""Images beside their counterfactuals: one grey scale, one scale of changes, rejected ones framed."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from scantling.data.image import ImageGeometry, picture_geometry
from scantling.figures.counterfactual_grid import (
    REJECTED,
    GridRow,
    change_colours,
    change_key,
    change_limit,
    draw_counterfactual_grid,
    draw_row,
    grid_row,
)

GEOMETRY = picture_geometry((20, 30), "png")


def grey(value: int, dtype: type = np.uint8) -> np.ndarray:
    return np.full((1, 20, 30), value, dtype)


def pair(after: np.ndarray, before: np.ndarray | None = None, **changes: object) -> GridRow:
    return grid_row(grey(100) if before is None else before, [after], GEOMETRY, **changes)  # type: ignore[arg-type]


def test_nothing_is_nearly_white_brighter_is_red_and_darker_is_blue_by_the_same_amount() -> None:
    colours = change_colours(np.array([[0.0, 0.2, -0.2, 0.9, -0.9, np.nan]]), limit=0.2)[0].astype(int)
    nothing, brighter, darker, more, less, unknown = colours
    assert nothing.min() > 240
    assert (unknown == nothing).all()
    assert brighter[0] > 150 > brighter[2]
    assert darker[2] > 150 > darker[0]
    assert (more == brighter).all()
    assert (less == darker).all()
    half = change_colours(np.array([[0.1, -0.1]]), limit=0.2)[0].astype(int)
    assert (half != nothing).any(axis=1).all()
    np.testing.assert_array_equal(half, [[0xF4, 0xA5, 0x82], [0x92, 0xC5, 0xDE]])  # stops of ColorBrewer's RdBu of five


@pytest.mark.parametrize(("change", "limit"), [(0, 0.02), (3, 0.02), (40, 0.2), (-77, 0.4), (155, 0.75)])
def test_the_scale_is_a_round_share_that_holds_the_changes(change: int, limit: float) -> None:
    assert change_limit([pair(grey(100 + change))]) == limit
    assert change_limit([pair(grey(100)), pair(grey(100 + change))]) == limit


def test_a_single_odd_pixel_does_not_set_the_scale() -> None:
    odd = grey(110)
    odd[0, 0, 0] = 255
    assert change_limit([pair(odd)]) == 0.05
    assert change_limit([]) == 0.02


def test_bytes_are_shown_as_they_are_and_other_types_share_the_window_of_all_that_is_shown() -> None:
    drawn = draw_row(pair(grey(140)), limit=0.2)
    assert (drawn.before == 100).all()
    assert (drawn.pairs[0][0] == 140).all()
    low, high = grey(-1000, np.int16), grey(-1000, np.int16)
    low[0, :, :10] = 0
    high[0, :, :10] = 1000
    drawn = draw_row(pair(high, low), limit=1.0)
    assert int(drawn.before[0, 0, 0]) == pytest.approx(127, abs=2)
    assert drawn.pairs[0][0][0, 0, 0] == 255
    assert drawn.pairs[0][0][0, -1, 0] == drawn.before[0, -1, 0] == 0


def test_colours_are_shown_in_colour_and_their_change_is_the_mean() -> None:
    before = np.concatenate([grey(10), grey(100), grey(200)])
    after = before.copy()
    after[0] += 60
    row = grid_row(before, [after], GEOMETRY)
    drawn = draw_row(row, limit=0.1)
    assert tuple(drawn.before[3, 3]) == (10, 100, 200)
    assert tuple(drawn.pairs[0][0][3, 3]) == (70, 100, 200)
    np.testing.assert_array_equal(drawn.pairs[0][1], change_colours(np.full((20, 30), 20 / 255), limit=0.1))


def test_large_images_shrink_and_pixels_that_are_not_square_look_right() -> None:
    row = GridRow(before=grey(1), after=(grey(2),), rejected=(False,), spacing=(2.0, 1.0))
    assert draw_row(row, limit=1).before.shape == (20, 15, 3)
    assert draw_row(row, limit=1, most_px=10).pairs[0][1].shape == (10, 8, 3)


def test_a_volume_shows_the_slice_that_changes_most() -> None:
    affine = np.diag([6.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]
    geometry = ImageGeometry(
        shape=(5, 6, 7), spacing_mm=(6.0, 1.0, 1.0), spacing_known=True, world_from_index=affine[[2, 1, 0, 3]],
        file_type="nifti",
    )  # fmt: skip
    before = np.zeros((1, 5, 6, 7), np.int16)
    one, other = before.copy(), before.copy()
    one[0, 1, 2, 2] = 5
    other[0, 3, 2, 2:5] = 4
    row = grid_row(before, [one, other], geometry, rejected=[True, False])
    assert (row.slice_number, row.n_slices) in {(4, 5), (2, 5)}
    assert np.count_nonzero(row.after[1]) == 3
    assert np.count_nonzero(row.after[0]) == 0
    assert row.rejected == (True, False)
    unchanged = grid_row(before, [before], geometry)
    assert unchanged.slice_number == 3


def test_the_grid_frames_what_is_rejected_and_pads_short_rows() -> None:
    rows = [
        grid_row(grey(100), [grey(140), grey(60)], GEOMETRY, rejected=[False, True]),
        grid_row(grey(100), [grey(110)], GEOMETRY),
    ]
    grid = draw_counterfactual_grid(rows, height_px=40)
    width = 60
    assert grid.shape == (2 * 40 + 8, 5 * width + 4 * 8, 3)
    left = [index * (width + 8) for index in range(5)]
    assert tuple(grid[1, left[3]]) == tuple(grid[1, left[4]]) == REJECTED
    assert tuple(grid[20, left[3] + 30]) == (60, 60, 60)
    assert tuple(grid[1, left[1]]) == (140, 140, 140)
    assert (grid[48:, left[3] :] == 255).all()
    with pytest.raises(ValueError, match="needs a picture"):
        draw_counterfactual_grid([])


def test_the_legend_says_its_ends_in_percent() -> None:
    drawing = ElementTree.fromstring(change_key(0.15))
    texts = [element.text for element in drawing.iter() if element.tag.endswith("text")]
    assert texts == ["−15 % darker", "0", "+15 % brighter"]
