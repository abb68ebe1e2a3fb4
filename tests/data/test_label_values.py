"""What label maps say about themselves: counts, sparseness, and when nothing may be guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from scantling.data.case import ClassTable
from scantling.data.label_values import LabelQuestion, count_values, describe_label, find_classes, kind_notes

PATH = Path("label.png")


def lines(shape: tuple[int, ...], unknown: int, *values: int, thickness: int = 2) -> np.ndarray:
    """Everything unknown but for one horizontal line of each value in every plane."""
    label = np.full(shape, unknown, np.int16)
    for position, value in enumerate(values):
        start = 2 + position * (thickness + 4)
        label[..., start : start + thickness, 3:-3] = value
    return label


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(
        st.sampled_from([np.uint8, np.int16, np.int64]),
        npst.array_shapes(max_dims=3, max_side=6),
        elements=st.integers(0, 100),
    )
)
def test_counts_equal_counting_one_by_one(stored: np.ndarray) -> None:
    flat = stored.ravel().tolist()
    assert count_values(stored) == {value: flat.count(value) for value in sorted(set(flat))}


@pytest.mark.parametrize("values", [[-3, 5, 5], [70_000, 1], [2**40, -(2**40), 0]])
def test_negative_and_huge_values_are_counted_without_a_huge_histogram(values: list[int]) -> None:
    assert count_values(np.array(values)) == {value: values.count(value) for value in sorted(set(values))}


@pytest.mark.parametrize("shape", [(40, 40), (5, 40, 40)])
def test_thin_lines_in_an_unknown_rest_are_a_scribble_without_being_told(shape: tuple[int, ...]) -> None:
    stored = lines(shape, 4, 0, 1, 2)
    scan = describe_label(LabelQuestion(path=PATH), stored)
    assert (scan.kind, scan.unknown, scan.ignore) == ("scribble", (4,), (4,))
    assert scan.coverage == pytest.approx(np.mean(stored != 4))


@pytest.mark.parametrize(
    "stored",
    [
        np.pad(np.ones((30, 30), int), 2),  # a large organ in a thin frame of background: two values only
        np.where(np.add.outer(np.arange(40), np.arange(40)) > 30, 2, np.eye(40, dtype=int)),  # a large class 2
        np.pad(np.full((30, 30), 255), 5),
        lines((40, 40), 0, 1, 2),  # vessels: background is no unknown
        np.zeros((8, 8), int),
    ],
)
def test_full_masks_are_not_mistaken_for_scribbles(stored: np.ndarray) -> None:
    scan = describe_label(LabelQuestion(path=PATH), stored)
    assert (scan.kind, scan.unknown, scan.coverage) == ("full", (), 1.0)


def test_lines_thicker_than_six_pixels_are_no_scribble() -> None:
    for thickness, kind in ((6, "scribble"), (7, "full")):
        question = LabelQuestion(path=PATH, ignore=(9,))
        assert describe_label(question, lines((64, 64), 9, 0, 1, thickness=thickness)).kind == kind


def test_whole_slices_are_slices_along_any_axis() -> None:
    for axis in range(3):
        stored = np.full((9, 9, 9), 7)
        np.moveaxis(stored, axis, 0)[[2, 6]] = np.arange(9) % 2
        assert describe_label(LabelQuestion(path=PATH, ignore=(7,)), stored).kind == "slices"
        assert describe_label(LabelQuestion(path=PATH), stored).unknown == (7,)


def test_a_value_outside_the_class_table_is_unknown_and_needs_no_ignore() -> None:
    question = LabelQuestion(path=PATH, classes=ClassTable.of({"a": 1}))
    scan = describe_label(question, lines((40, 40), 4, 0, 1))
    assert (scan.kind, scan.unknown, scan.ignore) == ("scribble", (4,), ())


def test_a_full_label_with_a_hole_stays_full_and_reports_its_coverage() -> None:
    stored = np.zeros((20, 20), int)
    stored[:5, :5] = 255
    scan = describe_label(LabelQuestion(path=PATH, ignore=(255,)), stored)
    assert (scan.kind, scan.unknown, scan.coverage) == ("full", (255,), 1 - 25 / 400)
    (note,) = kind_notes([scan], "X")
    assert note.startswith("label_kind = full for 1 label files, because 93.8 % of voxels are labelled")
    assert note.endswith("(value 255 means unknown); override with X")


def test_negative_values_become_unknown_and_not_classes() -> None:
    scans = [describe_label(LabelQuestion(path=PATH), np.array([[-1, 0, 3], [3, 8, 0]]))]
    table, (note,) = find_classes(scans)
    assert table.names == ("background", "3", "8")
    assert "value -1 taken as unknown" in note
    assert np.array_equal(table.to_index(np.array([-1, 0, 3, 8])), [-1, 0, 1, 2])
