"""Folders in, folders out: what is found, what is written, what is said about the cases that failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from scantling.data.case import Case
from scantling.data.image_io import read_image
from scantling.data.plan import Plan
from scantling.errors import ConfigError, DataError, PlanMismatch
from scantling.files import sha256_file
from scantling.inference.find_images import find_cases
from scantling.inference.memory import resident_bytes
from scantling.inference.model_folder import save_model
from scantling.inference.predict import predict_cases, predict_folder
from scantling.inference.predictor import Predictor
from scantling.networks import build_network
from scantling.seeding import torch_generator

Make = Callable[..., Plan]
Write = Callable[..., Path]


@pytest.fixture
def run_folder(tmp_path: Path, make_plan: Make) -> Path:
    """A run whose model is a small U-Net of random weights, which is all that files need."""
    plan = make_plan(3, 3)
    network = build_network(
        plan.network, dimensions=3, in_channels=1, out_channels=2, generator=torch_generator(0, "weights")
    )
    save_model(tmp_path / "run" / "model", network, plan, {"seed": 0})
    (tmp_path / "run" / "run.json").write_text("{}")
    return tmp_path / "run"


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (9, 10, 8)).astype(np.int16)


@pytest.fixture
def images(tmp_path: Path, write_nifti: Write) -> Path:
    for seed, name in enumerate(("a", "b", "c")):
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", volume(seed))
    return tmp_path / "images"


def test_a_folder_with_one_broken_file_gives_the_others_and_one_sentence(
    tmp_path: Path, run_folder: Path, images: Path
) -> None:
    broken = images / "b.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-40])
    before = {path.name: sha256_file(path) for path in images.iterdir()}
    said: list[str] = []
    run = predict_folder(run_folder, images, tmp_path / "out", device="cpu", progress=said.append)
    assert [path.name for path in run.paths] == ["a.nii.gz", "c.nii.gz"]
    assert list(run.failures) == ["b"]
    assert "b.nii.gz" in run.failures["b"]
    assert "\n" not in run.failures["b"]
    assert said == ["predicting a (1 of 3)", "predicting b (2 of 3)", "predicting c (3 of 3)"]
    with pytest.raises(DataError, match=r"1 of 3 cases failed: b: .*b\.nii\.gz") as caught:
        run.require_complete()
    assert caught.value.exit_code == 3
    assert {path.name: sha256_file(path) for path in images.iterdir()} == before
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [case["label_map"] for case in record["cases"]] == ["a.nii.gz", "c.nii.gz"]
    assert record["failures"] == dict(run.failures)
    assert record["model_sha256"] == sha256_file(run_folder / "model" / "model.safetensors")
    assert record["classes"] == {"background": 0, "bright": 7}
    assert record["settings"] == dict.fromkeys(("tta", "probabilities", "uncertainty", "largest_component"), False)
    assert str(tmp_path) not in json.dumps({**record, "failures": {}})


def test_the_files_of_a_folder_hold_what_the_predictor_says_image_by_image(
    tmp_path: Path, run_folder: Path, images: Path
) -> None:
    run = predict_folder(run_folder / "model", images, tmp_path / "out", device="cpu", tta=True, largest_component=True)
    run.require_complete()
    predictor = Predictor.load(run_folder, device="cpu")
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    for path, entry in zip(run.paths, record["cases"], strict=True):
        alone = predictor.predict([read_image(images / path.name)], tta=True, largest_component=True)
        written = np.asarray(nibabel.load(path).dataobj)
        assert np.array_equal(written.transpose(), alone.stored)
        assert set(np.unique(written)) <= {0, 7}
        assert entry["removed"] == [vars(removal) for removal in alone.removals]


def test_the_same_model_gives_the_same_bytes_twice(tmp_path: Path, run_folder: Path, images: Path) -> None:
    first = predict_folder(run_folder, images, tmp_path / "first", device="cpu")
    second = predict_folder(run_folder, images, tmp_path / "second", device="cpu")
    assert [path.read_bytes() for path in first.paths] == [path.read_bytes() for path in second.paths]


def test_a_single_file_is_a_case(tmp_path: Path, run_folder: Path, images: Path) -> None:
    run = predict_folder(run_folder, images / "a.nii.gz", tmp_path / "out", device="cpu")
    assert [path.name for path in run.paths] == ["a.nii.gz"]


@pytest.mark.parametrize("where", [".", "inside", "..", "../run", "../run/model"])
def test_predictions_are_never_written_where_images_or_model_lie(
    tmp_path: Path, run_folder: Path, images: Path, where: str
) -> None:
    names = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"choose (another|a new) folder"):
        predict_folder(run_folder, images, images / where, device="cpu", overwrite=True)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == names


def test_the_folder_of_a_single_file_is_an_input_folder_too(tmp_path: Path, run_folder: Path, images: Path) -> None:
    with pytest.raises(ConfigError, match="the images lie there"):
        predict_folder(run_folder, images / "a.nii.gz", images, device="cpu", overwrite=True)
    assert len(list(images.iterdir())) == 3


def test_an_old_output_folder_is_refused_or_moved_aside(tmp_path: Path, run_folder: Path, images: Path) -> None:
    out = tmp_path / "out"
    predict_folder(run_folder, images, out, device="cpu")
    with pytest.raises(ConfigError, match="--overwrite"):
        predict_folder(run_folder, images, out, device="cpu")
    predict_folder(run_folder, images / "a.nii.gz", out, device="cpu", overwrite=True)
    aside = [path for path in tmp_path.iterdir() if path.name.startswith("out.old")]
    assert len(list(aside[0].glob("*.nii.gz"))) == 3
    assert len(list(out.glob("*.nii.gz"))) == 1


def test_a_folder_without_images_and_a_path_that_is_not_there_are_refused(tmp_path: Path, run_folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        predict_folder(run_folder, tmp_path / "empty", tmp_path / "out", device="cpu")
    with pytest.raises(DataError, match="no such"):
        predict_folder(run_folder, tmp_path / "nowhere", tmp_path / "out", device="cpu")
    with pytest.raises(DataError, match="not an image"):
        predict_folder(run_folder, run_folder / "run.json", tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def files_of(cases: tuple[Case, ...]) -> dict[str, list[str]]:
    return {case.case_id: [path.name for path in case.images] for case in cases}


def test_numbered_files_are_channels_only_where_the_plan_has_as_many(tmp_path: Path, make_plan: Make) -> None:
    one, two = make_plan(2, 2), make_plan(2, 2, channels=("T1", "T2"))
    for name in ("p_0000.png", "p_0001.png", "q_0000.png", "q_0001.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    pairs = {"p": ["p_0000.png", "p_0001.png"], "q": ["q_0000.png", "q_0001.png"]}
    assert files_of(find_cases(tmp_path, two)[0]) == pairs
    assert files_of(find_cases(tmp_path / "q_0000.png", two)[0]) == {"q": pairs["q"]}
    singles = {name: [f"{name}.png"] for name in ("p_0000", "p_0001", "q_0000", "q_0001")}
    assert files_of(find_cases(tmp_path, one)[0]) == singles


def test_nnunet_names_of_one_channel_lose_their_number(tmp_path: Path, make_plan: Make) -> None:
    for name in ("p_0000.png", "q_0000.png"):
        (tmp_path / name).touch()
    assert files_of(find_cases(tmp_path, make_plan(2, 2))[0]) == {"p": ["p_0000.png"], "q": ["q_0000.png"]}


def data_set(folder: Path, write: Write) -> Path:
    write(folder / "t1" / "a.nii.gz", volume(1))
    write(folder / "t2" / "a.nii.gz", volume(2))
    (folder / "cases.csv").write_text("case,image:T2,image:T1\nfirst,t2/a.nii.gz,t1/a.nii.gz\n")
    (folder / "dataset.toml").write_text('modality = "MR"\n[classes]\nbright = 7\n')
    return folder


def test_a_data_set_is_predicted_with_its_channels_in_the_models_order(
    tmp_path: Path, make_plan: Make, write_nifti: Write
) -> None:
    folder = data_set(tmp_path / "data", write_nifti)
    cases, failures = find_cases(folder, make_plan(3, 3, channels=("T1", "T2")))
    assert failures == {}
    assert [(case.case_id, [path.parent.name for path in case.images]) for case in cases] == [("first", ["t1", "t2"])]


def test_a_data_set_with_other_channels_is_refused_naming_both(
    tmp_path: Path, make_plan: Make, write_nifti: Write
) -> None:
    folder = data_set(tmp_path / "data", write_nifti)
    with pytest.raises(PlanMismatch, match="channels T2, T1, the model was trained with image"):
        find_cases(folder, make_plan(3, 3))


def test_a_missing_channel_fails_its_own_case_only(
    tmp_path: Path, make_plan: Make, above_mean: Callable[[Plan], Predictor], write_nifti: Write
) -> None:
    for name in ("p_0000", "p_0001", "q_0000"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", volume(3))
    predictor = above_mean(make_plan(3, 3, channels=("T1", "T2")))
    cases, _ = find_cases(tmp_path / "in", predictor.plan)
    run = predict_cases(predictor, cases, tmp_path / "out")
    assert [path.name for path in run.paths] == ["p.nii.gz"]
    assert run.failures["q"].startswith("case q: image has 1 channels, the plan is for 2")


def test_two_cases_cannot_write_one_file_and_a_name_cannot_leave_the_folder(
    tmp_path: Path, make_plan: Make, above_mean: Callable[[Plan], Predictor], write_nifti: Write
) -> None:
    source = write_nifti(tmp_path / "in.nii.gz", volume(0))
    predictor = above_mean(make_plan(3, 3))
    names = ("same", "same", "../outside")
    run = predict_cases(predictor, [Case(case_id=name, images=(source,)) for name in names], tmp_path / "out")
    assert [path.name for path in run.paths] == ["same.nii.gz"]
    assert "two cases would write this file" in run.failures["same"]
    assert "cannot be a file name" in run.failures["../outside"]
    assert not (tmp_path / "outside.nii.gz").exists()


def test_predicting_into_a_folder_again_replaces_the_files(
    tmp_path: Path, make_plan: Make, above_mean: Callable[[Plan], Predictor], write_nifti: Write
) -> None:
    predictor = above_mean(make_plan(3, 3))
    for seed in (0, 1):
        source = write_nifti(tmp_path / "in.nii.gz", volume(seed))
        run = predict_cases(predictor, [Case(case_id="case", images=(source,))], tmp_path / "out")
        values = volume(seed).astype(float)
        wanted = np.where(values > values.mean(), 7, 0)
        assert np.array_equal(np.asarray(nibabel.load(run.paths[0]).dataobj), wanted)


def test_a_network_whose_weights_are_not_numbers_fails_the_case_and_says_so(
    tmp_path: Path, make_plan: Make, above_mean: Callable[[Plan], Predictor], write_nifti: Write
) -> None:
    source = write_nifti(tmp_path / "in.nii.gz", volume(0))
    predictor = above_mean(make_plan(3, 3))
    with torch.no_grad():
        next(predictor.network.parameters()).fill_(torch.nan)
    run = predict_cases(predictor, [Case(case_id="case", images=(source,))], tmp_path / "out")
    assert run.paths == ()
    assert "not finite" in run.failures["case"]
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_case_that_would_take_more_memory_than_may_be_used_is_not_read_and_the_others_go_on(
    tmp_path: Path, make_plan: Make, above_mean: Callable[[Plan], Predictor], write_nifti: Write
) -> None:
    rng = np.random.default_rng(0)
    shapes = {"large": (64, 64, 96), "small": (9, 9, 9)}
    cases = [
        Case(case_id=name, images=(write_nifti(tmp_path / f"{name}.nii.gz", rng.integers(0, 99, shape, np.int16)),))
        for name, shape in shapes.items()
    ]
    budget = resident_bytes() + 2_000_000  # the large one holds 393,216 voxels, at 2 bytes read and 2 prepared
    run = predict_cases(above_mean(make_plan(3, 3)), cases, tmp_path / "out", memory_budget=budget)
    assert [path.name for path in run.paths] == ["small.nii.gz"]
    assert "image of 96 x 64 x 64: predicting it takes" in run.failures["large"]
    assert "raise --budget-ram" in run.failures["large"]
    generous = predict_cases(above_mean(make_plan(3, 3)), cases, tmp_path / "out", memory_budget=budget + 10**9)
    assert generous.failures == {}
