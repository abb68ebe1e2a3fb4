from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import fields, replace

import nibabel as nib
import numpy as np
import pytest
import torch

from data.prepared_cases import picture_plan_of, picture_set, plan_of, volume_set, write_volume
from scantling.data.case import Annotation
from scantling.data.dataset import PatchDataset
from scantling.data.image_io import read_label
from scantling.data.plan import IntensityPlan
from scantling.data.store import Store
from scantling.errors import DataError
from scantling.shapes import IGNORE
from scantling.training.batches import StepSamples, batches


def prepared_volumes(tmp_path, **settings):
    manifest = volume_set(tmp_path / "data", **settings)
    plan = plan_of(manifest)
    return Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan), plan


def equal(first, second):
    for field in fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, torch.Tensor):
            if not torch.equal(a, b):
                return False
        elif a != b:
            return False
    return True


def test_a_sample_depends_on_seed_epoch_and_position_and_on_nothing_else(tmp_path):
    prepared, plan = prepared_volumes(tmp_path)
    one = PatchDataset(prepared, plan, seed=3, samples_per_epoch=20)
    other = PatchDataset(prepared, plan, seed=3, samples_per_epoch=99)
    wanted = [one.sample(2, position) for position in range(10)]
    for position in reversed(range(10)):
        assert equal(other.sample(2, position), wanted[position])
        assert equal(pickle.loads(pickle.dumps(one))[2, position], wanted[position])
    elsewhere = [
        PatchDataset(prepared, plan, seed=4, samples_per_epoch=20).sample(2, 0),
        one.sample(3, 0),
        one.sample(2, 4),
    ]
    assert not any(equal(sample, wanted[0]) for sample in elsewhere)


@pytest.mark.parametrize("start", [0, 5])
def test_two_workers_give_the_samples_of_none_across_epochs(tmp_path, start):
    prepared, plan = prepared_volumes(tmp_path)
    steps = StepSamples(PatchDataset(prepared, plan, seed=0, samples_per_epoch=12), 4, steps_per_epoch=3)
    here, there = (batches(steps, start=start, workers=workers) for workers in (0, 2))
    for step in range(start, start + 5):
        first, second = next(here), next(there)
        assert all(equal(a, b) for a, b in zip(first, second, strict=True))
        assert first[0].key == (step // 3, 4 * (step % 3))


def test_each_round_through_the_cases_draws_every_case_once_in_changing_order(tmp_path):
    prepared, plan = prepared_volumes(tmp_path, n=5)
    dataset = PatchDataset(prepared, plan, seed=0, samples_per_epoch=15)
    orders = set()
    for epoch in range(4):
        cases = [dataset.sample(epoch, position).case_index for position in range(15)]
        for round_ in (cases[:5], cases[5:10], cases[10:]):
            assert sorted(round_) == [0, 1, 2, 3, 4]
            orders.add(tuple(round_))
    assert len(orders) > 6
    assert len(dataset) == 15
    assert len(PatchDataset(prepared, plan, seed=0)) == 5


def test_every_voxel_of_a_crop_is_found_again_through_its_matrix_and_outside_is_empty(tmp_path):
    prepared, plan = prepared_volumes(tmp_path)
    dataset = PatchDataset(prepared, plan, seed=1, samples_per_epoch=40, margin=2.0)
    outside_seen = 0
    for position in range(40):
        sample = dataset.sample(0, position)
        case = prepared.cases[sample.case_index]
        assert tuple(sample.label_map.shape) == (16, 32, 32)
        assert sample.spacing_mm == case.grid.spacing_mm == (2.0, 1.0, 1.0)
        voxels = np.stack(np.meshgrid(*map(np.arange, (16, 32, 32)), indexing="ij"), axis=-1).reshape(-1, 3)
        mm = np.concatenate([voxels * sample.spacing_mm, np.ones((len(voxels), 1))], axis=1)
        source = np.rint((mm @ sample.source_from_sample.numpy().T)[:, :3] / case.grid.spacing_mm).astype(int)
        inside = ((source >= 0) & (source < case.grid.shape)).all(axis=1)
        at = tuple(source[inside].T)
        np.testing.assert_array_equal(sample.image.numpy().reshape(1, -1)[0, inside], case.normalised()[0][at])
        np.testing.assert_array_equal(sample.label_map.numpy().ravel()[inside], case.labels[at])
        np.testing.assert_array_equal(sample.weight.numpy().ravel(), inside.astype(np.float32))
        assert (sample.image.numpy().ravel()[~inside] == 0).all()
        assert (sample.label_map.numpy().ravel()[~inside] == IGNORE).all()
        outside_seen += int((~inside).sum())
    assert outside_seen > 0


def test_the_patch_lies_inside_a_larger_image_and_holds_all_of_a_smaller_one(tmp_path):
    prepared, plan = prepared_volumes(tmp_path)
    dataset = PatchDataset(prepared, plan, seed=0, samples_per_epoch=30, margin=1.5)
    for position in range(30):
        weight = dataset.sample(0, position).weight
        assert tuple(weight.shape) == (12, 24, 24)
        assert weight[2:10, 4:20, 4:20].min() == 1.0
    large = plan.model_copy(update={"patch_size": (16, 32, 32)})
    dataset = PatchDataset(prepared, large, seed=0, samples_per_epoch=30, margin=1.0)
    places = set()
    for position in range(30):
        sample = dataset.sample(0, position)
        case = prepared.cases[sample.case_index]
        assert sample.weight.sum() == np.prod(case.grid.shape)
        places.add(tuple(sample.source_from_sample[:3, 3].tolist()))
    assert len(places) > 10


def test_the_foreground_fraction_centres_patches_on_classes_drawn_evenly(tmp_path):
    prepared, plan = prepared_volumes(tmp_path, shape=(30, 40, 40), radius=5.0)
    small = plan.model_copy(update={"patch_size": (2, 2, 2)})

    def centres(fraction):
        dataset = PatchDataset(prepared, small, seed=0, samples_per_epoch=300, margin=1.0, foreground_fraction=fraction)
        return Counter(int(dataset.sample(0, position).label_map[1, 1, 1]) for position in range(300))

    always = centres(1.0)
    assert always[0] == 0
    assert 110 < always[1] < 190  # evenly, although the shell is seven times as large as the core
    third = centres(0.33)
    assert 70 < third[1] + third[2] < 140
    assert centres(0.0)[1] < 20


def test_a_2d_plan_cuts_slices_of_volumes_and_knows_where_they_lay(tmp_path):
    manifest = volume_set(tmp_path / "data", 3)
    plan = plan_of(manifest, dimensions=2, spacing_mm=(None, 1.0, 1.0), patch_size=(16, 16))
    prepared = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan)
    dataset = PatchDataset(prepared, plan, seed=0, samples_per_epoch=60, margin=1.0)
    slices = set()
    for position in range(60):
        sample = dataset.sample(0, position)
        case = prepared.cases[sample.case_index]
        index = round(sample.slice_position * case.grid.shape[0] - 0.5)
        y, x = (round(mm) for mm in sample.source_from_sample[:2, 2].tolist())
        np.testing.assert_array_equal(sample.label_map, case.labels[index, y : y + 16, x : x + 16])
        np.testing.assert_array_equal(sample.image[0], case.normalised()[0, index, y : y + 16, x : x + 16])
        assert sample.spacing_mm == (1.0, 1.0)
        assert sample.source_from_sample.shape == (3, 3)
        slices.add(index)
    assert len(slices) > 8


