"""Protocols: who is compared with whom, figures by another hand, and what may not be had."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from typer.testing import CliRunner

import scantling
from scantling.cli.main import app
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.errors import ConfigError, DataError
from scantling.evaluation.conventions import MEAN_FOREGROUND, Settings
from scantling.evaluation.evaluate import Evaluation
from scantling.evaluation.rows import Row
from scantling.evaluation.summary import summarise
from scantling.files import read_json
from scantling.training.validation import _AsInTraining
from scantling.workflows.protocol_table import best_of_folds, clean_rows

SHORT = (
    "plan.patch_size=[32, 32]", "plan.batch_size=2", "training.steps_per_epoch=2",
    "pretraining.settings.points=20", "pretraining.settings.views.n_views=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protocol") / "chest"
    return write_chest_phantom(folder, n_labelled=2, n_unlabelled=4, n_test=2, seed=5, size=40)


def test_the_clean_protocol_makes_a_table_and_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean"
    arguments = ["protocol", "clean", str(data), "-o", str(out), "--methods", "dvd-cl", "--steps", "1", "--quiet"]
    arguments += [word for setting in SHORT for word in ("--set", setting)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    alone, method = json.loads(result.stdout)["rows"]
    assert [alone["method"], method["method"]] == ["labels-only", "dvd-cl"]
    assert [alone["seeds"], method["seeds"]] == [3, 3]
    assert method["difference"] == pytest.approx(method["dice"] - alone["dice"])
    assert alone["difference"] is None
    runs = [out / f"dvd-cl-{seed}" for seed in range(3)]
    assert [read_json(run / "run.json")["seed"] for run in runs] == [0, 1, 2]
    held_out = {tuple(read_json(run / "splits.json")["heldout"]) for run in runs}
    assert all(
        not {*h} & {*read_json(run / "features" / "splits.json")["unlabelled"]} for h in held_out for run in runs
    )
    with (out / "table.csv").open(encoding="utf-8") as stream:
        assert [row["method"] for row in csv.DictReader(stream)] == ["labels-only", "dvd-cl"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    assert "labels alone at the same budget, by patient" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    with pytest.raises(ConfigError, match="holds another comparison"):
        scantling.protocol("clean", data, out, methods="dvd-cl", steps=2, settings=SHORT)


@pytest.mark.slow
def test_the_published_protocol_scores_what_it_chooses_on(tmp_path: Path) -> None:
    data = write_chest_phantom(tmp_path / "data", n_labelled=5, n_unlabelled=3, n_test=0, seed=5, size=40)
    table = scantling.protocol("published", data, tmp_path / "out", methods="dvd-cl", steps=1, settings=SHORT)
    assert [(row["method"], row["folds"]) for row in table.rows] == [("labels-only", 5), ("dvd-cl", 5)]
    run = tmp_path / "out" / "dvd-cl-fold-0"
    chosen = [read_json(path / "model" / "model.json")["meta"]["selected_on"]["validation_mean_dice"]
              for path in sorted((tmp_path / "out").glob("dvd-cl-fold-*"))]  # fmt: skip
    assert table.rows[1]["best_dice_percent"] == pytest.approx(100 * np.mean(chosen))
    assert "settings]\ncompat" in (tmp_path / "out" / "dvd-cl-features" / "config.toml").read_text()
    assert "chosen on the very cases" in (run / "report.html").read_text(encoding="utf-8")
    learnt = read_json(tmp_path / "out" / "dvd-cl-features" / "splits.json")
    assert {*read_json(run / "splits.json")["heldout"]} <= {*learnt["train"], *learnt["unlabelled"]}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("clear", {}, "there is no such"),
        ("clean", {"seeds": 2}, "at least 3"),
        ("clean", {"methods": "supervised"}, "learns no features"),
        ("clean", {"steps": 2, "time": "2m"}, "give one"),
    ],
)
def test_what_is_no_protocol_is_refused_and_leaves_nothing(
    data: Path, tmp_path: Path, name: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        scantling.protocol(name, data, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_mean_over_folds_needs_folds(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no folds"):
        scantling.protocol("published", data, tmp_path / "out", steps=1)


def evaluation(values: dict[str, float]) -> Evaluation:
    """Cases a1, a2 are of patient a."""
    patients = {case: case[0] for case in values}
    rows = tuple(
        Row(case=case, class_name=MEAN_FOREGROUND, metric=metric, value=value, status="ok")
        for case, value in values.items()
        for metric in ("dice", "hd95_mm", "assd_mm")
    )
    summary = tuple(summarise(rows, patients, Settings()))
    return Evaluation(settings=Settings(), classes=("lung",), patients=patients, rows=rows, summary=summary)


def test_a_case_counts_once_whatever_the_number_of_its_seeds() -> None:
    alone = [
        evaluation({"a1": 0.5, "a2": 0.6, "b": 0.7, "c": 0.8}),
        evaluation({"a1": 0.7, "a2": 0.6, "b": 0.9, "c": 0.8}),
    ]
    method = [
        evaluation({"a1": 0.9, "a2": 0.8, "b": 0.7, "c": 0.9}),
        evaluation({"a1": 0.7, "a2": 0.8, "b": 0.7, "c": 1.0}),
    ]
    first, second = clean_rows({"labels-only": alone, "dvd-cl": method}, baseline="labels-only", seed=0)
    assert first["dice"] == pytest.approx(np.mean([0.6, 0.6, 0.8, 0.8]))
    differences = np.array([0.2, 0.2, -0.1, 0.15])
    assert second["difference"] == pytest.approx(differences.mean())
    of_patients = [0.2, -0.1, 0.15]
    assert second["p"] == pytest.approx(scipy.stats.wilcoxon(of_patients).pvalue)
    assert second["difference_low"] <= second["difference"] <= second["difference_high"]
    assert second["difference_low"] == pytest.approx(-0.1)  # all three draws are patient b
    assert math.isnan(first["p"])


def test_the_published_row_is_mean_and_deviation_over_folds_in_percent() -> None:
    (row,) = best_of_folds({"dvd-cl": [0.9, 0.94]})
    assert row["best_dice_percent"] == pytest.approx(92.0)
    assert row["sd"] == pytest.approx(100 * math.sqrt(2) * 0.02)  # n - 1 = 1 below the line


def test_a_network_scored_as_in_training_normalises_by_what_it_sees_though_somebody_evaluates_it() -> None:
    network = torch.nn.BatchNorm2d(1).eval()
    scored = _AsInTraining(network)
    image = torch.full((1, 1, 4, 4), 5.0) + torch.arange(16.0).reshape(1, 1, 4, 4)
    with torch.no_grad():
        seen = scored.eval()(image)
    assert abs(float(seen.mean())) < 1e-5
    assert float(network.running_mean) > 0
    assert torch.equal(network.eval()(image), torch.nn.functional.batch_norm(
        image, network.running_mean, network.running_var, network.weight, network.bias))  # fmt: skip
