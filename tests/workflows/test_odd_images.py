"""Odd but legal images train and predict, or are refused by name; no loss is ever NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import scantling
from scantling.files import read_json
from scantling.seeding import numpy_generator
from scantling.training.run_folder import RunFolder

Volume = Callable[[np.random.Generator], np.ndarray]


def smooth(rng: np.random.Generator, shape: tuple[int, ...] = (20, 22, 18)) -> np.ndarray:
    image = rng.normal(100, 10, shape)
    image[tuple(slice(n // 4, n // 2) for n in shape)] += 80
    return image


def with_nan(rng: np.random.Generator) -> np.ndarray:
    image = smooth(rng)
    image[:3], image[-1, -1, -1] = np.nan, np.inf
    return image


def with_outlier(rng: np.random.Generator) -> np.ndarray:
    image = smooth(rng)
    image[2, 3, 4], image[5, 5, 5] = 1e30, -1e30
    return image


VOLUMES: dict[str, tuple[Volume, tuple[float, float, float]]] = {
    "nan and infinite voxels": (with_nan, (1.0, 1.0, 1.0)),
    "constant": (lambda rng: np.full((20, 22, 18), float(rng.integers(5, 500))), (1.0, 1.0, 1.0)),
    "outliers of 1e30": (with_outlier, (1.0, 1.0, 1.0)),
    "one slice": (lambda rng: smooth(rng, (40, 44, 1)), (1.0, 1.0, 5.0)),
    "ten to one anisotropic": (lambda rng: smooth(rng, (40, 44, 6)), (0.8, 0.8, 8.0)),
    "smaller than any patch": (lambda rng: smooth(rng, (9, 7, 5)), (1.0, 1.0, 1.0)),
}


def write_volume(folder: Path, name: str, image: np.ndarray, spacing: tuple[float, float, float]) -> None:
    affine = np.diag([*spacing, 1.0])
    label = np.zeros(image.shape, dtype=np.uint8)
    label[tuple(slice(n // 4, max(n // 2, n // 4 + 1)) for n in image.shape)] = 1
    for kind, values in (("images", image.astype(np.float32)), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, affine), folder / kind / f"{name}.nii.gz")


def assert_trains_and_predicts(data: Path, tmp_path: Path) -> None:
    result = scantling.train(data, tmp_path / "run", steps=3, settings=("plan.batch_size=1",))
    run = RunFolder.open(tmp_path / "run")
    assert result.status["status"] == "finished"
    assert [event for event in run.read_log() if event["event"] == "skipped_step"] == []
    held_out = read_json(run.split)["heldout"]
    assert len([p for p in run.predictions.iterdir() if p.suffix != ".json"]) == len(held_out) == 1
    done = scantling.predict(tmp_path / "run", data / "images", tmp_path / "out")
    assert len(done.paths) == 3
    assert not done.failures


@pytest.mark.parametrize("kind", VOLUMES)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_odd_volumes_train_and_predict(tmp_path: Path, kind: str) -> None:
    make, spacing = VOLUMES[kind]
    for index in range(3):
        write_volume(tmp_path / "data", f"case{index}", make(numpy_generator(0, kind, index)), spacing)
    assert_trains_and_predicts(tmp_path / "data", tmp_path)


@pytest.mark.parametrize("kind", ["uint16", "colour", "grey stored as colour"])
def test_odd_pictures_train_and_predict(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    for index in range(3):
        rng = numpy_generator(0, kind, index)
        grey = smooth(rng, (48, 40)).clip(0, 255)
        label = np.zeros((48, 40), dtype=np.uint8)
        label[12:24, 10:20] = 255
        pictures = {
            "uint16": (grey * 200).astype(np.uint16),
            "colour": np.stack([grey, grey[::-1], grey.T.copy().reshape(48, 40)], axis=-1).astype(np.uint8),
            "grey stored as colour": np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1),
        }
        for folder, values in (("images", pictures[kind]), ("labels", label)):
            (data / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(data / folder / f"case{index}.png")
    assert_trains_and_predicts(data, tmp_path)
    written = np.asarray(Image.open(next((tmp_path / "out").glob("*.png"))))
    assert set(np.unique(written)) <= {0, 255}


def test_one_case_with_another_number_of_axes_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for index in range(2):
        rng = numpy_generator(0, "mixed", index)
        write_volume(data, f"case{index}", smooth(rng), (1.0, 1.0, 1.0))
    for folder in ("images", "labels"):
        Image.fromarray(np.zeros((20, 20), dtype=np.uint8)).save(data / folder / "flat.png")
    result = scantling.train(data, tmp_path / "run", steps=1, settings=("plan.batch_size=1",))
    problems = read_json(result.path / "data_sheet.json")["problems"]
    assert any("case flat: 2 axes, but 2 cases have 3" in problem["message"] for problem in problems)
    assert result.status["counts"]["train"] == 1
