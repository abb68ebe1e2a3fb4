"""From a folder of images, with labels or without, to features that fine-tuning starts from."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scantling.data.catalog.phantom import write_cardiac_phantom, write_chest_phantom
from scantling.data.image_io import read_image
from scantling.errors import ConfigError, DataError, Interrupted
from scantling.files import read_json
from scantling.inference.model_folder import load_model
from scantling.inference.predictor import Predictor
from scantling.reports.report import write_report
from scantling.training.config import DataConfig, PlanConfig, RunConfig
from scantling.training.feature_road import FeatureRoad
from scantling.training.initial import Start
from scantling.training.interruption import StopSignals
from scantling.training.loop_state import LoopConfig
from scantling.training.progress import Silent
from scantling.training.run_folder import RunFolder
from scantling.training.step import Stepper
from scantling.training.train import resume, start
from scantling.workflows.result import RunResult
from two_processes import scantling_in_two

SETTINGS: dict[str, Any] = {"points": 20, "views": {"n_views": 2}, "tap": ""}
SILVER = ("silver",)


def config(folder: Path, *, steps: int = 4, data: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "recipe": "dvd_cl",
        "settings": SETTINGS,
        "training": LoopConfig(steps=steps, steps_per_epoch=2, precision="float32", checkpoint_seconds=0),
        "plan": PlanConfig(patch_size=(32, 32), batch_size=2),
        "data": DataConfig(**{"path": str(folder), "label_kinds": SILVER, **(data or {})}),
    }
    return RunConfig(**(values | changes))


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "chest"
    return write_chest_phantom(folder, n_labelled=11, n_unlabelled=3, n_test=3, seed=3, size=40, silver=True)


@pytest.fixture(scope="module")
def finished(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return start(config(chest), tmp_path_factory.mktemp("runs") / "a")


def weights(run: RunFolder) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


def gathered(images: Path, folder: Path, **changes: Any) -> FeatureRoad:
    """What stands ready before the first step."""
    run = RunFolder.create(folder)
    road = FeatureRoad(run, config(images, **changes), device=torch.device("cpu"), display=Silent())
    road.gather()
    return road


def test_every_image_is_learnt_from_but_those_of_patients_held_out_and_validated_on(
    finished: RunFolder, chest: Path
) -> None:
    rows = list(csv.DictReader((chest / "cases.csv").read_text().splitlines()))
    by_split = {split: {row["case"] for row in rows if row["split"] == split} for split in ("train", "test")}
    split = read_json(finished.split)
    assert set(split["heldout"]) == by_split["test"]
    assert len(split["validation"]) == 1
    assert set(split["unlabelled"]) == by_split["train"] - set(split["validation"])
    assert len(split["unlabelled"]) == 13
    assert finished.status()["counts"] == {"train": 0, "validation": 1, "held_out": 3, "unlabelled": 13}


def test_a_method_without_labels_is_given_none_and_another_one_the_silver_ones(chest: Path, tmp_path: Path) -> None:
    without = gathered(chest, tmp_path / "a")
    assert {case.label_kind for case in without.train.cases} == {None}
    assert {case.label_kind for case in without.examined.cases} == {"full"}
    reads = gathered(chest, tmp_path / "b", recipe="s_mvd_cl")
    assert {case.label_kind for case in reads.train.cases} == {"silver"}
    assert len(reads.train.cases) == 13
    kinds = {"label_kinds": ("silver", "full"), "labels": 2}
    assert {case.label_kind for case in gathered(chest, tmp_path / "c", recipe="s_dvd_cl", data=kinds).train.cases} == {
        "silver"
    }
    best_first = gathered(chest, tmp_path / "d", recipe="s_dvd_cl", data={**kinds, "label_kinds": ("full", "silver")})
    assert [case.label_kind for case in best_first.train.cases].count("full") == 2


def test_a_kind_of_label_counts_as_much_as_it_is_trusted(chest: Path, tmp_path: Path) -> None:
    data = {"label_kinds": ("full", "silver"), "labels": 2, "trust": {"silver": 0.25}}
    road = gathered(chest, tmp_path / "a", recipe="s_mvd_cl", data=data)
    assert {(case.label_kind, case.weight) for case in road.train.cases} == {("full", 1.0), ("silver", 0.25)}


def test_labels_do_not_say_where_to_look_unless_they_are_read(chest: Path, tmp_path: Path) -> None:
    for recipe, share in (("dvd_cl", 0.0), ("s_dvd_cl", 0.33)):
        road = gathered(chest, tmp_path / recipe, recipe=recipe)
        source = road.loop(StopSignals()).samples.source
        assert source.foreground_fraction == share
        assert source.crop_size == (32, 32)  # published views crop, so a sample is no larger than the patch


def test_several_views_of_an_image_leave_room_for_fewer_images(chest: Path, tmp_path: Path) -> None:
    sizes = {}
    for n_views in (2, 4):
        settings = {"points": 20, "views": {"n_views": n_views}}
        road = gathered(chest, tmp_path / str(n_views), settings=settings, plan=PlanConfig(patch_size=(32, 32)))
        sizes[n_views] = road.plan.batch_size
    assert sizes == {2: 8, 4: 4}


def test_the_model_folder_says_what_it_is_and_holds_what_was_trained_and_no_heads(finished: RunFolder) -> None:
    described = json.loads((finished.model / "model.json").read_text())
    assert described["kind"] == "features"
    assert described["meta"]["recipe"] == "dvd_cl"
    assert described["meta"]["learnt_from"] == "13 images of 13 patients, without any label"
    assert described["meta"]["tap"] == "decoder.2"
    assert described["left_out"] == ["heads.0.bias", "heads.0.weight"]
    stored = load_file(finished.model / "model.safetensors")
    assert not any(name.startswith("heads.") for name in stored)
    model = load_model(finished.model, torch.device("cpu"), kinds=("features",))
    assert model.kind == "features"
    assert all(torch.equal(value, stored[name]) for name, value in model.network.state_dict().items() if name in stored)
    card = (finished.model / "MODEL_CARD.md").read_text()
    assert "It segments nothing" in card
    assert "13 images of 13 patients, without any label" in card


def test_levels_beyond_the_tap_are_not_saved_because_nothing_trained_them(chest: Path, tmp_path: Path) -> None:
    road = gathered(chest, tmp_path / "run", settings={**SETTINGS, "tap": "decoder.1"})
    loop, run = road.loop(StopSignals()), road.run
    road.finish(loop, loop.deployable().eval(), stop=StopSignals())
    stored = set(load_file(run.model / "model.safetensors"))
    assert any(name.startswith("decoder.1.") for name in stored)
    assert not any(name.startswith(("decoder.2.", "heads.")) for name in stored)
    assert json.loads((run.model / "model.json").read_text())["meta"]["tap"] == "decoder.1"
    load_model(run.model, torch.device("cpu"), kinds=("segmentation", "features"))


def test_a_network_that_was_pretrained_to_segment_predicts_as_it_is_and_gives_its_heads_to_nobody(
    chest: Path, tmp_path: Path
) -> None:
    road = gathered(chest, tmp_path / "run", recipe="segmentation", settings={})
    loop, run = road.loop(StopSignals()), road.run
    road.finish(loop, loop.deployable().eval(), stop=StopSignals())
    predictor = Predictor.load(run.path, device="cpu")
    image = read_image(next(iter((chest / "images").iterdir())))
    assert predictor.predict([image]).label_map.shape == (40, 40)
    assert "segments as it is" in run.status()["verdict"]
    assert Start.read(run.path).classes == ()


def test_whoever_wants_to_segment_with_it_is_told_what_to_do(finished: RunFolder) -> None:
    with pytest.raises(DataError, match=r"segments nothing yet; .*scantling train DATA --init \S*a") as caught:
        load_model(finished.model, torch.device("cpu"))
    assert caught.value.code == "E-RUN-10"


def test_the_health_of_the_features_is_logged_and_chooses_nothing(finished: RunFolder) -> None:
    log = list(finished.read_log())
    health = [event for event in log if event["event"] == "health"]
    assert [event["step"] for event in health] == [2, 4]
    assert 0 <= health[-1]["figures"]["probe_dice"] <= 1
    assert all(event["validation"] is None for event in log if event["event"] == "epoch")
    assert json.loads((finished.model / "model.json").read_text())["meta"]["selected_on"] is None
    assert finished.status()["health"]["probe_dice"] == pytest.approx(health[-1]["figures"]["probe_dice"], abs=1e-4)


def test_the_last_lines_and_the_report_say_what_was_learnt_and_how_to_use_it(finished: RunFolder) -> None:
    text = RunResult.read(finished).text()
    assert text.startswith("Features learnt by dvd_cl from 13 images of 13 patients, without any label; 4 steps")
    assert "A linear probe has a Dice of 0." in text
    assert text.endswith(f"use:    scantling train DATA --init {finished.path}")
    page = write_report(finished.path).read_text(encoding="utf-8")
    assert "pretraining report" in page
    assert "learnt from, without labels" in page
    assert "held out, not learnt from" in page
    assert "'train DATA --init RUN'" in page.replace("&#x27;", "'")
    assert not any(
        word in page for word in ("scored</td>", "how well new patients are segmented", "No patient was kept")
    )


def test_an_interrupted_run_resumes_to_the_bytes_of_an_uninterrupted_one(
    finished: RunFolder, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = Stepper.take, itertools.count(1)

    def take(self: Stepper) -> None:
        original(self)
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Stepper, "take", take)
        start(config(chest), tmp_path / "run")
    resumed = resume(tmp_path / "run")
    assert weights(resumed) == weights(finished)
    assert [e["step"] for e in resumed.read_log() if e["event"] == "health"] == [2, 4]


def test_the_best_probe_chooses_the_weights_where_that_is_asked_for(chest: Path, tmp_path: Path) -> None:
    often = LoopConfig(steps=2, steps_per_epoch=1, precision="float32")
    run = start(config(chest, selection="probe", training=often), tmp_path / "run")
    scores = [e["validation"]["probe_dice"] for e in run.read_log() if e["event"] == "epoch"]
    assert len(scores) == 2
    selected = json.loads((run.model / "model.json").read_text())["meta"]["selected_on"]
    assert selected == {"validation_probe_dice": max(scores)}
    assert "with the best probe weights" in run.status()["verdict"]
    few = write_chest_phantom(tmp_path / "few", n_labelled=3, n_unlabelled=3, n_test=1, seed=1, size=40)
    with pytest.raises(ConfigError, match="wants labelled patients to fit a probe on") as caught:
        start(config(few, selection="probe"), tmp_path / "refused")
    assert caught.value.code == "E-CFG-72"
    assert not (tmp_path / "refused").exists()


def test_images_alone_are_enough(chest: Path, tmp_path: Path) -> None:
    (tmp_path / "bare" / "images").mkdir(parents=True)
    for k, image in enumerate(sorted((chest / "images").iterdir())):
        shutil.copy(image, tmp_path / "bare" / "images" / f"patient{k}.png")
    run = start(config(tmp_path / "bare", steps=2), tmp_path / "run")
    split = read_json(run.split)
    assert len(split["unlabelled"]) == 17
    assert (split["heldout"], split["validation"]) == ([], [])
    assert read_json(run.plan)["classes"]["names"] == ["background"]
    assert "nothing is known of what they tell apart" in run.status()["verdict"]
    assert run.status()["health"]["effective_rank"] > 0
    assert "without any label" in write_report(run.path).read_text(encoding="utf-8")
    with pytest.raises(DataError, match="s_dvd_cl learns from labels"):
        start(config(tmp_path / "bare", recipe="s_dvd_cl"), tmp_path / "refused")


@pytest.mark.parametrize(("dimensions", "shape", "spacing"), [(2, (6, 32, 32), (8.0, 1.4, 1.4)),
                                                               (3, (16, 24, 24), (2.0, 2.0, 2.0))])  # fmt: skip
def test_volumes_are_learnt_from_in_slices_and_whole(
    dimensions: int, shape: tuple[int, int, int], spacing: tuple[float, float, float], tmp_path: Path
) -> None:
    data = write_cardiac_phantom(
        tmp_path / "heart", n_labelled=2, n_unlabelled=2, n_test=1, seed=2, shape=shape, spacing_mm=spacing
    )
    plan = PlanConfig(dimensions=dimensions, patch_size=(16,) * dimensions, batch_size=2)
    road = gathered(data, tmp_path / "run", steps=1, plan=plan)
    loop, run = road.loop(StopSignals()), road.run
    assert loop.validate is not None
    before = loop.validate(loop.deployable().eval()).figures["effective_rank"]
    loop.validate = None
    road.finish(loop, loop.run(), stop=StopSignals())
    assert 1 <= before <= 16
    assert read_json(run.plan)["dimensions"] == dimensions
    assert len(read_json(run.split)["unlabelled"]) == 4
    assert load_model(run.model, torch.device("cpu"), kinds=("features",)).network.divisor == (
        tuple(torch.tensor(read_json(run.plan)["network"]["strides"]).prod(0).tolist())
    )


def test_counterfactual_rows_are_made_ready_where_views_show_them(chest: Path, tmp_path: Path) -> None:
    data = tmp_path / "chest"
    shutil.copytree(chest, data)
    rows = list(csv.DictReader((data / "cases.csv").read_text().splitlines()))
    first = next(row for row in rows if row["split"] == "train")
    other = {**dict.fromkeys(first, ""), "case": "other", "image": first["image"], "counterfactual_of": first["case"]}
    with (data / "cases.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, fieldnames=list(other))
        table.writeheader()
        table.writerows([*rows, other])
    shown = gathered(data, tmp_path / "a").train
    assert {case.case_id: len(case.alternatives) for case in shown.cases if case.alternatives} == {first["case"]: 1}
    own = gathered(data, tmp_path / "b", settings={**SETTINGS, "views": {"n_views": 2, "image_of_view": "own"}}).train
    assert own.n_alternatives == 0
    assert len(own.cases) == len(shown.cases) == 13


def test_a_budget_of_time_is_kept(chest: Path, tmp_path: Path) -> None:
    short = LoopConfig(steps_per_epoch=2, precision="float32")
    run = start(config(chest, training=short, time_seconds=4.0), tmp_path / "short")
    assert run.status()["status"] == "finished"
    assert 0.7 < run.status()["training_seconds"] < 6


def test_nothing_is_kept_from_training(chest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pretraining trains all of a network") as caught:
        start(config(chest, tune="frozen", init="somewhere"), tmp_path / "run")
    assert caught.value.code == "E-CFG-74"


def test_two_processes_share_a_run_and_only_the_first_writes(chest: Path, tmp_path: Path) -> None:
    words = [
        "pretrain", str(chest), "--method", "mvd-cl", "--steps", "2", "--device", "cpu", "--quiet",
        *("--set", "plan.patch_size=[32, 32]", "--set", "plan.batch_size=2", "--set", "training.precision=float32"),
        *("--set", "settings.points=20", "--set", "settings.views.n_views=2", "-o", str(tmp_path / "run")),
    ]  # fmt: skip
    assert scantling_in_two(words).count("use:") == 1
    run = RunFolder.open(tmp_path / "run")
    assert (run.status()["status"], run.status()["processes"]) == ("finished", 2)
    assert [event["event"] for event in run.read_log()] == ["health", "epoch"]
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(run.model / "model.safetensors").values())
