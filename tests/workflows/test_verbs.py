from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import scantling
from scantling.cli.main import app
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.errors import ConfigError
from scantling.workflows import demo as demo_workflow
from scantling.workflows import verbs

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
    held_out = printed["held_out"]
    assert (held_out["cases"], held_out["patients"], held_out["missing"]) == (3, 3, [])
    assert held_out["low"] <= held_out["mean_foreground_dice"] <= held_out["high"]
    assert set(held_out["dice"]) == {"right_lung", "left_lung", "heart"}
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
    small = ("--budget-ram", "1M", "--json", "-q")
    failures = json.loads(invoke("predict", str(run), str(data / "images"), "-o", str(tmp_path / "s"), *small, code=3))
    assert len(failures["failures"]) == 6
    table = invoke("evaluate", str(tmp_path / "out"), str(data), "--out", str(tmp_path / "scores"))
    assert "Mean foreground Dice" in table
    assert (tmp_path / "scores" / "metrics.csv").is_file()
    paired = invoke("evaluate", str(tmp_path / "out"), str(data), "--paired", str(run / "predictions"), code=3)
    assert "Wilcoxon" in paired
    page = invoke("report", str(run), "-o", str(tmp_path / "page.html")).strip()
    assert Path(page).read_text(encoding="utf-8").startswith("<!")
    written = json.loads(invoke("report", str(run), "-o", str(tmp_path / "page.html"), "--json"))
    assert json.loads(Path(written["facts"]).read_text())["verdict"]
    for name in ("page.json", "."):
        result = CliRunner().invoke(app, ["report", str(run), "-o", str(tmp_path / name)])
        assert "wanted the name of the HTML file" in str(result.exception)


def test_scores_are_written_to_a_new_folder_or_move_the_old_one_aside(run: Path, data: Path, tmp_path: Path) -> None:
    invoke("predict", str(run), str(data / "images"), "-o", str(tmp_path / "out"), "-q")
    words = ["evaluate", str(tmp_path / "out"), str(data), "-o", str(tmp_path / "scores"), "-q"]
    invoke(*words)
    assert "--overwrite" in str(CliRunner().invoke(app, words).exception)
    invoke(*words, "--overwrite")
    assert len(list(tmp_path.glob("scores*"))) == 2


def test_a_score_on_cases_the_model_has_learnt_from_says_so(run: Path, data: Path, tmp_path: Path) -> None:
    scantling.predict(run, data / "images", tmp_path / "out")
    evaluation = scantling.evaluate(tmp_path / "out", data)
    assert evaluation.notes[0].startswith("2 of 5 cases bear names of cases that the model has learnt from")
    held_out = scantling.evaluate(run / "predictions", data)
    assert not any("learnt from" in note for note in held_out.notes)
    scantling.predict(run / "model", data / "images", tmp_path / "unknown")
    assert not any("learnt from" in note for note in scantling.evaluate(tmp_path / "unknown", data).notes)


@pytest.mark.parametrize("layout", ["table", "images and masks", "one folder", "labels alone"])
def test_the_reference_may_be_a_data_set_of_any_layout_or_labels_alone(data: Path, tmp_path: Path, layout: str) -> None:
    reference = tmp_path / "reference"
    for label in sorted((data / "labels").glob("*.png")):
        image = data / "images" / label.name
        targets = {
            "images and masks": (reference / "images" / label.name, reference / "masks" / label.name),
            "one folder": (reference / label.name, reference / f"{label.stem}_seg.png"),
            "labels alone": (tmp_path / "elsewhere" / label.name, reference / label.name),
        }.get(layout, ())
        for source, target in zip((image, label), targets, strict=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    named = data / "cases.csv" if layout == "table" else reference
    evaluation = scantling.evaluate(data / "labels", named)
    assert (evaluation.find().n, evaluation.find().mean) == (5, 1.0)


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
    result = CliRunner().invoke(app, ["predict", str(run), str(images), "-o", str(tmp_path / "out"), "-q"])
    assert result.exit_code == 3
    assert len(result.stdout.split()) == 2
    said = result.stderr.splitlines()
    assert len(said) == 2
    assert said[0].startswith("failed: ")
    assert "broken.png: the file is damaged" in said[0]
    assert said[1] == "failed 1 of 3 cases"


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


def test_the_demo_ends_with_a_score_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_workflow, "UNLABELLED", 2)
    monkeypatch.setattr(demo_workflow, "HELD_OUT", 3)
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo"), "--steps", "2"])
    assert "Mean foreground Dice" in result.stdout
    assert "scores say nothing about patients" in result.stderr
    assert "labels alone at the same budget" in result.stdout
    assert len(list((tmp_path / "demo" / "chromap").glob("*.png"))) == 1
    assert (tmp_path / "demo" / "run" / "report.html").is_file()
    assert "already exists" in str(CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo"), "-q"]).exception)


def test_the_convention_of_surface_distances_can_be_chosen(tmp_path: Path) -> None:
    reference = np.zeros((24, 24), dtype=np.uint8)
    reference[4:12, 4:12] = 1
    predicted = reference.copy()
    predicted[8, 20:22] = 1  # two surface pixels of 30, but of 58 where both surfaces are pooled
    for name, label in (("reference", reference), ("predicted", predicted)):
        (tmp_path / name).mkdir()
        Image.fromarray(label).save(tmp_path / name / "a.png")
    found = {
        convention: verbs.evaluate(tmp_path / "predicted", tmp_path / "reference", convention=convention)
        for convention in ("monai", "medpy")
    }
    hd95 = {name: evaluation.values(metric="hd95_mm")["a"].value for name, evaluation in found.items()}
    assert hd95["medpy"] == 0
    assert hd95["monai"] == pytest.approx(0.55 * 9)  # position 27.55 of 28 zeros, 9 and 10
