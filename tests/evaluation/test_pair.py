from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation import surface_oracle as oracle
from scantling.data.case import ClassTable
from scantling.errors import ConfigError, DataError, GeometryError
from scantling.evaluation.conventions import METRICS, Settings
from scantling.evaluation.pair import calibration_rows, evaluate_pair
from scantling.evaluation.rows import Row, unusable_rows, with_mean_foreground

CLASSES = ClassTable.of({"liver": 1, "tumour": 2})


def table(rows: list[Row]) -> dict[tuple[str, str, str], Row]:
    found = {(row.class_name, row.metric, row.post): row for row in rows}
    assert len(found) == len(rows)
    return found


def volume(**boxes: tuple[slice, slice, slice]) -> np.ndarray:
    label_map = np.zeros((6, 8, 8), dtype=np.int8)
    for name, box in boxes.items():
        label_map[box] = CLASSES.index(name)
    return label_map


CUBE = (slice(1, 4), slice(1, 4), slice(1, 4))
SHIFTED = (slice(1, 4), slice(1, 4), slice(2, 5))
FAR = (slice(4, 6), slice(6, 8), slice(6, 8))


def test_every_metric_of_two_cubes_shifted_by_one_voxel() -> None:
    rows = table(
        evaluate_pair(
            volume(liver=SHIFTED), volume(liver=CUBE), spacing_mm=(2.0, 1.0, 1.0), classes=CLASSES, case="P1",
            tolerance_mm=0.5,
        )
    )  # fmt: skip
    values = {metric: row.value for (name, metric, _), row in rows.items() if name == "liver"}
    # 27 voxels each, 18 shared. Surfaces: all but the middle voxel, 26 each. Shared surface: the two shared
    # layers less both middle voxels, 16. Voxels 1 mm apart: the other 9 + 1 of each.
    assert values == pytest.approx(
        {
            "dice": 36 / 54, "iou": 18 / 36, "precision": 18 / 27, "recall": 18 / 27,
            "volume_difference_ml": 0.0, "volume_error_ml": 0.0, "size_error_relative": 0.0,
            "hd95_mm": 1.0, "assd_mm": 20 / 52, "nsd": 32 / 52,
        }
    )  # fmt: skip
    assert {row.status for row in rows.values()} == {"ok", "both_empty"}
    assert rows["mean_foreground", "dice", "raw"].value == pytest.approx(36 / 54)


def test_pictures_are_measured_in_square_millimetres() -> None:
    prediction, reference = np.zeros((2, 4, 4), dtype=np.int8)
    prediction[0] = reference[0] = 1
    prediction[1, :2] = 1
    rows = table(evaluate_pair(prediction, reference, spacing_mm=(0.5, 0.2), classes=CLASSES))
    assert rows["liver", "area_difference_mm2", "raw"].value == pytest.approx(2 * 0.5 * 0.2)
    assert ("liver", "volume_difference_ml", "raw") not in rows


@pytest.mark.parametrize(
    ("predicted", "expected", "status", "wanted"),
    [
        ({}, {"liver": CUBE}, "missed",
         {"dice": 0, "iou": 0, "precision": None, "recall": 0,
          "volume_difference_ml": -0.027, "volume_error_ml": 0.027,
          "size_error_relative": 1, "hd95_mm": None, "assd_mm": None, "nsd": 0}),
        ({"liver": CUBE}, {}, "false_positive",
         {"dice": 0, "iou": 0, "precision": 0, "recall": None,
          "volume_difference_ml": 0.027, "volume_error_ml": 0.027,
          "size_error_relative": None, "hd95_mm": None, "assd_mm": None, "nsd": 0}),
        ({}, {}, "both_empty", dict.fromkeys(Settings().metrics(3))),
    ],
)  # fmt: skip
def test_the_written_rules_for_empty_masks(predicted, expected, status, wanted) -> None:
    rows = table(evaluate_pair(volume(**predicted), volume(**expected), spacing_mm=(1.0, 1.0, 1.0), classes=CLASSES))
    for metric, value in wanted.items():
        row = rows["liver", metric, "raw"]
        assert row.status == status
        assert math.isnan(row.value) if value is None else row.value == pytest.approx(value), metric


def test_hd95_with_failures_puts_the_image_diagonal_where_nothing_was_found() -> None:
    found = table(
        evaluate_pair(
            volume(tumour=FAR), volume(liver=CUBE, tumour=FAR), spacing_mm=(2.0, 1.0, 1.0), classes=CLASSES,
            hd95_with_failures=True,
        )
    )  # fmt: skip
    assert math.isnan(found["liver", "hd95_mm", "raw"].value)
    diagonal = math.sqrt((5 * 2.0) ** 2 + 7**2 + 7**2)
    assert found["liver", "hd95_with_failures_mm", "raw"].value == pytest.approx(diagonal)
    assert found["mean_foreground", "hd95_with_failures_mm", "raw"].value == pytest.approx(diagonal / 2)
    assert math.isnan(found["mean_foreground", "hd95_mm", "raw"].value)


