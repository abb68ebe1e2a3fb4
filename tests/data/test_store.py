from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import scantling
from data.prepared_cases import picture_plan_of, picture_set, plan_of, volume_set, write_volume
from scantling.data import store as store_module
from scantling.data import store_entry
from scantling.data.case import IGNORE, Annotation, ClassTable
from scantling.data.image_io import read_image, read_label
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan
from scantling.data.store import Store, chosen_annotation, entry_key
from scantling.errors import DataError, GeometryError, PlanMismatch, ResourceError


def key_of(case, plan):
    return entry_key(case, chosen_annotation(case, plan), plan)


def test_a_prepared_case_holds_what_the_files_say(tmp_path):
    manifest = volume_set(tmp_path / "data", 2, unlabelled=1)
    prepared = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan_of(manifest))
    assert [case.case_id for case in prepared.cases] == ["v0", "v1", "v2"]
    assert (prepared.built, prepared.reused, prepared.notes) == (3, 0, ())
    for case, source in zip(prepared.cases, manifest.cases, strict=True):
        image = read_image(source.images[0]).array
        np.testing.assert_array_equal(case.image, image)
        np.testing.assert_allclose(case.normalised(), scipy.stats.zscore(image, axis=None), atol=1e-4)
        assert case.patient_id == source.patient_id
    labelled, unlabelled = prepared.cases[0], prepared.cases[2]
    np.testing.assert_array_equal(labelled.labels, read_label(manifest.cases[0].annotations[0].path)[0])
    assert labelled.annotated.all()
    assert unlabelled.labels is None
    assert not unlabelled.annotated.any()
    assert unlabelled.foreground == {}
    assert [case.case_id for case in prepared.labelled().cases] == ["v0", "v1"]
    assert [case.case_id for case in prepared.select(["v2", "v0"]).cases] == ["v2", "v0"]
    assert prepared.nbytes > sum(case.image.nbytes for case in prepared.cases)


def test_what_is_unchanged_is_never_made_again_even_by_another_store_or_under_another_name(tmp_path):
    manifest = volume_set(tmp_path / "data", 3)
    plan = plan_of(manifest)
    Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    irrelevant = plan.model_copy(update={"patch_size": (4, 4, 4), "batch_size": 7, "reasons": {"a": "b"}})
    renamed = [replace(case, case_id=f"x{case.case_id}", patient_id="other") for case in manifest.cases]
    for cases, used in [(manifest.cases, plan), (manifest.cases, irrelevant), (renamed, plan)]:
        again = Store(tmp_path / "cache").prepare(cases, manifest, used)
        assert (again.built, again.reused) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == before


