from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scantling.data.catalog.phantom import write_cardiac_phantom, write_chest_phantom
from scantling.data.store import Store
from scantling.errors import ConfigError, DataError, IntegrityError, Interrupted, PlanMismatch, ResourceError
from scantling.evaluation.evaluate import Evaluation
from scantling.files import read_json
from scantling.inference.model_folder import load_model
from scantling.training import materials as materials_module
from scantling.training.config import DataConfig, PlanConfig, RunConfig, parse_duration, parse_size
from scantling.training.held_out import score_held_out
from scantling.training.loop_state import LoopConfig
from scantling.training.materials import gather
from scantling.training.progress import Silent
from scantling.training.run_folder import RunFolder
from scantling.training.run_lock import run_lock
from scantling.training.step import Stepper
from scantling.training.train import resume, start

SMALL = PlanConfig(patch_size=(32, 32), batch_size=2)


def config(folder: Path, *, steps: int = 4, **changes: Any) -> RunConfig:
    loop = LoopConfig(steps=steps, steps_per_epoch=2, precision="float32", checkpoint_seconds=0)
    values: dict[str, Any] = {"training": loop, "plan": SMALL, "data": DataConfig(path=str(folder))}
    return RunConfig(**(values | changes))


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "chest"
    return write_chest_phantom(folder, n_labelled=4, n_unlabelled=2, n_test=3, seed=3, size=48)


@pytest.fixture(scope="module")
def finished(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return start(config(chest), tmp_path_factory.mktemp("runs") / "a")


def interrupt_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """A Ctrl-C once so many steps are taken."""
    original, count = Stepper.take, itertools.count(1)

    def take(self: Stepper) -> None:
        original(self)
        if next(count) == steps:
            os.kill(os.getpid(), signal.SIGINT)

    patch.setattr(Stepper, "take", take)


def weights(run: RunFolder) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


def test_a_finished_run_has_every_file_of_its_contract(finished: RunFolder) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names >= {
        "run.json", "config.toml", "plan.json", "splits.json", "data.lock.json", "data_sheet.json", "log.jsonl",
        "metrics.csv", "evaluation.json", "predictions", "checkpoints", "model",
    }  # fmt: skip
    status = finished.status()
    assert status["status"] == "finished"
    assert status["counts"] == {"train": 4, "validation": 0, "held_out": 3, "unlabelled": 2}
    assert status["steps"] == 4
    assert len(list(finished.predictions.glob("*.png"))) == 3


def test_the_held_out_score_is_that_of_the_written_predictions_at_own_resolution(
    finished: RunFolder, chest: Path
) -> None:
    evaluation = Evaluation.load(finished.metrics, finished.evaluation)
    rows = csv.DictReader((chest / "cases.csv").read_text().splitlines())
    case = next(row["case"] for row in rows if row["split"] == "test")
    predicted = np.asarray(Image.open(finished.predictions / f"{case}.png"))
    reference = np.asarray(Image.open(chest / "labels" / f"{case}.png"))
    assert predicted.shape == reference.shape
    for value, name in ((1, "right_lung"), (2, "left_lung"), (3, "heart")):
        both = ((predicted == value) & (reference == value)).sum()
        dice = 2 * both / ((predicted == value).sum() + (reference == value).sum())
        assert evaluation.values(name)[case].value == pytest.approx(dice, nan_ok=True)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    finished: RunFolder, chest: Path, tmp_path: Path
) -> None:
    assert weights(start(config(chest), tmp_path / "again")) == weights(finished)
    assert weights(start(config(chest, seed=1), tmp_path / "other")) != weights(finished)


