"""Generated images: who may be used, what they are checked against, and what they must never become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.case_folders import manifest_of, mask, picture, save_nifti, save_png, write_table
from scantling.data.alternatives import alternatives_by_case, is_sound, misfit, with_source_patient
from scantling.data.case import Case
from scantling.data.fingerprint import fingerprint
from scantling.data.image import ImageGeometry
from scantling.data.image_io import read_geometry
from scantling.data.inspect import Inspection, inspect_dataset
from scantling.data.layouts import cases_csv, open_dataset
from scantling.data.lock import check_lock, write_lock
from scantling.data.splits import make_split

HEADER = "case,image,label,label_kind,subject,split,scanner,counterfactual_of,intervention,sound,composition\n"


def found(inspection: Inspection) -> set[tuple[str, str, str]]:
    return {(problem.case_id, problem.severity, problem.code) for problem in inspection.problems}


def row(case: str, *, of: str = "", image: str = "", split: str = "", sound: str = "", subject: str = "") -> str:
    image = image or f"{case}.png"
    if of:
        return f"{case},{image},,none,{subject},{split},B,{of},scanner=B,{sound or 'yes'},0.01\n"
    return f"{case},{image},real_seg.png,full,{subject},{split},A,,,,\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two real cases c0 and c1, and a picture for each of c0__B, c0__C, c1__B."""
    save_png(tmp_path / "real_seg.png", mask(1, 2))
    for seed, name in enumerate(("c0", "c1", "c0__B", "c0__C", "c1__B")):
        save_png(tmp_path / f"{name}.png", picture(seed))
    return tmp_path


def opened(folder: Path, *rows: str) -> Inspection:
    return inspect_dataset(open_dataset(write_table(folder, HEADER + "".join(rows))))


@pytest.mark.parametrize(
    ("word", "sound"),
    [("yes", True), ("", True), ("Yes ", True), ("1", True), ("no", False), ("NO", False), ("0", False), ("?", False)],
)
def test_only_what_is_said_to_be_sound_or_not_judged_is_used(word, sound):
    case = Case(case_id="a", images=(Path("a.png"),), attributes={"sound": word}, counterfactual_of="b")
    assert is_sound(case) is sound
    assert (alternatives_by_case([case]) != {}) is sound


def test_alternatives_are_found_by_their_real_case_in_the_order_of_the_table_without_labels_of_their_own():
    source = {"b1": "b", "a2": "a", "a1": "a", "a3": "a"}
    manifest = manifest_of(dict.fromkeys(["a", "b1", "a2", "b", "a1", "a3", "c"], "p"), counterfactual_of=source)
    assert manifest.cases[1].annotations
    unsound = replace(manifest.cases[4], attributes={"sound": "no"})
    found = alternatives_by_case([*manifest.cases[:4], unsound, *manifest.cases[5:]])
    assert {case: [other.case_id for other in others] for case, others in found.items()} == {
        "b": ["b1"], "a": ["a2", "a3"],
    }  # fmt: skip
    assert not any(other.annotations for others in found.values() for other in others)
    assert [case.case_id for case in manifest.real] == ["a", "b", "c"]


def test_a_generated_image_has_the_patient_of_its_real_case():
    manifest = manifest_of({"a": "anna", "a1": "a1", "a2": "someone", "x1": "x1"},
                           counterfactual_of={"a1": "a", "a2": "a", "x1": "gone"})  # fmt: skip
    assert [case.patient_id for case in with_source_patient(manifest.cases)] == ["anna", "anna", "anna", "x1"]


def test_the_table_keeps_every_column_and_gives_the_patient_of_the_real_case(folder):
    rows = (
        row("c0", subject="anna"),
        row("c0__B", of="c0", sound="no"),
        row("c1", subject="bert"),
        row("c1__B", of="c1", subject="x"),
    )
    manifest = opened(folder, *rows).manifest
    one = manifest.case("c0__B")
    assert (one.counterfactual_of, one.attribute("counterfactual_of"), one.scanner) == ("c0", "c0", "B")
    assert one.attributes == {"intervention": "scanner=B", "sound": "no", "composition": "0.01"}
    assert {case.case_id: case.patient_id for case in manifest.cases} == {
        "c0": "anna", "c0__B": "anna", "c1": "bert", "c1__B": "bert",
    }  # fmt: skip
    (folder / "written").mkdir()
    again = cases_csv.read(cases_csv.write(manifest, folder / "written").parent)
    assert [(c.case_id, c.patient_id, c.counterfactual_of, c.attributes) for c in again.cases] == [
        (c.case_id, c.patient_id, c.counterfactual_of, c.attributes) for c in manifest.cases
    ]