def mutations(manifest, plan, folder):
    """(name, case, plan) that must each give another key than all others."""
    case = manifest.cases[0]
    full = case.annotations[0]
    for i, spacing in enumerate([(2.0, 1.0, 1.1), (2.0, 1.1, 1.0), (2.2, 1.0, 1.0), (None, 1.0, 1.0), (None,) * 3]):
        yield f"spacing {i}", case, plan.model_copy(update={"spacing_mm": spacing})
    for order in [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]:
        yield f"axis order {order}", case, plan.model_copy(update={"axis_order": order})
    schemes = [
        IntensityPlan(scheme="zscore", nonzero_only=True),
        IntensityPlan(scheme="percentile"),
        IntensityPlan(scheme="percentile", low_percentile=1.0),
        IntensityPlan(scheme="percentile", high_percentile=99.0),
        IntensityPlan(scheme="percentile", nonzero_only=True),
        IntensityPlan(scheme="window", low=-100.0, high=200.0, mean=0.0, std=1.0),
        IntensityPlan(scheme="window", low=-101.0, high=200.0, mean=0.0, std=1.0),
        IntensityPlan(scheme="window", low=-100.0, high=201.0, mean=0.0, std=1.0),
        IntensityPlan(scheme="window", low=-100.0, high=200.0, mean=0.1, std=1.0),
        IntensityPlan(scheme="window", low=-100.0, high=200.0, mean=0.0, std=1.1),
        IntensityPlan(scheme="range", high=255.0),
        IntensityPlan(scheme="range", high=1000.0),
    ]
    for i, scheme in enumerate(schemes):
        yield f"intensity {i}", case, plan.model_copy(update={"intensities": (scheme,)})
    tables = [{"core": 2, "shell": 1}, {"core": 1, "shell": (2, 3)}, {"core": 1, "shell": 3}, {"core": 1}]
    tables += [{"centre": 1, "shell": 2}, {"core": 1, "shell": 2, "third": 3}, {"core": (1, 2)}]
    for i, classes in enumerate(tables):
        table = ClassTable.of(classes)
        yield (
            f"classes {i}",
            case,
            plan.model_copy(update={"classes": ClassPlan(names=table.names, stored=table.stored)}),
        )
    annotations = [
        replace(full, ignore=(2,)),
        replace(full, ignore=(7,)),
        replace(full, annotated=("core",)),
        replace(full, annotated=("shell",)),
        replace(full, annotated=()),
    ]
    for i, annotation in enumerate(annotations):
        yield f"annotation {i}", replace(case, annotations=(annotation,)), plan
    for kind in ("slices", "scribble", "silver", "pseudo"):
        kinds = plan.model_copy(update={"label_kinds": (kind,)})
        yield f"kind {kind}", replace(case, annotations=(replace(full, kind=kind),)), kinds
    yield "no label", replace(case, annotations=()), plan
    yield "channel name", case, plan.model_copy(update={"channels": ("T2",)})
    image = read_image(case.images[0]).array[0]
    labels, _ = read_label(full.path)
    for i in range(6):
        changed = image.copy()
        changed[i, i, i] += 1
        path = write_volume(folder / f"changed{i}.nii.gz", changed, (2.0, 1.0, 1.0))
        yield f"voxel {i}", replace(case, images=(path,)), plan
        changed = labels.copy()
        changed[i, i, i] = 2
        path = write_volume(folder / f"changed{i}_seg.nii.gz", changed, (2.0, 1.0, 1.0))
        yield f"label voxel {i}", replace(case, annotations=(replace(full, path=path),)), plan
    moved = write_volume(folder / "spacing.nii.gz", image, (2.0, 1.0, 1.001))
    yield "header spacing", replace(case, images=(moved,)), plan


def test_every_one_of_50_changes_gives_a_key_of_its_own(tmp_path, monkeypatch):
    manifest = volume_set(tmp_path / "data", 1)
    plan = plan_of(manifest)
    keys = {"unchanged": key_of(manifest.cases[0], plan)}
    for name, case, changed in mutations(manifest, plan, tmp_path / "data"):
        keys[name] = key_of(case, changed)
    monkeypatch.setattr(scantling, "__version__", "999.0")
    keys["package version"] = key_of(manifest.cases[0], plan)
    monkeypatch.setattr(store_module, "PREPARATION_VERSION", 999)
    keys["preparation version"] = key_of(manifest.cases[0], plan)
    assert len(keys) > 50
    assert len(set(keys.values())) == len(keys)


def test_settings_that_do_not_touch_the_stored_arrays_keep_the_key(tmp_path):
    manifest = volume_set(tmp_path / "data", 1)
    plan = plan_of(manifest)
    case = manifest.cases[0]
    same = [
        (case, plan.model_copy(update={"patch_size": (16, 16, 16)})),
        (case, plan.model_copy(update={"network": NetworkPlan(features=(1, 2, 3, 4))})),
        (replace(case, annotations=(replace(case.annotations[0], weight=0.5, rater="me"),)), plan),
        (replace(case, attributes={"sex": "F"}, fold=3), plan),
    ]
    assert {key_of(*pair) for pair in same} == {key_of(case, plan)}


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "points.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_entry_is_made_again_and_noted(tmp_path, name, damage):
    manifest = volume_set(tmp_path / "data", 1)
    plan = plan_of(manifest)
    store = Store(tmp_path / "cache")
    good = store.prepare(manifest.cases, manifest, plan).cases[0]
    image, labels = np.array(good.image), np.array(good.labels)
    path = good.folder / name
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    again = store.prepare(manifest.cases, manifest, plan)
    assert (again.built, len(again.notes)) == (1, 1)
    assert again.notes[0].startswith("case v0: its cached preparation was made again")
    np.testing.assert_array_equal(again.cases[0].image, image)
    np.testing.assert_array_equal(again.cases[0].labels, labels)
    assert store.prepare(manifest.cases, manifest, plan).built == 0
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["entries"]


