"""Who is learnt from when features are: nobody whom fine-tuning will hold out, and no label beyond its budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.case_folders import manifest_of
from scantling.data.case import Annotation, Case, LabelKind
from scantling.data.manifest import Manifest
from scantling.data.splits import Split, make_split
from scantling.errors import ConfigError, DataError
from scantling.training.config import DataConfig
from scantling.training.feature_split import feature_split, readable, scored_kinds, tuning_split, whom


def manifest(n_full: int, n_silver: int, n_bare: int, *, also_silver: int = 0, **columns: Any) -> Manifest:
    """Cases of a patient each, full labels first; the first `also_silver` of these have a silver one too."""
    kinds = ["full"] * n_full + ["silver"] * n_silver + ["none"] * n_bare
    names = [f"c{k:02d}" for k in range(len(kinds))]
    made = manifest_of(
        {name: f"p{name}" for name in names},
        kinds=dict(zip(names, kinds, strict=True)),
        **columns,
    )
    silver = Annotation(path=Path("silver.png"), kind="silver")
    both = set(names[:also_silver])
    cases = (
        replace(case, annotations=(*case.annotations, silver)) if case.case_id in both else case for case in made.cases
    )
    return replace(made, cases=tuple(cases))


def divided(
    data: Manifest, read: tuple[LabelKind, ...] = (), *, uses_unlabelled: bool = True, **options: Any
) -> tuple[Split, Split]:
    """As `train` would divide, and as features are learnt."""
    config = DataConfig(path="data", **options)
    tuning = tuning_split(data, config, seed=0)
    scored = scored_kinds(data, config)
    made = feature_split(data, tuning, read, scored=scored, uses_unlabelled=uses_unlabelled, recipe="mine")
    return tuning, made


def annotations(case: Case) -> list[str]:
    return [annotation.kind for annotation in case.annotations]


@pytest.mark.parametrize("fold", [0, 3, "none"])
def test_whom_fine_tuning_holds_out_or_chooses_by_is_not_learnt_from_and_all_others_are(fold: int | str) -> None:
    data = manifest(20, 8, 12)
    tuning, made = divided(data, fold=fold)
    expected = make_split(data, fold=None if fold == "none" else int(fold), label_kinds=("full", "slices"))
    assert (made.heldout, made.validation) == (expected.heldout, expected.validation)
    assert len(made.heldout) == (0 if fold == "none" else 4)
    assert set(made.unlabelled) == {case.case_id for case in data.cases} - {*made.heldout, *made.validation}
    assert made.train == ()
    assert tuning.train == expected.train


def test_other_images_of_a_held_out_patient_are_not_learnt_from() -> None:
    data = manifest(10, 0, 4)
    same = replace(data.cases[-1], patient_id=data.cases[0].patient_id)
    data = replace(data, cases=(*data.cases[:-1], same))
    for fold in range(5):
        _, made = divided(data, fold=fold)
        assert ("c13" in made.unlabelled) == ("c00" in made.unlabelled)


def test_silver_labels_are_read_and_full_ones_only_where_they_are_asked_for_and_in_the_budget() -> None:
    data = manifest(8, 6, 6, also_silver=3)
    tuning, made = divided(data, ("silver",), labels=2)
    side = {*made.train, *made.unlabelled}
    assert set(made.train) == side & {"c00", "c01", "c02", *(f"c{k:02d}" for k in range(8, 14))}
    cases = {case.case_id: case for case in data.cases}
    kinds = {c: annotations(readable(cases[c], tuning, ("silver",), ("full", "slices"))) for c in side}
    assert {kind for found in kinds.values() for kind in found} == {"silver"}

    tuning, made = divided(data, ("silver", "full"), labels=2)
    full = {c for c in made.train if "full" in annotations(readable(cases[c], tuning, made.label_kinds, ("full",)))}
    assert full == set(tuning.train)
    assert len(full) == 2


def test_a_method_that_cannot_use_unlabelled_images_learns_from_the_labelled_alone() -> None:
    _, made = divided(manifest(6, 5, 9), ("silver",), uses_unlabelled=False)
    assert set(made.train) == {f"c{k:02d}" for k in range(6, 11)}
    assert made.unlabelled == ()
    assert {f"c{k:02d}" for k in range(11, 20)} <= set(made.unused)


def test_silver_labels_alone_are_held_out_by_folds_as_fine_tuning_on_them_would() -> None:
    data = manifest(0, 10, 3)
    config = DataConfig(path="data", label_kinds=("silver",))
    assert scored_kinds(data, config) == ("silver",)
    tuning, made = divided(data, ("silver",), label_kinds=("silver",))
    assert tuning.heldout == make_split(data, label_kinds=("silver",)).heldout != ()
    assert set(made.train) | set(made.unlabelled) == {c.case_id for c in data.cases} - set(tuning.heldout)


def test_without_any_label_only_test_and_validation_cases_are_kept_apart() -> None:
    split = {"c00": "test", "c01": "test", "c02": "val"}
    site = {f"c{k:02d}": "north" if k < 3 else "south" for k in range(10)}
    data = manifest(0, 0, 10, split=split, site=site)
    _, made = divided(data)
    assert set(made.unlabelled) == {f"c{k:02d}" for k in range(3, 10)}
    assert made.validation == ("c02",)
    assert "Nobody is held out" in made.sentence
    assert "without any label" in made.sentence
    _, made = divided(manifest(0, 0, 10, site=site), test_on={"site": "north"})
    assert set(made.unlabelled) == {f"c{k:02d}" for k in range(3, 10)}
    assert "whose patients are not learnt from" in made.sentence
    with pytest.raises(ConfigError, match="not divided into folds"):
        divided(manifest(0, 0, 10), fold=2)
    with pytest.raises(ConfigError, match="leave the budget away"):
        divided(manifest(0, 0, 10), labels=2)


def test_the_sentence_says_who_is_held_out_who_is_learnt_from_and_who_measures() -> None:
    _, made = divided(manifest(20, 5, 5), ("silver",))
    assert made.sentence == (
        "5 folds by patient: fold 0 holds out 4 labelled cases of 4 patients, whose patients are not learnt from; "
        "features are learnt from 24 images of 24 patients, reading the silver labels of 5; they are measured on "
        "2 patients kept apart."
    )
    assert whom(made, ()) == "24 images of 24 patients, without any label"


def test_a_method_that_needs_labels_is_refused_where_there_are_none_it_may_read() -> None:
    with pytest.raises(DataError, match=r"mine learns from labels.*kind silver.*label kinds found: full") as caught:
        divided(manifest(6, 0, 4), ("silver",), uses_unlabelled=False)
    assert caught.value.code == "E-RUN-11"


def test_nobody_left_to_learn_from_is_said() -> None:
    data = manifest(0, 0, 2, split={"c00": "test", "c01": "test"})
    with pytest.raises(DataError, match="no image is left to learn from"):
        divided(data)