def test_an_interrupted_run_resumes_to_the_same_bytes(
    finished: RunFolder, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(patch, 3)
        start(config(chest), tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").status()["status"] == "interrupted"
    resumed = resume(tmp_path / "run")
    assert resumed.status()["status"] == "finished"
    assert weights(resumed) == weights(finished)


def test_resume_refuses_what_it_cannot_continue(finished: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the run is finished"):
        resume(finished.path)
    with pytest.raises(DataError, match="not a run folder"):
        resume(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 99, "status": "training"}))
    with pytest.raises(IntegrityError, match="newer release"):
        resume(tmp_path)


def test_resume_refuses_data_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_chest_phantom(tmp_path / "data", n_labelled=2, n_unlabelled=0, n_test=1, seed=0, size=48)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(patch, 1)
        start(config(data), tmp_path / "run")
    image = next((data / "images").iterdir())
    Image.fromarray(np.asarray(Image.open(image)) // 2).save(image)
    with pytest.raises(PlanMismatch, match="has changed since"):
        resume(tmp_path / "run")


@pytest.mark.parametrize(("labelled", "held_out"), [(0, None), (1, 0), (2, 1), (3, 1), (4, 1)])
def test_zero_to_four_labelled_cases_have_a_scheme_or_a_clear_refusal(
    tmp_path: Path, labelled: int, held_out: int | None
) -> None:
    data = write_chest_phantom(tmp_path / "data", n_labelled=labelled, n_unlabelled=2, n_test=0, seed=0, size=48)
    if held_out is None:
        with pytest.raises(DataError, match="no labelled training case"):
            start(config(data), tmp_path / "run")
        return
    run = start(config(data, steps=1), tmp_path / "run")
    split = read_json(run.split)
    assert len(split["heldout"]) == held_out
    assert run.evaluation.is_file() == bool(held_out)
    assert split["sentence"]


def test_training_on_every_labelled_case_gives_no_score_and_says_so(tmp_path: Path) -> None:
    data = write_chest_phantom(tmp_path / "data", n_labelled=3, n_unlabelled=0, n_test=0, seed=0, size=48)
    everything = DataConfig(path=str(data), fold="none")
    run = start(config(data, steps=1, data=everything), tmp_path / "run")
    assert run.status()["counts"]["train"] == 3
    assert not run.evaluation.is_file()
    assert "no case was held out" in (run.model / "MODEL_CARD.md").read_text()
    assert RunConfig.load(run.config).data.fold == "none"


def test_a_label_budget_turns_the_rest_into_unlabelled_cases(chest: Path, tmp_path: Path) -> None:
    run = start(config(chest, steps=1, data=DataConfig(path=str(chest), labels=2)), tmp_path / "run")
    assert run.status()["counts"] == {"train": 2, "validation": 0, "held_out": 3, "unlabelled": 4}


def test_classes_nobody_looked_for_are_left_out_and_chosen_ones_kept(chest: Path, tmp_path: Path) -> None:
    run = start(config(chest, steps=1, data=DataConfig(path=str(chest), classes=("heart",))), tmp_path / "a")
    assert read_json(run.plan)["classes"] == {"names": ["background", "heart"], "stored": [[0, 1, 2], [3]]}
    data = tmp_path / "partial"
    write_chest_phantom(data, n_labelled=2, n_unlabelled=0, n_test=1, seed=0, size=48)
    table = (data / "cases.csv").read_text().replace(",*,", ",right_lung;left_lung,")
    (data / "cases.csv").write_text(table)
    run = start(config(data, steps=1), tmp_path / "b")
    assert read_json(run.plan)["classes"]["names"] == ["background", "right_lung", "left_lung"]


def test_a_dry_run_plans_and_forecasts_and_trains_nothing(chest: Path, tmp_path: Path) -> None:
    run = start(config(chest), tmp_path / "run", dry_run=True)
    status = run.status()
    assert status["status"] == "dry run"
    assert status["forecast"]["memory_bytes"] > 1e7
    assert not run.model.exists()


def test_a_run_by_time_keeps_its_budget_and_scores(chest: Path, tmp_path: Path) -> None:
    loop = LoopConfig(steps_per_epoch=2, precision="float32")
    run = start(config(chest, training=loop, time_seconds=6.0), tmp_path / "run")
    assert run.status()["status"] == "finished"
    assert run.status()["steps"] > 0
    assert run.evaluation.is_file()


def test_a_broken_training_case_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    data = write_chest_phantom(tmp_path / "data", n_labelled=3, n_unlabelled=0, n_test=1, seed=0, size=48)
    broken = min((data / "images").iterdir())
    broken.write_bytes(broken.read_bytes()[:-30])
    run = start(config(data, steps=1), tmp_path / "run")
    assert run.status()["counts"]["train"] == 2
    problems = read_json(run.data_sheet)["problems"]
    assert any(problem["severity"] == "error" and broken.stem in problem["case_id"] for problem in problems)


def test_volumes_with_thick_slices_train_in_2d_and_in_3d(tmp_path: Path) -> None:
    data = write_cardiac_phantom(
        tmp_path / "data",
        n_labelled=2,
        n_unlabelled=0,
        n_test=1,
        seed=0,
        shape=(6, 48, 48),
        with_scribbles=False,
    )
    for dimensions, patch in ((2, (32, 32)), (3, (4, 32, 32))):
        plan = PlanConfig(dimensions=dimensions, patch_size=patch, batch_size=1)
        run = start(config(data, steps=1, plan=plan), tmp_path / str(dimensions))
        assert read_json(run.plan)["dimensions"] == dimensions
        assert len(list(run.predictions.glob("*.nii.gz"))) == 1


def test_settings_that_do_not_exist_are_refused_before_anything_is_written(chest: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'recipe'"):
        RunConfig.parse({"recipy": "x", "data": {"path": str(chest)}}, where="train")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1.5h", 5400)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-3m", "5 parsecs"])
def test_durations_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration(text)


def test_an_edited_plan_is_obeyed_and_one_for_other_classes_is_refused(
    finished: RunFolder, chest: Path, tmp_path: Path
) -> None:
    plan = read_json(finished.plan)
    plan["network"]["deep_supervision"], plan["mirror_axes"] = True, [1]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    run = start(config(chest, steps=1), tmp_path / "run", plan=tmp_path / "plan.json")
    assert read_json(run.plan) == plan
    with pytest.raises(PlanMismatch, match="made for classes"):
        start(
            config(chest, data=DataConfig(path=str(chest), classes=("heart",))), tmp_path / "other",
            plan=tmp_path / "plan.json",
        )  # fmt: skip
    plan["netwrok"] = {}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ConfigError, match="did you mean 'network'"):
        start(config(chest), tmp_path / "third", plan=tmp_path / "plan.json")
    assert not (tmp_path / "third").exists()


