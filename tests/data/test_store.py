from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

import scantling
from data.prepared_cases import picture_plan_of, picture_set, plan_of, volume_set, write_volume
from scantling.data import store as store_module
from scantling.data import store_entry
from scantling.data.case import IGNORE, Annotation, ClassTable
from scantling.data.compact import CompactArray, block_shape, chunk_shape, write_compact
from scantling.data.dataset import PatchDataset
from scantling.data.image_io import read_image, read_label
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan
from scantling.data.store import Store, chosen_annotation, chosen_form, entry_key, mapped_bytes
from scantling.errors import ConfigError, DataError, GeometryError, IntegrityError, PlanMismatch, ResourceError

with_blosc2 = pytest.mark.skipif(find_spec("blosc2") is None, reason="the extra `compact` (blosc2) is not installed")


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


def both_forms(folder, manifest, plan):
    return [Store(folder / form, form=form).prepare(manifest.cases, manifest, plan) for form in ("map", "compact")]


@with_blosc2
@pytest.mark.parametrize("kind", ["volumes", "slices of volumes", "pictures"])
def test_both_forms_hold_equal_arrays_and_give_equal_samples(tmp_path, kind):
    if kind == "pictures":
        manifest = picture_set(tmp_path / "data", 3, shape=(150, 200), colour=True)
        plan = picture_plan_of(manifest, intensities=(IntensityPlan(scheme="range", high=255.0),) * 3)
    else:
        manifest = volume_set(tmp_path / "data", 2, shape=(30, 40, 50), unlabelled=1, radius=12.0)
        network = NetworkPlan(strides=((1, 1), (2, 2)), kernels=((3, 3),) * 2, features=(4, 8))
        flat = {"dimensions": 2, "patch_size": (32, 32), "network": network} if "slices" in kind else {}
        plan = plan_of(manifest, **flat)
    mapped, compact = both_forms(tmp_path, manifest, plan)
    assert [case.form for case in (*mapped.cases, *compact.cases)] == ["map"] * 3 + ["compact"] * 3
    assert compact.nbytes < mapped.nbytes
    for first, second in zip(mapped.cases, compact.cases, strict=True):
        assert not list(second.folder.glob("image.npy"))
        assert isinstance(second.image, CompactArray)
        assert (second.image.dtype, second.image.shape) == (first.image.dtype, first.image.shape)
        np.testing.assert_array_equal(second.image, first.image)
        np.testing.assert_array_equal(second.normalised(), first.normalised())
        assert (second.labels is None) == (first.labels is None)
        if first.labels is not None:
            np.testing.assert_array_equal(second.labels, first.labels)
        assert second.foreground.keys() == first.foreground.keys()
        assert all((points == second.foreground[k]).all() for k, points in first.foreground.items())
    datasets = [PatchDataset(each, plan, seed=1, samples_per_epoch=12) for each in (mapped, compact)]
    for position in range(12):
        one, other = (dataset.sample(0, position) for dataset in datasets)
        for field in fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


