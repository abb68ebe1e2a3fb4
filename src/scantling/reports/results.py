"""The report's sections on how well the model does: verdict, worst cases, failures, reliability."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Final

from scantling.evaluation.conventions import MEAN_FOREGROUND, Status
from scantling.evaluation.results import Evaluation
from scantling.figures.colours import class_colour, hexadecimal
from scantling.figures.curves import reliability_chart
from scantling.figures.strips import Strip, strip_chart
from scantling.reports.facts import Picture, RunFacts
from scantling.reports.html import Child, Markup, definitions, element, join, paragraphs, section, table
from scantling.reports.scores import CaseScore, case_scores, failures, pieces, summary_of
from scantling.reports.verdict import added_by_unlabelled, verdict
from scantling.reports.wording import counted, figure, metric_title, readable, with_interval

_SHOWN_METRICS: Final = ("dice", "nsd", "hd95_mm", "assd_mm", "precision", "recall")
_MOST_LISTED: Final = 40
_FAILURE_TITLES: Final[dict[Status, str]] = {
    "missing_file": "No prediction file",
    "unreadable": "Prediction unreadable",
    "grid_mismatch": "Prediction on another grid",
    "missed": "Missed: in the reference, not in the prediction",
    "false_positive": "False positive: in the prediction, not in the reference",
}


def swatch(facts: RunFacts, name: str) -> Markup:
    """A class's name beside its colour."""
    colour = _colour(facts, name)
    square = element("span", class_="swatch", style=f"background:{colour}") if colour else None
    return join(square, readable(name))


def verdict_section(facts: RunFacts) -> Markup:
    """The sentence, what to know before believing it, the table by class, and the spread over cases."""
    said = verdict(facts)
    sentence = element("p", said.before, element("strong", said.score), said.after, class_="verdict")
    parts: list[Child] = [sentence, paragraphs(said.caveats, class_="caveat")]
    evaluation = facts.evaluation
    if evaluation is not None and evaluation.summary:
        parts += [_class_table(facts, evaluation), _spread(facts, evaluation), _subgroups(evaluation)]
    return element("section", *parts)


def added_section(facts: RunFacts) -> Markup:
    """What images without full labels added."""
    sentence, figures = added_by_unlabelled(facts)
    listed = definitions([(readable(name), _plain(value)) for name, value in figures.items()]) if figures else None
    return section("What unlabelled and weakly labelled data added", element("p", sentence), listed)


def worst_section(facts: RunFacts) -> Markup | None:
    """Pictures of the worst cases, then every case by its score; nothing if nothing was scored."""
    evaluation = facts.evaluation
    if evaluation is None or not evaluation.rows:
        return None
    scores = {score.case_id: score for score in case_scores(evaluation)}
    cards = [_card(facts, picture, scores.get(picture.case_id)) for picture in facts.pictures]
    without = [element("li", sentence) for sentence in facts.without_picture]
    key = element(
        "p",
        [element("span", swatch(facts, name)) for name in facts.classes],
        element("span", "solid: prediction"),
        element("span", "dashed, lighter: reference"),
        class_="key",
    )
    return section(
        "Worst cases first",
        join(key, element("div", cards, class_="cases")) if cards else element("p", "No picture was drawn."),
        join(element("p", "Not drawn:", class_="quiet"), element("ul", without)) if without else None,
        _all_cases(facts, list(scores.values())),
    )


def failures_section(facts: RunFacts) -> Markup | None:
    """Everything that counts as failed, by kind, and what keeping the largest piece would change."""
    evaluation = facts.evaluation
    if evaluation is None or not evaluation.rows:
        return None
    found = failures(evaluation)
    parts: list[Child] = []
    if not found:
        parts.append(element("p", "None: every structure of every held-out case was found, at least in part."))
    for status, pairs in found.items():
        by_case: dict[str, list[str]] = {}
        for case, name in pairs:
            by_case.setdefault(case, []).append(readable(name))
        shown = [(case, ", ".join(names)) for case, names in by_case.items()][:_MOST_LISTED]
        parts.append(element("h3", f"{_FAILURE_TITLES[status]} ({counted(len(by_case), 'case')})"))
        parts.append(table(("case", "classes"), shown, text_columns=(0, 1)))
        if len(by_case) > _MOST_LISTED:
            more = f"and {len(by_case) - _MOST_LISTED} more cases; see metrics.csv"
            parts.append(element("p", more, class_="quiet"))
    return section("Failures", *parts, _pieces_table(facts, evaluation), _problems(evaluation))