def test_threads_make_what_one_makes_and_the_same_content_meets_in_one_entry(tmp_path):
    manifest = volume_set(tmp_path / "data", 3)
    plan = plan_of(manifest)
    cases = manifest.cases * 4
    alone = Store(tmp_path / "a").prepare(cases, manifest, plan)
    seen = []
    together = Store(tmp_path / "b").prepare(
        cases, manifest, plan, lambda done, total: seen.append((done, total)), workers=4
    )
    assert seen == [(i + 1, 12) for i in range(12)]
    for first, second in zip(alone.cases, together.cases, strict=True):
        assert first.case_id == second.case_id
        assert first.folder.name == second.folder.name
        for path in first.folder.glob("*.npy"):
            assert path.read_bytes() == (second.folder / path.name).read_bytes()
    assert len(list((tmp_path / "b" / "entries").iterdir())) == 3
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["entries"]


def test_two_processes_may_prepare_the_same_cases_at_once(tmp_path):
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from data.prepared_cases import plan_of, volume_set
from scantling.data.store import Store
folder = Path(sys.argv[1])
manifest = volume_set(folder / sys.argv[2], 6)
done = Store(folder / "cache").prepare(manifest.cases, manifest, plan_of(manifest))
print(done.built + done.reused, *(case.folder.name for case in done.cases))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert printed[0] == printed[1]
    assert printed[0].startswith("6 ")
    assert len(list((tmp_path / "cache" / "entries").iterdir())) == 6


def test_a_full_disk_is_said_in_words_and_leaves_nothing_half_made(tmp_path, monkeypatch):
    manifest = volume_set(tmp_path / "data", 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_entry.np, "save", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan_of(manifest))
    assert list((tmp_path / "cache" / "entries").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["entries"]


def test_leftovers_of_killed_processes_are_removed_after_a_day_and_not_before(tmp_path):
    manifest = volume_set(tmp_path / "data", 1)
    old, young = tmp_path / "cache" / ".partial-old", tmp_path / "cache" / ".partial-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "image.npy").write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan_of(manifest))
    assert not old.exists()
    assert young.exists()


def test_thousands_of_cases_hold_no_open_files(tmp_path):
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("this system does not list open files")
    manifest = volume_set(tmp_path / "data", 3)
    prepared = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan_of(manifest))
    before = len(list(open_files.iterdir()))
    sums = [int(case.image.sum()) + int(case.labels.sum()) for case in prepared.cases for _ in range(20)]
    assert len(list(open_files.iterdir())) <= before + 1
    assert len(sums) == 60


def test_points_lie_in_their_class_at_most_ten_thousand_each_and_background_only_beside_unknown(tmp_path):
    manifest = volume_set(tmp_path / "data", 1, shape=(30, 60, 60), radius=24.0)
    plan = plan_of(manifest)
    case = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan).cases[0]
    assert sorted(case.foreground) == [1, 2]
    for k, points in case.foreground.items():
        assert len(points) == min(10_000, int((case.labels == k).sum()))
        assert len(np.unique(points, axis=0)) == len(points)
        assert (case.labels[tuple(points.T)] == k).all()
    partly = replace(manifest.cases[0], annotations=(replace(manifest.cases[0].annotations[0], ignore=(2,)),))
    case = Store(tmp_path / "cache").prepare([partly], manifest, plan).cases[0]
    assert sorted(case.foreground) == [0, 1]
    assert (case.labels[tuple(case.foreground[0].T)] == 0).all()


