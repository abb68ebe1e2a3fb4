"""Prepared alternatives: the real image's grid and intensity map, entries of their own, nothing where none is asked."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import fields, replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from data.prepared_cases import (
    changed_copy,
    picture_plan_of,
    picture_set,
    plan_of,
    volume_set,
    with_counterfactuals,
    write_volume,
)
from scantling.data import compact, store_entry
from scantling.data.case import Case
from scantling.data.dataset import PatchDataset
from scantling.data.image_io import read_image
from scantling.data.plan import IntensityPlan, NetworkPlan
from scantling.data.store import Store
from scantling.errors import DataError, GeometryError, PlanMismatch
from scantling.training.batches import StepSamples, batches

DOUBLED = {"doubled": {"factor": 2.0, "shift": 40.0}}
UNCHANGED = {"same": {"factor": 1.0}}
SCHEMES = {
    "zscore": IntensityPlan(scheme="zscore"),
    "zscore of what is not zero": IntensityPlan(scheme="zscore", nonzero_only=True),
    "percentile": IntensityPlan(scheme="percentile", low_percentile=5.0, high_percentile=90.0),
    "window": IntensityPlan(scheme="window", low=0.0, high=2000.0, mean=400.0, std=60.0),
    "window without statistics": IntensityPlan(scheme="window", low=0.0, high=2000.0),
    "range": IntensityPlan(scheme="range", high=255.0),
    "range with statistics": IntensityPlan(scheme="range", high=255.0, mean=0.5, std=0.2),
}
GRIDS = {"own grid": (2.0, 1.0, 1.0), "another grid": (2.0, 1.6, 0.7)}


def prepare(folder, manifest, plan, *, form="map", **settings):
    return Store(folder / "cache", form=form).prepare(manifest.real, manifest, plan, **settings)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_difference_of_brightness_and_contrast_stays_what_it_is_under_every_scheme(tmp_path, scheme, grid):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 2), DOUBLED)
    plan = plan_of(manifest, intensities=(SCHEMES[scheme],), spacing_mm=GRIDS[grid])
    prepared = prepare(tmp_path, manifest, plan, alternatives=True)
    alone = prepare(tmp_path, manifest, plan)
    for case, without, source in zip(prepared.cases, alone.cases, manifest.real, strict=True):
        np.testing.assert_array_equal(case.normalised(), without.normalised())
        (other,) = case.alternatives
        # the stored value v of the real image is normalised to a v + b, that of the other is 2 v + 40
        at_own_grid = plan.model_copy(update={"spacing_mm": GRIDS["own grid"]})
        kept = prepare(tmp_path, manifest, at_own_grid).select([source.case_id]).cases[0]
        a, b = kept.scale[0], kept.offset[0]
        expected = 2 * case.normalised() + a * 40 - b
        tolerance = 1e-4 * float(np.ptp(expected))
        np.testing.assert_allclose(other.normalised(), expected, atol=tolerance)
        assert float(np.abs(other.normalised() - case.normalised()).mean()) > 0.1 * float(case.normalised().std())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_unchanged_image_is_prepared_to_the_bits_of_its_real_one(tmp_path, scheme, grid):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 1), UNCHANGED)
    plan = plan_of(manifest, intensities=(SCHEMES[scheme],), spacing_mm=GRIDS[grid])
    (case,) = prepare(tmp_path, manifest, plan, alternatives=True).cases
    (other,) = case.alternatives
    np.testing.assert_array_equal(other.image, case.image)
    assert (other.case_id, other.scale, other.offset) == ("v0__same", case.scale, case.offset)


def test_outliers_are_clipped_by_the_images_own_percentiles_so_that_a_brighter_scanner_is_not_cut_off(tmp_path):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 1), {"far": {"factor": 1.0, "shift": 5000.0}})
    plan = plan_of(manifest, intensities=(IntensityPlan(scheme="percentile"),))
    (case,) = prepare(tmp_path, manifest, plan, alternatives=True).cases
    np.testing.assert_array_equal(case.alternatives[0].image, np.asarray(case.image) + 5000)


def test_colour_pictures_are_mapped_channel_by_channel(tmp_path):
    manifest = with_counterfactuals(picture_set(tmp_path / "data", 2, colour=True), {"dim": {"factor": 0.5}})
    plan = picture_plan_of(manifest, intensities=(IntensityPlan(scheme="range", high=255.0),) * 3)
    for case, source in zip(prepare(tmp_path, manifest, plan, alternatives=True).cases, manifest.real, strict=True):
        real = np.asarray(Image.open(source.images[0])).astype(np.float64)
        dim = np.rint(real * 0.5)
        expected = (dim - real.mean(axis=(0, 1))) / real.std(axis=(0, 1))
        np.testing.assert_allclose(case.alternatives[0].normalised(), np.moveaxis(expected, -1, 0), atol=1e-4)


def test_no_alternative_is_read_nor_even_looked_for_unless_they_are_asked_for(tmp_path):
    plain = volume_set(tmp_path / "data", 2)
    manifest = with_counterfactuals(plain, DOUBLED)
    for case in manifest.cases:
        if case.counterfactual_of is not None:
            case.images[0].unlink()
    prepared = prepare(tmp_path, manifest, plan_of(manifest))
    assert [case.alternatives for case in prepared.cases] == [(), ()]
    assert (prepared.built, prepared.reused, prepared.n_alternatives) == (2, 0, 0)
    with pytest.raises(DataError, match="case v0__doubled: "):
        prepare(tmp_path, manifest, plan_of(manifest), alternatives=True)


def test_unsound_alternatives_are_never_used(tmp_path):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 1), DOUBLED, sound="no")
    manifest.cases[1].images[0].unlink()
    manifest = with_counterfactuals(replace(manifest, cases=manifest.cases[:1]), UNCHANGED).cases + manifest.cases[1:]
    whole = replace(volume_set(tmp_path / "other", 1), cases=manifest)
    (case,) = prepare(tmp_path, whole, plan_of(whole), alternatives=True).cases
    assert [other.case_id for other in case.alternatives] == ["v0__same"]


def test_entries_are_shared_counted_and_kept_when_cases_are_chosen(tmp_path):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 2, unlabelled=1), DOUBLED | UNCHANGED)
    plan = plan_of(manifest)
    seen = []
    first = prepare(
        tmp_path, manifest, plan, alternatives=True, progress=lambda done, total: seen.append((done, total))
    )
    assert (first.built, first.reused, first.n_alternatives) == (9, 0, 6)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    again = prepare(tmp_path, manifest, plan, alternatives=True, workers=3)
    assert (again.built, again.reused) == (0, 9)
    for one, other in zip(first.cases, again.cases, strict=True):
        assert [each.case_id for each in one.alternatives] == [f"{one.case_id}__doubled", f"{one.case_id}__same"]
        assert [each.folder for each in one.alternatives] == [each.folder for each in other.alternatives]
    assert len(list((tmp_path / "cache" / "entries").iterdir())) == 9
    assert first.select(["v1"]).n_alternatives == 2
    assert first.labelled().n_alternatives == 4
    files = (path for path in (tmp_path / "cache" / "entries").rglob("*") if path.is_file())
    assert first.nbytes == sum(path.stat().st_size for path in files)


def test_the_key_of_an_alternative_holds_its_real_image(tmp_path):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 1), UNCHANGED)
    plan = plan_of(manifest)
    real, other = manifest.cases
    (first,) = prepare(tmp_path, manifest, plan, alternatives=True).cases
    assert first.folder != first.alternatives[0].folder  # though both images have the same content
    # other names are no other content
    renamed = (replace(real, case_id="x"), replace(other, case_id="y", counterfactual_of="x"))
    again = prepare(tmp_path, replace(manifest, cases=renamed), plan, alternatives=True)
    assert (again.built, again.cases[0].alternatives[0].folder) == (0, first.alternatives[0].folder)
    # another real image gives the same generated one another map, so an entry of its own
    values = 3 * read_image(real.images[0]).array[0].astype(np.int16)
    write_volume(real.images[0], values, (2.0, 1.0, 1.0))
    third = prepare(tmp_path, manifest, plan, alternatives=True)
    assert (third.built, third.reused) == (2, 0)
    expected = (values[None] / 3 - values.mean()) / values.std()
    np.testing.assert_allclose(third.cases[0].alternatives[0].normalised(), expected, atol=1e-4)
    # a changed alternative changes nothing else
    changed_copy(other.images[0], other.images[0], shift=1.0)
    assert prepare(tmp_path, manifest, plan, alternatives=True).built == 1


def test_a_damaged_alternative_is_made_again_and_noted(tmp_path):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 1), DOUBLED)
    plan = plan_of(manifest)
    (case,) = prepare(tmp_path, manifest, plan, alternatives=True).cases
    wanted = np.array(case.alternatives[0].image)
    (case.alternatives[0].folder / "image.npy").write_bytes(b"nothing")
    again = prepare(tmp_path, manifest, plan, alternatives=True)
    assert (again.built, again.reused) == (1, 1)
    assert again.notes[0].startswith("case v0__doubled: its cached preparation was made again")
    np.testing.assert_array_equal(again.cases[0].alternatives[0].image, wanted)


def test_what_cannot_stand_for_its_real_case_is_refused_with_both_names(tmp_path):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 1), UNCHANGED)
    real, other = manifest.cases
    plan = plan_of(manifest)
    values = read_image(real.images[0]).array[0]
    smaller = write_volume(tmp_path / "smaller.nii.gz", values[1:], (2.0, 1.0, 1.0))
    coarser = write_volume(tmp_path / "coarser.nii.gz", values, (4.0, 1.0, 1.0))
    for path, said in (
        (smaller, r"is .* but its real case v0 is"),
        (coarser, "lies up to 1[0-9.]+ voxels beside its real case v0"),
    ):
        wrong = replace(manifest, cases=(real, replace(other, images=(path,))))
        with pytest.raises(GeometryError, match=rf"case v0__same: {said}.*share one grid.*\[E-ALT-02\]"):
            prepare(tmp_path, wrong, plan, alternatives=True)
    pictures = with_counterfactuals(picture_set(tmp_path / "pictures", 1), UNCHANGED)
    flat = picture_plan_of(pictures)
    Image.fromarray(np.zeros((40, 48), np.uint16)).save(pictures.cases[1].images[0])
    with pytest.raises(DataError, match="case p0__same: is stored as uint16 but its real case p0 as uint8"):
        prepare(tmp_path, pictures, flat, alternatives=True)
    colour = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(colour).save(pictures.cases[1].images[0])
    with pytest.raises(PlanMismatch, match="case p0__same: image has 3 channels"):
        prepare(tmp_path, pictures, flat, alternatives=True)
    with pytest.raises(DataError, match="case v0__same: was generated from v0, so it is no case of its own"):
        Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["entries"]


def test_the_size_of_the_alternatives_counts_for_the_form(tmp_path, monkeypatch):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 2), DOUBLED | UNCHANGED)
    plan = plan_of(manifest)
    monkeypatch.setattr(compact, "is_available", lambda: False)
    voxels = sum(read_image(case.images[0]).array.size for case in manifest.real)
    enough = 2 * 3 * voxels  # for image and label map of the real ones: they may take half of the memory
    store = Store(tmp_path / "cache", memory_bytes=enough)
    assert store.prepare(manifest.real, manifest, plan).notes == ()
    assert len(store.prepare(manifest.real, manifest, plan, alternatives=True).notes) == 1
    with_all = Store(tmp_path / "cache", memory_bytes=2 * 7 * voxels)
    assert with_all.prepare(manifest.real, manifest, plan, alternatives=True).notes == ()


@pytest.mark.skipif(find_spec("blosc2") is None, reason="the extra `compact` (blosc2) is not installed")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_compressed_alternatives_give_the_samples_of_mapped_ones(tmp_path, dimensions):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 2), DOUBLED)
    plan = plan_of(manifest) if dimensions == 3 else slice_plan(manifest)
    forms = [
        Store(tmp_path / form, form=form).prepare(manifest.real, manifest, plan, alternatives=True)
        for form in ("map", "compact")
    ]
    assert {one.form for case in forms[1].cases for one in case.alternatives} == {"compact"}
    mapped, packed = (PatchDataset(prepared, plan, seed=0, samples_per_epoch=8) for prepared in forms)
    for position in range(8):
        assert_equal_samples(mapped.sample(0, position), packed.sample(0, position))


def test_two_processes_may_prepare_the_same_alternatives_at_once(tmp_path):
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from data.prepared_cases import plan_of, volume_set, with_counterfactuals
from scantling.data.store import Store
folder = Path(sys.argv[1])
manifest = with_counterfactuals(volume_set(folder / sys.argv[2], 3), {{"a": {{"factor": 2.0}}, "b": {{"shift": 9.0}}}})
done = Store(folder / "cache").prepare(manifest.real, manifest, plan_of(manifest), alternatives=True)
print(done.built + done.reused, *(one.folder.name for case in done.cases for one in case.alternatives))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert printed[0] == printed[1]
    assert printed[0].startswith("9 ")
    assert len(set(printed[0].split()[1:])) == 6
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["entries"]


def slice_plan(manifest):
    network = NetworkPlan(strides=((1, 1), (2, 2)), kernels=((3, 3),) * 2, features=(4, 8))
    return plan_of(manifest, dimensions=2, patch_size=(16, 32), network=network)


def assert_equal_samples(one, other, *, but: str = ""):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name != but:
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


@pytest.mark.parametrize("dimensions", [2, 3])
def test_alternatives_are_cut_by_the_window_of_their_image_and_change_nothing_else(tmp_path, dimensions):
    changes = DOUBLED | {"shifted": {"shift": 7.0}}
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 3, unlabelled=1), changes)
    of_two = tuple(case for case in manifest.cases if case.counterfactual_of != "v1")
    manifest = replace(manifest, cases=of_two)
    plan = plan_of(manifest, patch_size=(16, 24, 16)) if dimensions == 3 else slice_plan(manifest)
    asked, without = (
        PatchDataset(
            prepare(tmp_path, manifest, plan, alternatives=alternatives),
            plan, seed=3, samples_per_epoch=24, include_unlabelled=True,
        )
        for alternatives in (True, False)
    )  # fmt: skip
    cut_off = 0
    for position in range(24):
        sample, plain = asked.sample(1, position), without.sample(1, position)
        assert_equal_samples(sample, plain, but="alternatives")
        assert plain.alternatives is None
        case = asked.cases[sample.case_index]
        if case.case_id == "v1":
            assert sample.alternatives is None
            continue
        inside = sample.weight > 0
        cut_off += int((~inside).sum())
        assert sample.alternatives.shape == (2, *sample.image.shape)
        assert (sample.alternatives[:, 0, ~inside] == 0).all()
        image, (doubled, shifted) = sample.image[0, inside], sample.alternatives[:, 0, inside]
        scale, offset = case.scale[0], case.offset[0]
        torch.testing.assert_close(doubled, 2 * image + 40 * scale - offset, atol=1e-3, rtol=0)
        torch.testing.assert_close(shifted, image + 7 * scale, atol=1e-3, rtol=0)
    assert cut_off > 0


def test_a_case_without_alternatives_costs_no_read_more_than_before(tmp_path, monkeypatch):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 2), DOUBLED)
    plan = plan_of(manifest)
    opened = []
    read = store_entry._open
    monkeypatch.setattr(
        store_entry, "_open", lambda folder, name, form: opened.append(name) or read(folder, name, form)
    )
    for alternatives, images in ((False, 1), (True, 2)):
        prepared = prepare(tmp_path, manifest, plan, alternatives=alternatives)
        dataset = PatchDataset(prepared, plan, seed=0, foreground_fraction=0.0)
        opened.clear()
        dataset.sample(0, 0)
        assert sorted(opened) == ["image"] * images + ["label"]


def test_worker_processes_give_the_alternatives_of_this_process_and_are_sent_no_voxels(tmp_path):
    manifest = with_counterfactuals(volume_set(tmp_path / "data", 3), DOUBLED | UNCHANGED)
    plan = plan_of(manifest)
    prepared = prepare(tmp_path, manifest, plan, alternatives=True)
    dataset = PatchDataset(prepared, plan, seed=0, samples_per_epoch=8)
    alone = PatchDataset(prepare(tmp_path, manifest, plan), plan, seed=0, samples_per_epoch=8)
    more = len(pickle.dumps(dataset)) - len(pickle.dumps(alone))
    assert 0 < more < 600 * prepared.n_alternatives
    assert_equal_samples(pickle.loads(pickle.dumps(dataset)).sample(0, 3), dataset.sample(0, 3))
    steps = StepSamples(dataset, 4, steps_per_epoch=2)
    here, there = (batches(steps, start=0, workers=workers) for workers in (0, 2))
    try:
        for _ in range(3):
            for one, other in zip(next(here), next(there), strict=True):
                assert one.alternatives is not None
                assert_equal_samples(one, other)
    finally:
        here.close()
        there.close()


def test_a_row_that_names_no_case_of_the_set_is_left_alone(tmp_path):
    manifest = volume_set(tmp_path / "data", 1)
    stray = Case(case_id="stray", images=(tmp_path / "absent.nii.gz",), counterfactual_of="nobody")
    manifest = replace(manifest, cases=(*manifest.cases, stray))
    assert prepare(tmp_path, manifest, plan_of(manifest), alternatives=True).n_alternatives == 0