def reliability_section(facts: RunFacts) -> Markup | None:
    """Whether probabilities come true; nothing if they were not measured."""
    evaluation, parts = facts.evaluation, list[Child]()
    if evaluation is not None and any(s.metric == "ece" for s in evaluation.summary):
        names = dict.fromkeys(s.class_name for s in evaluation.summary if s.metric == "ece")
        rows = [
            (swatch(facts, n), *(with_interval(summary_of(evaluation, n, m), m) for m in ("ece", "brier")))
            for n in names
        ]
        parts.append(table(("class", "ECE", "Brier score"), rows))
    bins = facts.reliability
    if bins:
        total = sum(bins["count"])
        share = [n / total for n in bins["count"]]
        chart = reliability_chart(bins["confidence"], bins["frequency"], share, title="Winning class, all pixels")
        parts.append(element("figure", Markup(chart)))
    if not parts:
        return None
    note = "Most pixels are easy background and dilute these figures; compare them on the same images only."
    return section("Reliability of probabilities", *parts, element("p", note, class_="quiet"))


def _class_table(facts: RunFacts, evaluation: Evaluation) -> Markup:
    metrics = [m for m in _SHOWN_METRICS if summary_of(evaluation, MEAN_FOREGROUND, m) is not None]
    rows = []
    for name in (MEAN_FOREGROUND, *evaluation.classes):
        found = [summary_of(evaluation, name, metric) for metric in metrics]
        first = found[0]
        failed = f"{first.failed} of {first.n}" if first is not None else ""
        cells = [with_interval(s, m) for s, m in zip(found, metrics, strict=True)]
        label = "mean of classes" if name == MEAN_FOREGROUND else swatch(facts, name)
        rows.append([label, *cells, failed])
    in_pixels = _without_spacing(facts, evaluation)
    unit = "px" if in_pixels else "mm"
    settings = evaluation.settings
    note = (
        f"Means over cases with {settings.level * 100:g} % bootstrap intervals over patients, for the "
        f"predictions as they are. NSD at {settings.tolerance_mm:g} {unit}; distances by the convention "
        f"{settings.convention!r}."
    )
    header = ["class", *(metric_title(metric, in_pixels=in_pixels) for metric in metrics), "failed"]
    return join(table(header, rows, class_="stacked"), element("p", note, class_="quiet"))


def _spread(facts: RunFacts, evaluation: Evaluation) -> Markup:
    strips = []
    for name in evaluation.classes:
        summary = summary_of(evaluation, name, "dice")
        values = [row.value for row in evaluation.values(name).values()]
        if summary is not None and any(map(math.isfinite, values)):
            interval = (summary.low, summary.high)
            colour = _colour(facts, name) or hexadecimal(class_colour(1))
            strips.append(
                Strip(name=readable(name), values=values, colour=colour, mean=summary.mean, interval=interval)
            )
    if not strips:
        return Markup()
    lowest = min(value for strip in strips for value in strip.values if math.isfinite(value))
    chart = strip_chart(
        strips,
        x_label="Dice (dot: a case; box: quartiles and median; diamond: mean with interval)",
        title="Dice of every held-out case",
        width=840,
        limits=(0.5, 1.0) if lowest >= 0.55 else (0.0, 1.0),
    )
    return element("figure", Markup(chart))