def test_slices_with_a_known_voxel_are_remembered(tmp_path):
    manifest = volume_set(tmp_path / "data", 1)
    case = manifest.cases[0]
    labels, _ = read_label(case.annotations[0].path)
    sparse = np.full(labels.shape, 9, dtype=np.uint8)
    sparse[[3, 7]] = labels[[3, 7]]
    path = write_volume(tmp_path / "sparse.nii.gz", sparse, (2.0, 1.0, 1.0))
    case = replace(case, annotations=(Annotation(path=path, kind="slices", weight=0.25),))
    plan = plan_of(manifest, label_kinds=("slices",))
    prepared = Store(tmp_path / "cache").prepare([case], manifest, plan).cases[0]
    assert prepared.known_slices == (3, 7)
    assert prepared.weight == 0.25
    assert prepared.label_kind == "slices"
    assert (np.delete(prepared.labels, [3, 7], axis=0) == IGNORE).all()


def test_the_first_of_the_wanted_label_kinds_is_taken(tmp_path):
    manifest = volume_set(tmp_path / "data", 1)
    full = manifest.cases[0].annotations[0]
    both = replace(manifest.cases[0], annotations=(replace(full, kind="silver"), full))
    assert chosen_annotation(both, plan_of(manifest, label_kinds=("full", "silver"))) is full
    assert chosen_annotation(both, plan_of(manifest, label_kinds=("silver",))).kind == "silver"
    assert chosen_annotation(both, plan_of(manifest, label_kinds=("scribble",))) is None
    nothing = replace(manifest.cases[0], annotations=(replace(full, kind="none"),))
    assert chosen_annotation(nothing, plan_of(manifest, label_kinds=("none",))) is None


def test_errors_name_the_case_and_keep_their_kind(tmp_path):
    manifest = volume_set(tmp_path / "data", 2)
    plan = plan_of(manifest)
    store = Store(tmp_path / "cache")
    first, second = manifest.cases
    wrong_label = write_volume(tmp_path / "wrong.nii.gz", np.zeros((3, 4, 5), np.uint8), (2.0, 1.0, 1.0))
    misfit = replace(second, annotations=(replace(second.annotations[0], path=wrong_label),))
    with pytest.raises(GeometryError, match=r"^case v1: .*must share one grid"):
        store.prepare([first, misfit], manifest, plan)
    with pytest.raises(DataError, match=r"^case v1: .*cannot be read|^case v1: .*no such file"):
        store.prepare([replace(second, images=(tmp_path / "gone.nii.gz",))], manifest, plan)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(first.images[0].read_bytes()[:500])
    with pytest.raises(DataError, match=r"^case v0: "):
        store.prepare([replace(first, images=(broken,))], manifest, plan)
    pictures = picture_set(tmp_path / "pictures", 1)
    with pytest.raises(PlanMismatch, match=r"^case p0: .*spatial axes"):
        store.prepare(pictures.cases, pictures, plan)
    with pytest.raises(DataError, match="classes are background, core but the plan's"):
        store.prepare([first], replace(manifest, classes=manifest.classes.subset(["core"])), plan)


def test_pictures_and_colour_are_stored_as_their_bytes(tmp_path):
    manifest = picture_set(tmp_path / "data", 2, colour=True)
    plan = picture_plan_of(manifest, intensities=(IntensityPlan(scheme="range", high=255.0),) * 3)
    prepared = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan)
    assert prepared.cases[0].image.dtype == np.uint8
    np.testing.assert_array_equal(prepared.cases[1].image, read_image(manifest.cases[1].images[0]).array)
    assert prepared.cases[0].grid.source == read_image(manifest.cases[0].images[0]).geometry
