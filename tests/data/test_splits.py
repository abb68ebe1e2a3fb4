"""Splits: by patient, nested, repeatable, complete; and every scheme says in a sentence what it is."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.case_folders import manifest_of
from scantling.data.layouts import open_dataset
from scantling.data.splits import Split, make_split
from scantling.errors import ConfigError, DataError, IntegrityError


def one_each(n: int) -> dict[str, str]:
    return {f"case{k:02d}": f"p{k:02d}" for k in range(n)}


def patients_of(split: Split, cases: tuple[str, ...]) -> set[str]:
    return {split.patients[case] for case in cases}


@st.composite
def cohorts(draw: st.DrawFn) -> dict[str, dict[str, str]]:
    """Only plain values: the run-time type checker draws random numbers, which a strategy must not."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=24))
    patients = {f"c{p}_{k}": f"p{p}" for p, size in enumerate(sizes) for k in range(size)}
    kinds = {case: draw(st.sampled_from(["full", "full", "scribble", "none"])) for case in patients}
    return {"patients": patients, "kinds": kinds}


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.integers(0, 3), st.data())
def test_no_patient_is_cut_every_case_has_one_place_and_only_labelled_cases_teach(
    cohort: dict[str, dict[str, str]], seed: int, data: st.DataObject
) -> None:
    manifest = manifest_of(**cohort)
    folds = make_split(manifest, fold=None, seed=seed).folds
    fold = data.draw(st.sampled_from(folds)) if folds else 0
    split = make_split(manifest, fold=fold, seed=seed)
    parts = (split.train, split.validation, split.heldout, split.unlabelled, split.unused)
    assert Counter(case for part in parts for case in part) == Counter(case.case_id for case in manifest.cases)
    scored, choosing = patients_of(split, split.heldout), patients_of(split, split.validation)
    learning = patients_of(split, (*split.train, *split.unlabelled))
    assert not scored & learning
    assert not scored & choosing
    assert not choosing & learning
    full = {case.case_id for case in manifest.labelled(("full",))}
    assert {*split.train, *split.validation, *split.heldout} <= full
    assert not set(split.unused) & full


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.integers(0, 3))
def test_every_labelled_case_is_held_out_exactly_once_over_the_folds(
    cohort: dict[str, dict[str, str]], seed: int
) -> None:
    manifest = manifest_of(**cohort)
    folds = make_split(manifest, fold=None, seed=seed).folds
    held = [case for fold in folds for case in make_split(manifest, fold=fold, seed=seed).heldout]
    full = sorted(case.case_id for case in manifest.labelled(("full",)))
    assert sorted(held) == (full if len({manifest.case(case).patient_id for case in full}) > 1 else [])


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.integers(0, 3))
def test_budgets_are_nested_of_the_size_asked_and_the_rest_loses_its_label(
    cohort: dict[str, dict[str, str]], seed: int
) -> None:
    manifest = manifest_of(**cohort)
    whole = make_split(manifest, seed=seed)
    size = len(whole.train) + len(whole.validation)
    smaller: set[str] = set()
    smaller_train: set[str] = set()
    for labels in range(1, size + 1):
        split = make_split(manifest, seed=seed, labels=labels)
        seen = {*split.train, *split.validation}
        assert len(seen) == labels
        assert smaller <= seen
        assert smaller_train <= set(split.train)
        assert split.heldout == whole.heldout
        smaller, smaller_train = seen, set(split.train)
    assert smaller == {*whole.train, *whole.validation}


