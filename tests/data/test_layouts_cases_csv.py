"""`cases.csv` and `dataset.toml`: what columns mean, what spreadsheets do to them, and every refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.case_folders import mask, picture, save_png, write_table
from scantling.data.layouts import cases_csv, open_dataset
from scantling.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with a full label each, and a scribble of the first in which 4 means unknown."""
    for k in range(2):
        save_png(tmp_path / f"images/i{k}.png", picture(k))
        save_png(tmp_path / f"labels/i{k}.png", mask(1, 2))
    scribble = np.full((12, 10), 4)
    scribble[2, 2:6], scribble[6, 2:6] = 0, 1
    save_png(tmp_path / "scribbles/i0.png", scribble)
    return tmp_path


WHOLE = """\
case,image,label,label_kind,annotated,ignore,subject,site,scanner,rater,split,fold,weight,sex,age
a,images/i0.png,labels/i0.png,full,*,,anna,north,Philips,r1,train,0,,F,071
a,images/i0.png,scribbles/i0.png,scribble,lung;heart,4;5,anna,north,Philips,r2,train,0,0.25,F,071
b,images/i1.png,,,,,,,,,,1,,,
"""


def test_without_a_subject_names_are_asked_and_with_one_they_are_not(folder: Path) -> None:
    rows = "case,image,subject\np1_frame01,images/i0.png,{}\np1_frame12,images/i1.png,\n"
    guessed = open_dataset(write_table(folder, rows.format("")))
    assert [case.patient_id for case in guessed.cases] == ["p1", "p1"]
    assert "override with subject_pattern in dataset.toml or a column 'subject'" in guessed.notes[0]
    given = open_dataset(write_table(folder, rows.format("anna")))
    assert [case.patient_id for case in given.cases] == ["anna", "p1_frame12"]
    assert given.notes == ()
    toml = "subject_pattern = '(frame..)'\n[classes]\nlung = 1\n"
    by_pattern = open_dataset(write_table(folder, rows.format(""), toml))
    assert [case.patient_id for case in by_pattern.cases] == ["frame01", "frame12"]


def test_every_column_arrives_and_rows_of_one_case_merge(folder: Path) -> None:
    manifest = open_dataset(
        write_table(folder, WHOLE, 'name = "set"\nmodality = "CR"\n[classes]\nlung = 1\nheart = [2, 7]\n')
    )
    assert (manifest.name, manifest.modality, manifest.layout, manifest.root) == (
        "set",
        "CR",
        "cases_csv",
        folder,
    )
    assert manifest.classes.names == ("background", "lung", "heart")
    assert manifest.classes.stored == ((0,), (1,), (2, 7))
    assert manifest.problems == ()
    a, b = manifest.cases
    assert (a.case_id, a.patient_id, a.site, a.scanner, a.split, a.fold) == (
        "a",
        "anna",
        "north",
        "Philips",
        "train",
        0,
    )
    assert a.images == (folder / "images/i0.png",)
    assert dict(a.attributes) == {"sex": "F", "age": "071"}
    full, scribble = a.annotations
    assert (full.path, full.kind, full.annotated, full.ignore, full.weight) == (
        folder / "labels/i0.png",
        "full",
        None,
        (),
        1,
    )
    assert (scribble.kind, scribble.annotated, scribble.ignore) == ("scribble", ("lung", "heart"), (4, 5))
    assert (scribble.rater, scribble.weight) == ("r2", 0.25)
    assert (b.patient_id, b.annotations, b.fold, dict(b.attributes)) == ("b", (), 1, {})


SEMICOLONS = """\
Case;Image;LABEL;label_kind;annotated;weight;fold
0123;images/i0.png;labels/i0.png;full;"lung;heart";0,5;3.0
1e-3;images/i1.png;labels/i1.png;full;*;1;
"""


@pytest.mark.parametrize(
    "content",
    [
        SEMICOLONS.encode(),
        b"\xef\xbb\xbf" + SEMICOLONS.encode(),
        SEMICOLONS.replace("\n", "\r\n").encode(),
        SEMICOLONS.replace("\n", "\n;;;;;;\n").encode(),
        SEMICOLONS.rstrip("\n").encode(),
        SEMICOLONS.replace(";", "\t").replace('"lung\theart"', "lung|heart").encode(),
        SEMICOLONS.replace("images/", r"images\\"[:-1]).encode(),
        SEMICOLONS.encode("utf-16"),
        SEMICOLONS.replace(";", " ; ").replace('"lung ; heart" ', '"lung;heart"').encode(),
    ],
    ids=["plain", "bom", "crlf", "empty_rows", "no_last_newline", "tabs", "backslashes", "utf16", "blanks"],
)
def test_a_table_is_read_the_same_whatever_program_wrote_it(folder: Path, content: bytes) -> None:
    write_table(folder, "")
    (folder / "cases.csv").write_bytes(content)
    manifest = open_dataset(folder)
    assert [case.case_id for case in manifest.cases] == ["0123", "1e-3"]
    assert [case.patient_id for case in manifest.cases] == ["0123", "1e-3"]
    first = manifest.cases[0]
    assert (first.fold, first.annotations[0].weight, first.annotations[0].annotated) == (
        3,
        0.5,
        ("lung", "heart"),
    )
    assert manifest.problems == ()