def test_sparse_slices_are_the_only_ones_drawn(tmp_path):
    manifest = volume_set(tmp_path / "data", 1)
    labels, _ = read_label(manifest.cases[0].annotations[0].path)
    sparse = np.full(labels.shape, 9, dtype=np.uint8)
    sparse[[0, 7]] = labels[[0, 7]]
    path = write_volume(tmp_path / "sparse.nii.gz", sparse, (2.0, 1.0, 1.0))
    case = replace(manifest.cases[0], annotations=(Annotation(path=path, kind="slices", weight=0.5),))
    plan = plan_of(manifest, dimensions=2, spacing_mm=(None, 1.0, 1.0), patch_size=(16, 16), label_kinds=("slices",))
    prepared = Store(tmp_path / "cache").prepare([case], manifest, plan)
    dataset = PatchDataset(prepared, plan, seed=0, samples_per_epoch=40, margin=1.0)
    drawn = [dataset.sample(0, position) for position in range(40)]
    assert {round(s.slice_position * labels.shape[0] - 0.5) for s in drawn} == {0, 7}
    assert all((s.label_map != IGNORE).all() and s.weight.max() == 0.5 for s in drawn)


def test_unlabelled_cases_come_only_when_asked_for_and_know_nothing(tmp_path):
    prepared, plan = prepared_volumes(tmp_path, n=2, unlabelled=3)
    labelled = PatchDataset(prepared, plan, seed=0, samples_per_epoch=20)
    assert {labelled.sample(0, position).case_index for position in range(20)} == {0, 1}
    everything = PatchDataset(prepared, plan, seed=0, samples_per_epoch=20, include_unlabelled=True)
    samples = [everything.sample(0, position) for position in range(20)]
    assert {sample.case_index for sample in samples} == {0, 1, 2, 3, 4}
    assert {sample.patient_index for sample in samples} == {0, 1, 2}
    for sample in samples:
        if sample.case_index >= 2:
            assert (sample.label_map == IGNORE).all()
            assert not sample.annotated.any()
            assert sample.weight.max() == 1.0
        else:
            assert sample.annotated.all()