@given(cohorts(), st.integers(0, 99), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_split_depends_on_the_seed_and_not_on_the_order_of_cases(
    cohort: dict[str, dict[str, str]], seed: int, random: Random
) -> None:
    manifest = manifest_of(**cohort)
    shuffled = list(manifest.cases)
    random.shuffle(shuffled)
    patients = {case.patient_id for case in manifest.labelled(("full",))}
    if 2 <= len(patients) <= 4:  # leave-one-out numbers its folds by the order of cases
        return
    one, other = (
        make_split(manifest, seed=seed),
        make_split(replace(manifest, cases=tuple(shuffled)), seed=seed),
    )
    for part in ("heldout", "train", "validation", "unlabelled", "unused"):
        assert sorted(getattr(one, part)) == sorted(getattr(other, part)), part


def test_another_seed_draws_other_folds_and_another_budget() -> None:
    manifest = manifest_of(one_each(30))
    first, second = make_split(manifest, seed=0), make_split(manifest, seed=1)
    assert first.heldout != second.heldout
    assert make_split(manifest, seed=0) == first
    fixed = manifest_of(one_each(30), fold={case: k % 3 for k, case in enumerate(one_each(30))})
    assert make_split(fixed, seed=0, labels=4).train != make_split(fixed, seed=1, labels=4).train


def test_drawn_folds_have_equal_sizes_in_cases_even_if_patients_have_not() -> None:
    patients = {f"c{p}_{k}": f"p{p}" for p in range(25) for k in range(1 + p % 4)}
    manifest = manifest_of(patients)
    sizes = [len(make_split(manifest, fold=fold).heldout) for fold in range(5)]
    assert sum(sizes) == len(patients)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("n", "scheme", "heldout", "train", "says"),
    [
        (0, "none", 0, 0, "no Dice can be given"),
        (1, "train_only", 0, 1, "Only one patient has labels, so nothing is held out"),
        (
            2,
            "leave_one_out",
            1,
            1,
            "Leave one patient out, over 2: fold 0 holds out 1 labelled case of 1 patient",
        ),
        (3, "leave_one_out", 1, 2, "Leave one patient out, over 3"),
        (4, "leave_one_out", 1, 3, "trained on 3 labelled cases of 3 patients"),
        (5, "folds", 1, 4, "5 folds by patient: fold 0 holds out"),
        (12, "folds", 3, 9, "no patient is given up for choosing a checkpoint"),
        (20, "folds", 4, 14, "the checkpoint is chosen on 2 labelled cases of 2 patients"),
    ],
)
def test_the_scheme_suits_the_number_of_labelled_patients(
    n: int, scheme: str, heldout: int, train: int, says: str
) -> None:
    patients = one_each(n) | {f"extra{k}": f"e{k}" for k in range(6)}
    split = make_split(manifest_of(patients, kinds={f"extra{k}": "none" for k in range(6)}))
    assert (split.scheme, len(split.heldout), len(split.train)) == (scheme, heldout, train)
    assert says in split.sentence
    assert len(split.unlabelled) == 6


def test_two_labelled_images_of_one_patient_are_not_held_out_against_each_other() -> None:
    split = make_split(manifest_of({"ed": "anna", "es": "anna"}))
    assert (split.scheme, split.train, split.heldout) == ("train_only", ("ed", "es"), ())


@pytest.mark.parametrize(
    ("n", "most", "expected"), [(9, 8, 0), (10, 8, 1), (44, 8, 4), (200, 8, 8), (200, 3, 3), (50, 0, 0)]
)
def test_a_tenth_of_the_training_patients_chooses_the_checkpoint_within_bounds(
    n: int, most: int, expected: int
) -> None:
    split = make_split(manifest_of(one_each(n)), fold=None, max_validation=most)
    assert len(split.validation) == expected
    assert len(split.train) == n - expected


def test_no_fold_trains_on_every_labelled_case_and_says_that_nothing_is_scored() -> None:
    split = make_split(manifest_of(one_each(8)), fold=None)
    assert (len(split.train), split.heldout, split.scheme) == (8, (), "train_only")
    assert "Nothing is held out" in split.sentence
    assert split.folds == (0, 1, 2, 3, 4)


def test_the_authors_folds_are_used_as_they_are_numbered() -> None:
    manifest = manifest_of(one_each(6), fold={f"case{k:02d}": 10 * (k % 3 + 1) for k in range(6)})
    split = make_split(manifest, fold=20)
    assert split.scheme == "author_folds"
    assert split.heldout == ("case01", "case04")
    assert split.folds == (10, 20, 30)
    with pytest.raises(ConfigError, match=r"fold 0: there is no such fold; this data set has 10, 20, 30 \[E-SPL-02\]"):
        make_split(manifest, fold=0)


def test_folds_that_only_some_labelled_cases_have_are_not_used() -> None:
    split = make_split(manifest_of(one_each(6), fold={"case00": 0, "case01": 1}))
    assert split.scheme == "folds"


@pytest.mark.parametrize("fold", [-1, 5, 99])
def test_a_fold_that_does_not_exist_is_an_error_that_names_the_folds(fold: int) -> None:
    with pytest.raises(ConfigError, match="there is no such fold; this data set has 0, 1, 2, 3, 4"):
        make_split(manifest_of(one_each(9)), fold=fold)


@pytest.mark.parametrize("labels", [0, -2, 9])
def test_an_impossible_budget_is_an_error_with_the_range(labels: int) -> None:
    manifest = manifest_of(one_each(10))
    with pytest.raises(ConfigError, match=f"labels {labels}: 8 cases of the training side have a label; choose 1 to 8"):
        make_split(manifest, labels=labels)


