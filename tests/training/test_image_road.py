"""From a folder of images with attributes to an image model, with the guarantees every run has."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from scantling.counterfactuals.graph_files import load_graph
from scantling.counterfactuals.model_files import load_image_model
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.errors import ConfigError, DataError, Interrupted, PlanMismatch
from scantling.inference.model_folder import load_model
from scantling.reports.report import write_report
from scantling.training.config import DataConfig, RunConfig
from scantling.training.loop_state import LoopConfig
from scantling.training.run_folder import RunFolder
from scantling.training.step import Stepper
from scantling.training.train import resume, start
from scantling.workflows.result import RunResult

NETWORK: dict[str, Any] = {
    "preset": "custom", "encoder": "8b1d2,4b1d4,1b1", "decoder": "1b1,4b1,8b1", "widths": [8, 8, 16], "patch": 4,
    "latent_channels": [4, 2], "stochastic_up_to": 4, "scale": "per_pixel", "log_scale": 0.0, "keep": "noise",
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "network": NETWORK, "size": [32, 32], "attributes": ["scanner", "sex", "finding"], "judge_steps": 3,
    "constraint": {"start": 1, "ramp": 1, "predictor": {"widths": [4, 8]}},
}  # fmt: skip


def config(folder: Path, *, steps: int = 4, **changes: Any) -> RunConfig:
    loop = LoopConfig(steps=steps, steps_per_epoch=2, precision="float32", checkpoint_seconds=0)
    values: dict[str, Any] = {
        "recipe": "counterfactual_vae", "settings": SETTINGS, "training": loop, "data": DataConfig(path=str(folder)),
    }  # fmt: skip
    return RunConfig(**(values | changes))


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "chest"
    return write_chest_phantom(folder, n_labelled=2, n_unlabelled=20, n_test=4, seed=3, size=40)


@pytest.fixture(scope="module")
def finished(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return start(config(chest), tmp_path_factory.mktemp("runs") / "a")


def weights(run: RunFolder) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


def test_every_image_counts_whether_or_not_it_is_labelled(finished: RunFolder) -> None:
    counts = finished.status()["counts"]
    assert (counts["train"] + counts["validation"], counts["held_out"]) == (22, 4)
    assert counts["validation"] == 2
    sentence = json.loads(finished.split.read_text())["sentence"]
    assert "4 images of 4 patients" in sentence
    assert "label" not in sentence


def test_a_finished_run_is_a_model_with_its_graph_and_judge(finished: RunFolder) -> None:
    model = load_image_model(finished.model, torch.device("cpu"))
    assert model.plan.size == (32, 32)
    assert [attribute.name for attribute in model.graph.attributes] == ["scanner", "sex", "finding"]
    assert model.graph.attributes == load_graph(finished.path).attributes
    assert model.judge is not None
    assert set(model.meta["judge"]) == {"scanner", "sex", "finding"}
    assert model.meta["selected_on"]["validation_bound"] < 0


def test_the_bound_of_validation_images_is_logged_and_in_the_report(finished: RunFolder) -> None:
    epochs = [event for event in finished.read_log() if event["event"] == "epoch"]
    assert all(set(epoch["losses"]) >= {"likelihood", "divergence", "predictor"} for epoch in epochs)
    assert all(epoch["validation"]["bound"] < 0 for epoch in epochs)
    page = write_report(finished.path).read_text(encoding="utf-8")
    assert "image model report" in page
    assert "Bound on the log-likelihood of validation images" in page
    assert "An image model of 20 images" in page
    assert "every image stretched to 32 × 32, batch of 16" in page
    assert not any(word in page for word in ("segmented", "with labels", "scored "))


def test_the_last_line_says_what_was_made_and_how_well_it_can_be_judged(finished: RunFolder) -> None:
    text = RunResult.read(finished).text()
    assert text.startswith("An image model of 20 images: 2D images of 32 x 32 given scanner, sex, finding")
    assert "scantling generate" in text


def test_an_interrupted_run_resumes_to_the_bits_of_an_uninterrupted_one(
    chest: Path, tmp_path: Path, finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = Stepper.take, itertools.count(1)

    def take(self: Stepper) -> None:
        original(self)
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", take)
        with pytest.raises(Interrupted):
            start(config(chest), tmp_path / "run")
    resumed = resume(tmp_path / "run")
    assert weights(resumed) == weights(finished)
    assert (resumed.model / "judge.safetensors").read_bytes() == (finished.model / "judge.safetensors").read_bytes()


def test_a_graph_file_decides_the_attributes(chest: Path, tmp_path: Path) -> None:
    graph = tmp_path / "graph.toml"
    graph.write_text('[attributes.site]\n[attributes.scanner]\nparents = ["site"]\n')
    settings = {**SETTINGS, "attributes": [], "causal_graph": str(graph), "judge_steps": 0}
    run = start(config(chest, steps=1, settings=settings), tmp_path / "run")
    model = load_image_model(run.model, torch.device("cpu"))
    assert model.graph.parents == {"site": (), "scanner": ("site",)}
    assert model.judge is None
    assert "no judge" in run.status()["verdict"]


def test_a_size_the_network_cannot_divide_is_refused_and_leaves_no_folder(chest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="divides every axis"):
        start(config(chest, settings={**SETTINGS, "size": [30, 30]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_attribute_that_is_no_column_is_refused(chest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'scanner'"):
        start(config(chest, settings={**SETTINGS, "attributes": ["scaner"]}), tmp_path / "run")


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    few = write_chest_phantom(tmp_path / "few", n_labelled=5, n_unlabelled=0, n_test=1, seed=0, size=32)
    with pytest.raises(DataError, match="an image model needs hundreds"):
        start(config(few), tmp_path / "run")


def test_a_given_plan_is_obeyed_and_one_for_other_attributes_is_refused(
    chest: Path, tmp_path: Path, finished: RunFolder
) -> None:
    plan = json.loads(finished.plan.read_text())
    given = tmp_path / "plan.json"
    given.write_text(json.dumps({**plan, "batch_size": 5}))
    run = start(config(chest, steps=1, settings={**SETTINGS, "judge_steps": 0}), tmp_path / "run", plan=given)
    assert load_image_model(run.model, torch.device("cpu")).plan.batch_size == 5
    plan["attributes"][0]["name"] = "device"
    given.write_text(json.dumps(plan))
    with pytest.raises(PlanMismatch, match="made for the attributes device, sex, finding"):
        start(config(chest), tmp_path / "other", plan=given)


def test_an_image_model_is_not_taken_for_a_segmentation_network(finished: RunFolder) -> None:
    with pytest.raises(DataError, match="makes images"):
        load_model(finished.model, torch.device("cpu"))


def test_counterfactual_rows_teach_nothing(chest: Path, tmp_path: Path) -> None:
    data = write_chest_phantom(tmp_path / "data", n_labelled=2, n_unlabelled=20, n_test=4, seed=3, size=40)
    with (data / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    made = {**rows[5], "case": "made", "scanner": "B", "label": "", "label_kind": "none"}
    with (data / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "counterfactual_of"])
        writer.writeheader()
        writer.writerows([{**row, "counterfactual_of": ""} for row in rows])
        writer.writerow({**made, "counterfactual_of": rows[5]["case"]})
    run = start(config(data, steps=1, settings={**SETTINGS, "judge_steps": 0}), tmp_path / "run")
    assert run.status()["counts"]["train"] == 20
    assert "made" not in json.loads(run.split.read_text())["train"]
