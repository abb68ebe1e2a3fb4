"""The command line's way from images to features to a scored model, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import scantling
from scantling.cli import pretrain
from scantling.cli.main import app
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.errors import ConfigError, DataError
from scantling.files import read_json
from scantling.recipes import RECIPES

SHORT = ("plan.patch_size=[32, 32]", "plan.batch_size=2", "training.steps_per_epoch=2")
VIEWS = ("settings.points=20", "settings.views.n_views=2")


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def invoke(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain") / "chest"
    return write_chest_phantom(folder, n_labelled=3, n_unlabelled=3, n_test=2, seed=5, size=40, silver=True)


@pytest.fixture(scope="module")
def features(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "p"
    printed = invoke("pretrain", str(data), "--method", "mvd-cl", "-o", str(out), "--steps", "2", "--quiet",
                     *words(*SHORT, *VIEWS))  # fmt: skip
    assert f"use:    scantling train DATA --init {out}" in printed
    return out


def test_pretrain_then_train_then_a_score(features: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    printed = json.loads(invoke("train", str(data), "--init", str(features), "--tune", "frozen", "-o", str(out),
                                "--steps", "2", "--json", "--quiet", *words("training.steps_per_epoch=2")))  # fmt: skip
    assert printed["status"] == "finished"
    assert printed["held_out"]["cases"] == 2
    assert read_json(out / "plan.json")["patch_size"] == [32, 32]
    assert 0 <= printed["held_out"]["mean_foreground_dice"] <= 1
    assert len(list((out / "predictions").glob("*.png"))) == 2
    assert "its encoder stayed as it was" in (out / "model" / "MODEL_CARD.md").read_text()


def test_a_case_that_pretraining_has_seen_is_no_new_patient_for_the_tuned_model(
    features: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    scantling.train(data, out, init=features, steps=1, labels=1, settings=SHORT)
    scantling.predict(out, data / "images", tmp_path / "predicted")
    evaluation = scantling.evaluate(tmp_path / "predicted", data)
    assert evaluation.notes[0].startswith("3 of 5 cases bear names of cases that the model has learnt from")


def test_features_are_no_segmentation_and_predict_says_so(features: Path, data: Path, tmp_path: Path) -> None:
    words = ["predict", str(features), str(data / "images"), "-o", str(tmp_path / "out")]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, DataError)
    assert str(error).startswith(f"{features / 'model'}: a pretrained network, which segments nothing yet; fine-tune")
    assert not (tmp_path / "out").exists()


def test_the_configuration_of_a_run_starts_another_one_and_names_its_method(
    features: Path, data: Path, tmp_path: Path
) -> None:
    again = scantling.pretrain(data, tmp_path / "again", config=features / "config.toml", seed=1)
    assert again.status["recipe"] == "mvd_cl"
    assert read_json(tmp_path / "again" / "splits.json")["label_kinds"] == []


def test_the_default_label_kind_is_silver_and_only_for_features(data: Path, tmp_path: Path) -> None:
    run = scantling.pretrain(data, tmp_path / "a", method="s-dvd-cl", steps=1, dry_run=True, settings=(*SHORT, *VIEWS))
    assert run.status["status"] == "dry run"
    split = read_json(tmp_path / "a" / "splits.json")
    assert split["label_kinds"] == ["silver"]
    assert len(split["train"]) == 6
    scantling.train(data, tmp_path / "b", steps=1, dry_run=True, settings=SHORT)
    assert read_json(tmp_path / "b" / "splits.json")["label_kinds"] == ["full", "slices"]


@pytest.mark.parametrize(("method", "text"), [("supervised", "learns no features"), ("dvd-cli", "mean 'dvd-cl'"),
                                             ("s_mvd-cll", "mean 's-mvd-cl'")])  # fmt: skip
def test_a_method_that_learns_no_features_is_refused_with_the_nearest_that_does(
    method: str, text: str, data: Path, tmp_path: Path
) -> None:
    error = CliRunner().invoke(app, ["pretrain", str(data), "--method", method, "-o", str(tmp_path / "r")]).exception
    assert isinstance(error, ConfigError)
    assert text in str(error)
    assert error.code == "E-CFG-73"
    assert not (tmp_path / "r").exists()


def test_the_help_names_every_method() -> None:
    source = Path(pretrain.__file__).read_text(encoding="utf-8")
    methods = [name.replace("_", "-") for name, recipe in RECIPES.items() if recipe.learns == "features"]
    assert len(methods) >= 10
    assert not [method for method in methods if not re.search(rf"\b{method}\b", source)]


def test_an_unknown_way_to_tune_is_refused_and_the_known_ones_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'full', 'frozen' or 'linear-probe'"):
        scantling.train(data, tmp_path / "run", init="somewhere", tune="half", steps=1)
