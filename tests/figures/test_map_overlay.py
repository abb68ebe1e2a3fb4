"""A map over a picture: at the picture's resolution, mixed by hand as the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from scantling.figures.colour_disk import disk_colours
from scantling.figures.map_overlay import draw_map_overlay, grey_of, grey_window, places_on_grid, shown

RNG = np.random.default_rng(0)


def test_several_pictures_share_one_window_and_values_that_are_not_finite_are_black_or_white() -> None:
    dark, bright = np.zeros((1, 10, 10), np.int16), np.full((1, 10, 10), 1000, np.int16)
    window = grey_window(dark, bright)
    assert window == (0.0, 1000.0)
    assert (shown(dark, window) == 0).all()
    assert (shown(bright, window) == 255).all()
    assert (shown(np.full((1, 10, 10), 500, np.int16), window) == 128).all()
    odd = np.array([[[np.nan, 0.0, 10.0, 5.0]]], dtype=np.float32)
    assert grey_window(odd) == pytest.approx((0.05, 9.95))
    assert shown(odd, (0.0, 10.0))[0, :, 0].tolist() == [0, 0, 255, 128]
    assert grey_window(np.full((1, 2, 2), np.nan)) == (0.0, 1.0)
    assert grey_window(np.full((1, 2, 2), 7)) == (6.5, 7.5)


def test_bytes_of_colour_are_shown_as_they_are() -> None:
    colour = RNG.integers(0, 256, (3, 5, 6)).astype(np.uint8)
    np.testing.assert_array_equal(shown(colour), np.moveaxis(colour, 0, -1))
    assert (shown(colour.astype(np.int16)) == shown(colour.astype(np.int16))[..., :1]).all()


@pytest.mark.parametrize("over_colour", [True, False])
def test_an_overlay_is_the_stated_mixture_at_the_pictures_resolution(over_colour: bool) -> None:
    picture = RNG.integers(0, 256, (12, 18, 3)).astype(np.uint8)
    places = (RNG.random((4, 6, 2)) - 0.5).astype(np.float32)
    found = draw_map_overlay(picture, places, opacity=0.3, over_colour=over_colour, nearest=True)
    for row in range(12):
        for column in range(18):
            pixel = picture[row, column].astype(float)
            below = pixel if over_colour else pixel @ [0.2126, 0.7152, 0.0722]
            wanted = 0.7 * below + 0.3 * disk_colours(places[row // 3, column // 3])
            np.testing.assert_allclose(found[row, column], wanted, atol=0.51)


def test_between_samples_of_a_coarser_map_places_are_linear() -> None:
    ramp = np.stack(np.broadcast_arrays(np.linspace(-0.6, 0.6, 5)[:, None], np.linspace(-0.4, 0.4, 7)), axis=-1)
    fine = places_on_grid(ramp.astype(np.float32), (10, 14))
    at = (np.arange(10) + 0.5) / 2 - 0.5
    wanted = np.interp(at, np.arange(5), np.linspace(-0.6, 0.6, 5))
    np.testing.assert_allclose(fine[:, 3, 0], wanted, atol=1e-6)
    assert places_on_grid(ramp, (5, 7)) is ramp


def test_grey_is_the_luminance_and_an_impossible_opacity_is_refused() -> None:
    assert grey_of(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))[0] == pytest.approx(
        [54.2, 182.4, 18.4], abs=0.1
    )
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        draw_map_overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 2)), opacity=2)
