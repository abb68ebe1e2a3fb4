"""The page of counterfactuals says what the folder holds: figures, pictures, rejected ones as such, and no path."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.swapped_scanners import BRIGHTER, make_generator, write_data
from scantling.counterfactuals.soundness import SoundnessLimits
from scantling.data.layouts import open_dataset
from scantling.errors import DataError, IntegrityError
from scantling.inference.generate import generate_folder
from scantling.reports.counterfactual_facts import read_generation_facts
from scantling.reports.counterfactuals import write_counterfactual_report


class Page(HTMLParser):
    """Texts, pictures, tags that were closed in order, and the class of the cell each picture stands in."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.pictures: list[tuple[str, np.ndarray, str]] = []
        self.open: list[tuple[str, str]] = []
        self.sources: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            source = given["src"] or ""
            self.sources.append(source[:30])
            with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
                array = np.asarray(picture).copy()
            self.pictures.append((given["alt"] or "", array, self.open[-1][1]))
        elif tag not in ("meta", "br"):
            self.open.append((tag, given.get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "br", "img"):
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1][0] != "style":
            self.text += f" {data}"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scanner swaps are rejected here, findings are not; case1 cannot be read."""
    root = tmp_path_factory.mktemp("counterfactual report")
    data = write_data(root / "hospital data", 9)
    broken = data / "pictures" / "case1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    generate_folder(
        make_generator(data), open_dataset(data), root / "out", ["scanner=other", "finding=effusion"],
        limits=SoundnessLimits(change=0.1),
        facts={"dataset": "squares", "judge": {"scanner": 0.6, "finding": None}, "learnt_from": 4},
    )  # fmt: skip
    return root


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(made_once, tmp_path / "work")
    return tmp_path / "work" / "out"


def test_the_page_says_how_many_are_sound_and_why_others_are_not(folder: Path) -> None:
    page = Page(write_counterfactual_report(folder))
    text = " ".join(page.text.split())
    with (folder / "soundness.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    n_sound = sum(line["sound"] == "yes" for line in lines)
    assert 0 < n_sound < len(lines)
    assert f"{n_sound} of {len(lines)} counterfactuals" in text
    assert f"{len(lines) - n_sound} were rejected." in text
    assert f"Rejected ({len(lines) - n_sound})" in text
    assert "too much of it changes" in text
    assert "change is 0.16, wanted at most 0.10" in text
    of_b = [float(line["change"]) for line in lines if line["intervention"] == "scanner=B"]
    assert re.search(rf"scanner=B {len(of_b)} of {len(of_b)} ", text)
    assert f"{np.mean(of_b):.3f}" in text
    assert "≤ 0.1" in text
    assert page.open == []


def test_caveats_say_what_was_not_checked_and_what_to_doubt(folder: Path) -> None:
    text = Page(write_counterfactual_report(folder)).text
    assert "no segmenter was given" in text
    assert "took effect, and what else it moved, was not checked" in text
    assert "reads unseen patients poorly (scanner 0.60)" in text
    assert "has learnt from 4 of these cases" in text
    assert "1 case failed" in text
    assert "its own value is unknown" in text


def test_pictures_are_the_images_and_rejected_ones_are_marked(folder: Path) -> None:
    page = Page(write_counterfactual_report(folder))
    by_text = {alt: (array, kind) for alt, array, kind in page.pictures}
    facts = read_generation_facts(folder)
    row = facts.grid[0]
    image, kind = by_text[f"image of {row.case_id}"]
    with Image.open(folder.parent / "hospital data" / "pictures" / f"{row.case_id}.png") as stored:
        np.testing.assert_array_equal(image[..., 0], np.asarray(stored))
    assert kind == ""
    alts = [alt for alt in by_text if alt.startswith(f"{row.case_id} under scanner=")]
    (alt,) = alts
    shown, kind = by_text[alt]
    assert alt.endswith(", rejected")
    assert kind == "rejected"
    sign = 1 if "scanner=B" in alt else -1
    np.testing.assert_array_equal(shown[..., 0].astype(int), image[..., 0].astype(int) + sign * BRIGHTER)
    findings = [(alt, kind) for alt, _, kind in page.pictures if " under finding" in alt and alt[0] != "w"]
    assert findings
    assert all(kind == "" and "rejected" not in alt for alt, kind in findings)
    rejected = [alt for alt, _, kind in page.pictures if alt.startswith("rejected counterfactual")]
    assert len(rejected) == min(6, sum(line["sound"] == "no" for line in facts.lines))


def test_the_page_needs_nothing_else_names_no_path_and_is_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    path = write_counterfactual_report(folder)
    content = path.read_text(encoding="utf-8")
    page = Page(path)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"<script|<link|src=\"http|url\(http|@import", content)
    assert str(tmp_path) not in content
    assert "hospital data" not in content
    assert "case1" in page.text
    first = path.read_bytes()
    assert write_counterfactual_report(folder, out=tmp_path / "other.html") == tmp_path / "other.html"
    assert (tmp_path / "other.html").read_bytes() == first


def test_markup_in_names_stays_text(folder: Path) -> None:
    said = json.loads((folder / "generate.json").read_text())
    payload = "<script>alert(1)</script>"
    said["dataset"] = payload
    said["interventions"][0]["intervention"] = payload
    said["failures"] = {payload: f"{payload} <img src=x>"}
    said["settings"][payload] = [payload]
    (folder / "generate.json").write_text(json.dumps(said))
    page = write_counterfactual_report(folder)
    assert "<script" not in page.read_text(encoding="utf-8")
    assert payload in Page(page).text


def test_images_that_are_gone_are_said_and_the_rest_is_drawn(folder: Path) -> None:
    row = read_generation_facts(folder).grid[0]
    (folder.parent / "hospital data" / "pictures" / f"{row.case_id}.png").unlink()
    facts = read_generation_facts(folder)
    assert row.case_id not in {one.case_id for one in facts.grid}
    assert any(row.case_id in sentence for sentence in facts.not_drawn)
    assert "Not drawn" in Page(write_counterfactual_report(folder)).text


def test_what_is_no_finished_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no counterfactuals here"):
        write_counterfactual_report(tmp_path)
    said = json.loads((folder / "generate.json").read_text())
    (folder / "generate.json").write_text(json.dumps({**said, "status": "running"}))
    with pytest.raises(DataError, match="has not finished here"):
        write_counterfactual_report(folder)
    (folder / "generate.json").write_text(json.dumps(said)[:100])
    with pytest.raises(IntegrityError, match="not valid JSON"):
        write_counterfactual_report(folder)
    (folder / "generate.json").write_text(json.dumps(said))
    (folder / "soundness.csv").write_text("a,b\n1,2\n")
    with pytest.raises(IntegrityError, match="lacks columns"):
        write_counterfactual_report(folder)


def test_cases_of_the_grid_are_drawn_whatever_became_of_them(made_once: Path) -> None:
    few = read_generation_facts(made_once / "out", n_cases=3)
    assert len(few.grid) == 3
    again = read_generation_facts(made_once / "out", n_cases=3)
    assert [row.case_id for row in few.grid] == [row.case_id for row in again.grid]
    most = max(len(row.lines) for row in few.grid)
    assert all(len(row.lines) == most for row in few.grid)
    only = read_generation_facts(made_once / "out", n_shown=1)
    assert {line["intervention"] for row in only.grid for line in row.lines} == set(only.shown)
    assert len(only.shown) == 1
