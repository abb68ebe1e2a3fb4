from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scantling
from data.prepared_cases import plan_of, volume_set, write_volume
from scantling.data import store as store_module
from scantling.data.case import Annotation, Case, ClassTable
from scantling.data.image_io import read_image, read_label
from scantling.data.manifest import Manifest
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.data.store import PreparedSet, Store
from scantling.data.store_entry import write_entry

KEYED = {"image_axes", "axis_order", "spacing_mm", "intensities", "channels", "classes", "label_kinds"}
"""Fields of a plan that decide what is stored for a labelled case."""
LAYOUT_ONLY = {"dimensions"}
"""Read while storing, but only for how the bytes of a compressed entry are cut; the values are the same."""


def prepare(cache: Path, case: Case, plan: Plan) -> PreparedSet:
    manifest = Manifest(
        root=cache, name="one", layout="pairs", cases=(case,),
        classes=ClassTable(names=plan.classes.names, stored=plan.classes.stored),
    )  # fmt: skip
    return Store(cache).prepare([case], manifest, plan)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return volume_set(tmp_path / "data", 1).cases[0]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(volume_set(tmp_path / "plan", 1))


def plan_changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """One field changed at a time, and every field of an intensity scheme and of the class table."""

    def changed(**values: Any) -> Plan:
        return plan.model_copy(update=values)

    for spacing in [(2.0, 1.0, 1.1), (2.0, 1.1, 1.0), (2.2, 1.0, 1.0), (None, 1.1, 1.0), (2.0, 1.0, 1.000001)]:
        yield f"spacing {spacing}", changed(spacing_mm=spacing)
    for order in [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]:
        yield f"axis order {order}", changed(axis_order=order, spacing_mm=(None, None, None))
    window = IntensityPlan(scheme="window", low=200.0, high=600.0, mean=300.0, std=50.0)
    schemes = {"window": window, "zscore nonzero": IntensityPlan(scheme="zscore", nonzero_only=True)}
    schemes |= {
        f"window {n}": window.model_copy(update={n: getattr(window, n) + 1}) for n in ("low", "high", "mean", "std")
    }
    percentile = IntensityPlan(scheme="percentile")
    schemes |= {"percentile": percentile, "percentile nonzero": percentile.model_copy(update={"nonzero_only": True})}
    schemes |= {f"percentile {n}": percentile.model_copy(update={n: 50.0 + d}) for n, d in
                (("low_percentile", -40), ("high_percentile", 40))}  # fmt: skip
    schemes |= {f"range {high}": IntensityPlan(scheme="range", high=high) for high in (255.0, 1000.0)}
    for name, scheme in schemes.items():
        yield name, changed(intensities=(scheme,))
    yield "channel name", changed(channels=("T2",))
    tables: tuple[dict[str, int | tuple[int, ...]], ...] = (
        {"core": 2, "shell": 1}, {"core": 1, "shell": (2, 3)}, {"core": 1, "shell": 3}, {"core": 1},
        {"centre": 1, "shell": 2}, {"core": 1, "shell": 2, "third": 3}, {"core": (1, 2)}, {"shell": 2, "core": 1},
    )  # fmt: skip
    for table in tables:
        of = ClassTable.of(table)
        yield f"classes {table}", changed(classes=ClassPlan(names=of.names, stored=of.stored))


def case_changes(case: Case, plan: Plan, folder: Path) -> Iterator[tuple[str, Case, Plan]]:
    """Other content, another reading of the same label, other channels."""
    full = case.annotations[0]

    def labelled(**values: Any) -> Case:
        return replace(case, annotations=(replace(full, **values),))

    for ignore in ((2,), (1,), (7,), (1, 2)):
        yield f"ignore {ignore}", labelled(ignore=ignore), plan
    for annotated in (("core",), ("shell",), ()):
        yield f"annotated {annotated}", labelled(annotated=annotated), plan
    for kind in ("slices", "scribble", "silver", "pseudo"):
        yield f"kind {kind}", labelled(kind=kind), plan.model_copy(update={"label_kinds": (kind,)})
    yield "no label", replace(case, annotations=()), plan
    image, (labels, _) = read_image(case.images[0]).array[0], read_label(full.path)
    for i in range(5):
        other = image.copy()
        other[i, 2 * i, i] += 1
        path = write_volume(folder / f"voxel{i}.nii.gz", other, (2.0, 1.0, 1.0))
        yield f"image voxel {i}", replace(case, images=(path,)), plan
        other = labels.copy()
        other[i, 2 * i, i] = 2
        yield f"label voxel {i}", labelled(path=write_volume(folder / f"label{i}.nii.gz", other, (2.0, 1.0, 1.0))), plan
    for spacing in ((2.0, 1.0, 1.001), (2.001, 1.0, 1.0)):
        path = write_volume(folder / f"header{spacing[0]}.nii.gz", image, spacing)
        yield f"header {spacing}", replace(case, images=(path,), annotations=()), plan
    second = write_volume(folder / "second.nii.gz", image + 7, (2.0, 1.0, 1.0))
    both = plan.model_copy(update={"channels": ("a", "b"), "intensities": plan.intensities * 2})
    yield "two channels", replace(case, images=(case.images[0], second)), both
    yield "two channels the other way", replace(case, images=(second, case.images[0])), both


