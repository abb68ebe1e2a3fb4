"""Measures of one pair of images against loops over their definitions and values worked by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from scantling.counterfactuals.soundness_measures import change, composition, identity_dice, reversibility, structure

UNIT = [(-1.0, 1.0)]


@dataclass(frozen=True)
class Picture:
    channels: tuple[np.ndarray, ...]
    row: Mapping[str, str]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def structure_by_loops(first: np.ndarray, second: np.ndarray, width: float) -> float:
    """Every 7 x 7 window on its own; the constant is half of (0.03 L)^2."""
    values = []
    windows = [range(length - min(7, length) + 1) for length in first.shape]
    for corner in itertools.product(*windows):
        cut = tuple(slice(start, start + 7) for start in corner)
        x, y = first[cut].ravel() / width, second[cut].ravel() / width
        covariance = sum((a - x.mean()) * (b - y.mean()) for a, b in zip(x, y, strict=True)) / len(x)
        values.append((covariance + 0.00045) / (x.std() * y.std() + 0.00045))
    return sum(values) / len(values)


def test_change_is_the_mean_difference_in_shares_of_each_channels_range() -> None:
    first = [np.array([[0, 10], [20, 30]], dtype=np.uint8), np.array([[0, 0], [0, 0]], dtype=np.int16)]
    second = [np.array([[5, 10], [0, 30]], dtype=np.uint8), np.array([[-300, 0], [0, 100]], dtype=np.int16)]
    by_hand = ((5 + 20) / 4 / 255 + 400 / 4 / 1000) / 2
    assert change(first, second, [(0, 255), (-500, 500)]) == pytest.approx(by_hand, rel=1e-12)
    assert change(first, first, [(0, 255), (-500, 500)]) == 0


def test_a_measure_of_an_image_without_a_range_is_nan() -> None:
    flat = [np.zeros((8, 8))]
    assert math.isnan(change(flat, flat, [(3.0, 3.0)]))
    assert math.isnan(structure(flat, flat, [(3.0, 3.0)]))


@pytest.mark.parametrize("shape", [(9, 12), (5, 10), (8, 9, 7), (3, 8, 8)])
def test_structure_equals_its_definition_window_by_window(shape: tuple[int, ...]) -> None:
    first, second = 100 * noise(*shape), 100 * noise(*shape, seed=1)
    second = first + 0.7 * second
    wanted = structure_by_loops(first, second, 200.0)
    assert structure([first], [second], [(-100.0, 100.0)]) == pytest.approx(wanted, rel=1e-9)
    assert 0.3 < wanted < 0.95


def test_structure_is_the_mean_over_channels_and_symmetric() -> None:
    first, second = list(noise(2, 10, 10)), list(noise(2, 10, 10, seed=1))
    ranges = [(-1.0, 1.0), (-2.0, 2.0)]
    alone = [structure([a], [b], [own]) for a, b, own in zip(first, second, ranges, strict=True)]
    assert structure(first, second, ranges) == pytest.approx(np.mean(alone))
    assert structure(second, first, ranges) == pytest.approx(np.mean(alone))


def test_structure_is_1_under_another_contrast_and_near_minus_1_when_inverted() -> None:
    picture = noise(16, 16)
    assert structure([picture], [picture], UNIT) == pytest.approx(1)
    assert structure([picture], [0.4 * picture + 0.3], UNIT) == pytest.approx(1)
    assert structure([picture], [-picture], UNIT) < -0.95
    assert structure([np.zeros((9, 9))], [np.full((9, 9), 0.5)], UNIT) == pytest.approx(1)


def test_images_of_other_shapes_or_ranges_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"shapes \[\(4, 5\)\] and \[\(5, 4\)\] with 1 ranges cannot be compared"):
        change([np.zeros((4, 5))], [np.zeros((5, 4))], UNIT)
    with pytest.raises(ValueError, match="2 ranges cannot be compared"):
        structure([np.zeros((4, 5))], [np.zeros((4, 5))], UNIT * 2)


def test_identity_is_the_mean_dice_of_the_classes_either_has_outside_what_nobody_looked_at() -> None:
    first = np.array([[0, 1, 1, 2], [0, 1, 2, 2]])
    second = np.array([[0, 1, 0, 2], [3, 1, 2, -1]])
    by_hand = (2 * 2 / (3 + 2) + 2 * 2 / (2 + 2) + 0) / 3  # classes 1, 2 and 3; the last pixel does not count
    assert identity_dice(first, second) == pytest.approx(by_hand)
    assert identity_dice(second, first) == pytest.approx(by_hand)
    assert identity_dice(first, first) == 1
    assert math.isnan(identity_dice(np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8)))


def brighter(images: Sequence[Picture], after: Sequence[Mapping[str, str]]) -> list[Picture]:
    """Scanner B adds 0.2 and A takes 0.1 away; every call costs 0.05."""
    shift = {("A", "B"): 0.2, ("B", "A"): -0.1}
    return [
        Picture(
            tuple(c + 0.05 + shift.get((image.row["scanner"], row["scanner"]), 0.0) for c in image.channels), dict(row)
        )
        for image, row in zip(images, after, strict=True)
    ]


def test_composition_and_reversibility_are_what_a_source_adds_by_doing_nothing_and_by_there_and_back() -> None:
    images = [Picture((noise(6, 6, seed=i),), {"scanner": "A", "age": "40"}) for i in range(3)]
    ranges = [[(-1.0, 1.0)], [(-1.0, 1.0)], [(-1.0, 9.0)]]
    np.testing.assert_allclose(composition(brighter, images, ranges), [0.025, 0.025, 0.005])
    there = brighter(images, [{**image.row, "scanner": "B"} for image in images])
    np.testing.assert_allclose(reversibility(brighter, images, there, ranges), [0.1, 0.1, 0.02])


def test_a_source_that_loses_an_image_is_noticed() -> None:
    images = [Picture((noise(6, 6),), {"scanner": "A"})] * 2
    with pytest.raises(ValueError, match="zip"):
        composition(lambda images, after: images[:1], images, [UNIT, UNIT])