@with_blosc2
@pytest.mark.parametrize("name", ["image.b2nd", "label.b2nd", "points.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_compact_entry_is_made_again_and_noted(tmp_path, name, damage):
    manifest = volume_set(tmp_path / "data", 1)
    plan = plan_of(manifest)
    store = Store(tmp_path / "cache", form="compact")
    good = store.prepare(manifest.cases, manifest, plan).cases[0]
    image = np.asarray(good.image)
    path = good.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "bit" else content[: len(content) // 2])
    again = store.prepare(manifest.cases, manifest, plan)
    assert (again.built, len(again.notes)) == (1, 1)
    assert again.notes[0].startswith("case v0: its cached preparation was made again")
    np.testing.assert_array_equal(again.cases[0].image, image)
    assert store.prepare(manifest.cases, manifest, plan).built == 0


@with_blosc2
def test_damage_after_the_check_is_said_when_the_array_is_read(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.b2nd"
    write_compact(path, rng.integers(0, 9000, (64, 64, 64)).astype(np.int16), by_slice=False)
    content = bytearray(path.read_bytes())
    content[1000:60_000] = bytes(59_000)
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"a\.b2nd: the file cannot be decompressed"):
        np.asarray(CompactArray(path))
    path.write_bytes(b"no frame at all")
    with pytest.raises(IntegrityError, match=r"a\.b2nd: the file cannot be decompressed"):
        CompactArray(path)


@with_blosc2
@pytest.mark.parametrize("by_slice", [False, True])
@pytest.mark.parametrize("shape", [(2, 33, 70, 41), (1, 5, 140, 131), (3, 150, 300), (64, 32, 1), (200, 9)])
def test_a_compact_array_is_indexed_like_an_ndarray(tmp_path, shape, by_slice):
    rng = np.random.default_rng(1)
    array = rng.integers(-500, 500, shape).astype(np.int16)
    write_compact(tmp_path / "a.b2nd", array, by_slice=by_slice)
    stored = CompactArray(tmp_path / "a.b2nd")
    assert (stored.shape, stored.dtype, stored.ndim) == (shape, array.dtype, len(shape))
    assert (len(stored), stored.nbytes) == (len(array), array.nbytes)
    np.testing.assert_array_equal(np.asarray(stored), array)
    np.testing.assert_array_equal(np.asarray(stored, dtype=np.float32), array.astype(np.float32))

    def part(n):
        if rng.random() < 0.2:
            return rng.integers(-n, n)
        low, high = sorted(int(end) for end in rng.integers(-n - 2, n + 3, 2))
        return slice(None) if rng.random() < 0.2 else slice(low, high)

    for _ in range(60):
        index = tuple(part(n) for n in shape[: rng.integers(1, len(shape) + 1)])
        index = (*index[:1], ..., *index[1:]) if rng.random() < 0.2 and len(index) == len(shape) else index
        read = stored[index]
        assert read.shape == array[index].shape, index
        np.testing.assert_array_equal(read, array[index], err_msg=str(index))
    for odd in (array > 0, np.array([0, -1]), slice(None, None, 2), slice(None, None, -1), (..., np.array([0]))):
        np.testing.assert_array_equal(stored[odd], array[odd])
    with pytest.raises(IndexError, match="out of range for axis 0"):
        stored[shape[0]]
    with pytest.raises(IndexError, match="indices for an array"):
        stored[(0,) * (len(shape) + 1)]


def test_blocks_suit_what_is_read_and_chunks_are_whole_blocks_with_little_outside_the_array():
    assert block_shape((1, 128, 320, 320), by_slice=False) == (1, 16, 32, 32)
    assert block_shape((1, 128, 320, 320), by_slice=True) == (1, 1, 128, 128)
    assert block_shape((3, 500, 90), by_slice=False) == (3, 32, 32)
    assert block_shape((3, 500, 90), by_slice=True) == (1, 128, 90)
    assert chunk_shape((1, 128, 320, 320), (1, 16, 32, 32)) == (1, 128, 160, 160)
    for n in range(1, 700):
        block = min(n, 32)
        (chunk,) = chunk_shape((n,), (block,))
        assert chunk % block == 0
        assert chunk <= 192
        assert -(-n // chunk) * chunk < n + max(1, round(n / 128)) * block


@with_blosc2
def test_an_entry_is_used_in_the_form_in_which_it_is_there(tmp_path):
    manifest = volume_set(tmp_path / "data", 2)
    plan = plan_of(manifest)
    first, second = manifest.cases
    Store(tmp_path / "cache", form="map").prepare([first], manifest, plan)
    mixed = Store(tmp_path / "cache", form="compact").prepare([first, second], manifest, plan)
    assert (mixed.built, mixed.reused) == (1, 1)
    assert [case.form for case in mixed.cases] == ["map", "compact"]
    again = Store(tmp_path / "cache", form="map").prepare([first, second], manifest, plan)
    assert (again.built, [case.form for case in again.cases]) == (0, ["map", "compact"])


def test_a_set_is_mapped_up_to_half_of_the_memory_and_compact_beyond_if_that_can_be_had():
    assert chosen_form(50, 100, can_compress=True) == ("map", "")
    form, note = chosen_form(51 * 2**30, 100 * 2**30, can_compress=True)
    assert form == "compact"
    assert note == "the prepared cases take 51.0 GiB, memory has 100.0 GiB free: they are kept compressed"
    form, note = chosen_form(51 * 2**30, 100 * 2**30, can_compress=False)
    assert form == "map"
    assert "pip install 'scantling[compact]'" in note


@with_blosc2
def test_the_size_that_decides_is_that_of_the_mapped_files_read_from_the_headers(tmp_path):
    manifest = volume_set(tmp_path / "data", 3, shape=(20, 30, 40), unlabelled=1)
    plan = plan_of(manifest)
    mapped = Store(tmp_path / "map", form="map").prepare(manifest.cases, manifest, plan)
    files = [path for case in mapped.cases for path in case.folder.glob("[il]*.npy")]
    expected = sum(path.stat().st_size - 128 for path in files)  # 128 bytes of header each
    assert len(files) == 7
    assert mapped_bytes(manifest.cases, plan) == expected
    gone = replace(manifest.cases[0], images=(tmp_path / "gone.nii.gz",))
    assert mapped_bytes([gone], plan) == 0
    for memory, form in ((2 * expected, "map"), (2 * expected - 1, "compact")):
        prepared = Store(tmp_path / f"auto {form}", memory_bytes=memory).prepare(manifest.cases, manifest, plan)
        assert {case.form for case in prepared.cases} == {form}
        assert len(prepared.notes) == (form == "compact")


def test_without_the_package_compact_is_refused_by_the_extras_name_and_auto_maps(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "blosc2", None)
    manifest = volume_set(tmp_path / "data", 1)
    plan = plan_of(manifest)
    with pytest.raises(ConfigError, match=r"case v0: .*pip install 'scantling\[compact\]'"):
        Store(tmp_path / "cache", form="compact").prepare(manifest.cases, manifest, plan)
    assert list((tmp_path / "cache" / "entries").iterdir()) == []
    monkeypatch.setattr(store_module.compact, "is_available", lambda: False)
    prepared = Store(tmp_path / "cache", memory_bytes=1).prepare(manifest.cases, manifest, plan)
    assert prepared.cases[0].form == "map"
    assert len(prepared.notes) == 1
    assert "pip install 'scantling[compact]'" in prepared.notes[0]


def test_mapped_sets_never_import_the_package(tmp_path):
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from data.prepared_cases import plan_of, volume_set
from scantling.data.store import Store
manifest = volume_set(Path(sys.argv[1]) / "data", 1)
case = Store(Path(sys.argv[1]) / "cache").prepare(manifest.cases, manifest, plan_of(manifest)).cases[0]
print(case.form, case.image.shape is not None, "blosc2" in sys.modules)
"""
    printed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["map", "True", "False"]


@with_blosc2
def test_a_full_disk_is_said_in_words_in_the_compact_form_too(tmp_path, monkeypatch):
    manifest = volume_set(tmp_path / "data", 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        Store(tmp_path / "cache", form="compact").prepare(manifest.cases, manifest, plan_of(manifest))
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["entries"]
