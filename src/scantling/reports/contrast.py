"""The report's section on what the contrast saw: warnings, who took part, and the measures over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from scantling.contrast.observation import FEATURES
from scantling.figures.colours import class_colour, hexadecimal
from scantling.figures.curves import Line
from scantling.reports.facts import RunFacts
from scantling.reports.html import Child, Markup, element, join, section, table
from scantling.reports.learning import chart_over_steps, number_or_nan, steps_of
from scantling.reports.results import swatch
from scantling.reports.verdict import active_warnings
from scantling.reports.wording import NOTHING, readable

PREDICTION: Final = "prediction"
"""The term of a recipe that shows what it predicts, and contrasts nothing."""
_BACKGROUND: Final = "#6b6b6b"
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73")

_BY_CLASS: Final = {
    "anchors": ("Anchors of each class", "anchors a step"),
    "gradient_share": ("Gradient of each class", "share"),
    "bank": ("Memory of each class", "share of all places"),
}
_MAIN: Final = {
    "feature_std": ("Spread of the embeddings (1: even, 0: one point)", "standard deviation", ("feature_std",)),
    "effective_rank": ("Dimensions the embeddings fill", "effective rank", ("effective_rank",)),
    "foreground": ("Foreground predicted", "share", ("foreground_predicted", "foreground_labelled")),
}
_FURTHER: Final = {
    "alignment": ("Distance of positives (0: aligned, 2: unrelated)", "squared distance", ("alignment",)),
    "uniformity": ("Uniformity (0: one point, lower: more even)", "log potential", ("uniformity",)),
    "positives": ("Positives and negatives of an anchor", "pixels", ("positives", "negatives")),
    "gradient_spread": ("Anchors among which the gradient is spread", "share", ("gradient_spread",)),
}
"""Title, axis and measures of each chart."""


def contrast_section(facts: RunFacts) -> Markup | None:
    """What the diagnostics measured and warned of; nothing if the recipe has none."""
    terms = list(dict.fromkeys(term for epoch in facts.epochs for term in epoch.get("contrast", {})))
    if not terms:
        return None
    title = "What the contrast saw" if set(terms) - {PREDICTION} else "Foreground while training"
    return section(title, _warnings(facts), [_term(facts, term) for term in terms])


def _warnings(facts: RunFacts) -> Markup:
    """Those that hold in full, then those that are over."""
    kinds = ("contrast_warning", "contrast_recovered")
    events = [event for event in facts.events if event.get("event") in kinds and event.get("term") != FEATURES]
    if not events:
        return element("p", "No warning.")
    active = [event for event in active_warnings(facts) if event.get("term") != FEATURES]
    held = [element("p", f"When training ended: {event.get('sentence', '')}.", class_="caveat") for event in active]
    passed = [event for event in events if not any(event is each for each in active)]
    lines = [element("li", f"step {event.get('step', NOTHING)}: {event.get('sentence', '')}") for event in passed]
    return join(held, join(element("p", "Over when training ended:"), element("ul", lines)) if lines else None)


def _term(facts: RunFacts, term: str) -> Markup:
    epochs = [epoch for epoch in facts.epochs if term in epoch.get("contrast", {})]
    last = epochs[-1]["contrast"][term]
    parts: list[Child] = [element("h3", readable(term)), _class_table(facts, last), element("p", _summary(last))]
    if len(epochs) > 1:
        of_classes = [_class_chart(facts, epochs, term, measure) for measure in _BY_CLASS]
        main, further = ([_chart(facts, epochs, term, name, c) for name, c in t.items()] for t in (_MAIN, _FURTHER))
        parts.append(_figures([*of_classes, *main]))
        if any(further):
            parts.append(element("details", element("summary", "More curves"), _figures(further)))
    return join(*parts)


def _class_table(facts: RunFacts, last: Mapping[str, Any]) -> Markup | None:
    """Who took part in the last epoch."""
    columns: dict[str, tuple[str, Callable[[float], str]]] = {
        "labelled": ("in the labels", lambda v: f"{100 * v:.0f} % of steps"),
        "anchors": ("anchors a step", lambda v: f"{v:.0f}" if v >= 10 or v == 0 else f"{v:.1f}"),
        "gradient_share": ("share of the gradient", _percent),
        "bank": ("share of the memory", _percent),
    }
    found = {name: last[name] for name in columns if isinstance(last.get(name), Mapping)}
    if not found:
        return None
    names = dict.fromkeys(name for values in found.values() for name in values)
    rows = [
        (swatch(facts, name), *(_cell(values.get(name), columns[measure][1]) for measure, values in found.items()))
        for name in names
    ]
    header = ("in the last epoch", *(columns[name][0] for name in found))
    return table(header, rows)


def _summary(last: Mapping[str, Any]) -> str:
    """The last epoch's figures in sentences."""
    value = {name: float(v) for name, v in last.items() if isinstance(v, int | float)}
    sentences = []
    if "positives" in value and "negatives" in value:
        sentences.append(
            f"An anchor had {value['positives']:.4g} positives and {value['negatives']:.4g} negatives on average"
            + (f", at least {value['fewest_positives']:.4g} positives." if "fewest_positives" in value else ".")
        )
    if "feature_std" in value and "effective_rank" in value:
        sentences.append(
            f"The embeddings filled {value['effective_rank']:.1f} dimensions, with {value['feature_std']:.2f} of the "
            "standard deviation of evenly spread ones."
        )
    if "gradient_spread" in value:
        sentences.append(f"The gradient was spread among {_percent(value['gradient_spread'])} of the anchors.")
    if "bank_filled" in value:
        sentences.append(f"The memory was filled to {_percent(value['bank_filled'])}.")
    if "foreground_predicted" in value:
        labelled = f", of the labels {_percent(value['foreground_labelled'])}" if "foreground_labelled" in value else ""
        sentences.append(f"Of the predictions {_percent(value['foreground_predicted'])} was foreground{labelled}.")
    return " ".join(sentences)