def test_where_names_say_the_patient_generated_rows_are_not_asked(folder):
    for name in ("sub-01_a", "sub-01_b", "sub-02_a", "made_sub-07"):
        save_png(folder / f"{name}.png", picture(len(name) + ord(name[-1])))
    rows = [row("sub-01_a"), row("sub-01_b"), row("sub-02_a"), row("made_sub-07", of="sub-01_b")]
    manifest = open_dataset(write_table(folder, HEADER + "".join(rows)))
    assert [case.patient_id for case in manifest.cases] == ["sub-01", "sub-01", "sub-02", "sub-01"]
    assert any(note.startswith("3 cases are 2 patients") for note in manifest.notes)


def test_generated_images_are_counted_apart_and_not_as_cases(folder):
    rows = (row("c0"), row("c0__B", of="c0"), row("c0__C", of="c0", sound="no"), row("c1"), row("c1__B", of="c1"))
    inspection = opened(folder, *rows)
    lines = inspection.summary_lines()
    assert inspection.problems == ()
    assert lines[0].startswith("Found 2 cases of 2 patients (PNG, 2D, 1 channel")
    assert "Counterfactuals: 3 images of 2 cases, 1 of them unsound and never used" in lines
    assert lines[1].startswith("Labels: 2 full, 0 none")
    content = inspection.to_json()
    assert [case["case"] for case in content["cases"]] == ["c0", "c1"]
    assert (content["patients"], content["counterfactuals"]) == (2, {"images": 3, "cases": 2, "unsound": 1})
    assert [case.case_id for case in inspection.usable.cases] == ["c0", "c0__B", "c0__C", "c1", "c1__B"]
    alone = opened(folder, row("c0"), row("c1"))
    assert not any("Counterfactuals" in line for line in alone.summary_lines())
    assert [line for line in lines if "Counterfactuals" not in line] == alone.summary_lines()


def test_an_unchanged_counterfactual_is_no_copy_and_its_columns_make_no_leak(folder):
    save_png(folder / "c0__B.png", picture(0))  # the same as c0
    save_png(folder / "c0__C.png", picture(0))
    save_png(folder / "c1__B.png", picture(1))
    rows = [
        row("c0", split="train", subject="anna"),
        row("c0__B", of="c0", split="test"), row("c0__C", of="c0", split="train"),
        row("c1", split="test", subject="bert"), row("c1__B", of="c1", split="train"),
    ]  # fmt: skip
    inspection = opened(folder, *rows)
    assert (inspection.problems, inspection.duplicates) == ((), ())
    split = make_split(inspection.usable)
    assert (split.train, split.heldout, split.unlabelled) == (("c0",), ("c1",), ())


def test_a_counterfactual_that_shows_another_patient_is_still_a_leak(folder):
    save_png(folder / "c0__B.png", picture(1))  # the same as c1
    save_png(folder / "c0__C.png", picture(1))
    rows = [row("c0", split="train"), row("c0__B", of="c0"), row("c0__C", of="c0"), row("c1", split="test")]
    inspection = opened(folder, *rows)
    assert inspection.duplicates == (("c0__B", "c1"),)
    assert ("c0__B", "error", "E-LEAK-02") in found(inspection)
    inspection = opened(folder, row("c0"), row("c0__B", of="c0"), row("c1"))
    assert found(inspection) == {("c0__B", "repaired", "E-DUP-01")}
    assert {case.patient_id for case in inspection.usable.cases} == {"c0"}
    # equal generated images of two patients say nothing about these
    save_png(folder / "c0__B.png", picture(9))
    save_png(folder / "c1__B.png", picture(9))
    inspection = opened(folder, row("c0"), row("c0__B", of="c0"), row("c1"), row("c1__B", of="c1"))
    assert inspection.problems == ()


def test_what_is_usual_in_a_set_is_decided_by_its_real_images(folder):
    for name in ("c0__B", "c0__C"):
        save_png(folder / f"{name}.png", picture(2, (12, 10, 3)))  # more of them than of the real ones
    rows = (row("c0"), row("c0__B", of="c0"), row("c0__C", of="c0"))
    inspection = opened(folder, *rows)
    assert found(inspection) == {("c0__B", "error", "E-ALT-02"), ("c0__C", "error", "E-ALT-02")}
    assert inspection.problems[0].message == (
        "case c0__B: has 3 channels but its real case c0 has 1; the image is left out"
    )
    assert [case.case_id for case in inspection.usable.cases] == ["c0"]
    by_headers = inspect_dataset(open_dataset(write_table(folder, HEADER + "".join(rows))), read_voxels=False)
    assert by_headers.problems == ()


