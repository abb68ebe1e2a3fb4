"""The report shows what the contrast saw, warnings first, and a run that ended with one says so at the top."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from scantling.reports.facts import read_facts
from scantling.reports.report import write_report
from scantling.reports.verdict import active_warnings, verdict
from scantling.training.run_folder import RunFolder

CLASSES = ("background", "right_lung", "heart")
HEART = "since step 41 no pixel of heart has been an anchor of pixel_contrast"
POINT = "since step 101 the embeddings of pixel_contrast have been nearly one point"


class Section(HTMLParser):
    """Texts and charts under one heading."""

    def __init__(self, html: str, heading: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.charts: list[str] = []
        self.tags: set[str] = set()
        self._heading, self._in_heading, self._inside = heading, False, False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_heading = tag == "h2"
        if self._inside:
            self.tags.add(tag)
            if tag == "svg":
                self.charts.append(str(dict(attrs)["aria-label"]))

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "section"

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self._inside = data == self._heading
        elif self._inside:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def contrast(share: float) -> dict[str, Any]:
    """What an epoch's line holds."""
    by_class = {
        "anchors": (400.0, 90.0 * share, 0.0), "labelled": (1.0, 1.0, 0.8),
        "gradient_share": (1 - share, share, 0.0), "bank": (0.2, share / 3, 0.0),
    }  # fmt: skip
    figures = {
        "positives": 120.0, "negatives": 300.0, "fewest_positives": 3.0, "feature_std": share, "effective_rank": 4.2,
        "alignment": 0.4, "uniformity": -1.5, "gradient_spread": 0.61, "bank_filled": 0.5,
    }  # fmt: skip
    return {
        "pixel_contrast": {**figures, **{k: dict(zip(CLASSES, v, strict=True)) for k, v in by_class.items()}},
        "prediction": {"foreground_predicted": 0.11, "foreground_labelled": 0.3},
    }


def warn(run: RunFolder, step: int, kind: str, klass: str | None, sentence: str, *, over: bool = False) -> None:
    name = "contrast_recovered" if over else "contrast_warning"
    run.append_log(name, step=step, kind=kind, term="pixel_contrast", **{"class": klass}, sentence=sentence)


@pytest.fixture
def contrasted(finished_run: Path) -> RunFolder:
    """The finished run, with a contrast in each of its twelve epochs."""
    run = RunFolder(finished_run)
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    run.log.unlink()
    for line in lines:
        share = {"contrast": contrast(line["epoch"] / 24)} if line["event"] == "epoch" else {}
        run.append_log(line.pop("event"), **{k: v for k, v in line.items() if k != "time"}, **share)
    return run


def section(run: RunFolder) -> Section:
    return Section(write_report(run.path).read_text(encoding="utf-8"), "What the contrast saw")


def test_a_run_without_a_contrast_has_no_such_section(finished_run: Path) -> None:
    assert section(RunFolder(finished_run)).text == ""


def test_the_measures_are_shown_by_class_in_sentences_and_as_curves(contrasted: RunFolder) -> None:
    found = section(contrasted)
    assert "No warning." in found.text
    table = "in the last epoch in the labels anchors a step share of the gradient share of the memory"
    assert (
        f"{table} background 100 % of steps 400 50.0 % 20.0 % right lung 100 % of steps 45 50.0 % 16.7 %" in found.text
    )
    assert "heart 80 % of steps 0 0.0 % 0.0 %" in found.text
    assert "120 positives and 300 negatives on average, at least 3 positives" in found.text
    assert "filled 4.2 dimensions, with 0.50 of the standard deviation" in found.text
    assert "spread among 61.0 % of the anchors. The memory was filled to 50.0 %" in found.text
    assert "Of the predictions 11.0 % was foreground, of the labels 30.0 %" in found.text
    assert found.charts == [
        "Anchors of each class",
        "Gradient of each class",
        "Memory of each class",
        "Spread of the embeddings (1: even, 0: one point)",
        "Dimensions the embeddings fill",
        "Distance of positives (0: aligned, 2: unrelated)",
        "Uniformity (0: one point, lower: more even)",
        "Positives and negatives of an anchor",
        "Anchors among which the gradient is spread",
        "Foreground predicted",
    ]
    assert not any("warning" in caveat for caveat in verdict(read_facts(contrasted.path)).caveats)


def test_warnings_that_hold_come_first_and_those_that_are_over_after_them(contrasted: RunFolder) -> None:
    warn(contrasted, 91, "no_anchors", "heart", HEART)
    warn(contrasted, 140, "no_anchors", "right_lung", "since step 90 no pixel of right_lung")
    warn(contrasted, 150, "no_anchors", "right_lung", "right_lung has anchors again", over=True)
    warn(contrasted, 200, "one_point", None, POINT)
    found = section(contrasted)
    held = f"When training ended: {HEART}. When training ended: {POINT}."
    over = "step 140: since step 90 no pixel of right_lung step 150: right_lung has anchors again"
    assert f"{held} Over when training ended: {over} pixel contrast" in found.text


def test_a_run_that_ended_with_a_warning_says_so_in_its_head_and_verdict(contrasted: RunFolder) -> None:
    warn(contrasted, 91, "no_anchors", "heart", HEART)
    facts = read_facts(contrasted.path)
    assert [event["sentence"] for event in active_warnings(facts)] == [HEART]
    assert verdict(facts).caveats[0] == f"Training ended with a warning: {HEART}."
    path = write_report(contrasted.path)
    assert "status finished, with 1 warning<" in path.read_text(encoding="utf-8")
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["warnings"][0]["class"] == "heart"
    for name in ("evaluation.json", "metrics.csv"):
        (contrasted.path / name).unlink()
    assert f"Training ended with a warning: {HEART}." in verdict(read_facts(contrasted.path)).caveats
    warn(contrasted, 120, "no_anchors", "heart", "heart has anchors again", over=True)
    assert active_warnings(read_facts(contrasted.path)) == ()
    assert "with 1 warning" not in write_report(contrasted.path).read_text(encoding="utf-8")


def test_one_epoch_gives_the_table_and_no_curves(contrasted: RunFolder) -> None:
    contrasted.log.write_text(contrasted.log.read_text().splitlines()[0] + "\n")
    found = section(contrasted)
    assert "anchors a step" in found.text
    assert found.charts == []


def test_names_in_the_log_are_shown_as_text(contrasted: RunFolder) -> None:
    payload = "<img src=x onerror=alert(1)>"
    warn(contrasted, 91, "no_anchors", payload, f"no pixel of {payload}")
    text = contrasted.log.read_text(encoding="utf-8")
    contrasted.log.write_text(text.replace("heart", payload).replace("pixel_contrast", f"{payload}2"), encoding="utf-8")
    found = section(contrasted)
    assert "img" not in found.tags
    assert f"no pixel of {payload}" in found.text
    assert f"{payload}2" in found.text