def test_pictures_smaller_than_the_patch_in_colour_are_cut_in_two_dimensions(tmp_path):
    manifest = picture_set(tmp_path / "data", 2, shape=(20, 50))
    plan = picture_plan_of(manifest)
    prepared = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan)
    dataset = PatchDataset(prepared, plan, seed=0, samples_per_epoch=4)
    for position in range(4):
        sample = dataset.sample(0, position)
        assert tuple(sample.image.shape) == (1, 40, 40)
        assert sample.slice_position == 0.5
        assert torch.isfinite(sample.image).all()
        assert (sample.weight.sum(dim=0) > 0).sum() >= 32


def test_nothing_to_draw_and_impossible_settings_are_refused(tmp_path):
    prepared, plan = prepared_volumes(tmp_path, n=0, unlabelled=1)
    with pytest.raises(DataError, match="no training case has a label of kind full"):
        PatchDataset(prepared, plan, seed=0)
    assert PatchDataset(prepared, plan, seed=0, include_unlabelled=True).sample(0, 0).case_index == 0
    for wrong in ({"margin": 0.5}, {"foreground_fraction": 1.5}, {"samples_per_epoch": 0}):
        with pytest.raises(ValueError, match="margin"):
            PatchDataset(prepared, plan, seed=0, include_unlabelled=True, **wrong)


def odd_volumes():
    """Every oddity of a file that must train, or be refused by name."""
    rng = np.random.default_rng(0)
    plain = rng.normal(300, 50, size=(12, 20, 24)).astype(np.float32)
    odd = {name: plain.copy() for name in ("nan", "infinite", "outlier", "constant")}
    odd["nan"][2, 3, 4] = np.nan
    odd["infinite"][1, 1, 1], odd["infinite"][0, 0, 0] = np.inf, -np.inf
    odd["outlier"][5, 5, 5] = 1e30
    odd["constant"][...] = 3.25
    odd["all nan"] = np.full_like(plain, np.nan)
    odd["uint16"] = (plain * 100).astype(np.uint16)
    odd["one slice"] = plain[:1]
    odd["one voxel"] = plain[:1, :1, :1]
    odd["smaller than the patch"] = plain[:3, :5, :4]
    return odd


@pytest.mark.parametrize("scheme", ["zscore", "percentile"])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", sorted(odd_volumes()))
def test_an_odd_volume_gives_finite_samples_of_the_usual_shape(tmp_path, name, dimensions, scheme):
    manifest = volume_set(tmp_path / "data", 1)
    volume = odd_volumes()[name]
    image = write_volume(tmp_path / "odd.nii.gz", volume, (2.0, 1.0, 1.0))
    label = write_volume(tmp_path / "odd_seg.nii.gz", np.zeros(volume.shape, np.uint8), (2.0, 1.0, 1.0))
    annotation = Annotation(path=label, kind="full")
    case = replace(manifest.cases[0], images=(image,), annotations=(annotation,))
    patch = (8, 16, 16)[3 - dimensions :]
    for spacing in ((2.0, 1.0, 1.0), (1.1, 0.7, 1.9)):
        plan = plan_of(
            manifest,
            dimensions=dimensions,
            spacing_mm=(None, *spacing[1:]) if dimensions == 2 else spacing,
            patch_size=patch,
            intensities=(IntensityPlan(scheme=scheme),),
        )
        prepared = Store(tmp_path / "cache").prepare([case], manifest, plan)
        dataset = PatchDataset(prepared, plan, seed=0, samples_per_epoch=3)
        for position in range(3):
            sample = dataset.sample(0, position)
            assert tuple(sample.image.shape) == (1, *dataset.crop_size)
            assert torch.isfinite(sample.image).all()
            assert sample.image.abs().max() < 100
            assert (sample.weight > 0).any()


def test_a_volume_of_several_time_points_is_refused_by_name(tmp_path):
    manifest = volume_set(tmp_path / "data", 1)
    path = tmp_path / "data" / "time.nii.gz"
    nib.Nifti1Image(np.zeros((24, 20, 12, 3), np.int16), np.eye(4)).to_filename(path)
    case = replace(manifest.cases[0], case_id="beating", images=(path,))
    with pytest.raises(DataError, match=r"^case beating: "):
        Store(tmp_path / "cache").prepare([case], manifest, plan_of(manifest))