def _class_chart(facts: RunFacts, epochs: Sequence[Mapping[str, Any]], term: str, measure: str) -> Markup | None:
    values = [epoch["contrast"][term].get(measure, {}) for epoch in epochs]
    names = dict.fromkeys(name for each in values if isinstance(each, Mapping) for name in each)
    lines = [
        Line(
            name=readable(name),
            x=steps_of(epochs),
            y=[number_or_nan(each.get(name)) for each in values],
            colour=hexadecimal(class_colour(facts.classes.index(name) + 1)) if name in facts.classes else _BACKGROUND,
        )
        for name in names
    ]
    title, axis = _BY_CLASS[measure]
    return _drawn(facts, lines, title=title, y_label=axis)


def _chart(
    facts: RunFacts,
    epochs: Sequence[Mapping[str, Any]],
    term: str,
    name: str,
    chart: tuple[str, str, tuple[str, ...]],
) -> Markup | None:
    title, axis, measures = chart
    lines = [
        Line(
            name=readable(measure),
            x=steps_of(epochs),
            y=[number_or_nan(epoch["contrast"][term].get(measure)) for epoch in epochs],
            colour=colour,
        )
        for measure, colour in zip(measures, _COLOURS, strict=False)
    ]
    return _drawn(facts, lines, title=title, y_label=axis, logarithmic=name == "positives")


def _drawn(
    facts: RunFacts, lines: Sequence[Line], *, title: str, y_label: str, logarithmic: bool = False
) -> Markup | None:
    """The chart; nothing where no line has a point."""
    if not any(math.isfinite(y) for line in lines for y in line.y):
        return None
    chart = chart_over_steps(lines, facts.epochs, y_label=y_label, title=title, height=210, logarithmic=logarithmic)
    return Markup(chart)


def _figures(charts: Sequence[Markup | None]) -> Markup:
    return element("div", [element("figure", chart) for chart in charts if chart], class_="charts")


def _cell(value: Any, written: Callable[[float], str]) -> str:
    return written(float(value)) if isinstance(value, int | float) else NOTHING


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
