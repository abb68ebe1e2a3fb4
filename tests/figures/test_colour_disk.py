"""Colours of the disk: the OKLab of its author's table, and inside what a screen shows at every hue."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest

from scantling.figures.colour_disk import (
    CHROMA,
    LIGHTNESS,
    disk_colours,
    disk_picture,
    oklab_from_srgb,
    srgb_from_oklab,
    within_disk,
)
from scantling.figures.published_chromap import hsv_colours, rgb_from_hsv

HUES = np.linspace(0, 2 * math.pi, 720, endpoint=False)


def oklab(colours: np.ndarray) -> np.ndarray:
    return oklab_from_srgb(colours / 255)


@pytest.mark.parametrize(
    ("name", "display", "lab"),
    [
        ("white", (1, 1, 1), (1.0, 0.0, 0.0)),
        ("black", (0, 0, 0), (0.0, 0.0, 0.0)),
        ("red", (1, 0, 0), (0.62796, 0.22486, 0.12585)),
        ("green", (0, 1, 0), (0.86644, -0.23389, 0.17950)),
        ("blue", (0, 0, 1), (0.45201, -0.03246, -0.31153)),
        ("grey", (0.5, 0.5, 0.5), (0.59818, 0.0, 0.0)),
    ],
)
def test_known_colours_have_their_known_place(name: str, display: tuple[float, ...], lab: tuple[float, ...]) -> None:
    np.testing.assert_allclose(oklab_from_srgb(np.array(display, dtype=np.float64)), lab, atol=2e-4)


def test_the_way_to_oklab_and_back_is_exact() -> None:
    colours = np.random.default_rng(0).random((500, 3))
    np.testing.assert_allclose(srgb_from_oklab(oklab_from_srgb(colours)), colours, atol=1e-6)


def rim(lightness: float, chroma: float) -> np.ndarray:
    return srgb_from_oklab(
        np.column_stack([np.full(HUES.shape, lightness), chroma * np.cos(HUES), chroma * np.sin(HUES)])
    )


def test_every_hue_of_the_rim_can_be_shown_and_no_lightness_allows_more_colour() -> None:
    shown = rim(LIGHTNESS, CHROMA)
    assert shown.min() >= 0
    assert shown.max() <= 1
    for lightness in np.arange(0.5, 0.95, 0.0125):
        more = rim(float(lightness), CHROMA * 1.005)
        assert more.min() < 0 or more.max() > 1, lightness


def test_all_colours_are_equally_light_and_equal_steps_equally_different() -> None:
    places = np.random.default_rng(1).normal(size=(2000, 2)) * 0.4
    lab = oklab(disk_colours(places))
    np.testing.assert_allclose(lab[:, 0], LIGHTNESS, atol=0.004)  # a byte's step
    np.testing.assert_allclose(lab[:, 1:], CHROMA * within_disk(places), atol=0.006)


def test_the_centre_is_grey_and_what_lies_beyond_the_rim_has_the_rims_colour() -> None:
    centre = disk_colours(np.zeros((1, 2)))[0]
    assert len(set(centre.tolist())) == 1
    directions = np.column_stack([np.cos(HUES), np.sin(HUES)])
    assert (disk_colours(directions * 7) == disk_colours(directions)).all()
    assert (disk_colours(np.array([[np.nan, 0.0], [np.inf, -np.inf]])) == centre).all()


def test_the_legend_is_the_disk_with_its_second_axis_upwards_on_paper() -> None:
    legend = disk_picture(101)
    assert legend.shape == (101, 101, 3)
    assert (legend[0, 0] == 255).all()
    assert (legend[50, 50] == disk_colours(np.zeros(2))).all()
    at = (np.arange(101) + 0.5) * 2 / 101 - 1
    assert (legend[50, 80] == disk_colours(np.array([at[80], 0.0]))).all()
    assert (legend[20, 50] == disk_colours(np.array([0.0, -at[20]]))).all()


def test_published_colours_are_those_of_hsv_in_steps_of_two_degrees() -> None:
    for hue in range(0, 180, 7):
        for saturation in range(0, 256, 15):
            found = rgb_from_hsv(np.array([hue], np.uint8), np.array([saturation], np.uint8))[0]
            wanted = np.array(colorsys.hsv_to_rgb(hue / 180, saturation / 255, 1.0)) * 255
            np.testing.assert_allclose(found, wanted, atol=0.51)


def test_published_hue_is_the_angle_from_the_negative_axis_and_bytes_are_cut_off() -> None:
    angles = np.array([-3.0, -1.2, 0.3, 2.9])
    radii = np.array([0.21, 0.713, 1.1, 1.4])
    places = np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])
    hues = [int((angle + math.pi) / (2 * math.pi) * 179) for angle in angles]
    saturations = [min(255, int(radius * 255)) for radius in radii]
    wanted = rgb_from_hsv(np.array(hues, np.uint8), np.array(saturations, np.uint8))
    np.testing.assert_array_equal(hsv_colours(places), wanted)
    assert (hsv_colours(np.zeros((1, 2))) == 255).all()
