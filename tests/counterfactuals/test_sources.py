from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from counterfactuals.toy_image_model import greys, picture
from scantling.counterfactuals.sources import (
    AppearanceSource,
    CallableSource,
    CounterfactualSource,
    FolderSource,
)
from scantling.errors import DataError

Row = Mapping[str, str]


def test_a_function_sees_stored_units_and_both_rows_and_its_result_takes_the_stored_type() -> None:
    seen: list[Any] = []

    def shifted(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
        seen.append((image.dtype, image.shape, before["scanner"], after["scanner"]))
        return image + 0.75

    stored = np.array([[0, 7], [254, 255]], dtype=np.uint8)
    image = picture(stored, {"scanner": "A"})
    source = CallableSource(shifted, name="mine")
    (made,) = source([image], [{"scanner": "B"}])
    assert isinstance(source, CounterfactualSource)
    assert seen == [(np.float32, (1, 2, 2), "A", "B")]
    assert made.channels[0].tolist() == [[1, 8], [255, 255]]
    assert made.channels[0].dtype == np.uint8
    assert (made.row, made.geometry, made.case_id) == ({"scanner": "B"}, image.geometry, image.case_id)


def test_a_function_that_writes_into_its_input_changes_no_image() -> None:
    def blackened(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
        image[:] = 0
        return image

    stored = greys((5, 5), 0)
    image = picture(stored.copy())
    (made,) = CallableSource(blackened)([image], [{}])
    assert not made.channels[0].any()
    assert np.array_equal(image.channels[0], stored)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float64"])
def test_a_function_that_changes_nothing_leaves_every_bit(dtype: str) -> None:
    stored = greys((6, 5), 1).astype(dtype) * (2 if dtype == "uint8" else 1)
    if dtype == "int64":
        stored += 2**50
    if dtype == "float64":
        stored[0, :2] = 0.1, np.nan
    (made,) = CallableSource(lambda image, before, after: image)([picture(stored)], [{}])
    assert made.channels[0].tobytes() == stored.tobytes()


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda image, before, after: image[:, 1:], r"gave float32 of \(1, 3, 4\); wanted numbers of \(1, 4, 4\)"),
        (lambda image, before, after: image > 3, "gave bool"),
        (lambda image, before, after: image * np.nan, "gave NaN or infinities"),
    ],
)
def test_a_function_that_gives_no_image_is_named_with_its_case(function: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=f"case P3: mine {sentence}"):
        CallableSource(function, name="mine")([picture(greys((4, 4), 0), case_id="P3")], [{}])


def test_the_other_sources_stand_here_too() -> None:
    assert AppearanceSource.__module__ != FolderSource.__module__
    fitted = AppearanceSource.fit([picture(greys((4, 4), i), {"s": "ab"[i]}) for i in range(2)], attribute="s")
    assert isinstance(fitted, CounterfactualSource)
