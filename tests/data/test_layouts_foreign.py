"""nnU-Net, Decathlon, paired folders and suffixes: three tiny cases of each, read as they lie there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.case_folders import mask, picture, save_nifti, save_png, write_table
from scantling.data.layouts import LAYOUTS, cases_csv, open_dataset
from scantling.data.layouts.nnunet import disjoint_classes
from scantling.data.layouts.subjects import subjects
from scantling.errors import ConfigError, DataError

VOLUME = (3, 12, 10)


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=VOLUME).astype(np.float32)


def volume_mask(*values: int) -> np.ndarray:
    return np.stack([mask(*values)] * 3)


def write_json(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def nnunet(folder: Path, labels: dict[str, Any], *values: int, **more: Any) -> Path:
    """Three training cases of two channels, the third without label, and one test case."""
    for k in range(4):
        images = "imagesTs" if k == 3 else "imagesTr"
        for channel in range(2):
            save_nifti(folder / f"{images}/la_{k:03d}_{channel:04d}.nii.gz", volume(10 * k + channel))
        if k < 2:
            save_nifti(folder / f"labelsTr/la_{k:03d}.nii.gz", volume_mask(*values))
    content = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": labels,
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    return write_json(folder, content | more)


def test_nnunet_raw_is_read_with_channels_classes_and_test_images(tmp_path: Path) -> None:
    manifest = open_dataset(nnunet(tmp_path / "Dataset001_Heart", {"background": 0, "atrium": 1, "wall": 3}, 1, 3))
    assert (manifest.layout, manifest.name, manifest.channels, manifest.modality) == (
        "nnunet", "Dataset001_Heart", ("T2", "ADC"), "MR",
    )  # fmt: skip
    assert manifest.classes.names == ("background", "atrium", "wall")
    assert manifest.classes.stored == ((0,), (1,), (3,))
    assert manifest.notes == ()  # nothing was decided: the regions do not overlap
    assert [case.case_id for case in manifest.cases] == ["la_000", "la_001", "la_002", "la_003"]
    assert [len(case.annotations) for case in manifest.cases] == [1, 1, 0, 0]
    assert [case.split for case in manifest.cases] == ["train", "train", "train", "test"]
    assert [path.name for path in manifest.cases[0].images] == ["la_000_0000.nii.gz", "la_000_0001.nii.gz"]
    assert [(p.case_id, p.severity) for p in manifest.problems] == [("la_002", "warning")]


def test_a_missing_channel_costs_only_its_case(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, {"background": 0, "atrium": 1}, 1)
    (folder / "imagesTr/la_001_0001.nii.gz").unlink()
    manifest = open_dataset(folder)
    assert [case.case_id for case in manifest.cases] == ["la_000", "la_002", "la_003"]
    assert manifest.problems[0].severity == "error"
    assert "la_001_0001.nii.gz does not exist" in manifest.problems[0].message


def test_overlapping_regions_become_disjoint_classes_and_a_note_says_which(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    manifest = open_dataset(nnunet(tmp_path, labels, 1, 2, 3, regions_class_order=[1, 2, 3]))
    table = dict(zip(manifest.classes.names, manifest.classes.stored, strict=True))
    assert table == {
        "background": (0,),
        "whole_without_core": (1,),
        "core_without_enhancing": (2,),
        "enhancing": (3,),
    }
    assert any("whole_without_core = [1]" in note for note in manifest.notes)


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ({"a": (1,), "b": (2, 3)}, {"a": (1,), "b": (2, 3)}),
        ({"all": (1, 2), "part": (2,)}, {"all_without_part": (1,), "part": (2,)}),
        (
            {"left": (1, 2), "right": (2, 3)},
            {"left_without_right": (1,), "left_and_right": (2,), "right_without_left": (3,)},
        ),
        ({"one": (1,), "same": (1,)}, {"one": (1,)}),
    ],
)
def test_parts_of_regions_share_no_value_and_cover_them_all(
    regions: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    parts = disjoint_classes(regions)
    flat = [value for values in parts.values() for value in values]
    assert sorted(flat) == sorted({value for values in regions.values() for value in values})
    assert parts == expected


def test_the_ignore_label_makes_scribbles_and_slices_by_their_shape(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, {"background": 0, "atrium": 1, "ignore": 2})
    scribble, slices = np.full(VOLUME, 2, np.uint8), np.full(VOLUME, 2, np.uint8)
    scribble[:, 3, 2:7], scribble[:, 8, 2:7] = 0, 1
    slices[1] = mask(1)
    save_nifti(folder / "labelsTr/la_000.nii.gz", scribble)
    save_nifti(folder / "labelsTr/la_001.nii.gz", slices)
    save_nifti(folder / "labelsTr/la_002.nii.gz", volume_mask(1))
    manifest = open_dataset(folder)
    assert manifest.classes.names == ("background", "atrium")
    assert [case.annotations[0].kind for case in manifest.cases[:3]] == ["scribble", "slices", "full"]
    assert {case.annotations[0].ignore for case in manifest.cases[:3]} == {(2,)}
    assert any("label_kind = scribble for 1 label files, because 8.33 % of voxels" in note for note in manifest.notes)
    assert any("label_kind = slices for 1 label files, because 33.3 % of voxels" in note for note in manifest.notes)


def test_files_that_dataset_json_lists_are_taken_from_there(tmp_path: Path) -> None:
    save_png(tmp_path / "x/a.png", picture(0))
    save_png(tmp_path / "y/a.png", mask(1))
    dataset = {"case_a": {"images": ["x/a.png"], "label": "y/a.png"}}
    content = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "cell": 1}, "file_ending": ".png"}
    (case,) = open_dataset(write_json(tmp_path, content | {"dataset": dataset})).cases
    assert (case.case_id, case.annotations[0].path) == ("case_a", tmp_path / "y/a.png")


def test_nnunet_files_that_belong_to_no_case_are_named(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, {"background": 0, "a": 1}, 1)
    for name in ("imagesTr/bare.nii.gz", "imagesTr/la_000_0002.nii.gz", "imagesTr/png_0000.png", "labelsTr/no.nii.gz"):
        save_nifti(folder / name, volume(5)) if name.endswith("gz") else save_png(folder / name, picture(0))
    save_nifti(folder / "labelsTs/la_003.nii.gz", volume_mask(1))
    (folder / "imagesTr/notes.txt").write_text("no image")
    problems = open_dataset(folder).problems
    assert {(p.case_id, p.severity, p.code) for p in problems} == {
        ("bare", "error", "E-LAY-11"), ("png_0000", "error", "E-LAY-11"), ("la_000_0002", "warning", "E-LAY-11"),
        ("no", "warning", "E-LAY-09"), ("la_002", "warning", "E-LAY-10"),
    }  # fmt: skip
    said = {p.case_id: p.message for p in problems}
    assert said["bare"].endswith("is not named as a channel of a case (NAME_0000.nii.gz), so it is left out; rename it")
    assert said["la_000_0002"].endswith("dataset.json names 2 channels only, so it is left out")
    assert said["no"].endswith("this label has no image in imagesTr/; it is left out")


def test_a_dataset_toml_overrides_what_nnunet_says(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, {"background": 0, "a": 1, "b": 2}, 1, 2)
    (folder / "dataset.toml").write_text(
        'name = "n"\nmodality = "US"\nlabel_kind = "silver"\nignore = [2]\nsubject_pattern = "^(la)_"\n'
        "[classes]\ncyst = 1\n"
    )
    manifest = open_dataset(folder)
    assert (manifest.layout, manifest.name, manifest.modality) == ("nnunet", "n", "US")
    assert manifest.classes.names == ("background", "cyst")
    assert {(a.kind, a.ignore) for case in manifest.cases for a in case.annotations} == {("silver", (2,))}
    assert {case.patient_id for case in manifest.cases} == {"la"}
    (folder / "dataset.toml").write_text('label_kind = "none"\n')
    assert not any(case.annotations for case in open_dataset(folder).cases)
    (folder / "dataset.toml").write_text("modalty = 1\n")
    with pytest.raises(ConfigError, match="unknown setting 'modalty'; did you mean 'modality'"):
        open_dataset(folder)


def msd(folder: Path, **changes: Any) -> Path:
    """Two labelled cases of two channels in one file, and one test image; with the litter of macOS."""
    for k in range(2):
        save_nifti(folder / f"imagesTr/brats_{k}.nii.gz", np.stack([volume(k), volume(k + 9)]))
        save_nifti(folder / f"labelsTr/brats_{k}.nii.gz", volume_mask(1, 2))
    save_nifti(folder / "imagesTs/brats_9.nii.gz", np.stack([volume(7), volume(8)]))
    (folder / "imagesTr/._brats_0.nii.gz").write_bytes(b"Mac OS X")
    training = [{"image": f"./imagesTr/brats_{k}.nii.gz", "label": f"./labelsTr/brats_{k}.nii.gz"} for k in range(2)]
    content = {
        "name": "BRATS", "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "core"},
        "training": training, "test": ["./imagesTs/brats_9.nii.gz"],
    }  # fmt: skip
    return write_json(folder, content | changes)


def test_a_dataset_toml_overrides_what_a_decathlon_task_says_and_unlisted_images_are_counted(tmp_path: Path) -> None:
    folder = msd(tmp_path)
    for name in ("extra_1", "extra_2"):
        save_nifti(folder / f"imagesTr/{name}.nii.gz", volume(3))
    (folder / "dataset.toml").write_text(
        'name = "n"\nmodality = "US"\nlabel_kind = "silver"\nignore = [2]\nsubject_pattern = "^(brats)_"\n'
        "[classes]\ncyst = 1\n"
    )
    manifest = open_dataset(folder)
    assert (manifest.layout, manifest.name, manifest.modality) == ("msd", "n", "US")
    assert manifest.classes.names == ("background", "cyst")
    assert {(a.kind, a.ignore) for case in manifest.cases for a in case.annotations} == {("silver", (2,))}
    assert {case.patient_id for case in manifest.cases} == {"brats"}
    assert manifest.notes[-1] == (
        "imagesTr/ holds 2 images that dataset.json does not list, such as extra_1.nii.gz; left out"
    )
    (folder / "dataset.toml").write_text('label_kind = "none"\n')
    assert not any(case.annotations for case in open_dataset(folder).cases)


def test_a_decathlon_task_is_read_with_four_dimensional_channels(tmp_path: Path) -> None:
    manifest = open_dataset(msd(tmp_path))
    assert (manifest.layout, manifest.name, manifest.channels, manifest.modality) == (
        "msd",
        "BRATS",
        ("FLAIR", "T1w"),
        "MR",
    )
    assert manifest.classes.names == ("background", "edema", "core")
    assert [(case.case_id, case.split, len(case.images)) for case in manifest.cases] == [
        ("brats_0", "train", 1), ("brats_1", "train", 1), ("brats_9", "test", 1),
    ]  # fmt: skip
    assert [len(case.annotations) for case in manifest.cases] == [1, 1, 0]
    assert manifest.problems == ()
    copy = open_dataset(cases_csv.write(manifest, tmp_path / "own").parent)
    assert (copy.channels, len(copy.cases[0].images)) == (("FLAIR", "T1w"), 1)


def test_a_decathlon_list_may_name_files_that_lie_there_by_channel_or_not_at_all(tmp_path: Path) -> None:
    folder = msd(tmp_path)
    for channel in range(2):
        save_nifti(folder / f"imagesTr/brats_0_{channel:04d}.nii.gz", volume(channel))
    (folder / "imagesTr/brats_0.nii.gz").unlink()
    (folder / "labelsTr/brats_1.nii.gz").unlink()
    (folder / "imagesTs/brats_9.nii.gz").unlink()
    manifest = open_dataset(folder)
    assert [(case.case_id, len(case.images), len(case.annotations)) for case in manifest.cases] == [
        ("brats_0", 2, 1), ("brats_1", 1, 0),
    ]  # fmt: skip
    assert [p.case_id for p in manifest.problems] == ["brats_1", "brats_9"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": [], "labels": 3}, "'labels' is a int, wanted an object"),
        ({"training": [], "labels": {"one": "x"}}, "a key of 'labels' is 'one', wanted a whole number"),
        ({"training": [5], "labels": {"1": "x"}}, "entry 0 of 'training' is 5"),
        ({"training": [{"image": "a/../b/.nii"}], "labels": {"1": "x"}}, "starts with a dot|is empty"),
        (
            {"channel_names": {"0": "T1"}, "labels": {"a": 1, "b": [True]}},
            "label 'b' is True, wanted a whole number",
        ),
        ({"channel_names": {"0": "T1"}, "labels": {"a": 0}}, "stored value .0. belongs to two classes"),
        (
            {"channel_names": {"0": "T1"}, "labels": {"a": 1}, "dataset": {"x": 3}},
            "case 'x' of 'dataset' is 3",
        ),
    ],
)
def test_a_dataset_json_that_contradicts_itself_is_refused_by_name(
    tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(write_json(tmp_path, content))


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", "[" * 5000, '"\ud800"'.encode("utf-8", "surrogatepass").decode("latin-1")]
)
def test_a_damaged_dataset_json_is_refused_and_not_a_crash(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError):
        open_dataset(tmp_path, layout="msd")
    with pytest.raises(DataError, match="no known layout"):
        open_dataset(tmp_path)


def pairs(folder: Path, labels: list[np.ndarray], images: str = "images", named: str = "labels") -> Path:
    for k, label in enumerate(labels):
        save_png(folder / f"{images}/c{k}.png", picture(k))
        save_png(folder / f"{named}/c{k}.png", label)
    save_png(folder / f"{images}/plain.png", picture(99))
    return folder


@pytest.mark.parametrize(("images", "named"), [("images", "labels"), ("Images", "Masks"), ("imgs", "gt")])
def test_paired_folders_are_matched_by_stem_and_the_rest_is_unlabelled(tmp_path: Path, images: str, named: str) -> None:
    manifest = open_dataset(pairs(tmp_path, [mask(1), mask(2), mask(1, 2)], images, named))
    assert (manifest.layout, manifest.channels) == ("pairs", ("image",))
    assert [(case.case_id, len(case.annotations)) for case in manifest.cases] == [
        ("c0", 1),
        ("c1", 1),
        ("c2", 1),
        ("plain", 0),
    ]
    assert manifest.cases[0].annotations[0].path.name == "c0.png"
    assert any("label_kind = full for 3 label files, because 100 % of voxels are labelled" in n for n in manifest.notes)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([(255,)], ("foreground",)),
        ([(1,)], ("foreground",)),
        ([(2, 5), (2,)], ("2", "5")),
        ([(2, 5, 255)], ("2", "5", "255")),
        ([()], ()),
    ],
)
def test_classes_are_the_values_that_the_labels_hold(
    tmp_path: Path, values: list[tuple[int, ...]], names: tuple[str, ...]
) -> None:
    manifest = open_dataset(pairs(tmp_path, [mask(*v) for v in values]))
    assert manifest.classes.foreground == names
    assert manifest.classes.stored[0] == (0,)
    assert any("override with [classes] in dataset.toml" in note for note in manifest.notes)


def test_dataset_toml_overrides_what_would_be_guessed(tmp_path: Path) -> None:
    pairs(tmp_path, [mask(1), mask(2)])
    (tmp_path / "dataset.toml").write_text(
        'name = "n"\nmodality = "US"\nlabel_kind = "silver"\nignore = [2]\nsubject_pattern = "^(c).$"\n'
        "[classes]\ncyst = 1\n"
    )
    manifest = open_dataset(tmp_path)
    assert (manifest.name, manifest.modality, manifest.classes.names) == ("n", "US", ("background", "cyst"))
    assert {(a.kind, a.ignore) for case in manifest.cases for a in case.annotations} == {("silver", (2,))}
    assert [case.patient_id for case in manifest.cases] == ["c", "c", "plain"]
    (tmp_path / "dataset.toml").write_text('subject_pattern = "z(.)"\n')
    with pytest.raises(ConfigError, match=r"subject_pattern 'z\(.\)': finds no patient in names such as 'c0'"):
        open_dataset(tmp_path)


def test_a_label_with_too_many_values_is_an_image_and_costs_its_annotation_only(tmp_path: Path) -> None:
    folder = pairs(tmp_path, [picture(3, (40, 40)), mask(1)])
    manifest = open_dataset(folder)
    (problem,) = manifest.problems
    assert (problem.case_id, problem.severity, problem.code) == ("c0", "error", "E-LBL-03")
    assert re.search(r"c0.png: holds \d+ values, so it is an image or a soft mask", problem.message)
    assert [len(case.annotations) for case in manifest.cases] == [0, 1, 0]
    assert manifest.classes.foreground == ("foreground",)
    (folder / "dataset.toml").write_text("[classes]\nbright = 254\n")  # whoever names the classes vouches for them
    assert [len(case.annotations) for case in open_dataset(folder).cases] == [1, 1, 0]


def test_files_of_other_types_are_said_and_hidden_ones_are_not(tmp_path: Path) -> None:
    folder = pairs(tmp_path, [mask(1)])
    for name in ("images/a.mha", "images/b.dcm", "images/c.mha", "images/d.mha", "images/.DS_Store", "labels/x.nrrd"):
        (folder / name).write_bytes(b"data")
    notes = [note for note in open_dataset(folder).notes if "left out" in note]
    read = ".nii.gz, .nii, .png, .jpg, .jpeg, .tif, .tiff are read"
    assert notes == [
        f"images/: a.mha, b.dcm, c.mha and 1 more left out, because only {read}",
        f"labels/: x.nrrd left out, because only {read}",
    ]


def test_labels_without_image_and_folders_without_a_match_are_said(tmp_path: Path) -> None:
    folder = pairs(tmp_path, [mask(1)])
    save_png(folder / "labels/lonely.png", mask(1))
    manifest = open_dataset(folder)
    assert [(p.case_id, p.severity) for p in manifest.problems] == [("lonely.png", "warning")]
    for path in (folder / "labels").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(DataError, match=r"in images/ \(such as c0\) has the stem of one in labels/ \(such as x"):
        open_dataset(folder)


def test_images_alone_are_an_unlabelled_data_set_unless_another_folder_may_be_the_labels(
    tmp_path: Path,
) -> None:
    for k in range(2):
        save_png(tmp_path / f"images/c{k}.png", picture(k))
    manifest = open_dataset(tmp_path)
    assert [len(case.annotations) for case in manifest.cases] == [0, 0]
    assert any("no case has a label" in note for note in manifest.notes)
    save_png(tmp_path / "outlines/c0.png", mask(1))
    with pytest.raises(
        DataError, match=r"found images/ \(c0.png, c1.png\), outlines/ \(c0.png\); looked for cases_csv"
    ):
        open_dataset(tmp_path)


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    pairs(tmp_path, [mask(1)])
    save_png(tmp_path / "images/c0.tif", picture(5))
    with pytest.raises(DataError, match=r"c0.png and c0.tif have the same stem"):
        open_dataset(tmp_path)


def test_numbered_channels_are_recognised_only_where_the_labels_say_so(tmp_path: Path) -> None:
    for k in range(2):
        for channel in range(2):
            save_png(tmp_path / f"a/images/c{k}_{channel:04d}.png", picture(2 * k + channel))
            save_png(tmp_path / f"b/images/c_{2 * k + channel:04d}.png", picture(2 * k + channel))
            save_png(tmp_path / f"b/labels/c_{2 * k + channel:04d}.png", mask(1))
        save_png(tmp_path / f"a/labels/c{k}.png", mask(1))
    channels = open_dataset(tmp_path / "a")
    assert channels.channels == ("0000", "0001")
    assert [(case.case_id, len(case.images)) for case in channels.cases] == [("c0", 2), ("c1", 2)]
    assert len(open_dataset(tmp_path / "b").cases) == 4


@pytest.mark.parametrize("suffix", ["_seg", "_mask", "_label", "_gt", "_GT"])
def test_a_flat_folder_is_matched_by_suffix(tmp_path: Path, suffix: str) -> None:
    for k in range(3):
        save_nifti(tmp_path / f"p{k}{'_image' if k else ''}.nii.gz", volume(k))
        if k < 2:
            save_nifti(tmp_path / f"p{k}{suffix}.nii.gz", volume_mask(1, 4))
    manifest = open_dataset(tmp_path)
    assert manifest.layout == "suffix"
    assert [(case.case_id, len(case.annotations)) for case in manifest.cases] == [
        ("p0", 1),
        ("p1", 1),
        ("p2", 0),
    ]
    assert manifest.classes.foreground == ("1", "4")


def test_a_flat_folder_with_two_labels_of_one_case_is_refused(tmp_path: Path) -> None:
    save_png(tmp_path / "p.png", picture(0))
    for suffix in ("seg", "gt"):
        save_png(tmp_path / f"p_{suffix}.png", mask(1))
    with pytest.raises(DataError, match=r"p_gt\.png and p_seg\.png both belong to 'p'"):
        open_dataset(tmp_path, layout="suffix")


def test_a_damaged_label_costs_its_annotation_only(tmp_path: Path) -> None:
    pairs(tmp_path, [mask(1), mask(1)])
    (tmp_path / "labels/c0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    manifest = open_dataset(tmp_path)
    assert [len(case.annotations) for case in manifest.cases] == [0, 1, 0]
    assert [(p.case_id, p.severity) for p in manifest.problems] == [("c0", "error")]


def test_a_folder_of_no_layout_is_refused_with_what_was_found_and_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    save_png(tmp_path / "scan.png", picture(0))
    with pytest.raises(DataError) as error:
        open_dataset(tmp_path)
    message = str(error.value)
    assert "found notes.txt, scan.png; looked for" in message
    assert "(images are .nii.gz, .nii, .png" in message
    assert all(name in message for name in LAYOUTS)
    assert "[E-LAY-01]" in message


def test_a_folder_one_level_too_high_is_recognised_in_the_message(tmp_path: Path) -> None:
    nnunet(tmp_path / "raw" / "Dataset007_X", {"background": 0, "a": 1}, 1)
    with pytest.raises(DataError, match="the folder 'Dataset007_X' inside looks like nnunet: did you mean that one"):
        open_dataset(tmp_path / "raw")


def test_a_wrong_layout_name_and_a_wrong_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layout 'nnunett': there is no such layout; did you mean 'nnunet'"):
        open_dataset(tmp_path, layout="nnunett")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere")
    for name in LAYOUTS:
        with pytest.raises(DataError):
            open_dataset(tmp_path, layout=name)


def test_cases_csv_wins_over_what_else_the_folder_looks_like(tmp_path: Path) -> None:
    pairs(tmp_path, [mask(1)])
    write_table(tmp_path, "case,image\nonly,images/c0.png\n")
    assert open_dataset(tmp_path).layout == "cases_csv"
    assert open_dataset(tmp_path, layout="pairs").layout == "pairs"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["patient001_frame01", "patient001_frame12"], ["patient001", "patient001"]),
        (["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02_T1w"], ["sub-01", "sub-01", "sub-02"]),
        (["0042_ED", "0042_ES"], ["0042", "0042"]),
        (["P7-visit-2", "P7-visit-3_left"], ["P7", "P7"]),
        (["hippocampus_004", "hippocampus_014"], ["hippocampus_004", "hippocampus_014"]),
        (["lung_scan_1", "lung_scan_2"], ["lung_scan_1", "lung_scan_2"]),
    ],
)
def test_patients_are_read_from_names_only_where_a_word_of_time_follows_an_identifier(
    names: list[str], expected: list[str]
) -> None:
    found, notes = subjects(names)
    assert [found[name] for name in names] == expected
    assert bool(notes) == (names != expected)
    assert not notes or "override with subject_pattern" in notes[0]


def test_a_pattern_may_say_that_every_case_is_a_patient() -> None:
    names = ["patient1_frame1", "patient1_frame2"]
    assert subjects(names, "^(.*)$") == ({name: name for name in names}, ())


@pytest.mark.parametrize("pattern", ["([", "nothing", "^(?:p)"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="subject_pattern"):
        subjects(["patient1"], pattern)
