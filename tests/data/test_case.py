from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scantling.data.case import IGNORE, Annotation, Case, ClassTable
from scantling.errors import ConfigError, DataError


def test_a_class_may_be_a_union_and_unnamed_values_are_unknown_not_background() -> None:
    table = ClassTable.of({"right": [1, 5], "left": (2,), "background": [0, 4]})
    stored = np.array([0, 4, 1, 5, 2, 7])
    assert table.names == ("background", "right", "left")
    assert table.to_index(stored).tolist() == [0, 0, 1, 1, 2, IGNORE]
    assert table.to_index(stored, ignore=[5]).tolist() == [0, 0, 1, IGNORE, 2, IGNORE]


def test_export_writes_the_first_stored_value_and_comes_back_the_same() -> None:
    table = ClassTable.of({"a": [7, 3], "b": 255})
    exported = table.to_stored(np.array([0, 1, 2]))
    assert exported.tolist() == [0, 7, 255]
    assert exported.dtype == np.uint8
    assert table.to_index(exported).tolist() == [0, 1, 2]


def test_an_unknown_pixel_cannot_be_exported() -> None:
    with pytest.raises(DataError, match=r"holds -1\.\.1"):
        ClassTable.of({"a": 1}).to_stored(np.array([IGNORE, 1]))


def test_a_subset_turns_the_other_classes_into_background() -> None:
    table = ClassTable.of({"lung": [1, 5], "heart": 3}).subset(["heart"])
    assert table.names == ("background", "heart")
    assert table.to_index(np.array([0, 1, 5, 3])).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ({"a": 1, "b": [2, 1]}, "belongs to two classes"),
        ({"a": []}, "at least one stored value"),
        ({"a": 0}, "name the values of 'background'"),
    ],
)
def test_impossible_class_tables_are_refused(classes: dict[str, int | list[int]], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ClassTable.of(classes)


def test_a_misspelt_class_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'heart'"):
        ClassTable.of({"heart": 1}).index("haert")


def test_a_case_picks_its_annotation_by_the_order_of_kinds_and_by_rater() -> None:
    silver = Annotation(path=Path("s"), kind="silver")
    first, second = (Annotation(path=Path(r), kind="full", rater=r) for r in ("one", "two"))
    case = Case(case_id="c", images=(Path("i"),), annotations=(silver, first, second), attributes={"sex": "F"}, fold=3)
    assert case.annotation(("full", "silver")) is first
    assert case.annotation(("silver", "full")) is silver
    assert case.annotation(("full",), rater="two") is second
    assert case.annotation(("scribble",)) is None
    assert (case.patient_id, case.attribute("sex"), case.attribute("fold"), case.attribute("absent")) == (
        "c",
        "F",
        "3",
        "",
    )
