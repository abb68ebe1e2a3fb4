"""train where images without full labels are there: who learns from whom, for how long, and what it added."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from typer.testing import CliRunner

import scantling
from scantling.cli.main import app
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.errors import ConfigError, DataError, Interrupted, PlanMismatch
from scantling.evaluation.conventions import MEAN_FOREGROUND, Settings
from scantling.evaluation.evaluate import Evaluation
from scantling.evaluation.rows import Row
from scantling.evaluation.summary import summarise
from scantling.files import read_json
from scantling.training import train as training
from scantling.training.config import DataConfig, RunConfig
from scantling.training.loop_state import LoopConfig
from scantling.training.run_folder import RunFolder
from scantling.workflows.added import added
from scantling.workflows.result import RunResult
from scantling.workflows.whole_road import FEWEST_STEPS, WholeRoad, plan_road
from two_processes import scantling_in_two

SHORT = (
    "plan.patch_size=[32, 32]", "plan.batch_size=2", "training.steps_per_epoch=2",
    "pretraining.settings.points=20", "pretraining.settings.views.n_views=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road") / "chest"
    return write_chest_phantom(folder, n_labelled=2, n_unlabelled=6, n_test=3, seed=5, size=40)


@pytest.fixture(scope="module")
def compared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "compared"
    scantling.train(data, out, steps=3, compare=True, settings=SHORT)
    return out


def road(
    data: Path, *, wanted: str | None = None, compare: bool = False, tune_free: bool = False, **of: object
) -> WholeRoad:
    found = plan_road(config(data, **of), {}, wanted=wanted, compare=compare, free=True, tune_free=tune_free)
    assert found is not None
    return found


def config(
    data: Path,
    *,
    labels: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    tune: Literal["full", "frozen"] = "full",
) -> RunConfig:
    return RunConfig(
        tune=tune,
        data=DataConfig(path=str(data), labels=labels),
        time_seconds=None if minutes is None else 60 * minutes,
        training=LoopConfig(steps=steps),
    )


def test_features_come_first_and_labels_alone_get_the_same_number_of_steps(compared: Path) -> None:
    features, alone = compared / "features", compared / "labels-only"
    assert read_json(features / "run.json")["recipe"] == "dvd_cl"
    assert [read_json(run / "run.json")["steps"] for run in (features, compared, alone)] == [3, 3, 6]
    assert "features" in read_json(compared / "run.json")["started_from"]
    splits = [read_json(run / "splits.json") for run in (features, compared, alone)]
    assert len(splits[0]["unlabelled"]) == 8
    assert splits[1]["heldout"] == splits[2]["heldout"]
    assert splits[1]["train"] == splits[2]["train"]
    assert all((run / "report.html").is_file() for run in (features, compared, alone))


def test_the_report_says_what_the_other_images_added_with_an_interval(compared: Path) -> None:
    told = read_json(compared / "report.json")["added_by_unlabelled"]
    scores = [
        Evaluation.load(run / "metrics.csv", run / "evaluation.json") for run in (compared, compared / "labels-only")
    ]
    dice = [np.array([row.value for row in one.values().values()]) for one in scores]
    assert told["dice"] == pytest.approx(dice[0].mean())
    assert told["difference"] == pytest.approx((dice[0] - dice[1]).mean())
    assert told["low"] <= told["difference"] <= told["high"]
    assert told["sentence"].startswith("6 images without full labels ")
    assert told["sentence"] in (compared / "report.html").read_text(encoding="utf-8")
    assert told["sentence"] in RunResult.read(RunFolder.open(compared)).text()


def test_a_finished_road_is_not_gone_again(compared: Path) -> None:
    with pytest.raises(DataError, match="the run is finished"):
        scantling.resume(compared)


def test_a_road_that_stopped_between_its_runs_goes_on_with_the_next(compared: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(compared, stopped)
    shutil.rmtree(stopped / "labels-only")
    before = (stopped / "features" / "model" / "model.safetensors").read_bytes()
    result = scantling.resume(stopped)
    assert result.status["baseline"] == read_json(compared / "run.json")["baseline"]
    assert (stopped / "features" / "model" / "model.safetensors").read_bytes() == before


def test_a_signal_while_features_are_learnt_names_the_whole_road(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, carried = tmp_path / "run", training._carry

    def stopped(run: RunFolder, *args: object, **kwargs: object) -> RunFolder:
        if run.path.name == "features":
            run.update(status="interrupted")
            raise Interrupted(f"stopped; {run.how_to_resume}", code="E-INT-01")
        return carried(run, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(Interrupted, match=f"scantling resume {re.escape(str(out))} "):
        patched.setattr(training, "_carry", stopped)
        scantling.train(data, out, steps=2, settings=SHORT)
    assert scantling.resume(out).status["status"] == "finished"
    assert "baseline" not in read_json(out / "run.json")
    assert "'train --compare' does both" in read_json(out / "report.json")["added_by_unlabelled"]["sentence"]


def test_refused_before_anything_was_learnt_it_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="s_mvd_cl learns from labels"):
        scantling.train(data, tmp_path / "run", steps=2, pretrain="s-mvd-cl", settings=SHORT[:3])
    assert not (tmp_path / "run").exists()


def test_refused_fine_tuning_leaves_the_features(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(PlanMismatch, match=r"its network has plan\.network plain_unet, but residual_unet"):
        scantling.train(
            data, out, steps=2,
            settings=[*SHORT, "plan.network=residual_unet", "pretraining.plan.network=plain_unet"],
        )  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["features", "road.json"]
    assert (out / "features" / "model").is_dir()


def test_a_dry_run_says_what_would_happen(data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(data), "-o", str(tmp_path / "dry"), "--steps", "2", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "6 images without full labels beside 2 labelled" in result.output
    assert not (tmp_path / "dry" / "features").exists()


def test_the_command_line_compares(data: Path, tmp_path: Path) -> None:
    arguments = ["train", str(data), "-o", str(tmp_path / "run"), "--steps", "1", "--compare", "--json", "--quiet"]
    arguments += [word for setting in SHORT for word in ("--set", setting)]
    result = CliRunner().invoke(app, [*arguments, "--pretrain", "mvd-cl"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["added_by_unlabelled"]
    assert told["difference"] == pytest.approx(told["dice"] - told["dice_labels_only"])
    assert read_json(tmp_path / "run" / "features" / "run.json")["recipe"] == "mvd_cl"


def test_two_processes_go_the_road_together(data: Path, tmp_path: Path) -> None:
    words = ["train", str(data), "-o", str(tmp_path / "run"), "--steps", "1", "--compare", "--device", "cpu", "--quiet"]
    words += ["--json", *(word for setting in SHORT for word in ("--set", setting))]
    printed = scantling_in_two(words)
    assert "6 images without full labels" in json.loads(printed)["added_by_unlabelled"]["sentence"]  # said once
    states = [
        read_json(run / "run.json")
        for run in (tmp_path / "run", tmp_path / "run" / "features", tmp_path / "run" / "labels-only")
    ]
    assert all((state["status"], state["processes"]) == ("finished", 2) for state in states)


def test_features_that_the_time_allows_too_few_steps_of_are_left_out_and_it_is_said(data: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", (*SHORT, "pretraining.training.fewest_steps=100000")
    result = scantling.train(data, out, time=4, compare=True, tune="frozen", settings=settings)
    features = read_json(out / "features" / "run.json")
    assert (features["status"], features.get("steps")) == ("too short", None)
    assert not (out / "features" / "model").exists()
    assert not (out / "labels-only").exists()
    assert result.status["status"] == "finished"
    assert "started_from" not in result.status
    sentence = result.status["baseline"]["sentence"]
    steps = features["forecast"]["steps"]
    assert sentence.startswith(f"6 images without full labels were not used: the time allows {steps} steps of learning")
    assert sentence in result.text()
    assert sentence in (out / "report.html").read_text(encoding="utf-8")
    with pytest.raises(DataError, match="the run is finished"):
        scantling.resume(out)


def test_fewer_steps_than_wanted_end_a_run_by_the_clock_and_no_other(data: Path, tmp_path: Path) -> None:
    short = (*SHORT[:3], "training.fewest_steps=100000")
    clock = scantling.train(data, tmp_path / "clock", recipe="supervised", time=4, settings=short)
    assert (clock.status["status"], clock.text()) == ("too short", f"too short: {tmp_path / 'clock'}")
    assert re.fullmatch(r"\d+ steps foreseen, 100000 wanted", clock.status["reason"])
    counted = scantling.train(data, tmp_path / "counted", recipe="supervised", steps=1, settings=short)
    assert counted.status["status"] == "finished"


def test_a_method_that_was_named_is_learnt_by_however_few_steps(data: Path) -> None:
    assert road(data, minutes=1).features.training.fewest_steps == FEWEST_STEPS
    assert road(data, minutes=1, wanted="auto").features.training.fewest_steps == FEWEST_STEPS
    assert road(data, minutes=1, wanted="dvd-cl").features.training.fewest_steps == 0


def test_what_is_kept_of_the_features_is_not_asked_of_the_run_without_them(data: Path) -> None:
    planned = road(data, steps=8, compare=True, tune="frozen")
    assert planned.labels_only is not None
    assert [run.tune for run in (planned.features, planned.tuned, planned.labels_only)] == ["full", "frozen", "full"]


def test_with_one_labelled_image_the_encoder_of_features_stays_unless_it_is_said_otherwise(
    data: Path, tmp_path: Path
) -> None:
    assert road(data, steps=8, labels=1, tune_free=True).tuned.tune == "frozen"
    assert road(data, steps=8, labels=1).tuned.tune == "full"
    assert road(data, steps=8, labels=2, tune_free=True).tuned.tune == "full"
    planned = road(data, steps=8, labels=1, compare=True, tune_free=True)
    assert planned.labels_only is not None
    assert planned.labels_only.tune == "full"
    assert "fine-tuned on the labelled ones; their encoder stays as it is; then labels alone" in planned.sentence()
    words = ["train", str(data), "--labels", "1", "--steps", "2", "--dry-run"]
    for name, tune, kept in (("free", [], True), ("asked", ["--tune", "full"], False)):
        result = CliRunner().invoke(app, [*words, *tune, "-o", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert ("their encoder stays as it is" in result.output.replace("\n", " ")) == kept


def test_half_of_the_budget_is_for_features_and_less_where_few_images_lack_labels(data: Path, tmp_path: Path) -> None:
    planned = road(data, minutes=10, compare=True)
    assert planned.labels_only is not None
    assert [run.time_seconds for run in (planned.features, planned.tuned, planned.labels_only)] == [300, 600, 600]
    assert planned.features.data.scored_kinds == planned.tuned.data.label_kinds
    few = write_chest_phantom(tmp_path / "few", n_labelled=6, n_unlabelled=2, n_test=2, seed=5, size=40)
    planned = road(few, steps=90, compare=True)
    assert planned.labels_only is not None
    assert planned.features.training.steps == 30  # a quarter of 120
    assert planned.labels_only.training.steps == 120


def test_silver_labels_are_learnt_from_where_most_have_some(data: Path, tmp_path: Path) -> None:
    silver = write_chest_phantom(tmp_path / "s", n_labelled=3, n_unlabelled=5, n_test=2, seed=5, size=40, silver=True)
    planned = road(silver, steps=10)
    assert (planned.method, planned.silver) == ("segmentation", planned.more)
    assert planned.features.data.label_kinds == ("silver",)
    assert road(data, steps=10).method == "dvd_cl"
    assert road(data, steps=10, wanted="pixpro").method == "pixpro"


def test_labels_beyond_the_budget_count_as_images_without(data: Path) -> None:
    planned = road(data, steps=10, labels=1)
    assert (planned.labelled, planned.more) == (1, 7)


@pytest.mark.parametrize(
    ("wanted", "compare", "free", "words"),
    [
        ("pixcon", False, True, "method 'pixcon': learns no features; did you mean"),
        ("dvd-cl", False, False, "the run has a --recipe"),
        ("none", True, True, "--compare: tells what"),
        (None, True, False, "--compare: tells what"),
    ],
)
def test_what_cannot_be_had_together_is_said(
    data: Path, wanted: str | None, compare: bool, free: bool, words: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        plan_road(config(data, steps=2), {}, wanted=wanted, compare=compare, free=free)


def test_without_further_images_it_is_one_run(tmp_path: Path) -> None:
    full = write_chest_phantom(tmp_path / "full", n_labelled=4, n_unlabelled=0, n_test=2, seed=5, size=40)
    assert plan_road(config(full, steps=2), {}, wanted=None, compare=False, free=True) is None
    with pytest.raises(ConfigError, match="there is nothing to add"):
        plan_road(config(full, steps=2), {}, wanted=None, compare=True, free=True)
    asked = road(full, steps=2, wanted="dvd-cl")
    assert (asked.more, asked.features.training.steps) == (0, 2)


def scored(values: list[float]) -> Evaluation:
    """An evaluation of cases of different patients with these Dice."""
    patients = {f"c{k}": f"p{k}" for k in range(len(values))}
    rows = tuple(
        Row(case=case, class_name=name, metric="dice", value=value, status="ok")
        for case, value in zip(patients, values, strict=True)
        for name in ("lung", MEAN_FOREGROUND)
    )
    summary = tuple(summarise(rows, patients, Settings()))
    return Evaluation(settings=Settings(), classes=("lung",), patients=patients, rows=rows, summary=summary)


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.1, 0.12, 0.11, 0.09], "6 images without full labels added 0.105 of Dice (95 % interval +0.0"),
        ([-0.1, -0.12, -0.11, -0.09], "6 images without full labels did harm: -0.105 of Dice"),
        ([0.1, -0.12, 0.11, -0.09], "6 images without full labels added nothing that can be told from chance: +0.000"),
        ([0.1], "too few patients to tell that from chance"),
    ],
)
def test_the_sentence_owns_up(differences: list[float], words: str) -> None:
    without = [0.7] * len(differences)
    with_them = [before + more for before, more in zip(without, differences, strict=True)]
    told = added(scored(with_them), scored(without), what="6 images", folder="labels-only", seed=0)
    assert words in told["sentence"]
    assert math.isclose(told["difference"], float(np.mean(differences)), abs_tol=1e-9)
    assert f"{np.mean(with_them):.3f}" in told["sentence"]
    assert "0.700" in told["sentence"]


def test_where_nobody_is_held_out_nothing_is_claimed() -> None:
    told = added(None, None, what="1 image", folder="labels-only", seed=0)
    assert told == {"sentence": "Nobody was held out, so what 1 image without full labels added cannot be said."}
