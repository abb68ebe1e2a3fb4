from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scantling.data.case import Annotation, Case, ClassTable
from scantling.data.image_io import (
    ImageGeometry,
    picture_geometry,
    read_label,
    write_label_map,
    write_scalar_map,
)
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError, DataError, IntegrityError, ResourceError
from scantling.evaluation import scoring
from scantling.evaluation.evaluate import Evaluation, evaluate_folders

CLASSES = ClassTable.of({"liver": 1, "tumour": [2, 7]})
SHAPE = (4, 10, 12)


def grid(shift_mm: float = 0.0) -> ImageGeometry:
    spacing = (3.0, 1.0, 0.5)
    world_from_index = np.diag([*spacing, 1.0])[[2, 1, 0, 3]]
    world_from_index[0, 3] = shift_mm
    return ImageGeometry(
        shape=SHAPE,
        spacing_mm=spacing,
        spacing_known=True,
        world_from_index=world_from_index,
        file_type="nifti",
    )


def anatomy(shift: int = 0) -> np.ndarray:
    """A liver of 3 x 6 x 6 voxels with a tumour in it, moved along x."""
    label_map = np.zeros(SHAPE, dtype=np.uint8)
    label_map[1:4, 2:8, 2 + shift : 8 + shift] = 1
    label_map[2, 4:6, 4 + shift : 6 + shift] = 2
    return label_map