@pytest.mark.parametrize(
    "text", ["no", "off", "yes", "1:30", "0123", "1e-3", "2-Mar", "01/02/2026", "NaN", "1,5", "null"]
)
def test_words_that_other_formats_turn_into_something_else_stay_text(folder: Path, text: str) -> None:
    name = text.replace("/", "-").replace(":", "-")
    write_table(folder, f'case,image,site,odd\n"{name}",images/i0.png,"{text}","{text}"\n')
    (case,) = open_dataset(folder).cases
    assert (case.case_id, case.site, case.attributes["odd"]) == (name, text, text)


def test_a_name_that_a_spreadsheet_turned_into_a_number_is_noted(folder: Path) -> None:
    manifest = open_dataset(write_table(folder, "case,image\n1.2E+05,images/i0.png\n"))
    assert "looks like a name that a spreadsheet turned into a number" in manifest.notes[0]


def test_a_file_that_is_not_utf8_is_read_and_noted(folder: Path) -> None:
    write_table(folder, "")
    (folder / "cases.csv").write_bytes("case,image,site\na,images/i0.png,Zürich\n".encode("latin-1"))
    manifest = open_dataset(folder)
    assert manifest.cases[0].site == "Zürich"
    assert "is not UTF-8" in manifest.notes[0]


def test_a_misspelt_column_is_an_attribute_and_the_note_says_what_may_be_meant(folder: Path) -> None:
    manifest = open_dataset(write_table(folder, "case,image,lable,sites\na,images/i0.png,labels/i0.png,north\n"))
    assert manifest.cases[0].attributes == {"lable": "labels/i0.png", "sites": "north"}
    assert any("'lable' is kept as an attribute; did you mean 'label'?" in note for note in manifest.notes)
    assert any("did you mean 'site'?" in note for note in manifest.notes)


def test_columns_of_generated_images_are_no_misspelt_ones(folder: Path) -> None:
    text = "case,image,counterfactual_of,sound,intervention,reason\na,images/i0.png,,,,\nb,images/i1.png,a,no,x=y,z\n"
    assert open_dataset(write_table(folder, text)).notes == ()


def test_channels_are_columns_and_a_missing_one_costs_only_its_case(folder: Path) -> None:
    text = "case,image:T1,image:FLAIR\na,images/i0.png,images/i1.png\nb,images/i1.png,images/none.png\n"
    manifest = open_dataset(write_table(folder, text))
    assert manifest.channels == ("T1", "FLAIR")
    assert [case.images for case in manifest.cases] == [(folder / "images/i0.png", folder / "images/i1.png")]
    (problem,) = manifest.problems
    assert (
        problem.message
        == "cases.csv line 3: image:FLAIR 'images/none.png': there is no such file; the case is left out"
    )


def test_a_missing_label_is_a_problem_of_its_row_and_the_case_stays(folder: Path) -> None:
    text = "case,image,label,label_kind\na,images/i0.png,labels/none.png,full\nb,images/i1.png,,full\n"
    manifest = open_dataset(write_table(folder, text))
    assert [len(case.annotations) for case in manifest.cases] == [0, 0]
    assert [(p.case_id, p.severity, p.code) for p in manifest.problems] == [
        ("a", "error", "E-CSV-07"),
        ("b", "error", "E-CSV-06"),
    ]
    assert "line 2: label 'labels/none.png': there is no such file" in manifest.problems[0].message


def test_paths_may_be_patterns_outside_the_folder_or_absolute(folder: Path) -> None:
    inner = folder / "tables"
    inner.mkdir()
    rows = f"case,image,label\na,../images/i0*,../labels/i0.png\nb,{folder}/images/i1.png,\nc,../images/i*.png,\n"
    manifest = open_dataset(write_table(inner, rows))
    assert [case.images[0].resolve().name for case in manifest.cases] == ["i0.png", "i1.png"]
    assert "2 files match, wanted one" in manifest.problems[0].message


def test_a_repeated_row_is_read_once_and_a_contradicting_one_is_refused(folder: Path) -> None:
    row = "a,images/i0.png,labels/i0.png,full\n"
    manifest = open_dataset(write_table(folder, f"case,image,label,label_kind\n{row}{row}"))
    assert len(manifest.cases[0].annotations) == 1
    assert [p.severity for p in manifest.problems] == ["repaired"]
    write_table(folder, f"case,image,label,label_kind\n{row}{row.replace('full', 'silver')}")
    with pytest.raises(DataError, match=r"line 3: the label .* of case 'a' stands in line 2 with other values"):
        open_dataset(folder)


