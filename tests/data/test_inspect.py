"""Inspection: every planted fault is found and named, and what is left can be used."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from data.case_folders import manifest_of, mask, picture, save_nifti, save_png, write_table
from scantling.data.inspect import Inspection, inspect_dataset, label_table
from scantling.data.layouts import open_dataset
from scantling.data.leakage import as_one_patient, leakage_problems
from scantling.data.splits import make_split
from scantling.errors import DataError


def found(inspection: Inspection) -> set[tuple[str, str, str]]:
    return {(problem.case_id, problem.severity, problem.code) for problem in inspection.problems}


def flat(folder: Path, n: int = 3) -> Path:
    """n pictures with masks of the values 1 and 2."""
    for k in range(n):
        save_png(folder / f"c{k}.png", picture(k))
        save_png(folder / f"c{k}_seg.png", mask(1, 2))
    return folder


def volumes(folder: Path, shifts: list[float]) -> Path:
    """A volume per shift, whose label map lies that many mm beside it (voxels of 2 mm)."""
    for k, shift in enumerate(shifts):
        save_nifti(folder / f"v{k}.nii.gz", picture(k, (3, 12, 10)), spacing=(2, 2, 2))
        save_nifti(folder / f"v{k}_seg.nii.gz", np.stack([mask(1, 2)] * 3), spacing=(2, 2, 2), shift=shift)
    return folder


def test_a_clean_set_has_no_problem_and_a_summary_that_says_what_it_is(tmp_path: Path) -> None:
    inspection = inspect_dataset(open_dataset(flat(tmp_path)))
    assert inspection.problems == ()
    lines = inspection.summary_lines()
    assert lines[0] == "Found 3 cases of 3 patients (PNG, 2D, 1 channel; layout suffix)"
    assert lines[1] == "Labels: 3 full, 0 none   classes: 1, 2"
    assert lines[2] == "Stored values: 0 -> background, 1 -> 1, 2 -> 2, anything else -> unknown"
    assert lines[3] == "Problems: none"
    assert sum(line.startswith("Note: classes found") for line in lines) == 1
    assert inspection.text() == "\n".join(lines)
    assert inspection.usable.cases == inspection.manifest.cases
    finding = inspection.findings[0].labels[0]
    assert finding.counts == {0: 108, 1: 6, 2: 6}
    assert (finding.class_voxels, finding.coverage, finding.verdict) == (
        {"background": 108, "1": 6, "2": 6},
        1.0,
        "same",
    )


def test_damaged_files_cost_their_case_or_their_annotation_and_are_named(tmp_path: Path) -> None:
    flat(tmp_path, 4)
    rows = "case,image,label,label_kind\n" + "".join(f"c{k},c{k}.png,c{k}_seg.png,full\n" for k in range(4))
    manifest = open_dataset(write_table(tmp_path, rows))
    for name in ("c0.png", "c1_seg.png"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) - 20])
    inspection = inspect_dataset(manifest)
    assert {(case, severity) for case, severity, _ in found(inspection)} == {("c0", "error"), ("c1", "error")}
    messages = {problem.case_id: problem.message for problem in inspection.errors}
    assert "c0.png" in messages["c0"]
    assert messages["c0"].endswith("the case is left out")
    assert "c1_seg.png" in messages["c1"]
    assert messages["c1"].endswith("the annotation is left out")
    assert [(case.case_id, len(case.annotations)) for case in inspection.usable.cases] == [
        ("c1", 0),
        ("c2", 1),
        ("c3", 1),
    ]
    assert inspection.usable.problems == inspection.problems


def test_headers_alone_do_not_show_damage_and_say_so(tmp_path: Path) -> None:
    manifest = open_dataset(volumes(tmp_path, [0.0, 0.0]))
    whole = gzip.decompress((tmp_path / "v0.nii.gz").read_bytes())
    (tmp_path / "v0.nii.gz").write_bytes(gzip.compress(whole)[:-4])
    quick = inspect_dataset(manifest, read_voxels=False)
    assert (quick.voxels_read, quick.errors) == (False, ())
    assert "Headers only: damage beyond them, stored values and copies were not looked for" in quick.summary_lines()
    assert not any("Headers only" in line for line in inspect_dataset(manifest).summary_lines())
    assert quick.findings[1].geometry is not None
    assert quick.findings[1].labels[0].counts == {}
    assert quick.to_json()["cases"][1]["labels"][0]["coverage"] is None
    assert [problem.case_id for problem in inspect_dataset(manifest).errors] == ["v0"]


@pytest.mark.parametrize("read_voxels", [True, False])
def test_grids_are_accepted_to_5_percent_snapped_to_50_and_refused_beyond(tmp_path: Path, read_voxels: bool) -> None:
    manifest = open_dataset(volumes(tmp_path, [0.0, 0.09, 0.2, 0.9, 1.1, 400.0]))
    inspection = inspect_dataset(manifest, read_voxels=read_voxels)
    verdicts = [finding.labels[0].verdict for finding in inspection.findings]
    assert verdicts == ["same", "same", "snap", "snap", "refuse", "refuse"]
    assert found(inspection) == {
        ("v2", "repaired", "E-GEO-01"), ("v3", "repaired", "E-GEO-01"),
        ("v4", "error", "E-GEO-01"), ("v5", "error", "E-GEO-01"),
    }  # fmt: skip
    assert [len(case.annotations) for case in inspection.usable.cases] == [1, 1, 1, 1, 0, 0]


def test_a_label_of_another_size_is_refused_and_never_resampled(tmp_path: Path) -> None:
    flat(tmp_path)
    save_png(tmp_path / "c1_seg.png", mask(1, 2, shape=(12, 11)))
    inspection = inspect_dataset(open_dataset(tmp_path))
    (problem,) = inspection.errors
    assert problem.message.startswith("case c1: c1_seg.png: image is 12 x 10 but its label map is 12 x 11")
    assert [len(case.annotations) for case in inspection.usable.cases] == [1, 0, 1]


def test_channels_that_do_not_share_a_grid_cost_their_case(tmp_path: Path) -> None:
    for k, shift in enumerate((0.0, 0.3, 3.0)):
        save_nifti(tmp_path / f"t1_{k}.nii.gz", picture(k, (3, 8, 8)))
        save_nifti(tmp_path / f"t2_{k}.nii.gz", picture(k + 9, (3, 8, 8)), shift=shift)
    rows = "case,image:T1,image:T2\n" + "".join(f"c{k},t1_{k}.nii.gz,t2_{k}.nii.gz\n" for k in range(3))
    inspection = inspect_dataset(open_dataset(write_table(tmp_path, rows)))
    assert found(inspection) == {("c1", "repaired", "E-GEO-02"), ("c2", "error", "E-GEO-02")}
    assert [finding.channels for finding in inspection.findings] == [2, 2, 2]
    assert [case.case_id for case in inspection.usable.cases] == ["c0", "c1"]


def save_scaled(path: Path, values: np.ndarray, slope: float, intercept: float) -> None:
    """A volume of `values` whose file stores other numbers, and the slope and intercept that lead back."""
    stored = ((values - intercept) / slope).astype(np.int16)
    nib.save(nib.Nifti1Image(stored.transpose(2, 1, 0), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", slope, intercept)  # scl_slope and scl_inter of the NIfTI-1 header
    path.write_bytes(content)


def save_odd_labels(folder: Path, write: str, values: tuple[int, ...]) -> None:
    """The same label map in several guises."""
    label = mask(*values)
    if write == "palette":
        indexed = Image.new("P", label.shape[::-1])
        indexed.putdata(label.reshape(-1).tolist())
        indexed.putpalette([channel for k in range(256) for channel in (k, 255 - k, 7)])
        indexed.save(folder / "c_seg.png")
    elif write == "rgb":
        save_png(folder / "c_seg.png", np.stack([label] * 3, axis=-1))
    elif write == "scaled":
        save_scaled(folder / "c_seg.nii", label[None].astype(float), slope=0.5, intercept=-1)
    elif write == "float":
        save_nifti(folder / "c_seg.nii.gz", label[None].astype(np.float32) - np.float32(1e-4))
    else:
        save_png(folder / "c_seg.png", label)


@pytest.mark.parametrize("write", ["plain", "palette", "rgb", "scaled", "float"])
def test_label_values_are_counted_whatever_guise_they_have(tmp_path: Path, write: str) -> None:
    save_odd_labels(tmp_path, write, (2, 5))
    if (tmp_path / "c_seg.png").exists():
        save_png(tmp_path / "c.png", picture(0))
    else:
        save_nifti(tmp_path / "c.nii.gz", picture(0)[None])
    inspection = inspect_dataset(open_dataset(tmp_path))
    assert inspection.findings[0].labels[0].counts == {0: 108, 2: 6, 5: 6}
    assert label_table(inspection.manifest.classes) == ((0, "background"), (2, "2"), (5, "5"))
    assert inspection.problems == ()


@pytest.mark.parametrize(("values", "background"), [((2, 5), (0,)), ((2, 5, 255), (0,)), ((7,), (0, 9))])
def test_mapped_labels_come_back_exactly(tmp_path: Path, values: tuple[int, ...], background: tuple[int, ...]) -> None:
    save_png(tmp_path / "c.png", picture(0))
    save_png(tmp_path / "c_seg.png", mask(*values))
    classes = "".join(f"k{value} = {value}\n" for value in values)
    (tmp_path / "dataset.toml").write_text(f"[classes]\n{classes}background = {list(background)}\n")
    table = open_dataset(tmp_path).classes
    assert np.array_equal(table.to_stored(table.to_index(mask(*values))), mask(*values))


def test_values_of_no_class_empty_masks_missing_classes_and_false_scribbles_are_warned_about(
    tmp_path: Path,
) -> None:
    for k, label in enumerate([mask(1, 9), mask(), np.full((12, 10), 9), mask(1), np.full((12, 10), 9)]):
        save_png(tmp_path / f"c{k}.png", picture(k))
        save_png(tmp_path / f"c{k}_seg.png", label)
    rows = "case,image,label,label_kind,ignore\n" + "".join(
        f"c{k},c{k}.png,c{k}_seg.png,{'scribble' if k == 3 else 'full'},{9 if k == 4 else ''}\n" for k in range(5)
    )
    inspection = inspect_dataset(open_dataset(write_table(tmp_path, rows)))
    assert found(inspection) == {
        ("c0", "warning", "E-LBL-01"), ("c1", "warning", "E-LBL-02"), ("c2", "warning", "E-LBL-01"),
        ("c2", "warning", "E-LBL-02"), ("c3", "warning", "E-LBL-04"), ("c4", "warning", "E-LBL-02"),
        ("", "warning", "E-LBL-05"),
    }  # fmt: skip
    messages = {(problem.case_id, problem.code): problem.message for problem in inspection.problems}
    assert "stored values 9 (6 voxels) belong to no class" in messages["c0", "E-LBL-01"]
    assert "the mask is empty" in messages["c1", "E-LBL-02"]
    assert "no voxel holds a class" in messages["c2", "E-LBL-02"]
    assert "class heart: no label file holds one voxel" in messages["", "E-LBL-05"]
    assert inspection.errors == ()


def test_classes_that_were_not_looked_for_are_counted_and_warned_about_where_they_are_drawn(tmp_path: Path) -> None:
    for k, label in enumerate([mask(1, 2), mask(1), mask(1, 2)]):
        save_png(tmp_path / f"c{k}.png", picture(k))
        save_png(tmp_path / f"c{k}_seg.png", label)
    rows = "case,image,label,label_kind,annotated\n" + "".join(
        f"c{k},c{k}.png,c{k}_seg.png,full,{'*' if k == 2 else 'lung'}\n" for k in range(3)
    )
    inspection = inspect_dataset(open_dataset(write_table(tmp_path, rows)))
    assert found(inspection) == {("c0", "warning", "E-LBL-06")}
    assert "6 voxels hold heart, which is not among the classes that were looked for" in inspection.problems[0].message
    assert "Looked for: lung 3, heart 1, in 3 label files" in inspection.summary_lines()


def test_of_several_label_maps_of_one_kind_the_first_is_used_and_that_is_said(tmp_path: Path) -> None:
    save_png(tmp_path / "c.png", picture(0))
    for name in ("a", "b", "s"):
        save_png(tmp_path / f"{name}.png", mask(1, 2))
    rows = (
        "case,image,label,label_kind,rater\nc,c.png,a.png,full,anna\nc,c.png,b.png,full,bert\nc,c.png,s.png,silver,\n"
    )
    inspection = inspect_dataset(open_dataset(write_table(tmp_path, rows)))
    assert inspection.problems == ()
    assert [line for line in inspection.summary_lines() if line.startswith("Note")] == [
        "Note: 1 case has several label maps of kind full, of which the first is used, as a.png (anna's) in case c; "
        "reorder the rows of the table for another"
    ]
    assert inspection.usable.cases[0].annotation(("full",)).rater == "anna"


def test_images_that_teach_nothing_or_hold_impossible_numbers_are_named(tmp_path: Path) -> None:
    odd = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    odd[0, 0, 0, :2], odd[0, 0, 1, 0] = np.nan, np.inf
    odd[1] = 3
    odd[2, 0, 0, 0] = -1e30
    odd[3] = np.nan
    for k in range(5):
        save_nifti(tmp_path / f"c{k}.nii.gz", odd[k])
    rows = "case,image\n" + "".join(f"c{k},c{k}.nii.gz\n" for k in range(5))
    inspection = inspect_dataset(open_dataset(write_table(tmp_path, rows)))
    assert found(inspection) == {
        ("c0", "warning", "E-VAL-01"), ("c1", "warning", "E-VAL-02"), ("c2", "warning", "E-VAL-03"),
        ("c3", "warning", "E-VAL-02"),
    }  # fmt: skip
    said = {problem.case_id: problem.message for problem in inspection.problems}
    assert "3 of 192 voxels are NaN or infinite" in said["c0"]
    assert "every voxel is NaN or infinite, so it teaches nothing" in said["c3"]
    assert not any("NaN" in note for finding in inspection.findings for note in finding.notes)  # said once


def test_exact_copies_are_found_under_another_name_header_type_or_compression(tmp_path: Path) -> None:
    original = picture(1, (3, 8, 8))
    save_nifti(tmp_path / "a.nii.gz", original)
    save_nifti(tmp_path / "name.nii.gz", original)
    save_nifti(tmp_path / "header.nii.gz", original, spacing=(3, 2, 1), shift=7)
    save_nifti(tmp_path / "type.nii.gz", original.astype(np.float32))
    save_nifti(tmp_path / "unpacked.nii", original)
    (tmp_path / "level.nii.gz").write_bytes(gzip.compress((tmp_path / "unpacked.nii").read_bytes(), 1))
    save_scaled(tmp_path / "slope.nii", original.astype(float), slope=0.25, intercept=3)
    save_nifti(tmp_path / "near.nii.gz", np.where(np.arange(8) == 0, original ^ 1, original).astype(np.uint8))
    save_nifti(tmp_path / "turned.nii.gz", original.reshape(3, 4, 16))
    copies = [
        "a.nii.gz",
        "name.nii.gz",
        "header.nii.gz",
        "type.nii.gz",
        "unpacked.nii",
        "level.nii.gz",
        "slope.nii",
    ]
    rows = "case,image\n" + "".join(
        f"{name.split('.')[0]},{name}\n" for name in [*copies, "near.nii.gz", "turned.nii.gz"]
    )
    inspection = inspect_dataset(open_dataset(write_table(tmp_path, rows)))
    assert inspection.duplicates == (tuple(name.split(".")[0] for name in copies),)
    assert ("a", "repaired", "E-DUP-01") in found(inspection)
    patients = {case.case_id: case.patient_id for case in inspection.usable.cases}
    assert {patients[name] for name in inspection.duplicates[0]} == {"a"}
    assert patients["near"] == "near"


def test_copies_in_different_folds_are_a_leak_and_copies_of_one_patient_only_a_warning(
    tmp_path: Path,
) -> None:
    for k in range(4):
        save_png(tmp_path / f"c{k}.png", picture(k // 2))
    rows = "case,image,subject,fold\nc0,c0.png,anna,0\nc1,c1.png,anna,0\nc2,c2.png,bert,0\nc3,c3.png,carl,1\n"
    inspection = inspect_dataset(open_dataset(write_table(tmp_path, rows)))
    assert {("c0", "warning", "E-DUP-01"), ("c2", "error", "E-LEAK-02")} <= found(inspection)


@pytest.mark.parametrize("column", ["split", "fold"])
def test_a_patient_on_two_sides_of_the_authors_columns_is_an_error(column: str) -> None:
    values = {"a": "train", "b": "test", "c": "train"} if column == "split" else {"a": 0, "b": 1, "c": 0}
    manifest = manifest_of({"a": "anna", "b": "anna", "c": "carl"}, **{column: values})
    (problem,) = leakage_problems(manifest)
    assert (problem.severity, problem.code) == ("error", "E-LEAK-01")
    assert f"patient anna: cases stand in {column}" in problem.message
    with pytest.raises(DataError, match="patient anna"):
        make_split(manifest)


def test_chains_of_copies_become_one_patient() -> None:
    manifest = manifest_of({"a": "p", "b": "q", "c": "q", "d": "r", "e": "s"})
    merged = as_one_patient(manifest, [("a", "b"), ("c", "d")])
    assert [case.patient_id for case in merged.cases] == ["p", "p", "p", "p", "s"]


def test_pictures_and_volumes_or_odd_channels_in_one_set_are_an_error(tmp_path: Path) -> None:
    flat(tmp_path, 3)
    save_png(tmp_path / "c1.png", picture(1, (12, 10, 3)))
    save_nifti(tmp_path / "v.nii.gz", picture(9, (3, 8, 8)))
    rows = "case,image\nc0,c0.png\nc1,c1.png\nc2,c2.png\nv,v.nii.gz\n"
    inspection = inspect_dataset(open_dataset(write_table(tmp_path, rows)))
    messages = [problem.message for problem in inspection.errors]
    assert (
        "case v: 3 axes, but 3 cases have 2; pictures and volumes cannot be trained together, so keep one "
        "kind" in messages
    )
    assert "case c1: 3 channels, but 3 cases have 1; every case needs the same, so convert the others" in messages


def test_a_set_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    inspection = inspect_dataset(open_dataset(write_table(tmp_path, "case,image\na,none.png\n")))
    assert {code for _, _, code in found(inspection)} == {"E-CSV-07", "E-DAT-01"}
    assert inspection.summary_lines()[0] == "Found 0 cases of 0 patients (nothing readable; layout cases_csv)"


def test_the_summary_groups_problems_of_one_kind(tmp_path: Path) -> None:
    flat(tmp_path, 5)
    for k in range(3):
        save_png(tmp_path / f"c{k}_seg.png", mask())
    lines = inspect_dataset(open_dataset(tmp_path)).summary_lines()
    assert "Problems: 3 warnings" in lines
    assert any(line.endswith("[E-LBL-02] (and 2 more like it: c1, c2)") for line in lines)


def test_of_many_cases_alike_the_first_are_named(tmp_path: Path) -> None:
    flat(tmp_path, 9)
    for k in range(9):
        save_png(tmp_path / f"c{k}_seg.png", mask())
    lines = inspect_dataset(open_dataset(tmp_path)).summary_lines()
    assert any(line.endswith("(and 8 more like it: c1, c2, c3, c4, c5, c6, ...)") for line in lines)


def test_the_json_is_plain_and_holds_no_absolute_path(tmp_path: Path) -> None:
    inspection = inspect_dataset(open_dataset(flat(tmp_path)))
    text = json.dumps(inspection.to_json(), allow_nan=False)
    assert str(tmp_path) not in text
    assert json.loads(text)["cases"][0]["labels"][0] == {
        "file": "c0_seg.png", "kind": "full", "rater": "", "grid": "same",
        "values": {"0": 108, "1": 6, "2": 6},
        "voxels": {"background": 108, "1": 6, "2": 6}, "coverage": 1.0,
    }  # fmt: skip


def test_any_number_of_workers_finds_the_same(tmp_path: Path) -> None:
    manifest = open_dataset(flat(tmp_path, 6))
    one, four = inspect_dataset(manifest, workers=1), inspect_dataset(manifest, workers=4)
    assert (one.findings, one.problems) == (four.findings, four.problems)


@pytest.mark.parametrize(
    ("name", "first_line"),
    [
        ("hippocampus", "Found 100 cases of 100 patients (NIfTI, 3D MR, 1 channel; layout cases_csv)"),
        ("acdc", "Found 80 cases of 40 patients (NIfTI, 3D MR, 1 channel; layout cases_csv)"),
        ("retina", "Found 20 cases of 20 patients (PNG, 2D fundus, 3 channels; layout cases_csv)"),
    ],
)
def test_the_real_data_sets_are_clean(shared_data: Path, name: str, first_line: str) -> None:
    inspection = inspect_dataset(open_dataset(shared_data / name))
    assert inspection.problems == ()
    assert inspection.summary_lines()[0] == first_line
    if name == "acdc":  # README: about 1.1 % of the voxels carry a scribble
        coverage = [
            label.coverage for f in inspection.findings for label in f.labels if label.annotation.kind == "scribble"
        ]
        assert np.mean(coverage) == pytest.approx(0.011, abs=0.002)


def test_what_the_readers_decided_is_said_once_for_all_cases_alike(tmp_path):
    for name, pixel in (("a", 1.5), ("b", 1.25)):
        for folder, values in (("images", np.arange(120.0)), ("labels", np.arange(120) % 2)):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = nib.Nifti1Image(values.reshape(4, 5, 6).astype(np.float32), np.eye(4))
            image.header["pixdim"][1:4] = (pixel, pixel, 10)
            image.set_sform(np.eye(4), code=1)
            image.set_qform(None, code=0)
            image.header["pixdim"][1:4] = (pixel, pixel, 10)
            nib.save(image, tmp_path / folder / f"{name}.nii.gz")
    lines = inspect_dataset(open_dataset(tmp_path)).summary_lines()
    notes = [line for line in lines if "sform" in line]
    assert len(notes) == 1
    assert notes[0].startswith("Note: case a: its sform has unit scale but the voxel size is given as 1.5 x 1.5 x 10")
    assert notes[0].endswith("(and 1 more like it: b)")
