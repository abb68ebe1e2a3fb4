"""The report says what the run folder holds: all of it, nothing else, and never as markup."""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scantling.errors import DataError, IntegrityError
from scantling.evaluation.results import Evaluation
from scantling.reports.facts import read_facts
from scantling.reports.report import write_report
from scantling.reports.scores import case_scores
from scantling.reports.verdict import added_by_unlabelled, verdict
from scantling.training.run_folder import RunFolder

PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "'><iframe src=javascript:alert(1)>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "<!--<script>-->",
    "]]><script>",
    "&lt;script&gt;alert(1)&lt;",
    "javascript:alert(1)",
    "{{7*7}}<%= 1 %>",
    '<a href="http:evil">x',
    "<math><mtext></mtext><mglyph><style><img onerror=alert(1)>",
    "\u202e<b>",
    "<SCRIPT SRC=x>",
)
TAGS = frozenset(
    [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "h1",
        "h2",
        "h3",
        "p",
        "strong",
        "section",
        "div",
        "span",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "figure",
        "article",
        "img",
        "br",
        "details",
        "summary",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "pre",
        "code",
        "footer",
        "svg",
        "line",
        "path",
        "circle",
        "rect",
        "polygon",
        "text",
    ]
)


class Page(HTMLParser):
    """A page taken apart: tags, attributes, headings, and all visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.pieces: list[str] = []
        self._inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._inside.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag, f"unbalanced </{tag}>"

    def handle_data(self, data):
        if self._inside and self._inside[-1] == "h2":
            self.headings.append(data)
        if "style" not in self._inside:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.pieces))


def rewrite(path: Path, **changes: object) -> None:
    if path.name == "run.json":
        RunFolder(path.parent).update(**changes)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def evaluation_of(run: Path) -> Evaluation:
    return Evaluation.load(run / "metrics.csv", run / "evaluation.json")


@pytest.fixture(scope="module")
def page(finished_run_made_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of the untouched run."""
    return Page(write_report(finished_run_made_once, out=tmp_path_factory.mktemp("page") / "report.html"))


def test_sections_come_in_the_order_a_reader_needs_them(page):
    assert page.headings == [
        "What unlabelled and weakly labelled data added", "Worst cases first", "Failures", "Data sheet", "Training",
        "How to repeat this",
    ]  # fmt: skip
    assert page.text.index("mean foreground Dice is") < page.text.index("What unlabelled")
    assert {tag for tag, _ in page.tags} <= TAGS


def test_the_verdict_gives_score_interval_cases_and_failures(page, finished_run):
    mean = evaluation_of(finished_run).find()
    text = page.text
    assert "On 9 held-out cases of 9 patients the mean foreground Dice is" in text
    assert f" {mean.mean:.3f} (95 % interval {mean.low:.3f} to {mean.high:.3f})" in text
    assert f"; failed {mean.failed} of 9." in text
    assert "In a failed case" in text
    assert "1 case could not be scored: chest_0014." in text


def test_worst_cases_come_first_with_their_pictures(page, finished_run):
    worst = [s for s in case_scores(evaluation_of(finished_run)) if "missing_file" not in s.status.values()]
    at = [page.text.index(f"{s.case_id} Dice {s.mean:.3f}") for s in worst[:4]]
    assert at == sorted(at)
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 5
    drawn = (finished_run / "pictures" / "01_worst.png").read_bytes()
    assert base64.b64decode(sources[0].removeprefix("data:image/png;base64,")) == drawn


def test_failures_are_named_by_kind_and_pieces_shown_side_by_side(page, finished_run):
    text = page.text
    assert "No prediction file (1 case)" in text
    assert "Missed: in the reference, not in the prediction (1 case) case classes chest_0006 heart" in text
    raw, largest = (
        evaluation_of(finished_run).find("right_lung", "dice", post) for post in ("raw", "largest_component")
    )
    assert largest.mean > raw.mean  # the invented piece is gone
    shown = f"right lung {raw.mean:.3f} [{raw.low:.3f}, {raw.high:.3f}] {largest.mean:.3f}"
    assert shown in text


def test_every_case_is_listed_with_its_scores(page, finished_run):
    text = page.text
    for score in case_scores(evaluation_of(finished_run)):
        assert f"{score.case_id} {score.mean:.3f}" in text


def test_the_data_sheet_counts_labels_sites_classes_and_parts(page, finished_run):
    text = page.text
    assert "15 images of 15 patients (png)" in text
    assert "11 full, 4 images without" in text
    assert "heart 3 11" in text  # stored value and cases with it
    assert re.search(r"north \d+ \d+ \d+ 0 \d+ 0", text)
    assert "trained on, with labels 2 2 without labels 4 4 held out and scored 9 9" in text
    assert json.loads((finished_run / "splits.json").read_text())["sentence"] in text