def test_real_copies_are_found_beside_their_counterfactuals(folder):
    save_png(folder / "c1.png", picture(0))
    save_png(folder / "c0__B.png", picture(0))
    inspection = opened(folder, row("c0__B", of="c0"), row("c0"), row("c1"))
    assert inspection.duplicates == (("c0", "c1"),)
    assert found(inspection) == {("c0", "repaired", "E-DUP-01")}


@pytest.mark.parametrize(
    ("rows", "problem", "said"),
    [
        ([row("c0__B", of="gone")], ("c0__B", "error", "E-ALT-01"), "names gone, which is no case of the table"),
        (
            [row("c1__B", of="c1"), row("c0__B", of="c1__B")],
            ("c0__B", "error", "E-ALT-01"),
            "names c1__B, which is itself a counterfactual",
        ),
        ([row("c0__B", of="c0__B")], ("c0__B", "error", "E-ALT-01"), "which is itself a counterfactual"),
        ([row("c0__B", of="c0", image="wide.png")], ("c0__B", "error", "E-ALT-02"), "is 12 x 11 but its real case c0"),
        (
            [row("c0__B", of="c0", image="deep.png")],
            ("c0__B", "error", "E-ALT-02"),
            "is stored as uint16 but its real case c0 as uint8; write it in the same type",
        ),
        ([row("c0__B", of="c0", sound="maybe")], ("c0__B", "error", "E-ALT-03"), "sound is 'maybe'; wanted yes or no"),
        (
            [row("broken"), row("c0__B", of="broken")],
            ("c0__B", "warning", "E-ALT-04"),
            "its real case broken cannot be used",
        ),
        ([row("absent"), row("c0__B", of="absent")], ("c0__B", "warning", "E-ALT-04"), "absent cannot be used"),
        ([row("volume", image="volume.nii.gz"), row("c0__B", of="volume")], ("c0__B", "warning", "E-ALT-04"), "volume"),
        ([row("c0__B", of="c0", image="nothing.png")], ("c0__B", "error", "E-CSV-07"), "there is no such file"),
    ],
)
def test_a_row_that_cannot_stand_for_its_real_case_is_named_and_left_out(folder, rows, problem, said):
    save_png(folder / "wide.png", picture(7, (12, 11)))
    Image.fromarray(picture(8).astype(np.uint16) * 256).save(folder / "deep.png")
    (folder / "broken.png").write_bytes(b"no picture")
    save_nifti(folder / "volume.nii.gz", picture(3, (3, 8, 8)))
    inspection = opened(folder, row("c0"), row("c1"), *rows)
    assert problem in found(inspection)
    (message,) = [one.message for one in inspection.problems if one.case_id == problem[0] and one.code == problem[2]]
    assert said in message
    assert problem[2].startswith("E-CSV") or message.startswith("case c0__B: ")
    left = {case.case_id for case in inspection.usable.cases}
    assert "c0__B" not in left
    assert {"c0", "c1"} <= left


def test_volumes_must_lie_on_the_grid_of_their_real_one(tmp_path):
    def geometry(name: str, *, shift: float, kind: type = np.int16) -> ImageGeometry:
        return read_geometry(
            save_nifti(tmp_path / name, picture(1, (4, 8, 8)).astype(kind), spacing=(2, 2, 2), shift=shift)
        )

    real = geometry("real.nii.gz", shift=0)
    assert (
        misfit(
            real,
            geometry("same.nii.gz", shift=0, kind=np.float32),
            real_type="int16",
            other_type="float32",
            real_id="r",
        )
        == ""
    )
    assert misfit(real, geometry("near.nii.gz", shift=0.5), real_id="r") == ""
    said = misfit(real, geometry("far.nii.gz", shift=4), real_id="r")
    assert said == (
        "lies up to 2 voxels beside its real case r; they must share one grid, "
        "so write it with the header of the real one"
    )


def test_a_plan_is_derived_from_real_images_alone(folder):
    inspection = opened(folder, row("c0"), row("c0__B", of="c0"), row("c1"))
    facts = fingerprint(inspection.usable, inspection.usable.cases)
    assert facts == fingerprint(inspection.usable, inspection.usable.real)
    assert (facts.cases, facts.measured) == (2, ("c0", "c1"))


def test_a_changed_counterfactual_is_noticed_by_the_lock(folder):
    manifest = opened(folder, row("c0"), row("c0__B", of="c0")).usable
    lock = write_lock(manifest, folder / "data.lock.json")
    assert check_lock(lock, manifest) == ()
    save_png(folder / "c0__B.png", picture(77))
    assert check_lock(lock, manifest) == ("c0__B.png: has changed since the lock was written",)