def test_a_missed_class_pulls_the_mean_down_and_an_absent_one_does_not() -> None:
    perfect = volume(liver=CUBE)
    missed = table(evaluate_pair(perfect, volume(liver=CUBE, tumour=FAR), spacing_mm=(1.0, 1.0, 1.0), classes=CLASSES))
    assert missed["mean_foreground", "dice", "raw"].value == 0.5
    assert missed["mean_foreground", "dice", "raw"].status == "missed"
    assert math.isnan(missed["mean_foreground", "hd95_mm", "raw"].value)
    absent = table(evaluate_pair(perfect, perfect, spacing_mm=(1.0, 1.0, 1.0), classes=CLASSES))
    assert absent["mean_foreground", "dice", "raw"].value == 1.0
    assert absent["mean_foreground", "dice", "raw"].status == "ok"


def test_classes_that_were_not_looked_for_are_skipped() -> None:
    rows = table(
        evaluate_pair(
            volume(liver=CUBE, tumour=FAR), volume(liver=CUBE), spacing_mm=(1.0, 1.0, 1.0), classes=CLASSES,
            annotated=["liver"],
        )
    )  # fmt: skip
    assert rows["tumour", "dice", "raw"].status == "not_annotated"
    assert math.isnan(rows["tumour", "dice", "raw"].value)
    assert rows["mean_foreground", "dice", "raw"].value == 1.0


def test_ignored_pixels_belong_to_neither_mask() -> None:
    rng = np.random.default_rng(11)
    prediction = oracle.random_mask(rng, (5, 6, 6)).astype(np.int8)
    reference = oracle.random_mask(rng, (5, 6, 6)).astype(np.int8)
    ignored = rng.random((5, 6, 6)) < 0.3
    with_ignore = np.where(ignored, -1, reference).astype(np.int8)
    cut = [np.where(ignored, 0, label_map).astype(np.int8) for label_map in (prediction, reference)]
    spacing = (1.0, 2.0, 1.0)
    found = evaluate_pair(prediction, with_ignore, spacing_mm=spacing, classes=CLASSES)
    assert table(found).keys() == table(evaluate_pair(*cut, spacing_mm=spacing, classes=CLASSES)).keys()
    for row, expected in zip(found, evaluate_pair(*cut, spacing_mm=spacing, classes=CLASSES), strict=True):
        assert row.value == pytest.approx(expected.value, nan_ok=True)
        assert row.status == expected.status


def test_pairs_of_several_classes_agree_with_brute_force_on_each_class() -> None:
    rng = np.random.default_rng(12)
    for _ in range(40):
        spacing = tuple(float(mm) for mm in rng.choice([0.7, 1.0, 5.0], 3))
        prediction, reference = rng.integers(0, 3, (2, 3, 4, 4)).astype(np.int8)
        rows = table(evaluate_pair(prediction, reference, spacing_mm=spacing, classes=CLASSES, tolerance_mm=1.0))
        for k, name in ((1, "liver"), (2, "tumour")):
            there, back = oracle.distances(prediction == k, reference == k, spacing)
            hd95 = max(oracle.percentile(there, 95), oracle.percentile(back, 95))
            pooled = there + back
            assert rows[name, "dice", "raw"].value == pytest.approx(oracle.dice(prediction == k, reference == k))
            assert rows[name, "hd95_mm", "raw"].value == pytest.approx(hd95)
            assert rows[name, "assd_mm", "raw"].value == pytest.approx(sum(pooled) / len(pooled))
            within = sum(d <= 1 + 1e-9 for d in pooled) / len(pooled)
            assert rows[name, "nsd", "raw"].value == pytest.approx(within)


def test_the_largest_component_is_scored_beside_the_raw_prediction() -> None:
    prediction = volume(liver=CUBE)
    prediction[5, 7, 7] = 1  # a stray voxel
    rows = table(
        evaluate_pair(
            prediction,
            volume(liver=CUBE),
            spacing_mm=(1.0, 1.0, 1.0),
            classes=CLASSES,
            largest_component=True,
        )
    )
    assert rows["liver", "dice", "raw"].value == pytest.approx(54 / 55)
    assert rows["liver", "dice", "largest_component"].value == 1.0
    assert rows["liver", "hd95_mm", "largest_component"].value == 0.0
    assert rows["mean_foreground", "dice", "largest_component"].value == 1.0
    assert rows["liver", "volume_difference_ml", "largest_component"].value == 0.0


