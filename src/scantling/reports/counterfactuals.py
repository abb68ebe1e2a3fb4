"""A folder of counterfactuals as one self-contained page: how many are sound, what was measured, and pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from scantling.counterfactuals.soundness import AT_LEAST, AT_MOST
from scantling.figures.counterfactual_grid import Picture, change_key
from scantling.figures.overlay import png_bytes
from scantling.files import write_atomic
from scantling.reports.counterfactual_facts import DrawnRow, GenerationFacts, read_generation_facts
from scantling.reports.html import Child, Markup, definitions, element, join, paragraphs, section, table
from scantling.reports.page import document
from scantling.reports.privacy import without_paths
from scantling.reports.wording import NOTHING, counted

REPORT: Final = "report.html"
TITLES: Final[dict[str, str]] = {
    "effectiveness": "effect seen",
    "kept": "rest kept",
    "identity_dice": "anatomy kept",
    "structure": "structure kept",
    "composition": "idle change",
    "reversibility": "way back",
    "change": "change",
}
"""Measures in the order of the table."""
_MEANINGS: Final[dict[str, str]] = {
    "effectiveness": "how far a classifier that learnt from real images alone sees the value that was asked for (0-1)",
    "kept": "1 minus what that classifier lost of its agreement with attributes that were not touched (0-1)",
    "identity_dice": "Dice of a segmentation network's label maps on image and counterfactual",
    "structure": "local correlation of image and counterfactual, whatever their contrast (SSIM's structure term)",
    "composition": "mean change where nothing is asked to change",
    "reversibility": "mean change that is left after asking for the counterfactual and then for the way back",
    "change": "mean change from image to counterfactual",
}
_SKILL: Final = 0.75  # a judge below this score on unseen patients is worth a word
_MOST_LISTED: Final = 30


def write_counterfactual_report(folder: Path, *, out: Path | None = None) -> Path:
    """Write `report.html` of a folder of counterfactuals; equal folders give equal bytes. The path of the page.

    It needs no network, no script and no other file, and names cases by their ids but no path.

    Raises:
        DataError: the folder holds no finished counterfactuals.
        IntegrityError: a file in it is damaged.
    """
    path = out or folder / REPORT
    write_atomic(path, counterfactual_page(read_generation_facts(folder)).encode("utf-8"))
    return path


def counterfactual_page(facts: GenerationFacts) -> Markup:
    """The whole HTML document."""
    said = facts.said
    settings, model = said.get("settings", {}), said.get("model", {})
    about = [
        f"source: {settings.get('source', NOTHING)}",
        f"model of {' x '.join(map(str, model.get('size', ())))} px" if model.get("size") else "",
        f"seed {settings.get('seed', NOTHING)}",
    ]
    sections = (
        _verdict_section(facts),
        _grid_section(facts),
        _rejected_section(facts),
        _realism_section(facts),
        _left_out_section(facts),
        _origin_section(facts),
    )
    return document(f"{said.get('dataset') or model.get('dataset') or 'Data set'}: counterfactuals", about, sections)


def _verdict_section(facts: GenerationFacts) -> Markup:
    """How many are sound, what to know before believing it, and every measure with its interval."""
    said = facts.said
    n, n_sound = int(said["counterfactuals"]), int(said["sound"])
    share = element("strong", f"{n_sound} of {counted(n, 'counterfactual')}")
    n_cases = len({line["counterfactual_of"] for line in facts.lines})
    rest = f" of {counted(n_cases, 'case')} {'is' if n_sound == 1 else 'are'} sound; "
    rest += f"{n - n_sound or 'none'} {'was' if n - n_sound < 2 else 'were'} rejected."
    return element(
        "section",
        element("p", share, rest, class_="verdict"),
        paragraphs(_caveats(facts), class_="caveat"),
        _measure_table(facts),
    )


def _caveats(facts: GenerationFacts) -> list[str]:
    said, found = facts.said, []
    unknown = [name for name in TITLES if _limit(facts, name) is not None and not _is_known(facts, name)]
    if {"effectiveness", "kept"} & set(unknown):
        found.append(
            "Whether the intervention took effect, and what else it moved, was not checked: "
            + (
                "the run has no judge."
                if not said.get("judge")
                else "the judge does not read these attributes well enough, or nothing else is known of the images."
            )
        )
    if "identity_dice" in unknown:
        found.append("Whether the anatomy stayed was not checked: no segmenter was given (--segmenter RUN).")
    weak = [f"{name} {score:.2f}" for name, score in said.get("judge", {}).items() if score and score < _SKILL]
    if weak:
        found.append(f"The judge reads unseen patients poorly ({', '.join(weak)}), so its word counts for little.")
    learnt = said.get("learnt_from")
    if learnt:
        found.append(f"The image model has learnt from {learnt} of these cases; on new patients it may do worse.")
    if said.get("failures"):
        found.append(f"{counted(len(said['failures']), 'case')} failed; they are listed below.")
    return found


def _measure_table(facts: GenerationFacts) -> Markup:
    names = [name for name in TITLES if _is_known(facts, name)]
    rows: list[list[Child]] = []
    for one in facts.said["interventions"]:
        cells = [_with_interval(one["measures"][name], 3 if name in AT_MOST else 2) for name in names]
        rows.append([_shown_as(one["intervention"]), f"{one['rejected']} of {one['count']}", *cells])
    rows.append(["limit", "", *(_limit_text(facts, name) for name in names)])
    level = 100 * float(facts.said.get("level", 0.95))
    note = (
        f"Means with {level:g} % bootstrap intervals over patients. Shares are of the intensity range of the image. "
        "A counterfactual beyond any limit is rejected: it stays in the table of cases with sound = no, and no recipe "
        "uses it."
    )
    meanings = definitions([(TITLES[name], f"{name}: {_MEANINGS[name]}") for name in names])
    return join(
        table(("intervention", "rejected", *(TITLES[n] for n in names)), rows, class_="stacked tight"),
        element("p", note, class_="quiet"),
        element("details", element("summary", "What the columns mean"), meanings),
    )


def _grid_section(facts: GenerationFacts) -> Markup | None:
    """Cases drawn by the seed, each with its counterfactuals and what changed in them."""
    if not facts.grid and not facts.not_drawn:
        return None
    rows = [element("tr", _image_cell(row), _counterfactual_cells(row)) for row in facts.grid]
    n_all = len({line["counterfactual_of"] for line in facts.lines})
    left = [_shown_as(o["intervention"]) for o in facts.said["interventions"] if o["intervention"] not in facts.shown]
    some = f"{counted(len(facts.grid), 'case')} of {n_all}, drawn by the seed whatever became of them. "
    note = (some if len(facts.grid) < n_all else "") + (
        "The image stands first; then come counterfactuals, each above what changed in it. Frames mark rejected ones. "
        "Image and counterfactuals of a case share one grey scale."
    )
    return section(
        "Image, counterfactuals, what changed",
        element("p", note),
        element("figure", Markup(change_key(facts.limit))),
        element("div", element("table", rows, class_="grid"), class_="scroll"),
        element("p", f"Not shown: {', '.join(left)}.", class_="quiet") if left else None,
        paragraphs([f"Not drawn: {sentence}" for sentence in facts.not_drawn], class_="quiet"),
    )


def _image_cell(row: DrawnRow) -> Markup:
    where = element("p", row.where, class_="quiet") if row.where else None
    return element("td", _img(row.pictures.before, f"image of {row.case_id}"), element("p", row.case_id), where)


def _counterfactual_cells(row: DrawnRow) -> list[Markup]:
    cells = []
    for line, (shown, changed) in zip(row.lines, row.pictures.pairs, strict=True):
        bad, what = line["sound"] == "no", _shown_as(line["intervention"])
        content = (
            _img(shown, f"{row.case_id} under {what}{', rejected' if bad else ''}"),
            _img(changed, f"what changed in {row.case_id} under {what}"),
            element("p", element("strong", what)),
            element("p", "rejected", class_="bad") if bad else None,
            element("p", _figures(line), class_="quiet"),
        )
        cells.append(element("td", *content, class_="rejected" if bad else None))
    return cells


def _figures(line: Mapping[str, str]) -> list[Markup]:
    """The measures that say most about one image, a line each."""
    shown = [(name, line.get(name, "")) for name in ("effectiveness", "identity_dice", "change")]
    lines = [f"{TITLES[name]} {float(value):.2f}" for name, value in shown if value]
    return [join(element("br") if index else None, text) for index, text in enumerate(lines)]


def _rejected_section(facts: GenerationFacts) -> Markup | None:
    """Why counterfactuals were rejected, and pictures of some."""
    n_rejected = sum(line["sound"] == "no" for line in facts.lines)
    if not n_rejected:
        return None
    rows = [
        (_shown_as(one["intervention"]), (AT_MOST | AT_LEAST).get(name, name), name, n)
        for one in facts.said["interventions"]
        for name, n in one["reasons"].items()
    ]
    pictures = []
    for row in facts.rejected:
        (line,), ((shown, changed),) = row.lines, row.pictures.pairs
        why = [element("p", reason, class_="wide") for reason in line["reason"].split("; ") if reason]
        what = element("p", element("strong", _shown_as(line["intervention"])), class_="wide")
        pictures.append(
            element(
                "tr",
                element("td", _img(row.pictures.before, f"image of {row.case_id}"), element("p", row.case_id)),
                element("td", _img(shown, f"rejected counterfactual of {row.case_id}"), class_="rejected"),
                element("td", _img(changed, f"what changed in {row.case_id}"), class_="rejected"),
                element("td", what, why),
            )
        )
    header = element("tr", [element("th", text) for text in ("image", "counterfactual", "what changed", "why")])
    return section(
        f"Rejected ({n_rejected})",
        table(("intervention", "why", "measure", "counterfactuals"), rows, text_columns=(0, 1, 2)),
        element("div", element("table", header, pictures, class_="grid"), class_="scroll") if pictures else None,
    )


def _realism_section(facts: GenerationFacts) -> Markup | None:
    """Distance to real images that are so by nature, beside what could be hoped for; nothing without a judge."""
    rows: list[Sequence[Child]] = []
    for one in facts.said["interventions"]:
        found = one.get("realism")
        if found and found.get("group"):
            three = [f"{found[name]:.3g}" for name in ("counterfactual", "between_real", "unchanged")]
            rows.append((_shown_as(one["intervention"]), *three, found["group"], found["n_real"]))
    if not rows:
        return None
    note = (
        "Frechet distance between groups of images in what the judge sees, to real images that have the attribute by "
        "nature; sound counterfactuals only. Two halves of the real images lie as far apart as the second column says, "
        "so less cannot be hoped for; the third is what doing nothing would give."
    )
    header = (
        "intervention",
        "counterfactuals",
        "real, other half",
        "unchanged images",
        "images a group",
        "real images",
    )
    return section("Do they look real?", table(header, rows), element("p", note, class_="quiet"))


def _left_out_section(facts: GenerationFacts) -> Markup | None:
    """Cases for which there is no counterfactual."""
    skipped, failures = facts.said.get("skipped", ()), facts.said.get("failures", {})
    if not skipped and not failures:
        return None
    rows = [(_shown_as(one["intervention"]), str(one["reason"]), one["count"]) for one in skipped]
    listed = [element("li", str(without_paths(sentence))) for sentence in list(failures.values())[:_MOST_LISTED]]
    more = len(failures) - _MOST_LISTED
    return section(
        "Left out",
        table(("intervention", "reason", "cases"), rows, text_columns=(0, 1)) if rows else None,
        join(element("h3", f"Failed ({len(failures)})"), element("ul", listed)) if listed else None,
        element("p", f"and {more} more; see generate.json", class_="quiet") if more > 0 else None,
    )


def _origin_section(facts: GenerationFacts) -> Markup:
    """What made these images, and with which settings."""
    said = facts.said
    settings, limits, judge = said.get("settings", {}), said.get("limits", {}), said.get("judge", {})
    pairs: list[tuple[str, Child]] = [(name.replace("_", " "), _plain(value)) for name, value in settings.items()]
    pairs.append(("limits", ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None)))
    if judge:
        scores = ", ".join(f"{name} {NOTHING if score is None else f'{score:.2f}'}" for name, score in judge.items())
        pairs.append(("judge on unseen patients", f"{scores} (share read rightly, or of the variance explained)"))
    if said.get("asked_of_judge") is not None:
        pairs.append(("asked of the judge", ", ".join(said["asked_of_judge"]) or "nothing: it reads none well enough"))
    pairs += [(name, str(version)) for name, version in said.get("versions", {}).items()]
    return section("How they came about", definitions(pairs))


def _shown_as(intervention: object) -> str:
    """An intervention with room for a line break where it sets several attributes."""
    return str(intervention).replace(";", "; ")


def _is_known(facts: GenerationFacts, name: str) -> bool:
    return any(one["measures"].get(name, {}).get("n") for one in facts.said["interventions"])


def _limit(facts: GenerationFacts, name: str) -> float | None:
    value = facts.said.get("limits", {}).get(name)
    return None if value is None else float(value)


def _limit_text(facts: GenerationFacts, name: str) -> str:
    limit = _limit(facts, name)
    return NOTHING if limit is None else f"{'≤' if name in AT_MOST else '≥'} {limit:g}"


def _with_interval(measured: Mapping[str, Any], digits: int) -> Markup:
    mean, low, high = (measured.get(name) for name in ("mean", "low", "high"))
    if mean is None:
        return join(NOTHING)
    if low is None or high is None:
        return join(_number(mean, digits))
    return join(
        _number(mean, digits), element("span", f" [{_number(low, digits)}, {_number(high, digits)}]", class_="interval")
    )


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "all"
    return NOTHING if value is None or value == "" else str(value)


def _img(picture: Picture, alt: str) -> Markup:
    content = base64.b64encode(png_bytes(picture)).decode("ascii")
    return element("img", src=f"data:image/png;base64,{content}", alt=alt)
