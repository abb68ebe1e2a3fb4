"""What a recipe's diagnostics see reaches the log, the display, the run's status and its report, and survives."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.contract import (
    assert_equal,
    assert_resumed_equals_uninterrupted,
    build,
    loop_for,
    weights_of,
)
from scantling.contrast import watch
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.errors import Interrupted
from scantling.recipes import RECIPES
from scantling.reports.report import write_report
from scantling.training.config import DataConfig, PlanConfig, RunConfig
from scantling.training.loop import Loop
from scantling.training.loop_state import LoopConfig
from scantling.training.observations import active_warnings
from scantling.training.run_folder import RunFolder
from scantling.training.tensorboard import _by_path
from scantling.training.train import start
from scantling.workflows.result import RunResult
from training.looking_recipe import Looking, LookingConfig

LOGGED = ("epoch", "contrast_warning")


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "looking", Looking)
        yield


@dataclass(frozen=True)
class Whole:
    """A run of sixty steps whose anchors are all background, and what it said."""

    folder: Path
    said: list[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    done = Whole(tmp_path_factory.mktemp("whole"), [])
    loop = looking_loop(done.folder, steps=60, fault="background_anchors")
    loop.display.say = done.said.append  # type: ignore[method-assign]
    loop.run()
    return done


def looking_loop(folder: Path, *, steps: int, seed: int = 0, **settings: Any) -> Loop:
    return loop_for(build("looking", settings, seed=seed), folder, steps=steps)


def events(folder: Path, *names: str) -> list[dict[str, Any]]:
    """The log's events, without what the clock says."""
    clock = ("time", "seconds", "samples_per_second")
    found = [event for event in RunFolder(folder).read_log() if event["event"] in names]
    return [{name: value for name, value in event.items() if name not in clock} for event in found]


def test_a_recipe_that_is_looked_at_can_be_resumed(tmp_path: Path) -> None:
    assert_resumed_equals_uninterrupted("looking", tmp_path, {"every": 1})


def test_looking_often_or_hardly_ever_trains_the_same_weights(tmp_path: Path) -> None:
    often, once = (looking_loop(tmp_path / str(every), steps=6, every=every) for every in (1, 1000))
    for loop in (often, once):
        loop.run()
    assert_equal(weights_of(often), weights_of(once))


def test_the_epochs_line_holds_the_means_of_what_was_seen(tmp_path: Path) -> None:
    loop, each = looking_loop(tmp_path, steps=10, every=2), []
    backward = loop.stepper.backward

    def noting(*given: Any, **named: Any) -> Any:
        outcome = backward(*given, **named)
        each.extend(outcome.observations)
        return outcome

    loop.stepper.backward = noting  # type: ignore[method-assign]
    loop.run()
    assert [(seen.step, seen.term) for seen in each[:4]] == [
        (0, "pixel_contrast"), (0, "prediction"), (2, "pixel_contrast"), (2, "prediction"),
    ]  # fmt: skip
    first, second = (event["contrast"] for event in events(tmp_path, "epoch"))
    of_second = [seen for seen in each if seen.term == "pixel_contrast" and seen.step in (6, 8)]
    assert second["pixel_contrast"]["effective_rank"] == pytest.approx(
        sum(seen.figures["effective_rank"] for seen in of_second) / 2
    )
    assert (
        second["pixel_contrast"]["anchors"]["disc"] == sum(seen.by_class["anchors"]["disc"] for seen in of_second) / 2
    )
    assert set(first["pixel_contrast"]) >= {
        "anchors", "labelled", "gradient_share", "positives", "negatives", "fewest_positives", "groups",
        "feature_std", "effective_rank", "alignment", "uniformity", "gradient_spread",
    }  # fmt: skip
    assert set(first["prediction"]) == {"foreground_predicted", "foreground_labelled"}
    assert events(tmp_path, "contrast_warning") == []


def test_a_recipe_that_shows_nothing_leaves_no_trace_in_the_log(tmp_path: Path) -> None:
    recipe = build("supervised")
    recipe.diagnostics = None
    loop_for(recipe, tmp_path, steps=5).run()
    assert ["contrast" in event for event in events(tmp_path, "epoch")] == [False]


def test_plain_supervision_shows_how_much_foreground_it_predicts(tmp_path: Path) -> None:
    loop_for(build("supervised"), tmp_path, steps=5).run()
    (event,) = events(tmp_path, "epoch")
    assert set(event["contrast"]) == {"prediction"}
    assert set(event["contrast"]["prediction"]) == {"foreground_predicted", "foreground_labelled"}


def test_classes_without_anchors_are_said_at_step_51_and_logged_once(whole: Whole) -> None:
    found = [event for event in events(whole.folder, "contrast_warning") if event["kind"] == "no_anchors"]
    assert [(event["step"], event["term"], event["class"]) for event in found] == [
        (51, "pixel_contrast", "disc"), (51, "pixel_contrast", "square"),
    ]  # fmt: skip
    assert sum(sentence.startswith("Warning at step 51: since step 1 no pixel of disc") for sentence in whole.said) == 1