def test_presets_fit_their_patch_and_weights_are_taken_from_a_file(
    finished: RunFolder, chest: Path, tmp_path: Path
) -> None:
    preset = SMALL.model_copy(update={"network": "scribble_unet"})
    run = start(config(chest, plan=preset), tmp_path / "preset", dry_run=True)
    assert read_json(run.plan)["network"]["kind"] == "scribble_unet"
    assert all(n % 16 == 0 for n in read_json(run.plan)["patch_size"])
    weights_file = str(finished.model / "model.safetensors")
    run = start(config(chest, steps=1, init=weights_file), tmp_path / "init")
    table = (run.path / "transfer.txt").read_text()
    assert " 0 adapted, 0 skipped, 0 missing" in table.splitlines()[0]


def test_a_run_that_does_not_fit_its_budgets_is_refused_before_it_starts(chest: Path, tmp_path: Path) -> None:
    for name, budget in (("ram", {"budget_ram_gib": 0.01}), ("disk", {"budget_disk_gib": 1e-6})):
        with pytest.raises(ResourceError, match="training: needs about") as caught:
            start(config(chest, **budget), tmp_path / name)
        assert caught.value.exit_code == 4
        assert not (tmp_path / name / "checkpoints").exists()


@pytest.mark.parametrize(("text", "gib"), [("8G", 8), ("512M", 0.5), ("1T", 1024), ("3", 3), ("2.5 GiB", 2.5)])
def test_sizes_are_read(text: str, gib: float) -> None:
    assert parse_size(text) == gib


@pytest.mark.parametrize("text", ["", "0G", "many", "-1G"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


def test_an_unknown_recipe_is_refused_before_a_folder_is_made(chest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'supervised'"):
        start(config(chest, recipe="supervise"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stop_while_predicting_is_resumed_to_the_same_score(chest: Path, tmp_path: Path, finished: RunFolder) -> None:
    stopped = start(config(chest), tmp_path / "run", dry_run=True)
    materials = gather(stopped, config(chest), device_kind="cpu", display=Silent())
    network = load_model(finished.model, torch.device("cpu")).network
    with pytest.raises(Interrupted, match="while predicting"):
        score_held_out(
            stopped, materials, network, {}, device=torch.device("cpu"), seed=0, display=Silent(), stop=lambda: True
        )
    evaluation = score_held_out(
        stopped, materials, network, {}, device=torch.device("cpu"), seed=0, display=Silent(), stop=lambda: False
    )
    assert evaluation is not None
    assert evaluation.headline() == Evaluation.load(finished.metrics, finished.evaluation).headline()


def test_a_configuration_of_a_newer_release_is_refused() -> None:
    with pytest.raises(ConfigError, match="newer release"):
        RunConfig.parse({"schema_version": 2, "data": {"path": "x"}}, where="config.toml")


def test_a_run_that_is_refused_before_its_first_step_leaves_its_name_free(chest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fold"):
        start(config(chest, data=DataConfig(path=str(chest), fold=7)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert start(config(chest, steps=1), tmp_path / "run").status()["status"] == "finished"


def test_a_second_start_in_a_folder_where_one_trains_takes_nothing_away(chest: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with run_lock(tmp_path / "run"), pytest.raises(ConfigError, match="is training in this folder"):
        start(config(chest), tmp_path / "run", overwrite=True)
    assert (tmp_path / "run").is_dir()


def test_a_case_that_takes_long_to_prepare_is_said_by_name(
    chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    display = Silent()
    display.say = said.append  # type: ignore[method-assign]
    original, slow = Store._one, threading.Event()

    def one(self: Store, case: Any, *rest: Any) -> Any:
        if not slow.is_set():
            slow.set()
            time.sleep(1.0)
        return original(self, case, *rest)

    monkeypatch.setattr(materials_module, "NOTICE_AFTER", 0.2)
    monkeypatch.setattr(Store, "_one", one)
    run = start(config(chest, steps=1), tmp_path / "run", display=display)
    first = read_json(run.split)["train"][0]
    assert any(sentence.startswith(f"Still preparing case {first}, since") for sentence in said)
