"""What a predictor says lies on the image's own grid; the oracle is NumPy on the file's own voxels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
import torch

from scantling.data.case import Case
from scantling.data.image_io import read_image
from scantling.data.plan import Plan
from scantling.errors import GeometryError, PlanMismatch, ResourceError
from scantling.inference.device import resolve_device
from scantling.inference.postprocess import Removal
from scantling.inference.predict import predict_cases
from scantling.inference.predictor import Predictor, normalised_entropy

ORIENTATIONS = ("RAS", "LPS", "PIR", "ASL")
Make = Callable[..., Plan]
Above = Callable[[Plan], Predictor]
Write = Callable[..., Path]


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(np.int16)


def z_scored(voxels: np.ndarray) -> np.ndarray:
    values = voxels.astype(np.float64)
    return (values - values.mean()) / values.std()


@pytest.mark.parametrize("axes", ORIENTATIONS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_label_file_has_the_voxels_and_the_geometry_of_its_image_in_any_orientation(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write, axes: str, dimensions: int
) -> None:
    voxels = noise((13, 9, 11))
    source = write_nifti(tmp_path / "in" / "case.nii.gz", voxels, axes=axes)
    predictor = above_mean(make_plan(3, dimensions))
    run = predict_cases(
        predictor,
        [Case(case_id="case", images=(source,))],
        tmp_path / "out",
        probabilities=True,
        uncertainty=True,
    )
    assert run.failures == {}
    image, label = nibabel.load(source), nibabel.load(run.paths[0])
    z = z_scored(voxels)
    assert np.array_equal(np.asarray(label.dataobj), np.where(z > 0, 7, 0))
    assert np.array_equal(label.affine, image.affine)
    for name in (
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "srow_x",
    ):
        assert np.array_equal(label.header[name], image.header[name])
    bright = 1 / (1 + np.exp(-z))
    probs = np.asarray(nibabel.load(tmp_path / "out" / "probabilities" / "case.nii.gz").dataobj)
    np.testing.assert_allclose(probs.squeeze()[..., 1], bright, atol=1e-4)
    np.testing.assert_allclose(probs.sum(axis=-1), 1, atol=1e-5)
    entropy = np.asarray(nibabel.load(tmp_path / "out" / "uncertainty" / "case.nii.gz").dataobj)
    wanted = -(bright * np.log2(bright) + (1 - bright) * np.log2(1 - bright))
    np.testing.assert_allclose(entropy, wanted, atol=1e-4)


def test_a_picture_gets_a_picture_of_stored_values(tmp_path: Path, make_plan: Make, above_mean: Above) -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 255, (21, 17)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "ray.png")
    run = predict_cases(
        above_mean(make_plan(2, 2)), [Case(case_id="ray", images=(tmp_path / "ray.png",))], tmp_path / "out"
    )
    assert [path.name for path in run.paths] == ["ray.png"]
    assert np.array_equal(np.asarray(Image.open(run.paths[0])), np.where(z_scored(pixels) > 0, 7, 0))


def smooth_volume(shape: tuple[int, ...]) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (1000 * np.exp(-2 * sum(axis**2 for axis in axes))).astype(np.int16)


def test_a_resampled_prediction_comes_back_on_its_own_grid_by_interpolated_probabilities(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write
) -> None:
    voxels = smooth_volume((24, 20, 22))
    image = read_image(write_nifti(tmp_path / "a.nii.gz", voxels, axes="LPS", spacing=(1.0, 1.0, 1.0)))
    predictor = above_mean(make_plan(3, 3, spacing_mm=(1.7, 1.7, 1.7)))
    prediction = predictor.predict([image], probabilities=True, uncertainty=True)
    assert prediction.label_map.shape == image.geometry.shape
    assert prediction.probs is not None
    assert prediction.entropy is not None
    assert prediction.probs.shape == (2, *image.geometry.shape)
    assert np.array_equal(prediction.label_map, prediction.probs.argmax(0))
    np.testing.assert_allclose(prediction.probs.sum(0), 1, atol=1e-5)
    assert 0 <= prediction.entropy.min() <= prediction.entropy.max() <= 1
    # where the bump's level set lies: the mean of a coarser copy is nearly its own
    bump = image.array[0].astype(float)
    truth = bump > bump.mean()
    both = np.logical_and(prediction.label_map == 1, truth).sum()
    assert 2 * both / (truth.sum() + prediction.label_map.sum()) > 0.97


def test_mirrored_copies_change_nothing_for_a_network_that_has_no_direction(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write
) -> None:
    image = read_image(write_nifti(tmp_path / "a.nii.gz", noise((9, 9, 9))))
    predictor = above_mean(make_plan(3, 3))
    calls: list[int] = []
    predictor.network.register_forward_hook(lambda *_: calls.append(1))
    plain = predictor.predict([image])
    once = len(calls)
    mirrored = predictor.predict([image], tta=True)
    assert len(calls) - once == 8 * once
    assert np.array_equal(plain.label_map, mirrored.label_map)


def test_mirroring_that_was_asked_for_but_never_trained_is_left_out_and_said(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write
) -> None:
    image = read_image(write_nifti(tmp_path / "a.nii.gz", noise((9, 9, 9))))
    prediction = above_mean(make_plan(3, 3, mirror_axes=())).predict([image], tta=True)
    assert any("mirrored no axis" in note for note in prediction.notes)


def test_removed_components_are_reported(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write
) -> None:
    voxels = np.zeros((12, 10, 8), dtype=np.int16)
    voxels[1:6, 1:6, 1:6] = 100
    voxels[8:10, 8, 3] = 100
    image = read_image(write_nifti(tmp_path / "a.nii.gz", voxels))
    predictor = above_mean(make_plan(3, 3))
    assert predictor.predict([image]).label_map.sum() == 127
    prediction = predictor.predict([image], largest_component=True)
    assert prediction.label_map.sum() == 125
    assert prediction.stored.max() == 7
    assert prediction.removals == (Removal(class_name="bright", components=1, voxels=2),)


def test_two_channels_are_both_seen_and_one_too_few_is_refused_naming_both_numbers(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write
) -> None:
    first, second = noise((9, 9, 9), 1), noise((9, 9, 9), 2)
    images = [
        read_image(write_nifti(tmp_path / f"{name}.nii.gz", voxels)) for name, voxels in (("a", first), ("b", second))
    ]
    predictor = above_mean(make_plan(3, 3, channels=("T1", "T2")))
    prediction = predictor.predict(images)
    wanted = np.logical_and(z_scored(first) > 0, z_scored(second) > 0)
    assert np.array_equal(prediction.label_map.transpose(), wanted)
    with pytest.raises(PlanMismatch, match="1 channels, the plan is for 2"):
        predictor.predict(images[:1])
    small = read_image(write_nifti(tmp_path / "c.nii.gz", noise((8, 9, 9))))
    with pytest.raises(GeometryError, match="share one grid"):
        predictor.predict([images[0], small])


def test_a_picture_is_refused_by_a_model_of_volumes(tmp_path: Path, make_plan: Make, above_mean: Above) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(PlanMismatch, match="2 spatial axes"):
        above_mean(make_plan(3, 3)).predict([read_image(tmp_path / "a.png")])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_an_image_with_a_voxel_that_is_no_number_is_predicted_finitely_and_says_so(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write, value: float
) -> None:
    voxels = noise((9, 9, 9)).astype(np.float32)
    voxels[4, 4, 4] = value
    image = read_image(write_nifti(tmp_path / "a.nii.gz", voxels))
    prediction = above_mean(make_plan(3, 3)).predict([image], probabilities=True, uncertainty=True)
    assert prediction.probs is not None
    assert prediction.entropy is not None
    assert np.isfinite(prediction.probs).all()
    assert np.isfinite(prediction.entropy).all()
    assert 0 < prediction.label_map.mean() < 1
    assert any("NaN or infinite" in note for note in prediction.notes) == (not np.isfinite(value))


def test_a_constant_image_is_predicted(tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write) -> None:
    image = read_image(write_nifti(tmp_path / "a.nii.gz", np.full((9, 9, 9), 5, dtype=np.int16)))
    prediction = above_mean(make_plan(3, 3)).predict([image], uncertainty=True)
    assert not prediction.label_map.any()
    assert prediction.entropy is not None
    np.testing.assert_allclose(prediction.entropy, 1, atol=1e-5)


def test_a_saved_prediction_is_read_back_as_it_was(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write
) -> None:
    image = read_image(write_nifti(tmp_path / "a.nii.gz", noise((9, 8, 7)), axes="PIR"))
    prediction = above_mean(make_plan(3, 2)).predict([image])
    prediction.save(tmp_path / "b.nii.gz")
    assert np.array_equal(read_image(tmp_path / "b.nii.gz").array[0], prediction.stored)


def test_entropy_is_zero_for_certainty_and_one_for_none() -> None:
    probs = torch.tensor([[1.0, 0.25, 0.5], [0.0, 0.25, 0.5], [0.0, 0.25, 0.0], [0.0, 0.25, 0.0]])
    torch.testing.assert_close(normalised_entropy(probs), torch.tensor([0.0, 1.0, 0.5]))


def test_memory_that_does_not_suffice_is_said_in_one_sentence(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    image = read_image(write_nifti(tmp_path / "a.nii.gz", noise((9, 8, 7))))
    predictor = above_mean(make_plan(3, 3))
    predictor.network.register_forward_pre_hook(full)
    with pytest.raises(ResourceError, match="7 x 8 x 9: the memory of cpu does not suffice"):
        predictor.predict([image])


def test_auto_is_a_device_of_this_machine() -> None:
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.slow
def test_a_thousand_predictions_leave_memory_and_open_files_as_they_were(
    tmp_path: Path, make_plan: Make, above_mean: Above, write_nifti: Write
) -> None:
    source = write_nifti(tmp_path / "a.nii.gz", noise((32, 32, 24)))
    predictor, process = above_mean(make_plan(3, 3, patch_size=(24, 24, 24))), psutil.Process()
    for _ in range(50):
        predictor.predict([read_image(source)], uncertainty=True)
    resident, files = process.memory_info().rss, process.num_fds()
    for _ in range(1000):
        predictor.predict([read_image(source)], uncertainty=True)
    assert process.memory_info().rss < 1.05 * resident
    assert process.num_fds() == files
