from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from data.prepared_cases import nested_labels, picture_set, volume_set, write_volume
from scantling.data.case import Annotation, Case
from scantling.data.case_facts import label_ceiling
from scantling.data.fingerprint import Fingerprint, fingerprint
from scantling.data.image_io import read_image, read_label
from scantling.errors import DataError


def test_sizes_spacings_and_structures_are_those_of_the_files(tmp_path):
    manifest = volume_set(tmp_path, 5, unlabelled=1)
    facts = fingerprint(manifest, manifest.cases)
    shapes = [read_image(case.images[0]).geometry.shape for case in manifest.cases]
    assert facts.shapes == tuple(shapes)
    assert facts.median_spacing_mm == (2.0, 1.0, 1.0)
    assert facts.median_shape == tuple(np.median(shapes, axis=0))
    assert (facts.cases, facts.labelled, facts.anisotropy, facts.axis_order) == (6, 5, 2.0, (0, 1, 2))
    labels = [read_label(case.annotations[0].path)[0] for case in manifest.cases[:5]]
    for k, of_class in enumerate(facts.classes, start=1):
        counts = [(label == k).sum() for label in labels]
        assert of_class.cases == 5
        assert of_class.volume_mm == np.median(counts) * 2.0
        assert of_class.voxel_fraction == pytest.approx(sum(counts) / sum(label.size for label in labels))
        boxes = [scipy.ndimage.find_objects((label == k).astype(np.int8))[0] for label in labels]
        sides = [[(b.stop - b.start) * mm for b, mm in zip(box, (2, 1, 1), strict=True)] for box in boxes]
        assert of_class.extent_mm == tuple(np.median(sides, axis=0))


def test_intensities_are_those_of_all_voxels_and_of_the_labelled_ones(tmp_path):
    manifest = volume_set(tmp_path, 3)
    (channel,) = fingerprint(manifest, manifest.cases).channels
    images = [read_image(case.images[0]).array[0] for case in manifest.cases]
    labels = [read_label(case.annotations[0].path)[0] for case in manifest.cases]
    everything = np.concatenate([image.ravel() for image in images]).astype(float)
    inside = np.concatenate([image[label > 0] for image, label in zip(images, labels, strict=True)]).astype(float)
    assert channel.integer
    assert (channel.minimum, channel.maximum) == (everything.min(), everything.max())
    assert channel.mean == pytest.approx(everything.mean())  # fewer than 10,000 voxels: nothing is drawn
    assert channel.std == pytest.approx(everything.std())
    assert channel.foreground_mean == pytest.approx(inside.mean())
    assert channel.foreground_percentile_99_5 == pytest.approx(np.percentile(inside, 99.5))
    assert channel.zero_fraction == 0.0


def test_the_coarsest_axis_comes_first(tmp_path):
    cases = []
    for i in range(3):
        path = write_volume(tmp_path / f"{i}.nii.gz", np.ones((20, 9, 24), np.int16), (1.0, 5.0, 1.0))
        cases.append(Case(case_id=str(i), images=(path,)))
    manifest = replace(volume_set(tmp_path / "other", 1), cases=tuple(cases))
    facts = fingerprint(manifest, manifest.cases)
    assert facts.axis_order == (1, 0, 2)
    assert facts.median_shape == (9.0, 20.0, 24.0)
    assert facts.median_spacing_mm == (5.0, 1.0, 1.0)
    assert facts.label_ceiling == ()
    assert facts.foreground_extent_mm == ()


def test_at_most_the_asked_number_is_measured_drawn_by_the_seed_with_some_unlabelled(tmp_path):
    manifest = volume_set(tmp_path, 8, unlabelled=6, shape=(4, 8, 8), radius=3.0)
    first = fingerprint(manifest, manifest.cases, max_cases=8)
    assert len(first.measured) == 8
    assert sum(name in {f"v{i}" for i in range(8)} for name in first.measured) == 6
    assert fingerprint(manifest, manifest.cases, max_cases=8) == first
    assert fingerprint(manifest, manifest.cases, max_cases=8, seed=1).measured != first.measured
    assert len(fingerprint(manifest, manifest.cases, max_cases=99).measured) == 14


def test_it_survives_json(tmp_path):
    manifest = picture_set(tmp_path, 2, colour=True)
    facts = fingerprint(manifest, manifest.cases)
    assert len(facts.channels) == 3
    assert not facts.spacing_known
    assert Fingerprint.parse(json.loads(facts.model_dump_json()), where="test") == facts