def test_a_patient_in_two_of_the_authors_folds_is_a_leak_unless_it_is_allowed() -> None:
    manifest = manifest_of(
        {"a1": "anna", "a2": "anna", "b1": "bert", "c1": "carl"}, fold={"a1": 0, "a2": 1, "b1": 0, "c1": 1}
    )
    with pytest.raises(DataError, match=r"patient anna: .*fold 0 and 1.*--set data.allow_leak=true \[E-LEAK-01\]"):
        make_split(manifest)
    split = make_split(manifest, allow_leak=True)
    assert (split.heldout, split.train) == (("a1", "b1"), ("a2", "c1"))
    assert split.leak_allowed


def test_the_authors_test_set_is_held_out_and_their_validation_set_chooses() -> None:
    sides = {
        "case00": "train",
        "case01": "Training",
        "case02": "val",
        "case03": "test",
        "case04": "ts",
        "case05": "",
    }
    manifest = manifest_of(one_each(6), split=sides, kinds={"case04": "none"})
    split = make_split(manifest)
    assert split.scheme == "author_split"
    assert (split.train, split.validation) == (("case00", "case01", "case05"), ("case02",))
    assert (split.heldout, split.unused) == (("case03",), ("case04",))
    assert split.folds == ()


def test_the_authors_validation_labels_are_no_free_gift_to_a_budget() -> None:
    sides = {f"case{k:02d}": "val" if k > 5 else "train" for k in range(8)}
    split = make_split(manifest_of(one_each(8), split=sides), labels=2)
    assert (len(split.train), split.validation) == (2, ())
    assert set(split.unused) == {"case06", "case07"}


def test_without_labelled_test_cases_the_folds_leave_the_authors_test_images_alone() -> None:
    patients = one_each(8)
    sides = dict.fromkeys(patients, "train") | {"case06": "test", "case07": "test"}
    split = make_split(manifest_of(patients, split=sides, kinds={"case06": "none", "case07": "none"}))
    assert split.scheme == "folds"
    assert set(split.unused) == {"case06", "case07"}


def test_a_patient_on_both_sides_of_the_authors_split_is_refused() -> None:
    manifest = manifest_of(
        {"a1": "anna", "a2": "anna", "b1": "bert"}, split={"a1": "train", "a2": "testing", "b1": "test"}
    )
    with pytest.raises(DataError, match="patient anna: cases stand in split test and train"):
        make_split(manifest)


def test_a_patient_whose_other_image_is_tested_is_not_trained_on() -> None:
    manifest = manifest_of({"a1": "anna", "a2": "anna", "b1": "bert"}, split={"a2": "test"})
    split = make_split(manifest)
    assert (split.train, split.heldout, split.unused) == (("b1",), ("a2",), ("a1",))


def test_an_unknown_word_in_the_column_split_is_an_error_with_the_nearest_word() -> None:
    with pytest.raises(DataError, match="case case00: split 'tset' is unknown; did you mean 'test'"):
        make_split(manifest_of(one_each(3), split={"case00": "tset"}))


SITES = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "y", "f": "z"}


def test_training_on_one_site_and_testing_on_another_uses_only_these() -> None:
    manifest = manifest_of({case: case for case in SITES}, site=SITES, kinds={"c": "none", "e": "none"})
    split = make_split(manifest, train_on={"site": "x"}, test_on={"site": "y"})
    assert (split.train, split.unlabelled, split.heldout) == (("a", "b"), ("c",), ("d",))
    assert split.unused == ("e", "f")
    assert "Held out is site = y: 1 labelled case" in split.sentence


def test_testing_on_a_site_trains_on_all_others_but_not_on_its_patients() -> None:
    manifest = manifest_of({**{case: case for case in SITES}, "a": "shared", "d": "shared"}, site=SITES)
    split = make_split(manifest, test_on={"site": "y"}, fold=None)
    assert (split.heldout, split.train, split.unused) == (("d", "e"), ("b", "c", "f"), ("a",))
    several = make_split(manifest, test_on={"site": "y; z"})
    assert several.heldout == ("d", "e", "f")
    with pytest.raises(DataError, match="patient shared: has cases in train_on and in test_on"):
        make_split(manifest, train_on={"site": "x"}, test_on={"site": "y"})


def test_train_on_alone_makes_the_folds_within_it() -> None:
    split = make_split(manifest_of({case: case for case in SITES}, site=SITES), train_on={"site": "x"})
    assert split.scheme == "leave_one_out"
    assert {*split.train, *split.heldout} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("test_on", "message"),
    [
        ({"sitee": "y"}, "column 'sitee': no case has it; did you mean 'site'"),
        ({"view": "PPA"}, "view 'PPA': no case has it; did you mean 'PA'"),
        ({"scanner": "a"}, "scanner 'a': no case has it; the column is empty"),
        ({"site": "z"}, "test_on site = z: none of these cases has a label of kind full"),
    ],
)
def test_a_column_or_value_that_no_case_has_is_an_error(test_on: dict[str, str], message: str) -> None:
    views = dict.fromkeys(SITES, "PA")
    manifest = manifest_of({case: case for case in SITES}, site=SITES, view=views, kinds={"f": "scribble"})
    with pytest.raises(ConfigError, match=message):
        make_split(manifest, test_on=test_on)


