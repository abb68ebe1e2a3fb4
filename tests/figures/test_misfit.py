"""The picture of a misfit must put both grids where their headers put them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scantling.data.image import ImageGeometry, MedicalImage, picture_geometry
from scantling.figures.colours import class_colour
from scantling.figures.misfit import draw_misfit

WHITE, ORANGE = (255, 255, 255), class_colour(1)
AXIAL, CORONAL, SAGITTAL = range(3)
PANEL, GAP, TOP = 340, 8, 50


def volume(affine: np.ndarray, shape: tuple[int, int, int]) -> MedicalImage:
    """A volume of grey values below white, under a matrix from array indices to RAS mm."""
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    geometry = ImageGeometry(
        shape=shape, spacing_mm=spacing, spacing_known=True, world_from_index=affine, file_type="nifti"
    )
    return MedicalImage(array=np.zeros((1, *shape), dtype=np.int16), geometry=geometry)


def ras(spacing: tuple[float, float, float]) -> np.ndarray:
    """Array axes z, y, x that run to the head, to the front and to the right."""
    z, y, x = spacing
    return np.array([[0, 0, x, 0], [0, y, 0, 0], [z, 0, 0, 0], [0, 0, 0, 1.0]])


def moved(image: MedicalImage, right_mm: float, front_mm: float, head_mm: float) -> ImageGeometry:
    affine = image.geometry.world_from_index.copy()
    affine[:3, 3] += [right_mm, front_mm, head_mm]
    return replace(image.geometry, world_from_index=affine)


def panels(sheet: np.ndarray) -> list[np.ndarray]:
    """The upper row, under one line of heading and one of caption."""
    return [sheet[TOP : TOP + PANEL, k * (PANEL + GAP) : k * (PANEL + GAP) + PANEL] for k in range(3)]


def outline(panel: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """First and last row and column with a line of a colour."""
    hit = (panel == np.array(colour)).all(axis=-1)
    rows, columns = (np.flatnonzero(hit.sum(axis=axis) > 20) for axis in (1, 0))
    return np.array([[rows[0], rows[-1]], [columns[0], columns[-1]]])


def draw(image: MedicalImage, label: ImageGeometry, label_map: np.ndarray | None = None) -> np.ndarray:
    empty = np.zeros(label.shape, dtype=np.int8)
    return draw_misfit(image, empty if label_map is None else label_map, label, heading="h")


@pytest.mark.parametrize(
    ("step_mm", "panel", "rows", "columns"),
    [
        ((20, 0, 0), AXIAL, 0, -20),  # the patient's right is on the reader's left
        ((20, 0, 0), CORONAL, 0, -20),
        ((0, 20, 0), AXIAL, -20, 0),  # the front is up
        ((0, 20, 0), SAGITTAL, 0, -20),  # the front is left
        ((0, 0, 20), CORONAL, -20, 0),  # the head is up
        ((0, 0, 20), SAGITTAL, -20, 0),
    ],
)
def test_the_outlines_lie_as_far_apart_as_the_headers_say_and_in_the_readers_directions(
    step_mm: tuple[float, float, float], panel: int, rows: int, columns: int
) -> None:
    image = volume(ras((4.0, 2.0, 1.0)), (20, 40, 80))  # a cube of 80 mm
    shown = panels(draw(image, moved(image, *step_mm)))[panel]
    offset = outline(shown, ORANGE) - outline(shown, WHITE)
    px_per_mm = 0.94 * PANEL / 100
    assert np.abs(offset - px_per_mm * np.array([[rows, rows], [columns, columns]])).max() <= 2


def test_the_outline_of_an_image_that_is_stored_in_another_order_is_the_same() -> None:
    plain = volume(ras((4.0, 2.0, 1.0)), (20, 40, 80))
    turned = plain.geometry.world_from_index[:, [2, 0, 1, 3]].copy()  # array axes x, z, y
    turned[:3, 3] += turned[:3, 1] * 19  # and z runs to the feet
    turned[:3, 1] *= -1
    image = volume(turned, (80, 20, 40))
    for ours, theirs in zip(
        panels(draw(image, moved(plain, 9, 5, -7))), panels(draw(plain, moved(plain, 9, 5, -7))), strict=True
    ):
        np.testing.assert_array_equal(outline(ours, ORANGE), outline(theirs, ORANGE))
        np.testing.assert_array_equal(outline(ours, WHITE), outline(theirs, WHITE))


def test_the_shadow_of_what_is_labelled_lies_where_the_header_puts_it() -> None:
    image = volume(ras((1.0, 1.0, 1.0)), (80, 80, 80))
    label_map = np.zeros((80, 80, 80), dtype=np.int8)
    label_map[60:70, 20:30, 5:15] = 2
    shown = panels(draw(image, image.geometry, label_map))[CORONAL]  # rows to the feet, columns to the left
    tint = np.rint(0.45 * 128 + 0.55 * np.array(ORANGE)).astype(int)  # an image of one value is shown as grey
    rows, columns = np.nonzero((np.abs(shown.astype(int) - tint) <= 2).all(axis=-1))
    (top, bottom), (left, right) = outline(shown, ORANGE)  # it covers the white one
    px_per_mm = 0.94 * PANEL / 80
    found = [rows.min() - top, rows.max() - top, columns.min() - left, columns.max() - left]
    expected = [px_per_mm * mm for mm in (80 - 70, 80 - 60, 80 - 15, 80 - 5)]
    np.testing.assert_allclose(found, expected, atol=4)
    assert bottom - top == pytest.approx(right - left, abs=2)


def contours(sheet: np.ndarray, colour: tuple[int, int, int]) -> list[bool]:
    """Whether each panel of the lower row shows a line of a colour."""
    lower = sheet[TOP + PANEL + GAP :]
    parts = [lower[:, k * (PANEL + GAP) : k * (PANEL + GAP) + PANEL] for k in range(3)]
    return [bool((part == np.array(colour)).all(axis=-1).any()) for part in parts]


def test_below_the_label_map_is_drawn_by_its_header_and_voxel_by_voxel() -> None:
    image = volume(ras((1.0, 1.0, 1.0)), (80, 80, 80))
    label_map = np.zeros((80, 80, 80), dtype=np.int8)
    label_map[30:50, 30:50, 30:50] = 2
    near, far = moved(image, 9, 0, 0), moved(image, 400, 0, 0)
    assert contours(draw(image, near, label_map), class_colour(2)) == [True, True, False]
    assert contours(draw(image, far, label_map), class_colour(2)) == [False, True, False]
    smaller = replace(near, shape=(60, 80, 80))
    assert contours(draw(image, smaller, label_map[:60]), class_colour(2)) == [True, False, False]


def test_pictures_of_other_sizes_lie_on_each_other_from_their_first_pixel() -> None:
    image = MedicalImage(array=np.zeros((1, 100, 80), dtype=np.uint8), geometry=picture_geometry((100, 80), "png"))
    sheet = draw(image, picture_geometry((50, 40), "png"))
    white, orange = outline(sheet[-PANEL:], WHITE), outline(sheet[-PANEL:], ORANGE)
    px_per_pixel = 0.94 * PANEL / 100
    assert np.abs(orange[:, 0] - white[:, 0]).max() <= 2
    np.testing.assert_allclose(orange[:, 1] - orange[:, 0], px_per_pixel * np.array([50, 40]), atol=3)
    np.testing.assert_allclose(white[:, 1] - white[:, 0], px_per_pixel * np.array([100, 80]), atol=3)


@pytest.mark.parametrize("far_mm", [1e7, 1e20, 1e30])
def test_a_header_that_puts_the_label_map_beyond_reason_is_drawn_all_the_same(far_mm: float) -> None:
    image = volume(ras((1.0, 1.0, 1.0)), (30, 30, 30))
    label_map = np.zeros((30, 30, 30), dtype=np.int8)
    label_map[10:20, 10:20, 10:20] = 2
    sheet = draw(image, moved(image, far_mm, 0, 0), label_map)
    assert contours(sheet, class_colour(2)) == [False, True, False]


def test_a_long_heading_is_broken_into_lines_and_equal_input_gives_equal_pictures() -> None:
    image = volume(ras((1.0, 1.0, 1.0)), (20, 20, 20))
    label_map = np.zeros((20, 20, 20), dtype=np.int8)
    short, long = (draw_misfit(image, label_map, image.geometry, heading="word " * n) for n in (1, 80))
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0]
    again = draw_misfit(image, label_map, image.geometry, heading="word ")
    np.testing.assert_array_equal(short, again)