def test_whatever_changes_what_is_stored_is_never_taken_from_the_cache(
    tmp_path: Path, case: Case, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    assert prepare(cache, case, plan).built == 1
    changes = [(name, case, changed) for name, changed in plan_changes(plan)]
    changes += case_changes(case, plan, tmp_path)
    stale = [name for name, other, changed in changes if prepare(cache, other, changed).built != 1]
    for module, name, value in (
        (scantling, "__version__", "999.0"),
        (store_module, "PREPARATION_VERSION", 999),
        (store_module, "PREPARATION_VERSION", 1000),
    ):
        monkeypatch.setattr(module, name, value)
        stale += [name] if prepare(cache, case, plan).built != 1 else []
    assert stale == []
    assert len(changes) + 3 >= 50
    assert len(list((cache / "entries").iterdir())) == len(changes) + 4


def test_what_does_not_change_what_is_stored_is_never_prepared_again(tmp_path: Path, case: Case, plan: Plan) -> None:
    cache = tmp_path / "cache"
    first = prepare(cache, case, plan)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    moved = Path(shutil.copy(case.images[0], tmp_path / "under another name.nii.gz"))
    os.utime(moved, (0, 0))
    moved_label = Path(shutil.copy(case.annotations[0].path, tmp_path / "label.nii.gz"))
    plans = {
        "patch": {"patch_size": (4, 4, 4)}, "batch": {"batch_size": 9}, "reasons": {"reasons": {"a": "b"}},
        "network": {"network": NetworkPlan(features=(1, 2))}, "mirror": {"mirror_axes": (0, 1)},
        "dataset": {"dataset": "other"}, "modality": {"modality": "CT"}, "dimensions": {"dimensions": 2},
        "more kinds": {"label_kinds": ("full", "silver")}, "schema": {"schema_version": 7},
    }  # fmt: skip
    again = {name: prepare(cache, case, plan.model_copy(update=values)) for name, values in plans.items()}
    label = case.annotations[0]
    for name, other in {
        "renamed image": replace(case, images=(moved,)),
        "renamed label": replace(case, annotations=(replace(label, path=moved_label),)),
        "renamed case": replace(case, case_id="other", patient_id="else"),
        "attributes": replace(case, attributes={"sex": "F"}, site="north", scanner="x", split="train", fold=3),
        "rater": replace(case, annotations=(replace(label, rater="me", round=1, confidence=0.5),)),
        "more labels": replace(case, annotations=(label, Annotation(path=moved_label, kind="silver"))),
        "all annotated": replace(case, annotations=(replace(label, annotated=("core", "shell")),)),
    }.items():
        again[name] = prepare(cache, other, plan)
    trusted = prepare(cache, replace(case, annotations=(replace(label, weight=0.25),)), plan)
    assert {name: done.built for name, done in (again | {"weight": trusted}).items() if done.built} == {}
    assert trusted.cases[0].weight == 0.25  # not stored, so it may change
    assert again["renamed case"].cases[0].case_id == "other"
    np.testing.assert_array_equal(again["patch"].cases[0].image, first.cases[0].image)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before


def test_recompressed_files_are_prepared_anew_rather_than_trusted(tmp_path: Path, case: Case, plan: Plan) -> None:
    prepare(tmp_path / "cache", case, plan)
    path = tmp_path / "again.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(case.images[0].read_bytes()), compresslevel=1, mtime=1))
    assert path.read_bytes() != case.images[0].read_bytes()
    again = prepare(tmp_path / "cache", replace(case, images=(path,)), plan)
    assert again.built == 1
    np.testing.assert_array_equal(again.cases[0].image, read_image(case.images[0]).array)


class WatchedPlan(Plan):
    """A plan that remembers which of its fields were read."""

    def __getattribute__(self, name: str) -> Any:
        if name in Plan.model_fields:
            READ.add(name)
        return super().__getattribute__(name)


READ: set[str] = set()


def test_every_field_of_a_plan_that_storing_reads_is_in_the_key(tmp_path: Path, case: Case, plan: Plan) -> None:
    watched = WatchedPlan.model_validate(plan.model_dump())
    READ.clear()
    (tmp_path / "entry").mkdir()
    write_entry(tmp_path / "entry", case, case.annotations[0], watched, key="x", form="map")
    assert {"spacing_mm", "intensities", "classes", "axis_order"} <= READ
    assert READ <= KEYED | LAYOUT_ONLY
    assert set(Plan.model_fields) >= KEYED | LAYOUT_ONLY


def test_every_field_of_a_case_and_its_annotation_has_been_thought_about() -> None:
    # a new field belongs into the key or into the list of what does not change what is stored
    assert {field.name for field in fields(Case)} == {
        "case_id", "images", "annotations", "patient_id", "site", "scanner", "split", "fold", "attributes",
        "counterfactual_of",
    }  # fmt: skip
    assert {field.name for field in fields(Annotation)} == {
        "path", "kind", "annotated", "ignore", "rater", "weight", "round", "confidence",
    }  # fmt: skip