def test_generated_images_are_no_cases_and_change_nothing_about_the_split() -> None:
    real = one_each(6)
    sides = {"case00": "test", "case01": "val", **{f"case{k:02d}": "train" for k in range(2, 6)}}
    source = {f"fake{k}": f"case{k:02d}" for k in range(6)}
    # they carry labels, patients, sides, folds and columns of their own, all of them misleading
    manifest = manifest_of(
        real | dict.fromkeys(source, "nobody"), counterfactual_of=source,
        split=sides | dict.fromkeys(source, "train"), site=dict.fromkeys(real, "x") | dict.fromkeys(source, "y"),
    )  # fmt: skip
    alone = manifest_of(real, split=sides, site=dict.fromkeys(real, "x"))
    asked: tuple[dict[str, Any], ...] = (
        {}, {"fold": None}, {"labels": 3}, {"label_kinds": ("silver", "full")}, {"train_on": {"site": "x"}},
    )  # fmt: skip
    for options in asked:
        assert make_split(manifest, **options) == make_split(alone, **options)
    assert make_split(manifest).heldout == ("case00",)
    with pytest.raises(ConfigError, match="site 'y': no case has it"):
        make_split(manifest, train_on={"site": "y"})


def test_other_label_kinds_make_other_cases_labelled() -> None:
    manifest = manifest_of(one_each(4), kinds={"case00": "scribble", "case01": "scribble"})
    split = make_split(manifest, label_kinds=("scribble",), fold=None)
    assert split.train == ("case00", "case01")
    assert split.unlabelled == ("case02", "case03")
    assert make_split(manifest, label_kinds=("scribble", "full"), fold=None).unlabelled == ()


def test_a_split_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    split = make_split(manifest_of(one_each(20)), labels=12, seed=3, label_kinds=("full", "silver"))
    split.save(tmp_path / "splits.json")
    assert Split.load(tmp_path / "splits.json") == split


def test_a_damaged_or_newer_split_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    make_split(manifest_of(one_each(6))).save(path)
    content = json.loads(path.read_text())
    for wrong in (
        {**content, "schema_version": 2},
        {**content, "scheme": "guess"},
        {**content, "surplus": 1},
        [],
        {},
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(IntegrityError):
            Split.load(path)
    path.write_text(json.dumps({**content, "heldout": content["train"]}))
    with pytest.raises(DataError, match="stands in two parts"):
        Split.load(path)


def test_a_split_that_cuts_a_patient_cannot_be_made_by_hand() -> None:
    parts = {"scheme": "folds", "sentence": "", "patients": {"a": "anna", "b": "anna"}}
    with pytest.raises(DataError, match="patient anna stands in train and in heldout"):
        Split(train=("a",), heldout=("b",), **parts)
    with pytest.raises(DataError, match="patient anna stands in train and in validation"):
        Split(train=(), unlabelled=("a",), validation=("b",), **parts)
    with pytest.raises(DataError, match="patient of case 'c' is not given"):
        Split(train=("c",), **parts)
    assert Split(train=("a",), heldout=("b",), leak_allowed=True, **parts).leak_allowed


REAL = {  # heldout, train + validation of fold 0, by the counts of each data set's README and manifest.csv
    "hippocampus": (20, 80),
    "acdc": (16, 64),
    "retina": (4, 16),
}


@pytest.mark.parametrize("name", REAL)
def test_the_folds_of_the_real_data_sets_keep_patients_whole(shared_data: Path, name: str) -> None:
    manifest = open_dataset(shared_data / name)
    split = make_split(manifest)
    assert (len(split.heldout), len(split.train) + len(split.validation)) == REAL[name]
    held = sorted(case for fold in split.folds for case in make_split(manifest, fold=fold).heldout)
    assert held == sorted(case.case_id for case in manifest.cases)


def test_the_radiographs_have_several_images_a_patient_and_no_fold_cuts_one(shared_data: Path) -> None:
    manifest = open_dataset(shared_data / "cxr")
    assert len({case.patient_id for case in manifest.cases}) == 391
    split = make_split(manifest, label_kinds=("full", "silver"))
    assert split.scheme == "author_folds"
    across = make_split(manifest, train_on={"site": "shenzhen"}, test_on={"site": "wingspan"})
    assert len(across.heldout) == 110
    assert len(across.train) + len(across.validation) == 219
    assert len(across.unused) == 111
