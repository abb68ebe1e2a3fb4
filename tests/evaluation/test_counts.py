from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scantling.errors import DataError
from scantling.evaluation.counts import confusion, foreground_box


def counts_by_loops(prediction: np.ndarray, reference: np.ndarray, n_classes: int) -> np.ndarray:
    counts = np.zeros((n_classes, n_classes), dtype=int)
    for predicted, expected in zip(prediction.ravel().tolist(), reference.ravel().tolist(), strict=True):
        if expected >= 0:
            counts[expected, max(predicted, 0)] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 7), min_size=2, max_size=3).map(tuple),
    n_classes=st.sampled_from([2, 3, 5, 20, 300]),
    dtype=st.sampled_from([np.int8, np.int16, np.int64]),
)
def test_every_pixel_that_is_not_ignored_is_counted_once(
    seed: int, shape: tuple[int, ...], n_classes: int, dtype: type
) -> None:
    rng = np.random.default_rng(seed)
    highest = min(n_classes, np.iinfo(dtype).max)
    occupied = rng.random(shape) < rng.uniform(0, 1)
    prediction = np.where(occupied, rng.integers(-1, highest, shape), 0).astype(dtype)
    reference = np.where(occupied, rng.integers(-1, highest, shape), 0).astype(dtype)
    found = confusion(prediction, reference, n_classes)
    np.testing.assert_array_equal(found.counts, counts_by_loops(prediction, reference, n_classes))
    assert found.n_ignored == (reference == -1).sum()
    for k in range(1, highest):
        where = np.argwhere((prediction == k) | (reference == k))
        if len(where):
            expected = tuple(slice(low, high + 1) for low, high in zip(where.min(0), where.max(0), strict=True))
            assert found.boxes[k] == expected
        else:
            assert found.boxes[k] is None


def test_unsigned_label_maps_are_counted_like_signed_ones() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 4, (2, 3, 8, 9)).astype(np.uint8)
    found = confusion(prediction, reference, 4)
    np.testing.assert_array_equal(found.counts, counts_by_loops(prediction, reference, 4))


def test_true_and_false_positives_and_negatives_of_a_small_example() -> None:
    # reference  1 1 2 .     prediction  1 2 2 1
    reference = np.array([[1, 1, 2, 0]], dtype=np.int8)
    prediction = np.array([[1, 2, 2, 1]], dtype=np.int8)
    found = confusion(prediction, reference, 3)
    assert found.true_positive.tolist() == [0, 1, 1]
    assert found.false_positive.tolist() == [0, 1, 1]
    assert found.false_negative.tolist() == [1, 1, 0]


def test_two_empty_maps_are_all_background_and_have_no_box() -> None:
    empty = np.zeros((2, 3, 4), dtype=np.int8)
    found = confusion(empty, empty, 3)
    assert found.counts[0, 0] == 24
    assert found.counts.sum() == 24
    assert found.boxes == (None, None, None)
    assert foreground_box(empty, empty) is None


@pytest.mark.parametrize(("prediction", "reference", "what"), [(3, 1, "prediction"), (1, -2, "reference")])
def test_an_index_that_is_no_class_is_refused_by_name(prediction: int, reference: int, what: str) -> None:
    maps = [np.full((2, 2), value, dtype=np.int8) for value in (prediction, reference)]
    with pytest.raises(DataError, match=rf"{what}: holds class (3|-2); wanted 0 to 2.*E-EVL-01"):
        confusion(*maps, 3)
