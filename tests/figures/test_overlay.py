"""Overlays must show the right slice, put lines where borders are, and be the same bytes every time."""

import io

import numpy as np
import pytest
from PIL import Image

from scantling.figures.colours import class_colour, hexadecimal, lighter
from scantling.figures.overlay import (
    contact_sheet,
    draw_overlay,
    grey_to_rgb,
    png_bytes,
    window_around,
    worst_slice,
)


def square(size: int = 40, first: int = 10, last: int = 30, value: int = 1) -> np.ndarray:
    label_map = np.zeros((size, size), dtype=np.int8)
    label_map[first:last, first:last] = value
    return label_map


def grey(size: int = 40) -> np.ndarray:
    return np.full((size, size, 3), 120, dtype=np.uint8)


def rows_of_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture == np.array(colour)).all(axis=-1))


def test_the_worst_slice_has_most_wrong_pixels():
    reference = np.stack([square(), square(), square()])
    prediction = reference.copy()
    prediction[1, 10:15] = 0
    prediction[2, 10:12] = 0
    assert worst_slice(prediction, reference) == 1


def test_unknown_pixels_do_not_make_a_slice_bad():
    reference = np.stack([np.full((8, 8), -1), np.zeros((8, 8), int), np.ones((8, 8), int)])
    prediction = np.ones((3, 8, 8), dtype=int)
    prediction[2, 0, 0] = 2
    assert worst_slice(prediction, reference) == 1


def test_without_an_error_the_slice_with_most_foreground_is_shown():
    reference = np.stack([np.zeros((8, 8), int), np.eye(8, dtype=int), np.ones((8, 8), int)])
    assert worst_slice(reference, reference) == 2


def test_grey_is_stretched_and_survives_odd_values():
    image = np.linspace(-1000, 3000, 400).reshape(1, 20, 20)
    shown = grey_to_rgb(image)
    assert shown.min() == 0
    assert shown.max() == 255
    assert (shown[..., 0] == shown[..., 1]).all()
    image[0, 0, 0], image[0, 0, 1], image[0, 0, 2] = np.nan, np.inf, -np.inf
    odd = grey_to_rgb(image)
    assert (odd[0, 0, 0], odd[0, 1, 0], odd[0, 2, 0]) == (0, 255, 0)
    assert len(np.unique(grey_to_rgb(np.full((1, 4, 4), 7.0)))) == 1
    assert grey_to_rgb(np.full((1, 4, 4), np.nan)).shape == (4, 4, 3)


def test_a_colour_photograph_stays_as_it_is():
    photograph = np.random.default_rng(0).integers(0, 256, (3, 6, 5), dtype=np.uint8)
    assert np.array_equal(grey_to_rgb(photograph), photograph.transpose(1, 2, 0))


def test_the_solid_line_lies_on_the_predicted_border():
    picture = draw_overlay(grey(), prediction=square(), height_px=400)
    at = rows_of_colour(picture, class_colour(1))
    assert at.size
    from_border = np.minimum(np.abs(at - 100), np.abs(at - 300)).min(axis=1)  # border at 10 and 30 of 40 pixels
    assert from_border.max() <= 6
    corners = at.min(axis=0), at.max(axis=0)
    assert np.allclose(corners, [(100, 100), (299, 299)], atol=6)


def test_the_reference_is_dashed_in_a_lighter_colour_and_the_prediction_is_not():
    both = draw_overlay(grey(), prediction=square(first=14), reference=square(), height_px=400)
    line = rows_of_colour(both, lighter(class_colour(1), 0.5))
    top = np.zeros(400, dtype=bool)
    top[line[line[:, 0] < 106][:, 1]] = True
    assert 0.3 < top[110:290].mean() < 0.85  # dashes and gaps
    solid = draw_overlay(grey(), prediction=square(), height_px=400)
    edge = rows_of_colour(solid, class_colour(1))
    assert len(set(edge[edge[:, 0] < 106][:, 1]) & set(range(110, 290))) == 180


def test_pixels_that_are_not_square_look_right():
    picture = draw_overlay(np.zeros((20, 60, 3), dtype=np.uint8), spacing=(4.0, 1.0), height_px=200)
    assert picture.shape == (200, 150, 3)


def test_fill_tints_the_inside_only():
    picture = draw_overlay(grey(), prediction=square(), fill=0.5, height_px=80)
    inside = picture[40, 40].astype(float)
    assert np.allclose(inside, (120 + np.array(class_colour(1))) / 2, atol=1)
    assert (picture[5, 5] == 120).all()


def test_an_empty_label_map_leaves_the_picture_alone():
    empty = np.zeros((40, 40), dtype=np.int8)
    plain, drawn = (
        draw_overlay(grey(), height_px=60),
        draw_overlay(grey(), prediction=empty, reference=empty, height_px=60),
    )
    assert np.array_equal(plain, drawn)


def test_neighbouring_classes_both_keep_their_line():
    label_map = square()
    label_map[:, 20:][label_map[:, 20:] == 1] = 2
    picture = draw_overlay(grey(), prediction=label_map, height_px=200)
    assert len(rows_of_colour(picture, class_colour(1))) > 100
    assert len(rows_of_colour(picture, class_colour(2))) > 100


def test_a_contact_sheet_centres_each_picture_in_its_cell():
    small, large = np.zeros((2, 4, 3), dtype=np.uint8), np.full((6, 8, 3), 9, dtype=np.uint8)
    sheet = contact_sheet([small, large, large], columns=2, gap_px=2)
    assert sheet.shape == (14, 18, 3)
    assert (sheet[2:4, 2:6] == 0).all()
    assert (sheet[:6, 10:] == 9).all()
    assert (sheet[8:, :8] == 9).all()
    assert (sheet[8:, 10:] == 255).all()


def test_a_contact_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="needs a picture"):
        contact_sheet([], columns=2)


def test_png_bytes_hold_the_picture_and_repeat():
    picture = np.random.default_rng(1).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(png_bytes(picture))) as image:
        assert np.array_equal(np.array(image), picture)
    assert png_bytes(picture) == png_bytes(picture)


def test_seven_classes_have_seven_colours_and_the_eighth_repeats_the_first():
    assert len({class_colour(k) for k in range(1, 8)}) == 7
    assert class_colour(8) == class_colour(1)
    assert hexadecimal((0, 158, 115)) == "#009e73"


def masked(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[rows, columns] = True
    return mask


def test_a_small_structure_is_shown_with_as_much_room_around_it():
    window = window_around(masked((200, 300), slice(90, 130), slice(140, 170)))
    assert window == (slice(70, 150), slice(115, 195))


def test_the_part_shown_is_square_in_millimetres_and_stays_inside_the_slice():
    rows, columns = window_around(masked((100, 400), slice(0, 20), slice(380, 400)), (4.0, 1.0))
    assert (rows.start, columns.stop) == (0, 400)
    assert (rows.stop - rows.start) * 4 == columns.stop - columns.start


def test_a_tiny_structure_keeps_a_third_of_its_surroundings():
    rows, columns = window_around(masked((90, 90), slice(40, 41), slice(40, 41)))
    assert rows.stop - rows.start == columns.stop - columns.start == 30


@pytest.mark.parametrize("mask", [np.zeros((50, 60), dtype=bool), masked((50, 60), slice(5, 45), slice(2, 55))])
def test_the_whole_slice_is_shown_where_nothing_or_most_of_it_is_marked(mask: np.ndarray):
    assert window_around(mask) == (slice(0, 50), slice(0, 60))
