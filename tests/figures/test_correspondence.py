"""Corresponding points must lie where they are, in one colour in both views, with a line between them."""

from __future__ import annotations

import numpy as np
import pytest

from scantling.figures.colours import class_colour
from scantling.figures.correspondence import draw_correspondence

GAP = 28
ORANGE = class_colour(1)
NOBODY = np.zeros((0, 2))


def flat(rows: int = 40, columns: int = 40) -> np.ndarray:
    """A view of one value, which is shown as grey 128."""
    return np.zeros((1, rows, columns))


def places(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 6) -> np.ndarray:
    return np.argwhere((np.abs(picture.astype(int) - np.array(colour)) <= tolerance).all(axis=-1))


def draw(first_points: np.ndarray, second_points: np.ndarray, **settings: object) -> np.ndarray:
    return draw_correspondence(flat(), flat(), first_points, second_points, **({"height_px": 400} | settings))


def dot(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The centre of a disc, by its middle row and column: rows with the longest runs are the disc's."""
    found = places(picture, colour)
    solid = [
        p for p in found if all(tuple(p + d) in set(map(tuple, found)) for d in ((0, 3), (0, -3), (3, 0), (-3, 0)))
    ]
    assert solid, "a disc of that colour is drawn"
    return np.mean(solid, axis=0)


@pytest.mark.parametrize("index", [(0.0, 0.0), (10.0, 25.0), (20.5, 7.25), (39.0, 39.0)])
def test_a_point_lies_at_the_centre_of_its_pixel_in_both_views(index: tuple[float, float]) -> None:
    other = (19.0, 12.5)
    picture = draw(np.array([index]), np.array([other]), joined=False)
    scale = 400 / 40
    left, right = picture[:, :400], picture[:, 400 + GAP :]
    assert picture.shape == (400, 800 + GAP, 3)
    if index == (10.0, 25.0):
        np.testing.assert_allclose(dot(left, ORANGE), (np.array(index) + 0.5) * scale - 0.5, atol=1)
    found = places(left, ORANGE)
    assert np.abs(found - (np.array(index) + 0.5) * scale).max() <= 26  # the disc and its number
    np.testing.assert_allclose(dot(right, ORANGE), (np.array(other) + 0.5) * scale - 0.5, atol=1)


def test_views_of_other_sizes_are_drawn_equally_high() -> None:
    picture = draw_correspondence(
        flat(20, 30), flat(60, 30), np.array([[5.0, 20.0]]), np.array([[45.0, 6.0]]), height_px=240, joined=False
    )
    assert picture.shape == (240, 360 + GAP + 120, 3)
    np.testing.assert_allclose(dot(picture[:, :360], ORANGE), (5.5 * 12, 20.5 * 12), atol=1)
    np.testing.assert_allclose(dot(picture[:, 360 + GAP :], ORANGE), (45.5 * 4, 6.5 * 4), atol=1)


def test_a_pair_has_one_colour_and_its_line_crosses_the_gap_at_the_height_between() -> None:
    first, second = np.array([[10.0, 10.0], [30.0, 20.0]]), np.array([[20.0, 10.0], [30.0, 35.0]])
    picture = draw(first, second)
    gap = picture[:, 400 : 400 + GAP]
    for number, (a, b) in enumerate(zip(first, second, strict=True), start=1):
        start, end = a[1] * 10 + 5, 400 + GAP + b[1] * 10 + 5
        share = (400 + GAP / 2 - start) / (end - start)
        height = (a[0] + share * (b[0] - a[0])) * 10 + 5
        rows = places(gap[:, GAP // 2 - 2 : GAP // 2 + 2], class_colour(number), 60)[:, 0]
        assert rows.size
        assert np.abs(rows - height).max() <= 3
    apart = draw(first, second, joined=False)
    assert (apart[:, 400 : 400 + GAP] == 255).all()


def test_a_number_that_would_be_cut_off_at_the_border_stands_on_the_other_side() -> None:
    middle, border = (
        draw(np.array([[20.0, column]]), np.array([[20.0, column]]), joined=False) for column in (20.0, 39)
    )
    for picture, column, right in ((middle, 20.0, True), (border, 39.0, False)):
        x = 400 + GAP + (column + 0.5) * 10
        found = places(picture[:, 400 + GAP :], ORANGE, 70)[:, 1] + 400 + GAP
        number = found[np.abs(found - x) > 7]
        assert number.size
        assert (number > x).all() == right
        assert (number < x).all() != right


def test_a_point_that_is_no_pair_has_a_cross_and_neither_number_nor_line() -> None:
    points = np.array([[10.0, 10.0], [30.0, 30.0]])
    outside = np.array([[10.0, 10.0], [30.0, -1.5]])
    shared = np.array([True, False])
    picture = draw(points, outside, shared=shared)
    assert not places(picture, class_colour(2)).size
    grey = (170, 170, 170)
    near = places(picture[:, :400], grey)
    np.testing.assert_allclose(near.mean(axis=0), (304.5, 304.5), atol=1)
    assert not places(picture[:, 400:], grey, 20).size  # it does not lie in the second view
    renumbered = draw(points[::-1].copy(), points[::-1].copy(), shared=shared[::-1].copy())
    assert places(renumbered, ORANGE).size  # numbers and colours count pairs alone


@pytest.mark.parametrize(("row", "seen"), [(-0.6, False), (-0.4, True), (39.4, True), (39.6, False)])
def test_a_view_ends_where_its_outer_pixels_end(row: float, seen: bool) -> None:
    picture = draw(np.array([[row, 20.0]]), np.array([[20.0, 20.0]]), shared=np.array([False]))
    assert bool(places(picture[:, :400], (170, 170, 170)).size) == seen


def test_the_frame_is_dashed_closed_and_cut_off_at_the_border() -> None:
    corners = np.array([[9.5, 9.5], [9.5, 49.5], [29.5, 49.5], [29.5, 9.5]])
    picture = draw(NOBODY, NOBODY, first_frame=corners)
    white = places(picture[:, :400], (255, 255, 255))
    assert white[:, 0].min() == pytest.approx(100, abs=2)
    assert white[:, 0].max() == pytest.approx(300, abs=2)
    assert white[:, 1].min() == pytest.approx(100, abs=2)
    along = (picture[98:103, 110:390].min(axis=2).max(axis=0) > 240).mean()
    assert 0.3 < along < 0.7
    assert (picture[:, 400 + GAP :] == 128).all()
    assert (picture[:, 400 : 400 + GAP] == 255).all()


def test_captions_stand_over_the_views() -> None:
    plain = draw(NOBODY, NOBODY)
    named = draw(NOBODY, NOBODY, captions=("real", "another scanner"))
    head = named.shape[0] - plain.shape[0]
    assert head > 10
    np.testing.assert_array_equal(named[head:], plain)
    assert (named[:head, :400] < 100).any()
    assert (named[:head, 400 + GAP :] < 100).any()
    assert (named[:head, 200 : 400 + GAP] == 255).all()


def test_equal_inputs_give_equal_pictures() -> None:
    points = np.random.default_rng(0).uniform(0, 39, (5, 2))
    np.testing.assert_array_equal(draw(points, points), draw(points, points))