def test_the_largest_component_is_chosen_before_ignored_pixels_are_left_out() -> None:
    # prediction  1 1 1 1 . 1 1     the piece on the left is the larger one,
    # reference   ? ? ? 1 . 1 1     though most of it lies where nobody looked
    prediction = np.array([[1, 1, 1, 1, 0, 1, 1]], dtype=np.int8)
    reference = np.array([[-1, -1, -1, 1, 0, 1, 1]], dtype=np.int8)
    rows = table(evaluate_pair(prediction, reference, spacing_mm=(1.0, 1.0), classes=CLASSES, largest_component=True))
    assert rows["liver", "dice", "raw"].value == 1.0
    assert rows["liver", "dice", "largest_component"].value == pytest.approx(2 * 1 / (1 + 3))


def test_without_distances_only_counts_are_measured() -> None:
    rows = evaluate_pair(
        volume(liver=CUBE), volume(liver=CUBE), spacing_mm=(1.0,) * 3, classes=CLASSES, distances=False
    )
    assert {row.metric for row in rows}.isdisjoint({"hd95_mm", "assd_mm", "nsd"})


def test_every_metric_that_is_measured_is_in_the_table_of_metrics() -> None:
    for dimensions in (2, 3):
        assert set(Settings(hd95_with_failures=True).metrics(dimensions)) <= set(METRICS)


def test_shapes_that_differ_unknown_indices_and_impossible_settings_are_refused() -> None:
    one = volume(liver=CUBE)
    with pytest.raises(GeometryError, match=r"case P7: prediction is 6 x 8 x 8, its reference 5 x 8 x 8.*E-GEO-10"):
        evaluate_pair(one, one[:5], spacing_mm=(1.0,) * 3, classes=CLASSES, case="P7")
    with pytest.raises(GeometryError, match="spacing has 2 axes"):
        evaluate_pair(one, one, spacing_mm=(1.0, 1.0), classes=CLASSES)
    with pytest.raises(DataError, match="prediction: holds class 7"):
        evaluate_pair(np.full_like(one, 7), one, spacing_mm=(1.0,) * 3, classes=CLASSES)
    with pytest.raises(ConfigError, match="tolerance_mm = -1"):
        evaluate_pair(one, one, spacing_mm=(1.0,) * 3, classes=CLASSES, tolerance_mm=-1.0)
    with pytest.raises(ConfigError, match="did you mean 'liver'"):
        evaluate_pair(one, one, spacing_mm=(1.0,) * 3, classes=CLASSES, annotated=["livr"])


def test_a_case_without_a_prediction_fails_in_every_annotated_class() -> None:
    rows = table(
        unusable_rows(
            "P1", CLASSES.foreground, annotated=["liver"], diagonal_mm=50.0, dimensions=3,
            settings=Settings(hd95_with_failures=True), status="missing_file",
        )
    )  # fmt: skip
    assert rows["liver", "dice", "raw"].value == rows["liver", "nsd", "largest_component"].value == 0.0
    assert math.isnan(rows["liver", "hd95_mm", "raw"].value)
    assert rows["liver", "hd95_with_failures_mm", "raw"].value == 50.0
    assert rows["tumour", "dice", "raw"].status == "not_annotated"
    assert rows["mean_foreground", "dice", "raw"].value == 0.0
    assert rows["mean_foreground", "dice", "raw"].status == "missing_file"


def test_the_status_of_a_mean_is_the_worst_of_its_classes() -> None:
    rows = [
        Row(case="P1", class_name=name, metric="dice", value=0.0, status=status)
        for name, status in (("a", "ok"), ("b", "false_positive"), ("c", "missed"), ("d", "both_empty"))
    ]
    assert with_mean_foreground(rows)[-1].status == "missed"
    nothing = [Row(case="P1", class_name="a", metric="dice", value=math.nan, status="both_empty")]
    assert with_mean_foreground(nothing)[-1].status == "both_empty"


def test_calibration_is_scored_by_class_and_for_the_winner_if_every_class_was_looked_for() -> None:
    probs = np.array([[[0.6, 0.2]], [[0.3, 0.8]], [[0.1, 0.0]]])
    reference = np.array([[0, 1]])
    names = CLASSES.foreground
    rows = table(calibration_rows(probs, reference, classes=CLASSES, names=names))
    assert rows["liver", "brier", "raw"].value == pytest.approx((0.3**2 + 0.2**2) / 2)
    assert rows["liver", "ece", "raw"].value == pytest.approx((0.3 + 0.2) / 2)
    assert rows["mean_foreground", "brier", "raw"].value == pytest.approx((0.13 / 2 + 0.01 / 2) / 2)
    assert rows["all_classes", "ece", "raw"].value == pytest.approx((0.4 + 0.2) / 2)
    partly = table(calibration_rows(probs, reference, classes=CLASSES, names=names, annotated=["liver"]))
    assert ("all_classes", "ece", "raw") not in partly
    assert partly["tumour", "ece", "raw"].status == "not_annotated"
