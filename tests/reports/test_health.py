"""The report shows how healthy features are: warnings, figures in plain words, curves; and nothing it does not know."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from reports.test_contrast_section import Section
from scantling.reports.report import write_report
from scantling.training.run_folder import RunFolder

COLLAPSED = "since step 400 the network's features have filled no more than 3 of 16 dimensions"
UNTRAINED = {
    "probe_dice": 0.121, "kmeans_purity": 0.333, "centre_distance_over_spread": 0.216, "alignment": 0.913,
    "uniformity": -2.117, "effective_rank": 14.24, "feature_spread": 0.779,
}  # fmt: skip


def figures(step: int) -> dict[str, Any]:
    """As a contrast on phantom radiographs gave them."""
    learnt = 1 - math.exp(-step / 120)
    measured = {
        "probe_dice": 0.12 + 0.63 * learnt, "kmeans_purity": 0.33 + 0.3 * learnt,
        "centre_distance_over_spread": 0.22 + 0.66 * learnt, "alignment": 0.91 - 0.88 * learnt,
        "uniformity": -2.1 - 0.02 * learnt, "effective_rank": 14.2 - 0.6 * learnt,
        "feature_spread": 0.78 + 0.02 * learnt,
    }  # fmt: skip
    counts = {"dimensions": 16.0, "classes": 4.0, "cases_fitted": 6.0, "cases_scored": 10.0}
    return {**measured, **counts, **{f"untrained_{name}": value for name, value in UNTRAINED.items()}}


def examine(run: RunFolder, step: int, **changes: Any) -> None:
    found = figures(step) | changes
    per_class = {} if found["probe_dice"] is None else {"heart": found["probe_dice"] - 0.06, "left_lung": 0.8}
    run.append_log("health", step=step, figures=found, per_class=per_class, seconds=1.5)


def warn(run: RunFolder, step: int, sentence: str, *, over: bool = False) -> None:
    name = "contrast_recovered" if over else "contrast_warning"
    run.append_log(name, step=step, kind="few_directions", term="features", **{"class": None}, sentence=sentence)


def section(run: RunFolder) -> Section:
    return Section(write_report(run.path).read_text(encoding="utf-8"), "Health of the features")


@pytest.fixture
def pretrained(finished_run: Path) -> RunFolder:
    """The finished run with six examinations."""
    run = RunFolder(finished_run)
    for step in range(100, 601, 100):
        examine(run, step)
    return run


def test_a_run_whose_features_were_not_examined_has_no_such_section(finished_run: Path) -> None:
    assert section(RunFolder(finished_run)).text == ""
    assert json.loads((finished_run / "report.json").read_text())["health"] == []


def test_the_probe_is_said_first_beside_what_random_weights_give(pretrained: RunFolder) -> None:
    text = section(pretrained).text
    said = (
        "With the features as they are, a linear classifier of single pixels, fitted on 6 labelled cases, reached a "
        "mean Dice of 0.746 on 10 others. On the features of random weights it reached 0.121: the difference is what "
        "training has added."
    )
    assert text.startswith(said)
    assert "highest" not in text
    assert "When training ended" not in text


def test_each_figure_stands_with_random_weights_at_first_and_at_last_and_in_words(pretrained: RunFolder) -> None:
    text = section(pretrained).text
    assert "random weights step 100 step 600 Dice of a linear probe How well one linear layer segments" in text
    assert "so much of the task is solved. 0.121 0.476 0.746 Purity of clusters Share of pixels" in text
    assert "1: the 4 clusters are the classes, 0.25: they know nothing of them." in text
    assert "things first. 0.33 0.50 0.63 Distance of class centres over spread Below 1" in text
    assert "Higher is better. 0.22 0.59 0.88 Alignment of two views Squared distance" in text
    assert "are spread. 0.913 0.412 0.036 Uniformity How evenly" in text
    assert "around them. −2.12 −2.11 −2.12 Effective rank Dimensions that the features fill, of 16." in text
    assert "mean collapse. 14.2 13.9 13.6 Spread 1: in all directions alike, 0: one point. Below 0.1 they" in text
    assert "have collapsed. 0.78 0.79 0.80" in text
    assert "6 examinations in 9 s." in text


def test_the_course_of_each_figure_is_drawn_with_the_level_of_random_weights(pretrained: RunFolder) -> None:
    found = section(pretrained)
    assert found.charts == [
        "Dice of a linear probe on the features (higher is better)",
        "Dimensions the features fill",
        "Purity of k-means clusters (1: the clusters are the classes)",
        "Distance of class centres over spread (higher: further apart)",
        "Distance of two views of a point (0: alike, 2: unrelated)",
        "Uniformity of the features (0: one point, lower: more even)",
        "Spread of the features (1: even, 0: one point)",
    ]
    charts = found.text.split("random weights")
    assert len(charts) > 7
    assert "mean" in found.text
    assert "left lung" in found.text


def test_the_json_holds_every_examination(pretrained: RunFolder) -> None:
    content = json.loads(write_report(pretrained.path).with_suffix(".json").read_text(encoding="utf-8"))
    assert [event["step"] for event in content["health"]] == [100, 200, 300, 400, 500, 600]
    assert content["health"][0]["figures"]["untrained_effective_rank"] == 14.24


def test_a_collapse_that_holds_is_said_first_and_one_that_is_over_after_it(pretrained: RunFolder) -> None:
    warn(pretrained, 200, "since step 200 the network's features of all pixels have been nearly one point")
    warn(pretrained, 300, "the network's features are spread out again", over=True)
    warn(pretrained, 400, COLLAPSED)
    found = section(pretrained)
    over = "step 200: since step 200 the network's features of all pixels have been nearly one point step 300: the"
    assert found.text.startswith(f"When training ended: {COLLAPSED}. Over when training ended: {over}")
    page = (pretrained.path / "report.html").read_text(encoding="utf-8")
    assert f"Training ended with a warning: {COLLAPSED.replace(chr(39), '&#x27;')}." in page
    assert "status finished, with 1 warning<" in page


def test_features_that_are_no_better_than_random_ones_or_were_better_before_are_told_so(finished_run: Path) -> None:
    run = RunFolder(finished_run)
    examine(run, 100, probe_dice=0.30)
    examine(run, 200, probe_dice=0.13)
    text = section(run).text
    assert "random weights it reached 0.121: training has added next to nothing." in text
    assert "It was highest after 100 steps, at 0.300." in text


def test_without_labels_only_what_needs_none_is_shown(finished_run: Path) -> None:
    run = RunFolder(finished_run)
    unknown = ("probe_dice", "kmeans_purity", "centre_distance_over_spread")
    nothing = {name: None for key in unknown for name in (key, f"untrained_{key}")}
    for step in (100, 200):
        examine(run, step, **nothing, classes=0.0, cases_fitted=0.0, cases_scored=0.0)
    found = section(run)
    assert found.text.startswith("No labelled case was kept to score a linear probe on")
    assert "Purity of clusters" not in found.text
    assert len(found.charts) == 4
    assert found.charts[0] == "Dimensions the features fill"


def test_one_examination_gives_the_table_and_no_curves(finished_run: Path) -> None:
    examine(RunFolder(finished_run), 100)
    found = section(RunFolder(finished_run))
    assert "random weights step 100 Dice of a linear probe" in found.text
    assert found.charts == []


def test_a_log_that_holds_less_than_it_should_still_gives_a_page(finished_run: Path) -> None:
    run = RunFolder(finished_run)
    run.append_log("health", step=5)
    run.append_log("health", step=10, figures={"probe_dice": 0.5})
    assert "reached a mean Dice of 0.500 on 0 others." in section(run).text