def _subgroups(evaluation: Evaluation) -> Markup | None:
    chosen = [
        s for s in evaluation.subgroups
        if (s.class_name, s.metric, s.post) == (MEAN_FOREGROUND, "dice", "raw") and s.n
    ]  # fmt: skip
    if not chosen:
        return None
    rows = [(s.group, s.group_value, with_interval(s, "dice"), s.n, f"{s.failed} of {s.n}") for s in chosen]
    header = ("attribute", "value", "mean foreground Dice", "cases", "failed")
    return join(element("h3", "By subgroup"), table(header, rows, text_columns=(0, 1)))


def _card(facts: RunFacts, picture: Picture, score: CaseScore | None) -> Markup:
    where = f"slice {picture.slice_number} of {picture.n_slices}" if picture.n_slices > 1 else ""
    part = "enlarged" if picture.enlarged else ""
    role = "the median case" if picture.role == "median" else ""
    lines: list[Child] = []
    if score is not None:
        said = [_after(each) for each in (where, part, role)]
        lines.append(element("p", "Dice ", element("strong", figure(score.mean)), said))
        dice = [
            join(swatch(facts, name), " ", figure(value), _after("" if status == "ok" else readable(status)))
            for (name, value), status in zip(score.dice.items(), score.status.values(), strict=True)
        ]
        lines.append(element("p", [join(element("br") if k else None, each) for k, each in enumerate(dice)]))
    image = element(
        "img",
        src="data:image/png;base64," + base64.b64encode(picture.png).decode("ascii"),
        alt=f"Case {picture.case_id}: contours of prediction and reference",
    )
    return element("article", image, element("h3", picture.case_id), lines, class_="case")


def _all_cases(facts: RunFacts, scores: Sequence[CaseScore]) -> Markup:
    names = list(facts.evaluation.classes) if facts.evaluation is not None else []
    rows = [
        (
            s.case_id,
            figure(s.mean),
            *(figure(s.dice.get(name)) for name in names),
            "failed" if s.failed else "",
        )
        for s in scores[:500]
    ]
    header = ("case", "mean", *(swatch(facts, name) for name in names), "")
    title = f"Dice of {'all' if len(scores) <= 500 else 'the worst 500 of'} {counted(len(scores), 'case')}"
    return element("details", element("summary", title), table(header, rows))


def _pieces_table(facts: RunFacts, evaluation: Evaluation) -> Markup | None:
    found = pieces(evaluation)
    if not found:
        return None
    rows = [
        (
            "mean of classes" if each.class_name == MEAN_FOREGROUND else swatch(facts, each.class_name),
            with_interval(each.raw, "dice"),
            with_interval(each.largest, "dice"),
            f"{each.changed} of {each.raw.n}",
            f"{each.raw.failed} and {each.largest.failed} of {each.raw.n}",
        )
        for each in found
    ]
    note = (
        "Dice of the predictions as they are, beside the Dice after keeping only the largest connected piece "
        "of each class. Every other figure in this report is for the predictions as they are."
    )
    header = ("class", "as predicted", "largest piece only", "cases changed", "failed")
    return join(element("h3", "Extra pieces"), table(header, rows), element("p", note, class_="quiet"))


def _problems(evaluation: Evaluation) -> Markup | None:
    sentences = [problem.message for problem in evaluation.problems] + list(evaluation.notes)
    if not sentences:
        return None
    items = [element("li", sentence) for sentence in sentences[:_MOST_LISTED]]
    return join(element("h3", "Notes on the scoring"), element("ul", items))


def _without_spacing(facts: RunFacts, evaluation: Evaluation) -> bool:
    """Whether no scored image states its spacing, so that 1 mm stands for a pixel."""
    cases = [c for c in facts.data_sheet.get("cases", ()) if c.get("case") in evaluation.patients]
    return bool(cases) and not any(case.get("spacing_known") for case in cases)


def _colour(facts: RunFacts, name: str) -> str:
    return hexadecimal(class_colour(facts.classes.index(name) + 1)) if name in facts.classes else ""


def _after(text: str) -> str:
    return f", {text}" if text else ""


def _plain(value: object) -> str:
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(_plain(each) for each in value)
    return str(value)
