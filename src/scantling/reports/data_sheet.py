"""The report's data sheet: what was trained on and scored, how it was divided, prepared and repaired."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from scantling.reports.facts import RunFacts
from scantling.reports.html import Child, Markup, definitions, element, join, section, table
from scantling.reports.results import swatch
from scantling.reports.wording import NOTHING, counted, readable

_MOST_LISTED: Final = 30
_SEVERITIES: Final = ("error", "warning", "repaired")
_PARTS: Final = {
    "train": "trained on, with labels",
    "unlabelled": "without labels",
    "validation": "chose the checkpoint",
    "heldout": "held out and scored",
    "unused": "not used",
}
_PARTS_OF_IMAGES: Final = {**_PARTS, "train": "trained on", "heldout": "held out"}
_PARTS_OF_FEATURES: Final = {
    **_PARTS,
    "train": "learnt from, labels read",
    "unlabelled": "learnt from, without labels",
    "validation": "measured the features",
    "heldout": "held out, not learnt from",
}


def data_section(facts: RunFacts) -> Markup:
    """What the data is, how it was divided and prepared, and what was wrong with it."""
    return section(
        "Data sheet",
        definitions(_data_facts(facts)),
        _class_table(facts),
        _site_table(facts),
        _split_table(facts),
        _plan(facts),
        _problems(facts),
    )


def _data_facts(facts: RunFacts) -> list[tuple[str, Child]]:
    sheet, cases = facts.data_sheet, facts.data_sheet.get("cases", ())
    pairs: list[tuple[str, Child]] = [
        ("name", str(sheet.get("name") or facts.plan.get("dataset") or NOTHING)),
        ("modality", str(sheet.get("modality") or facts.plan.get("modality") or "not stated")),
    ]
    if cases:
        kinds = Counter(label["kind"] for case in cases for label in case.get("labels", ()))
        n_without = sum(not case.get("labels") for case in cases)
        labels = [f"{n} {kind}" for kind, n in kinds.most_common()]
        labels += [f"{counted(n_without, 'image')} without"] if n_without else []
        n_patients = int(sheet.get("patients", len(cases)))
        types = sorted({str(case["file_type"]) for case in cases if case.get("file_type")})
        images = f"{counted(len(cases), 'image')} of {counted(n_patients, 'patient')}"
        pairs += [
            ("images", f"{images} ({', '.join(types)})" if types else images),
            ("labels", ", ".join(labels)),
            ("size", _sizes(case.get("shape", ()) for case in cases)),
            ("spacing", _spacings(cases)),
        ]
    if sheet.get("layout"):
        pairs.append(("layout", str(sheet["layout"])))
    return pairs


def _class_table(facts: RunFacts) -> Markup | None:
    classes = facts.plan.get("classes", {})
    if not classes:
        return None
    present: Counter[str] = Counter()
    for case in facts.data_sheet.get("cases", ()):
        voxels = [label.get("voxels", {}) for label in case.get("labels", ())]
        present.update({name for counts in voxels for name, n in counts.items() if n})
    rows: list[Sequence[Child]] = [
        (swatch(facts, name), ", ".join(map(str, stored)), present.get(name, NOTHING))
        for name, stored in zip(classes["names"], classes["stored"], strict=True)
    ]
    return table(("class", "stored values", "cases with it"), rows, text_columns=(0, 1))


def _site_table(facts: RunFacts) -> Markup | None:
    part_of = {case: part for part in _PARTS for case in facts.split.get(part, ())}
    tally: dict[str, Counter[str]] = {}
    for case in facts.data_sheet.get("cases", ()):
        if case.get("site"):
            tally.setdefault(case["site"], Counter())[part_of.get(case["case"], "unused")] += 1
    if not tally:
        return None
    rows: list[Sequence[Child]] = [
        (site, sum(counts.values()), *(counts[part] for part in _PARTS)) for site, counts in sorted(tally.items())
    ]
    return table(("site", "images", "trained on", "unlabelled", "validation", "held out", "not used"), rows)


def _split_table(facts: RunFacts) -> Markup | None:
    split = facts.split
    if not split:
        return None
    patients = split.get("patients", {})
    rows: list[Sequence[Child]] = []
    meanings = _PARTS_OF_IMAGES if facts.of_images else _PARTS_OF_FEATURES if facts.of_features else _PARTS
    for part, meaning in meanings.items():
        cases = split.get(part, ())
        if cases:
            rows.append((meaning, len(cases), len({patients.get(case, case) for case in cases})))
    sentence = element("p", str(split.get("sentence", "")))
    return join(element("h3", "Split"), sentence, table(("part", "cases", "patients"), rows))


def _plan(facts: RunFacts) -> Markup | None:
    plan = facts.plan
    if not plan:
        return None
    pairs = _image_model_facts(plan) if facts.of_images else _segmentation_facts(plan)
    reasons = [(readable(str(name)), str(reason)) for name, reason in plan.get("reasons", {}).items()]
    why = element("details", element("summary", "Why the plan is so"), definitions(reasons))
    return join(element("h3", "Preparation"), definitions(pairs), why if reasons else None)


def _image_model_facts(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    attributes = [str(attribute.get("name")) for attribute in plan.get("attributes", ())]
    return [
        (
            "size",
            f"every image stretched to {_times(plan.get('size', ()))}, batch of {plan.get('batch_size', NOTHING)}",
        ),
        ("intensities", plan.get("reasons", {}).get("scaling", NOTHING)),
        ("given", ", ".join(map(readable, attributes)) or NOTHING),
    ]


def _segmentation_facts(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    network = plan.get("network", {})
    schemes = ", ".join(dict.fromkeys(str(each.get("scheme")) for each in plan.get("intensities", ())))
    kind = readable(str(network.get("kind", NOTHING)))
    return [
        ("grid", f"{_times(plan.get('spacing_mm', ()), own='own')} mm"),
        ("patch", f"{_times(plan.get('patch_size', ()))}, batch of {plan.get('batch_size', NOTHING)}"),
        ("intensities", plan.get("reasons", {}).get("intensities", schemes) or NOTHING),
        ("network", f"{kind}, widths {_times(network.get('features', ()), by=', ')}"),
    ]


def _problems(facts: RunFacts) -> Markup:
    found = facts.data_sheet.get("problems", ())
    problems = sorted(found, key=lambda problem: _SEVERITIES.index(problem["severity"]))
    parts: list[Child] = [element("h3", "Repairs and problems")]
    if problems:
        rows = [(each["severity"], each["code"], each["message"]) for each in problems[:_MOST_LISTED]]
        parts.append(table(("severity", "code", "what"), rows, text_columns=(0, 1, 2)))
    elif facts.data_sheet:
        parts.append(element("p", "None: every file was read, and images and labels share their grids."))
    else:
        parts.append(element("p", "Not recorded in this run."))
    if len(problems) > _MOST_LISTED:
        more = f"and {len(problems) - _MOST_LISTED} more; see data_sheet.json in the run folder"
        parts.append(element("p", more, class_="quiet"))
    notes = [element("li", str(note)) for note in facts.data_sheet.get("notes", ())[:_MOST_LISTED]]
    return join(*parts, element("ul", notes) if notes else None)


def _sizes(shapes: Iterable[Sequence[int]]) -> str:
    known = [tuple(shape) for shape in shapes if shape]
    if not known:
        return NOTHING
    axes = max(len(shape) for shape in known)
    columns = list(zip(*(shape for shape in known if len(shape) == axes), strict=True))
    median, low, high = (_times([pick(c) for c in columns]) for pick in (statistics.median, min, max))
    return f"{median} pixels" if low == high else f"median {median} pixels, from {low} to {high}"


def _spacings(cases: Sequence[Mapping[str, Any]]) -> str:
    known = [tuple(case["spacing_mm"]) for case in cases if case.get("spacing_known")]
    if not known:
        return "not stated by the files: 1 mm stands for a pixel"
    axes = max(len(each) for each in known)
    columns = zip(*(each for each in known if len(each) == axes), strict=True)
    return f"median {_times([statistics.median(column) for column in columns])} mm"


def _times(values: Sequence[float | None], *, by: str = " × ", own: str = NOTHING) -> str:
    return by.join(own if value is None else f"{value:.4g}" for value in values) or NOTHING
