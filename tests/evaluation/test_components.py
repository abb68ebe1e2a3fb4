from __future__ import annotations

import numpy as np

from scantling.evaluation.components import largest_component


def test_only_the_largest_piece_stays_and_corners_connect() -> None:
    # # . . . #        the three on the diagonal touch by corners, so they outnumber the two on the right
    # . # . . #
    # . . # . .
    mask = np.array([[1, 0, 0, 0, 1], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0]], dtype=bool)
    expected = mask.copy()
    expected[:, 4] = False
    np.testing.assert_array_equal(largest_component(mask), expected)


def test_of_equal_pieces_the_first_in_array_order_stays() -> None:
    mask = np.array([[1, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(largest_component(mask), [[True, False, False]])


def test_one_piece_and_none_come_back_as_they_are() -> None:
    for mask in (np.ones((2, 2, 2), dtype=bool), np.zeros((3, 3), dtype=bool), np.zeros((0, 0), dtype=bool)):
        assert largest_component(mask) is mask