def test_the_label_ceiling_falls_with_the_factor_and_is_high_for_large_and_low_for_thin_structures():
    ball = nested_labels((64, 64), (32, 32), 24.0).astype(np.int8)
    lines = np.zeros((64, 64), dtype=np.int8)
    lines[:, ::8] = 1
    large, thin = label_ceiling(ball, (1.0, 1.0)), label_ceiling(lines, (1.0, 1.0))
    assert list(large) == [1.25, 1.5, 2.0, 2.5, 3.0]
    assert large[1.5] > 0.97
    assert thin[3.0] < 0.3
    assert thin[3.0] <= thin[2.0] <= thin[1.25] < large[1.25]


def test_the_label_ceiling_is_the_dice_of_shrunk_and_grown_masks():
    """One class: Pillow shrinks its mask, scipy lets it grow again, half is the limit each time."""
    rng = np.random.default_rng(0)
    mask = scipy.ndimage.gaussian_filter(rng.normal(size=(50, 70)), 3) > 0
    mask[:8] = mask[-8:] = mask[:, :8] = mask[:, -8:] = False
    (box,) = scipy.ndimage.find_objects(mask.astype(np.int8))
    crop = mask[tuple(slice(b.start - 8, b.stop + 8) for b in box)]
    measured = label_ceiling(mask.astype(np.int8), (1.0, 1.0))
    for factor, dice in measured.items():
        shape = [round(n / factor) for n in crop.shape]
        shrunk = Image.fromarray(crop.astype(np.float32)).resize(shape[::-1], Image.Resampling.BILINEAR)
        small = (np.asarray(shrunk) > 0.5).astype(float)
        zoom = [n / m for n, m in zip(crop.shape, shape, strict=True)]
        back = scipy.ndimage.zoom(small, zoom, order=1, grid_mode=True, mode="nearest") > 0.5 + 1e-6
        assert dice == pytest.approx(2 * (back & crop).sum() / (back.sum() + crop.sum()), abs=1e-3)
    assert measured[3.0] < 0.95


def test_thick_slices_are_not_made_coarser_for_the_ceiling_and_unknown_voxels_are_not_counted():
    labels = nested_labels((6, 40, 40), (3, 20, 20), 14.0).astype(np.int8)
    per_slice = label_ceiling(labels, (10.0, 1.0, 1.0))
    assert label_ceiling(labels, (1.0, 1.0, 1.0))[3.0] < per_slice[3.0]
    labels[:, 20:] = -1
    assert 0.9 < label_ceiling(labels, (10.0, 1.0, 1.0))[1.25] <= 1.0


def test_scribbles_give_no_ceiling_but_intensities(tmp_path):
    manifest = volume_set(tmp_path, 1)
    labels, _ = read_label(manifest.cases[0].annotations[0].path)
    scribble = np.full(labels.shape, 9, np.uint8)
    scribble[5] = labels[5]
    path = write_volume(tmp_path / "scribble.nii.gz", scribble, (2.0, 1.0, 1.0))
    case = replace(manifest.cases[0], annotations=(Annotation(path=path, kind="scribble"),))
    facts = fingerprint(manifest, [case], ("scribble",))
    assert facts.label_ceiling == ()
    assert facts.channels[0].foreground_mean is not None
    assert facts.labelled == 1


def test_mixed_data_sets_and_unreadable_files_are_refused_by_name(tmp_path):
    volumes = volume_set(tmp_path / "v", 1)
    grey, colour = picture_set(tmp_path / "g", 1), picture_set(tmp_path / "c", 1, colour=True)
    with pytest.raises(DataError, match="pictures and volumes cannot be mixed"):
        fingerprint(volumes, (*volumes.cases, *grey.cases))
    with pytest.raises(DataError, match="images have 1 and 3 channels"):
        fingerprint(grey, (*grey.cases, replace(colour.cases[0], case_id="c")))
    with pytest.raises(DataError, match="there is no case to measure"):
        fingerprint(grey, ())
    broken = tmp_path / "broken.png"
    broken.write_bytes(grey.cases[0].images[0].read_bytes()[:200])
    with pytest.raises(DataError, match=r"broken\.png"):
        fingerprint(grey, [replace(grey.cases[0], images=(broken,))])