def test_distances_of_pictures_without_spacing_are_not_called_millimetres(page, finished_run):
    assert "HD95 (px)" in page.text
    assert "HD95 (mm)" not in page.text
    sheet = json.loads((finished_run / "data_sheet.json").read_text())
    for case in sheet["cases"]:
        case["spacing_known"] = True
    rewrite(finished_run / "data_sheet.json", **sheet)
    assert "HD95 (mm)" in Page(write_report(finished_run)).text


def test_curves_and_what_happened_in_training_are_shown(page):
    labels = [attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg"]
    on_validation = "Dice on validation patients (chooses the checkpoint, is no result)"
    assert labels == ["Dice of every held-out case", "Loss by term", on_validation, "Learning rate"]
    assert "600 steps in 50 s at 91.5 samples a second. 1 step changed nothing" in page.text
    assert "Memory ran out 1 time" in page.text


def test_a_run_of_one_epoch_shows_no_curves(finished_run):
    lines = (finished_run / "log.jsonl").read_text().splitlines()
    (finished_run / "log.jsonl").write_text(lines[0] + "\n")
    page = Page(write_report(finished_run))
    assert "50 steps in 4 s" in page.text
    assert [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"] == ["Dice of every held-out case"]


def test_repeating_needs_command_seed_versions_and_hashes(page):
    import hashlib

    text = page.text
    assert "scantling train" in text
    assert "seed 3" in text
    assert "torch 2.13.0" in text
    assert hashlib.sha256(b"weights").hexdigest() in text
    assert "2 cores, 15.6 GiB memory" in text
    assert "cpu, float32, 2 threads" in text


def test_only_a_run_by_steps_promises_the_same_bits(finished_run):
    again = "scantling train DATA -o NEW_RUN --config config.toml --plan plan.json"
    by_clock = Page(write_report(finished_run)).text
    assert "a similar model, not the same bits" in by_clock
    (finished_run / "config.toml").write_text("[training]\nsteps = 600\n")
    by_steps = Page(write_report(finished_run)).text
    assert "it gives the same bits" in by_steps
    assert again in by_clock
    assert again in by_steps


def test_unlabelled_data_that_was_not_used_is_not_praised(finished_run):
    facts = read_facts(finished_run)
    assert "Not used in this run" in added_by_unlabelled(facts)[0]
    other = replace(facts, status={**facts.status, "recipe": "mean_teacher"})
    assert "no labels-only baseline was trained" in added_by_unlabelled(other)[0]
    rewrite(finished_run / "run.json", baseline={"sentence": "Labels alone gave less.", "dice": 0.71234})
    text = Page(write_report(finished_run)).text
    assert "Labels alone gave less." in text
    assert "dice 0.712" in text


def test_with_few_patients_the_report_says_how_little_that_is(finished_run):
    facts = read_facts(finished_run)
    assert not any("Only" in caveat for caveat in verdict(facts).caveats)
    few = replace(facts.evaluation, patients=dict.fromkeys(facts.evaluation.patients, "the same patient"))
    assert any("Only 1 patient was scored" in c for c in verdict(replace(facts, evaluation=few)).caveats)


def test_without_held_out_cases_there_is_no_score_and_no_praise(finished_run):
    for name in ("evaluation.json", "metrics.csv"):
        (finished_run / name).unlink()
    page = Page(write_report(finished_run))
    assert "Nothing was held out" in page.text
    assert "scantling evaluate" in page.text
    assert "Failures" not in page.headings
    assert "Dice is" not in page.text


def test_an_unfinished_run_says_so(finished_run):
    rewrite(finished_run / "run.json", status="interrupted", reason="stopped by a signal")
    assert "not finished (status interrupted: stopped by a signal)" in Page(write_report(finished_run)).text


def test_references_that_are_not_full_masks_are_confessed(finished_run):
    sheet = json.loads((finished_run / "data_sheet.json").read_text())
    for case in sheet["cases"]:
        for label in case["labels"]:
            label["kind"] = "silver"
    rewrite(finished_run / "data_sheet.json", **sheet)
    rewrite(finished_run / "plan.json", label_kinds=["full", "silver"])
    assert "(9 silver)" in Page(write_report(finished_run)).text


def test_a_bare_run_folder_still_gives_a_page(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 1, "status": "preparing"}))
    page = Page(write_report(tmp_path))
    assert page.headings == [
        "What unlabelled and weakly labelled data added",
        "Data sheet",
        "How to repeat this",
    ]


def test_no_run_folder_and_damaged_files_are_refused(finished_run, tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path / "nothing")
    (finished_run / "plan.json").write_text('{"classes": ')
    with pytest.raises(IntegrityError, match="not valid JSON"):
        write_report(finished_run)
    (finished_run / "plan.json").write_text("{}")
    (finished_run / "config.toml").write_text("seed = ")
    with pytest.raises(IntegrityError, match="not valid TOML"):
        write_report(finished_run)