def test_attributes_that_differ_between_rows_are_a_warning(folder: Path) -> None:
    text = "case,image,label,mood\na,images/i0.png,labels/i0.png,good\na,images/i0.png,scribbles/i0.png,bad\n"
    manifest = open_dataset(write_table(folder, text))
    assert manifest.cases[0].attributes["mood"] == "good"
    assert "the attribute 'mood' is 'good' and 'bad'; the first is used" in manifest.problems[0].message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line is empty"),
        ("case,picture\na,b\n", "there is no column 'image'"),
        ("id,image\na,b\n", "there is no column 'case'"),
        ("case,image,image:T1\na,b,c\n", "has both 'image' and 'image:T1'"),
        ("case,image,fold,Fold\na,images/i0.png,1,2\n", "column 'fold' stands twice"),
        ("case,image\na,\n", "line 2: case 'a' has nothing in the column image"),
        ("case,image\n,images/i0.png\n", "line 2: the column case is empty"),
        ("case,image\n../a,images/i0.png\n", "case '../a' holds '/'"),
        ("case,image\n.a,images/i0.png\n", "starts with a dot"),
        ('case,image\n"a\nb",images/i0.png\n', r"case 'a\\nb' holds '\\n'"),
        (f"case,image\n{'x' * 200},images/i0.png\n", "is too long"),
        ("case,image\na,images/i0.png,surplus\n", "line 2: 3 values for 2 columns"),
        ('case,image\n"a,images/i0.png\n', "not valid CSV"),
        ("case,image\na\0,b\n", "holds binary data"),
        ("case,image,fold\na,images/i0.png,first\n", "line 2, fold: 'first' is not a whole number"),
        ("case,image,fold\na,images/i0.png,1.5\n", "'1.5' is not a whole number"),
        ("case,image,fold\na,images/i0.png,0\na,images/i0.png,1\n", "fold of case 'a' is '1', but '0' in"),
        ("case,image\na,images/i0.png\na,images/i1.png\n", "image of case 'a' is 'images/i1.png', but"),
        ("case,image,label,label_kind\na,images/i0.png,labels/i0.png,scribbles\n", "did you mean 'scribble'"),
        ("case,image,label,annotated\na,images/i0.png,labels/i0.png,hart\n", "annotated: .*mean 'heart'"),
        ("case,image,label,ignore\na,images/i0.png,labels/i0.png,none\n", "ignore: 'none' is not a whole"),
        ("case,image,label,weight\na,images/i0.png,labels/i0.png,2\n", "weight: '2' is not a number from"),
        ("case,image,label,weight\na,images/i0.png,labels/i0.png,nan\n", "'nan' is not a number from 0 to 1"),
        ('case,image,label,weight\na,images/i0.png,labels/i0.png,"0,5"\n', "'0,5' is not a number from"),
    ],
)  # fmt: skip
def test_an_impossible_table_is_refused_with_file_and_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        open_dataset(write_table(folder, text))
    assert "cases.csv" in str(error.value)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[klasses]\nlung = 1\n", "unknown setting 'klasses'; did you mean 'classes'"),
        ("[classes]\nlung = 1\nheart = [2, 1]\n", "stored value .1. belongs to two classes"),
        ("[classes]\nlung = 0\n", "value 0 is a class"),
        ("[classes]\nlung = []\n", "every class needs at least one stored value"),
        ("[classes]\nlung = 1.5\n", "classes.lung"),
        ('label_kind = "scribbles"\n', "label_kind"),
        ("classes = \n", "not valid TOML"),
    ],
)
def test_a_wrong_dataset_toml_is_refused_by_name(folder: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        open_dataset(write_table(folder, "case,image\na,images/i0.png\n", toml))
    assert "dataset.toml" in str(error.value)


def test_without_a_class_table_classes_and_kinds_are_found_and_the_notes_say_how_to_override(
    folder: Path,
) -> None:
    text = "case,image,label\na,images/i0.png,labels/i0.png\na,images/i0.png,scribbles/i0.png\n"
    manifest = open_dataset(write_table(folder, text, toml=""))
    assert manifest.classes.names == ("background", "1", "2")
    full, scribble = manifest.cases[0].annotations
    assert (full.kind, full.ignore, scribble.kind, scribble.ignore) == ("full", (), "scribble", (4,))
    assert any("1 -> 1, 2 -> 2; value 4 taken as unknown; override with [classes]" in note for note in manifest.notes)
    assert any(
        "label_kind = scribble for 1 label files, because 6.67 % of voxels are labelled" in note
        and "override with the column label_kind" in note
        for note in manifest.notes
    )


def test_a_value_outside_the_class_table_makes_a_scribble_where_no_kind_is_given(folder: Path) -> None:
    text = "case,image,label\na,images/i0.png,labels/i0.png\na,images/i0.png,scribbles/i0.png\n"
    manifest = open_dataset(write_table(folder, text))
    assert [annotation.kind for annotation in manifest.cases[0].annotations] == ["full", "scribble"]
    assert [annotation.ignore for annotation in manifest.cases[0].annotations] == [(), ()]


def test_a_damaged_label_that_had_to_be_read_is_a_problem_and_not_an_annotation(folder: Path) -> None:
    whole = (folder / "labels/i0.png").read_bytes()
    (folder / "labels/i0.png").write_bytes(whole[: len(whole) // 2])
    text = "case,image,label\na,images/i0.png,labels/i0.png\nb,images/i1.png,labels/i1.png\n"
    manifest = open_dataset(write_table(folder, text))
    assert [len(case.annotations) for case in manifest.cases] == [0, 1]
    (problem,) = manifest.problems
    assert (problem.case_id, problem.severity) == ("a", "error")
    assert problem.message.endswith("the annotation is left out")


def test_the_table_itself_can_be_named_instead_of_its_folder(folder: Path) -> None:
    write_table(folder, "case,image\na,images/i0.png\n").joinpath("cases.csv").rename(folder / "few.csv")
    assert [case.case_id for case in open_dataset(folder / "few.csv").cases] == ["a"]


def test_a_manifest_is_the_same_after_writing_and_reading(folder: Path) -> None:
    manifest = open_dataset(
        write_table(folder, WHOLE, 'modality = "CR"\n[classes]\nlung = 1\nheart = [2, 7]\nbackground = [0, 3]\n')
    )
    again = cases_csv.write(manifest, folder / "elsewhere")
    copy = open_dataset(again.parent)
    assert copy.classes == manifest.classes
    assert (copy.name, copy.modality) == (manifest.name, manifest.modality)
    for one, other in zip(manifest.cases, copy.cases, strict=True):
        assert [path.resolve() for path in other.images] == [path.resolve() for path in one.images]
        assert (other.case_id, other.patient_id, other.fold, other.split) == (
            one.case_id,
            one.patient_id,
            one.fold,
            one.split,
        )
        assert dict(other.attributes) == dict(one.attributes)
        for mine, theirs in zip(one.annotations, other.annotations, strict=True):
            assert theirs.path.resolve() == mine.path.resolve()
            assert vars(theirs) | {"path": 0} == vars(mine) | {"path": 0}
    with pytest.raises(ConfigError, match="exists already"):
        cases_csv.write(manifest, folder / "elsewhere")
    cases_csv.write(manifest, folder / "elsewhere", overwrite=True)


def test_channels_survive_writing_and_reading(folder: Path) -> None:
    manifest = open_dataset(write_table(folder, "case,image:T1,image:T2\na,images/i0.png,images/i1.png\n"))
    copy = open_dataset(cases_csv.write(manifest, folder / "out").parent)
    assert copy.channels == ("T1", "T2")
    assert len(copy.cases[0].images) == 2


README_COUNTS = {  # /data/*/README.md: cases, patients, annotations of each kind
    "hippocampus": (100, 100, {"full": 100}),
    "acdc": (80, 40, {"full": 80, "scribble": 80}),
    "retina": (20, 20, {"full": 40}),
    "cxr": (440, 391, {"full": 355, "silver": 330}),
}


@pytest.mark.parametrize("name", README_COUNTS)
def test_the_real_data_sets_have_the_cases_and_annotations_that_their_readme_counts(
    shared_data: Path, name: str
) -> None:
    manifest = open_dataset(shared_data / name)
    cases, patients, kinds = README_COUNTS[name]
    found = [annotation.kind for case in manifest.cases for annotation in case.annotations]
    assert (len(manifest.cases), len({case.patient_id for case in manifest.cases})) == (cases, patients)
    assert {kind: found.count(kind) for kind in set(found)} == kinds
    assert manifest.problems == ()
    assert manifest.name == name


def test_the_radiographs_keep_their_unions_partial_labels_and_both_masks(shared_data: Path) -> None:
    manifest = open_dataset(shared_data / "cxr")
    assert manifest.classes.stored == ((0, 4), (1, 5), (2, 6), (3,))
    both = [case for case in manifest.cases if len(case.annotations) == 2]
    assert len(both) == 245
    hearts = [
        a for case in manifest.cases for a in case.annotations if a.kind == "full" and "heart" in (a.annotated or ())
    ]
    assert len(hearts) == 110