def write(path: Path, label_map: np.ndarray, geometry: ImageGeometry | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label_map(path, label_map, grid() if geometry is None else geometry)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    """Six cases of four patients at two sites, each with the same anatomy."""
    cases = []
    for k in range(6):
        path = write(tmp_path / "reference" / f"case{k}_gt.nii.gz", anatomy())
        cases.append(
            Case(
                case_id=f"case{k}", images=(path,), annotations=(Annotation(path=path, kind="full"),),
                patient_id=f"p{k // 2}" if k < 4 else f"p{k}", site="Bern" if k < 3 else "Graz",
                attributes={"sex": "FM"[k % 2] if k < 5 else "", "age": str(40 + k), "note": ""},
            )
        )  # fmt: skip
    return Manifest(root=tmp_path, name="phantom", layout="test", classes=CLASSES, cases=tuple(cases))


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Case k is moved by k % 3 voxels."""
    folder = tmp_path / "predictions"
    for k in range(6):
        write(folder / f"case{k}.nii.gz", anatomy(k % 3))
    return folder


def test_a_folder_is_scored_by_case_class_and_metric(data: Manifest, predictions: Path) -> None:
    evaluation = evaluate_folders(predictions, data)
    liver = {case: row.value for case, row in evaluation.values("liver").items()}
    # Liver less tumour: 108 - 4 voxels. Moved by one: 5 of 6 columns shared, 3 * 6 * 5 = 90, less where
    # either map has tumour: the two tumours of 2 columns cover 3 columns of 2 rows, 6 voxels.
    assert liver == pytest.approx({f"case{k}": [1.0, 84 / 104, (72 - 8) / 104][k % 3] for k in range(6)})
    tumour = evaluation.find("tumour")
    assert tumour.mean == pytest.approx((1 + 0.5 + 0) / 3)
    assert (tumour.n, tumour.failed, tumour.patients) == (6, 0, 4)
    mean = evaluation.find()
    assert mean.mean == pytest.approx((evaluation.find("liver").mean + tumour.mean) / 2)
    assert mean.low <= mean.mean <= mean.high
    assert evaluation.find("liver", "hd95_mm").mean == pytest.approx(np.mean([0, 0.5, 1.0]))  # columns of 0.5 mm
    assert evaluation.missing == ()
    assert evaluation.problems == ()


def test_a_missing_prediction_is_a_failure_and_not_a_gap(data: Manifest, predictions: Path) -> None:
    (predictions / "case0.nii.gz").unlink()
    evaluation = evaluate_folders(predictions, data)
    assert evaluation.missing == ("case0",)
    row = evaluation.values("liver")["case0"]
    assert (row.value, row.status) == (0.0, "missing_file")
    liver = evaluation.find("liver")
    assert (liver.n, liver.failed) == (6, 1)
    assert liver.mean == pytest.approx((0 + 1 + 2 * 84 / 104 + 2 * 64 / 104) / 6)
    assert [problem.code for problem in evaluation.problems] == ["E-EVL-07"]
    assert "case0" in evaluation.verdict()
    assert "failed 1 of 6" in evaluation.verdict()


def test_damaged_and_misplaced_predictions_fail_by_name_and_the_others_go_on(data: Manifest, predictions: Path) -> None:
    damaged = predictions / "case1.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:60])
    write_label_map(predictions / "case2.nii.gz", anatomy()[:3], replace(grid(), shape=(3, 10, 12)))
    write(predictions / "case3.nii.gz", anatomy(), grid(shift_mm=5.0))
    write(predictions / "case4.nii.gz", anatomy(), grid(shift_mm=0.1))
    evaluation = evaluate_folders(predictions, data)
    statuses = {case: row.status for case, row in evaluation.values().items()}
    assert statuses == {
        "case0": "ok",
        "case1": "unreadable",
        "case2": "grid_mismatch",
        "case3": "grid_mismatch",
        "case4": "ok",
        "case5": "ok",
    }
    assert evaluation.missing == ("case1", "case2", "case3")
    found = {problem.case_id: problem for problem in evaluation.problems}
    assert "case1.nii.gz" in found["case1"].message
    assert "3 x 10 x 12 but its reference is 4 x 10 x 12" in found["case2"].message
    assert "10 voxels off" in found["case3"].message
    assert found["case4"].severity == "warning"
    assert "0.2 voxels off" in found["case4"].message


def test_an_unreadable_reference_is_told_and_the_others_are_scored(data: Manifest, predictions: Path) -> None:
    data.cases[5].annotations[0].path.write_bytes(b"not an image")
    evaluation = evaluate_folders(predictions, data)
    assert evaluation.missing == ("case5",)
    assert evaluation.find().n == 5
    assert "case5_gt.nii.gz" in evaluation.problems[0].message


def test_values_no_class_names_count_as_background_and_are_told(data: Manifest, predictions: Path) -> None:
    label_map = anatomy()
    label_map[0, 0, 0] = 9
    write(predictions / "case0.nii.gz", label_map)
    evaluation = evaluate_folders(predictions, data)
    assert evaluation.values("liver")["case0"].value == 1.0
    assert "holds 9, which no class names" in evaluation.problems[0].message
    assert evaluation.missing == ()


def test_ignored_values_and_unannotated_classes_of_the_reference_are_left_out(
    data: Manifest, predictions: Path
) -> None:
    label_map = anatomy()
    label_map[:, :, 7:] = 7  # nobody looked beyond column 6; a value of the tumour elsewhere
    path = write(data.root / "partial.nii.gz", label_map)
    annotation = Annotation(path=path, kind="full", annotated=("liver",), ignore=(7,))
    case = replace(data.cases[0], annotations=(annotation,))
    write(predictions / "case0.nii.gz", np.where(label_map == 7, 1, label_map).astype(np.uint8))
    evaluation = evaluate_folders(predictions, replace(data, cases=(case,)))
    assert evaluation.values("liver")["case0"].value == 1.0
    assert evaluation.values("tumour")["case0"].status == "not_annotated"
    assert evaluation.find("tumour").n == 0
    assert evaluation.find().mean == 1.0


def test_only_named_cases_and_classes_are_scored(data: Manifest, predictions: Path) -> None:
    evaluation = evaluate_folders(predictions, data, cases=["case4", "case1"], classes=["tumour"])
    assert list(evaluation.values()) == ["case4", "case1"]
    assert evaluation.classes == ("tumour",)
    assert {row.class_name for row in evaluation.rows} == {"tumour", "mean_foreground"}
    assert "belong to no scored case" in evaluation.notes[0]
    with pytest.raises(DataError, match=r"case case9: has no reference.*did you mean"):
        evaluate_folders(predictions, data, cases=["case9"])
    with pytest.raises(ConfigError, match="did you mean 'tumour'"):
        evaluate_folders(predictions, data, classes=["tumor"])


def test_subgroups_are_summed_up_by_attribute(data: Manifest, predictions: Path) -> None:
    evaluation = evaluate_folders(predictions, data)
    groups = {
        (s.group, s.group_value): s
        for s in evaluation.subgroups
        if s.metric == "dice" and s.class_name == "liver" and s.post == "raw"
    }
    assert {key for key in groups if key[0] != "age"} == {
        ("site", "Bern"),
        ("site", "Graz"),
        ("sex", "F"),
        ("sex", "M"),
    }
    assert groups["site", "Bern"].mean == pytest.approx((1 + 84 / 104 + 64 / 104) / 3)
    assert (groups["site", "Bern"].n, groups["site", "Bern"].patients) == (3, 2)
    assert evaluate_folders(predictions, data, groups=()).subgroups == ()
    assert {s.group for s in evaluate_folders(predictions, data, groups=["sex"]).subgroups} == {"sex"}
    with pytest.raises(ConfigError, match="no case has this attribute; did you mean 'site'"):
        evaluate_folders(predictions, data, groups=["sites"])


def test_raw_and_largest_component_stand_side_by_side(data: Manifest, predictions: Path) -> None:
    label_map = anatomy()
    label_map[0, 9, 11] = 1
    write(predictions / "case0.nii.gz", label_map)
    evaluation = evaluate_folders(predictions, data)
    assert evaluation.values("liver")["case0"].value == pytest.approx(208 / 209)
    assert evaluation.values("liver", post="largest_component")["case0"].value == 1.0
    plain = evaluate_folders(predictions, data, largest_component=False)
    assert {row.post for row in plain.rows} == {"raw"}


def test_a_plain_folder_of_references_names_its_classes_by_value(tmp_path: Path, predictions: Path) -> None:
    for k in range(6):
        write(tmp_path / "plain" / f"case{k}_seg.nii.gz", anatomy())
    evaluation = evaluate_folders(predictions, tmp_path / "plain")
    assert evaluation.classes == ("1", "2")
    assert evaluation.find("1").mean == pytest.approx((1 + 84 / 104 + 64 / 104) / 3)
    assert evaluation.find().patients == 6


def test_pictures_are_scored_without_spacing_and_say_so(tmp_path: Path) -> None:
    label_map = np.zeros((8, 9), dtype=np.uint8)
    label_map[2:6, 2:6] = 255
    for folder, shift in (("reference", 0), ("predictions", 1)):
        (tmp_path / folder).mkdir()
        write_label_map(tmp_path / folder / "a.png", np.roll(label_map, shift, 1), picture_geometry((8, 9), "png"))
    evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "reference")
    assert evaluation.find("foreground").mean == pytest.approx(24 / 32)
    assert evaluation.find("foreground", "hd95_mm").mean == 1.0
    assert any("1 mm stands for 1 pixel" in note for note in evaluation.notes)


def test_a_prediction_without_spacing_is_measured_in_the_references_millimetres(
    data: Manifest, predictions: Path
) -> None:
    (predictions / "case1.nii.gz").unlink()
    write(predictions / "case1.tiff", anatomy(1), picture_geometry(SHAPE, "tiff"))
    evaluation = evaluate_folders(predictions, data)
    assert evaluation.values("liver", "hd95_mm")["case1"].value == 0.5
    assert evaluation.notes == ()


def test_probabilities_beside_the_predictions_are_scored_for_calibration(data: Manifest, predictions: Path) -> None:
    probs = np.stack([np.full(SHAPE, p, dtype=np.float32) for p in (0.5, 0.25, 0.25)])
    (predictions / "probabilities").mkdir()
    write_scalar_map(predictions / "probabilities" / "case0.nii.gz", probs, grid())
    write_scalar_map(predictions / "probabilities" / "case1.nii.gz", probs[:2], grid())
    evaluation = evaluate_folders(predictions, data)
    frequency = (anatomy() == 1).mean()
    assert evaluation.values("liver", "ece")["case0"].value == pytest.approx(abs(0.25 - frequency))
    assert set(evaluation.values("all_classes", "brier")) == {"case0"}
    assert [problem.code for problem in evaluation.problems] == ["E-EVL-10"]
    assert "calibration is left out" in evaluation.problems[0].message


def test_an_evaluation_comes_back_from_its_files(data: Manifest, predictions: Path, tmp_path: Path) -> None:
    (predictions / "case2.nii.gz").unlink()
    write(predictions / "case1.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    evaluation = evaluate_folders(predictions, data, hd95_with_failures=True)
    paths = tmp_path / "metrics.csv", tmp_path / "evaluation.json"
    evaluation.save(*paths)
    again = Evaluation.load(*paths)
    assert repr(again) == repr(evaluation)  # as text, because NaN is not equal to itself
    with paths[0].open(newline="") as stream:
        lines = list(csv.reader(stream))
    assert lines[0] == ["case", "class", "metric", "value", "status", "post"]
    assert lines[1] == ["case0", "liver", "dice", "1.0", "ok", "raw"]
    assert len(lines) == 1 + len(evaluation.rows)


def test_damaged_result_files_are_refused(data: Manifest, predictions: Path, tmp_path: Path) -> None:
    paths = tmp_path / "metrics.csv", tmp_path / "evaluation.json"
    evaluate_folders(predictions, data, cases=["case0"], resamples=10).save(*paths)
    whole = [path.read_text() for path in paths]
    damages = {
        "rows, .* were written": (whole[0][: whole[0].rindex("case0")], whole[1]),
        "is not a row of scores": (whole[0].replace(",dice,1.0,", ",dice,one,"), whole[1]),
        "line 2 is not a row": (whole[0].replace("ok,raw", "fine,raw"), whole[1]),
        "not valid JSON": (whole[0], whole[1][:-40]),
        "not what 'scantling evaluate' writes": (whole[0], whole[1].replace('"settings"', '"setting"')),
        "newer version": (whole[0], whole[1].replace('"schema_version": 1', '"schema_version": 9')),
    }
    for message, contents in damages.items():
        for path, content in zip(paths, contents, strict=True):
            path.write_text(content)
        with pytest.raises(IntegrityError, match=message):
            Evaluation.load(*paths)
    paths[0].unlink()
    with pytest.raises(IntegrityError, match="the file is missing"):
        Evaluation.load(*paths)


def test_the_verdict_the_headline_and_the_table_tell_the_score_with_its_interval_and_failures(
    data: Manifest, predictions: Path
) -> None:
    evaluation = evaluate_folders(predictions, data)
    mean = evaluation.find()
    assert evaluation.verdict() == (
        f"Mean foreground Dice {mean.mean:.3f} (95 % interval {mean.low:.3f} to {mean.high:.3f}) on 6 "
        "cases of 4 patients; failed 0 of 6."
    )
    headline = evaluation.headline()
    assert headline["mean foreground Dice"] == mean.mean
    assert headline["failed"] == "0 of 6"
    assert headline["Dice of tumour"] == pytest.approx(0.5)
    lines = evaluation.text().splitlines()
    assert lines[0] == evaluation.verdict()
    assert lines[1].split() == ["class", "dice", "dice_largest_component", "hd95_mm", "assd_mm", "nsd", "failed"]
    assert lines[3].startswith("liver")
    plain = evaluate_folders(predictions, data, largest_component=False, distances=False).text().splitlines()
    assert plain[1].split() == ["class", "dice", "failed"]


def test_the_printed_table_has_raw_and_largest_component_side_by_side(data: Manifest, predictions: Path) -> None:
    crumbs = anatomy()
    crumbs[0, 0, 0] = 1  # a crumb of liver: 2 * 104 / (104 + 105)
    for k in range(6):
        write(predictions / f"case{k}.nii.gz", crumbs)
    evaluation = evaluate_folders(predictions, data)
    assert evaluation.find("liver").mean == pytest.approx(208 / 209)
    assert evaluation.find("liver", post="largest_component").mean == 1.0
    assert evaluation.text().splitlines()[3].split()[:6] == [
        "liver", f"{208 / 209:.3f}", f"[{208 / 209:.3f},", f"{208 / 209:.3f}]", "1.000", "[1.000,",
    ]  # fmt: skip


def test_a_file_that_does_not_fit_into_memory_fails_alone(
    data: Manifest, predictions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> object:
        if path.name in ("case1.nii.gz", "case2_gt.nii.gz"):
            raise ResourceError(f"{path}: needs 9 GB of memory")
        return read_label(path)

    monkeypatch.setattr(scoring, "read_label", read)
    evaluation = evaluate_folders(predictions, data)
    assert evaluation.missing == ("case1", "case2")
    assert evaluation.values()["case1"].status == "unreadable"
    assert evaluation.find().n == 5


def test_nothing_to_score_is_refused_in_one_sentence(data: Manifest, predictions: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no prediction for any of the 6 cases \(it holds no image\).*case0\.nii\.gz"):
        evaluate_folders(tmp_path / "empty", data)
    with pytest.raises(DataError, match="no such folder"):
        evaluate_folders(tmp_path / "nowhere", data)
    with pytest.raises(DataError, match="kind scribble; its annotations are full"):
        evaluate_folders(predictions, data, label_kinds=("scribble",))
    with pytest.raises(DataError, match="holds no readable label map"):
        evaluate_folders(predictions, tmp_path / "empty")
    write(tmp_path / "blank" / "case0.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    with pytest.raises(DataError, match="no foreground class"):
        evaluate_folders(predictions, tmp_path / "blank")


def test_two_predictions_of_one_case_are_refused(data: Manifest, predictions: Path) -> None:
    (predictions / "case0.nii.gz").rename(predictions / "case0_seg.nii.gz")
    assert evaluate_folders(predictions, data, resamples=10).values("liver")["case0"].value == 1.0
    write(predictions / "case0_pred.nii.gz", anatomy())
    with pytest.raises(DataError, match=r"case0_pred\.nii\.gz and case0_seg\.nii\.gz could both be"):
        evaluate_folders(predictions, data)


def test_the_result_does_not_depend_on_the_number_of_threads(data: Manifest, predictions: Path) -> None:
    told: list[str] = []
    one = evaluate_folders(predictions, data, workers=1, progress=told.append)
    assert told == [f"scoring case{k}" for k in range(6)]
    assert repr(one) == repr(evaluate_folders(predictions, data, workers=3))


def test_when_every_case_fails_the_score_is_zero_and_not_undefined(data: Manifest, predictions: Path) -> None:
    for path in predictions.glob("*.nii.gz"):
        path.write_bytes(b"damaged")
    evaluation = evaluate_folders(predictions, data)
    assert evaluation.find().mean == 0.0
    assert math.isnan(evaluation.find(metric="hd95_mm").mean)
    assert len(evaluation.missing) == 6
    assert "failed 6 of 6" in evaluation.verdict()


def test_volumes_of_real_hearts_are_those_of_the_data_sets_own_table(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "acdc" / "manifest.csv").is_file():
        pytest.skip("the ACDC data set is not there")
    acdc = open_dataset(shared_data / "acdc")
    with (shared_data / "acdc" / "manifest.csv").open(newline="") as stream:
        facts = {line["case_id"]: line for line in csv.DictReader(stream)}
    chosen = [case.case_id for case in acdc.cases[:2]]
    for case_id in chosen:
        stored, geometry = read_label(acdc.case(case_id).annotation(("full",)).path)
        write(tmp_path / f"{case_id}.nii.gz", np.zeros_like(stored), geometry)
    evaluation = evaluate_folders(tmp_path, acdc, cases=chosen)
    for case_id in chosen:
        fact = facts[case_id]
        voxel_ml = math.prod(float(fact[f"spacing_{axis}_mm"]) for axis in "xyz") / 1000
        for name, column in (("right_ventricle", "vox_RV"), ("myocardium", "vox_Myo"), ("left_ventricle", "vox_LV")):
            row = evaluation.values(name, "volume_error_ml")[case_id]
            assert row.status == "missed"
            assert row.value == pytest.approx(int(fact[column]) * voxel_ml, rel=1e-5)
