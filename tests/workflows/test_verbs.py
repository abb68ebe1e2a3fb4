from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import scantling
from scantling.cli.main import app
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.errors import ConfigError

SHORT = ("plan.patch_size=[32,32]", "plan.batch_size=2", "training.steps_per_epoch=2")
SET = [word for setting in SHORT for word in ("--set", setting)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs") / "chest"
    return write_chest_phantom(folder, n_labelled=2, n_unlabelled=1, n_test=3, seed=5, size=48)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    result = CliRunner().invoke(app, ["train", str(data), "-o", str(out), "--steps", "2", *SET, "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["status"] == "finished"
    assert printed["held_out"]["cases"] == 3
    return out


def invoke(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def test_train_writes_a_report_that_needs_no_network(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert str(run.parent) not in html


def test_predict_evaluate_and_report_go_on_from_a_run(run: Path, data: Path, tmp_path: Path) -> None:
    printed = invoke("predict", str(run), str(data / "images"), "-o", str(tmp_path / "out"), "--uncertainty", "-q")
    assert len(printed.split()) == 6
    assert len(list((tmp_path / "out" / "uncertainty").iterdir())) == 6
    invoke("predict", str(run), str(data / "images"), "-o", str(tmp_path / "out"), "--overwrite", "-q")
    table = invoke("evaluate", str(tmp_path / "out"), str(data), "--out", str(tmp_path / "scores"))
    assert "Mean foreground Dice" in table
    assert (tmp_path / "scores" / "metrics.csv").is_file()
    paired = invoke("evaluate", str(tmp_path / "out"), str(data), "--paired", str(run / "predictions"), code=3)
    assert "Wilcoxon" in paired
    page = invoke("report", str(run), "-o", str(tmp_path / "page.html")).strip()
    assert Path(page).read_text(encoding="utf-8").startswith("<!")


def test_kept_probabilities_are_scored_for_calibration(run: Path, data: Path, tmp_path: Path) -> None:
    invoke("predict", str(run), str(data / "images"), "-o", str(tmp_path / "out"), "--probabilities", "-q")
    scores = json.loads(invoke("evaluate", str(tmp_path / "out"), str(data), "--json"))
    calibration = {s["metric"]: s for s in scores["summary"] if s["class_name"] == "all_classes"}
    assert set(calibration) == {"ece", "brier"}
    assert all(0 <= summary["mean"] <= 2 and summary["scored"] == 5 for summary in calibration.values())


def test_a_missing_prediction_is_a_failure_with_exit_code_3(run: Path, data: Path, tmp_path: Path) -> None:
    invoke("predict", str(run), str(data / "images"), "-o", str(tmp_path / "out"), "-q")
    next((tmp_path / "out").glob("*.png")).unlink()
    printed = invoke("evaluate", str(tmp_path / "out"), str(data), "--json", code=3)
    assert json.loads(printed)["missing"]


def test_an_unreadable_image_fails_alone_and_the_exit_code_says_so(run: Path, data: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((data / "images").iterdir())[:2]:
        (images / path.name).write_bytes(path.read_bytes())
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    printed = invoke("predict", str(run), str(images), "-o", str(tmp_path / "out"), "-q", code=3)
    assert len(printed.split()) == 2


def test_inspect_prints_what_was_found_and_writes_the_lock(data: Path, tmp_path: Path) -> None:
    printed = invoke("inspect", str(data), "-o", str(tmp_path))
    assert "Found 6 cases" in printed
    assert len(json.loads((tmp_path / "data.lock.json").read_text())["files"]) > 6
    assert json.loads(invoke("inspect", str(data), "-o", str(tmp_path), "--json"))["cases"]


def test_a_configuration_file_is_a_layer_below_the_flags(run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    invoke(
        "train",
        str(data),
        "-o",
        str(out),
        "--config",
        str(run / "config.toml"),
        "--seed",
        "4",
        "--steps",
        "1",
        "-q",
    )
    status = json.loads((out / "run.json").read_text())
    assert (status["seed"], status["steps"]) == (4, 1)
    third = tmp_path / "third"
    invoke("train", str(data), "-o", str(third), "--config", str(out / "config.toml"), "-q")
    status = json.loads((third / "run.json").read_text())
    assert (status["seed"], status["steps"]) == (4, 1)
    assert "patch_size = [" in (out / "config.toml").read_text()


def test_the_functions_are_the_verbs_and_the_segmenter_has_sklearn_manners(data: Path, tmp_path: Path) -> None:
    segmenter = scantling.Segmenter(steps=1, settings=SHORT)
    assert scantling.Segmenter(**segmenter.get_params()).get_params() == segmenter.get_params()
    with pytest.raises(ConfigError, match="not fitted yet"):
        segmenter.predict(data / "images")
    with pytest.raises(ConfigError, match="no parameter 'speed'"):
        segmenter.set_params(speed=1)
    assert segmenter.set_params(seed=2).fit(data, tmp_path / "run") is segmenter
    image = next((data / "images").iterdir())
    first = segmenter.predict(image)
    again = scantling.Segmenter.load(tmp_path / "run").predict([image])
    assert np.array_equal(first.stored, again.stored)
    assert first.stored.shape == (48, 48)
    evaluation = segmenter.score(data / "images", data, tmp_path / "out")
    assert evaluation.find().n == 5


def test_the_demo_ends_with_a_score_and_a_report(tmp_path: Path) -> None:
    printed = invoke("demo", "-o", str(tmp_path / "demo"), "--steps", "2", "-q")
    assert "Mean foreground Dice" in printed
    assert (tmp_path / "demo" / "run" / "report.html").is_file()
    assert "already exists" in str(CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo"), "-q"]).exception)