def test_a_collapse_is_said_and_so_is_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "COLLAPSE_PATIENCE", 10)
    monkeypatch.setattr(watch, "SETTLING", 0)
    loop = looking_loop(tmp_path, steps=30, every=5, fault="one_point")
    loop.run()
    assert any("nearly one point" in sentence for sentence in active_warnings(loop.state))
    loop.config = loop.config.model_copy(update={"steps": 35})
    loop.recipe.config = LookingConfig(every=5)
    torch.nn.init.normal_(loop.recipe.head.weight, generator=torch.Generator().manual_seed(0))
    loop.run()
    assert active_warnings(loop.state) == []
    (over,) = (event for event in events(tmp_path, "contrast_recovered") if event["kind"] == "one_point")
    assert (over["step"], over["sentence"]) == (31, "the embeddings of pixel_contrast are spread out again")


def test_a_run_that_stopped_or_was_killed_logs_what_the_whole_one_does(whole: Whole, tmp_path: Path) -> None:
    part, saved = looking_loop(tmp_path / "part", steps=60, fault="background_anchors"), tmp_path / "saved"
    part.stop = lambda: part.state.step == 33
    with pytest.raises(Interrupted):
        part.run()
    shutil.copytree(part.run_folder.checkpoints, saved)
    for _ in range(2):  # the second time nothing past step 33 was saved, but all of it is in the log
        shutil.rmtree(part.run_folder.checkpoints)
        shutil.copytree(saved, part.run_folder.checkpoints)
        again = looking_loop(tmp_path / "part", steps=60, seed=4, fault="background_anchors")
        again.restore()
        again.run()
        assert events(tmp_path / "part", *LOGGED) == events(whole.folder, *LOGGED)
    lines = [json.loads(line) for line in part.run_folder.log.read_text().splitlines()]
    assert sum(line["event"] == "contrast_warning" for line in lines) == 4
    assert sum(line["event"] == "epoch" for line in lines) == 6 + 6 + 6


def poisoned(loop: Loop, *, at: int, by: Callable[[dict[str, Any]], dict[str, Any]]) -> Loop:
    """The loop, with the terms of one step spoilt once, after the contrast was shown."""
    losses, spoilt = loop.recipe.losses, []

    def once(batch: Any, rng: Any) -> Any:
        terms = losses(batch, rng)
        if loop.state.step == at and not spoilt:
            spoilt.append(True)
            return by(terms)
        return terms

    loop.recipe.losses = once  # type: ignore[method-assign]
    return loop


def test_a_step_that_is_not_taken_was_not_seen(tmp_path: Path) -> None:
    def not_finite(terms: dict[str, Any]) -> dict[str, Any]:
        return {name: term * math.nan for name, term in terms.items()}

    loop = poisoned(looking_loop(tmp_path, steps=5, every=1), at=2, by=not_finite)
    ends: list[int] = []
    loop.stop = lambda: bool(ends.append(loop.state.observed["pixel_contrast"]["groups"][1]))  # type: ignore[func-returns-value]
    loop.run()
    assert ends == [1, 2, 2, 3, 4]


def test_a_step_that_did_not_fit_in_memory_is_seen_once(tmp_path: Path) -> None:
    def too_large(terms: dict[str, Any]) -> dict[str, Any]:
        raise torch.OutOfMemoryError("no")

    loop = poisoned(looking_loop(tmp_path / "a", steps=3, every=1), at=1, by=too_large)
    loop.run()
    assert loop.state.splits == 1
    plain = looking_loop(tmp_path / "b", steps=3, every=1)
    plain.run()
    anchors, expected = (
        events(tmp_path / name, "epoch")[0]["contrast"]["pixel_contrast"]["anchors"]["background"] for name in "ab"
    )
    assert anchors == pytest.approx(expected, rel=0.1)


def test_tensorboard_gets_every_number_under_its_path() -> None:
    contrast = {"pixel_contrast": {"groups": 3.0, "anchors": {"disc": 7.0}}}
    assert _by_path("contrast", contrast) == {
        "contrast/pixel_contrast/groups": 3.0,
        "contrast/pixel_contrast/anchors/disc": 7.0,
    }


def test_a_run_that_ends_with_a_warning_is_never_silently_finished(tmp_path: Path) -> None:
    data = write_chest_phantom(tmp_path / "chest", n_labelled=4, n_unlabelled=0, n_test=2, seed=3, size=48)
    config = RunConfig(
        recipe="looking", settings={"fault": "background_anchors", "every": 5}, data=DataConfig(path=str(data)),
        plan=PlanConfig(patch_size=(32, 32), batch_size=2),
        training=LoopConfig(steps=60, steps_per_epoch=20, precision="float32", checkpoint_seconds=1e9),
    )  # fmt: skip
    run = start(config, tmp_path / "run")
    warnings = run.status()["contrast_warnings"]
    assert run.status()["status"] == "finished"
    assert len([w for w in warnings if "no pixel of" in w]) == 3
    result = RunResult.read(run)
    lines = result.text().splitlines()
    assert [line for line in lines if line.startswith("Warning, as training ended: since step ")] == [
        f"Warning, as training ended: {sentence}." for sentence in warnings
    ]
    assert result.to_json()["warnings"] == warnings
    page = write_report(run.path).read_text(encoding="utf-8")
    content = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    assert [event["sentence"] for event in content["warnings"]] == warnings
    assert f"status finished, with {len(warnings)} warnings" in page
    assert page.count("What the contrast saw") == 1
    for sentence in warnings:
        assert f"Training ended with a warning: {sentence}." in page