def test_the_page_needs_nothing_from_outside(finished_run):
    path = write_report(finished_run)
    text = path.read_text(encoding="utf-8")
    for forbidden in (
        "http://",
        "https://",
        "//cdn",
        "@import",
        "url(",
        "<link",
        "<script",
        "<iframe",
        "<object",
    ):
        assert forbidden not in text.lower()
    for tag, attrs in Page(path).tags:
        assert "href" not in attrs
        assert attrs.get("src", "data:").startswith("data:image/png;base64,") or tag != "img"
    assert any("default-src 'none'" in (attrs.get("content") or "") for _, attrs in Page(path).tags)


def test_the_same_run_gives_the_same_bytes(finished_run, tmp_path):
    first, second = (write_report(finished_run, out=tmp_path / f"{name}.html") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".json").read_bytes() == second.with_suffix(".json").read_bytes()


def test_paths_and_file_names_stay_out_unless_asked_for(finished_run):
    sheet = json.loads((finished_run / "data_sheet.json").read_text())
    sheet["cases"][0]["images"] = ["Mueller Anna 1970.png"]
    sheet["problems"] = [
        {
            "case_id": "c",
            "severity": "warning",
            "code": "E-X",
            "message": "/data/ward 7/Mueller Anna 1970.png: cut",
        }
    ]
    sheet["notes"] = ["read from /home/alice/study"]
    rewrite(finished_run / "data_sheet.json", **sheet)
    closed = write_report(finished_run)
    pages = closed.read_text() + closed.with_suffix(".json").read_text()
    for secret in ("Mueller", "Anna", "alice", "hospital data", str(finished_run), ".png:"):
        assert secret not in pages
    opened = write_report(finished_run, with_paths=True).read_text()
    assert "Mueller Anna 1970.png" in opened
    assert "hospital data" in opened


@pytest.mark.parametrize("first", range(0, len(PAYLOADS), 5))
def test_names_are_shown_as_text_and_never_act(finished_run, first):
    names = ("chest_0006", "right_lung", "north", "chest-phantom", "2.13.0")
    payload_of = dict(zip(names, PAYLOADS[first:], strict=False))

    def spoilt(text: str) -> str:
        for name, payload in payload_of.items():
            text = text.replace(name, json.dumps(payload, ensure_ascii=False)[1:-1])
        return text

    rewrite(finished_run / "run.json", **json.loads(spoilt(json.dumps(RunFolder(finished_run).status()))))
    for path in finished_run.rglob("*.json"):
        if path.name != "run.json":
            path.write_text(spoilt(path.read_text(encoding="utf-8")), encoding="utf-8")
    rows = list(csv.reader(io.StringIO((finished_run / "metrics.csv").read_text())))
    with (finished_run / "metrics.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([payload_of.get(cell, cell) for cell in row] for row in rows)
    log = (finished_run / "log.jsonl").read_text().replace('"cross_entropy"', json.dumps(PAYLOADS[first]))
    (finished_run / "log.jsonl").write_text(log, encoding="utf-8")

    page = Page(write_report(finished_run, with_paths=True))
    assert {tag for tag, _ in page.tags} <= TAGS
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "href"]
    assert [attrs for tag, attrs in page.tags if tag == "style"] == [{}]
    shown = "\n".join(page.pieces)
    assert all(payload.replace("_", " ") in shown.replace("_", " ") for payload in payload_of.values())


def test_the_json_beside_the_page_holds_the_same_facts(finished_run):
    path = write_report(finished_run).with_suffix(".json")
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    evaluation = evaluation_of(finished_run)
    assert content["verdict"] == verdict(read_facts(finished_run)).sentence
    assert content["held_out"]["worst_first"][0]["case"] == case_scores(evaluation)[0].case_id
    assert content["held_out"]["missing"] == ["chest_0014"]
    assert content["held_out"]["failures"]["missed"] == [{"case": "chest_0006", "class": "heart"}]
    assert len(content["training"]) == 12
    summaries = {(s["class_name"], s["metric"], s["post"]): s for s in content["held_out"]["summary"]}
    assert summaries["mean_foreground", "dice", "raw"]["mean"] == pytest.approx(evaluation.find().mean)


def test_measured_probabilities_get_their_section(finished_run):
    bins = {"confidence": [0.4, 0.9], "frequency": [0.5, 0.8], "count": [100.0, 300.0]}
    (finished_run / "pictures" / "reliability.json").write_text(json.dumps(bins))
    assert "Reliability of probabilities" in Page(write_report(finished_run)).headings


def test_a_picture_index_cannot_reach_outside_its_folder(finished_run, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret bytes")
    index = json.loads((finished_run / "pictures" / "index.json").read_text())
    index["pictures"][0]["file"] = "../../secret.png"
    rewrite(finished_run / "pictures" / "index.json", **index)
    text = write_report(finished_run).read_text()
    assert base64.b64encode(b"secret bytes").decode() not in text


def test_an_enlarged_picture_says_so(finished_run):
    index = json.loads((finished_run / "pictures" / "index.json").read_text())
    assert "enlarged" not in Page(write_report(finished_run)).text
    index["pictures"][0]["enlarged"] = True
    rewrite(finished_run / "pictures" / "index.json", **index)
    assert Page(write_report(finished_run)).text.count(", enlarged") == 1
