"""The report's section on what features are like: warnings, figures in plain words, and their course over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scantling.contrast.observation import FEATURES
from scantling.contrast.watch import COLLAPSED_STD
from scantling.figures.colours import class_colour, hexadecimal
from scantling.figures.curves import Line
from scantling.reports.facts import RunFacts
from scantling.reports.html import Child, Markup, element, join, section, table
from scantling.reports.learning import chart_over_steps, number_or_nan, steps_of
from scantling.reports.verdict import active_warnings
from scantling.reports.wording import NOTHING, counted, duration, readable

HEALTH: Final = "health"
"""The event of the log."""
NOTABLE: Final = 0.02
"""A difference in Dice that is worth a sentence."""
_BLACK: Final = "#222222"
_RANDOM: Final = "#9a9a9a"


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """A figure of the log.

    Attributes:
        chart: title of its chart; `axis` of its y axis, which goes from `low` to at least `high`.
        first: whether the chart is shown at once.
    """

    key: str
    name: str
    digits: int
    chart: str
    axis: str
    low: float = 0.0
    high: float = 1.0
    first: bool = False


_MEASURES: Final = (
    _Measure(
        key="probe_dice", name="Dice of a linear probe", digits=3, axis="Dice", first=True,
        chart="Dice of a linear probe on the features (higher is better)",
    ),
    _Measure(
        key="kmeans_purity", name="Purity of clusters", digits=2, axis="share",
        chart="Purity of k-means clusters (1: the clusters are the classes)",
    ),
    _Measure(
        key="centre_distance_over_spread", name="Distance of class centres over spread", digits=2,
        chart="Distance of class centres over spread (higher: further apart)", axis="ratio", high=2.0,
    ),
    _Measure(
        key="alignment", name="Alignment of two views", digits=3, axis="squared distance",
        chart="Distance of two views of a point (0: alike, 2: unrelated)",
    ),
    _Measure(
        key="uniformity", name="Uniformity", digits=2, axis="log potential", low=-4.0, high=0.0,
        chart="Uniformity of the features (0: one point, lower: more even)",
    ),
    _Measure(
        key="effective_rank", name="Effective rank", digits=1, axis="dimensions", high=4.0, first=True,
        chart="Dimensions the features fill",
    ),
    _Measure(
        key="feature_spread", name="Spread", digits=2, axis="share of even",
        chart="Spread of the features (1: even, 0: one point)",
    ),
)  # fmt: skip


def health_section(facts: RunFacts) -> Markup | None:
    """What a linear probe and other measures say of the features; nothing if they were not examined."""
    events = [event for event in facts.events if event.get("event") == HEALTH]
    if not events:
        return None
    charts = join(_charts(facts, events)) if len(events) > 1 else None
    return section(
        "Health of the features", _warnings(facts), element("p", _summary(events)), _table(events), charts,
        element("p", _how(events), class_="quiet"),
    )  # fmt: skip


def _warnings(facts: RunFacts) -> Markup | None:
    """Of collapse: those that hold in full, then those that are over; nothing where there was none."""
    active = [event for event in active_warnings(facts) if event.get("term") == FEATURES]
    held = [element("p", f"When training ended: {event.get('sentence', '')}.", class_="caveat") for event in active]
    kinds = ("contrast_warning", "contrast_recovered")
    events = [event for event in facts.events if event.get("event") in kinds and event.get("term") == FEATURES]
    passed = [event for event in events if not any(event is each for each in active)]
    lines = [element("li", f"step {event.get('step', NOTHING)}: {event.get('sentence', '')}") for event in passed]
    return join(held, join(element("p", "Over when training ended:"), element("ul", lines)) if lines else None)


def _summary(events: Sequence[Mapping[str, Any]]) -> str:
    """What the probe says, against random weights and against earlier steps."""
    last = _figures(events[-1])
    probe, random = _value(last, "probe_dice"), _value(last, "untrained_probe_dice")
    if math.isnan(probe):
        return "No labelled case was kept to score a linear probe on: what it would reach is not measured."
    fitted, scored = (round(_value(last, name, 0)) for name in ("cases_fitted", "cases_scored"))
    sentences = [
        f"With the features as they are, a linear classifier of single pixels, fitted on "
        f"{counted(fitted, 'labelled case')}, reached a mean Dice of {probe:.3f} on {counted(scored, 'other')}."
    ]
    if not math.isnan(random):
        better = probe > random + NOTABLE
        sentences.append(
            f"On the features of random weights it reached {random:.3f}"
            + (": the difference is what training has added." if better else ": training has added next to nothing.")
        )
    best = max(events, key=lambda event: _value(_figures(event), "probe_dice", -math.inf))
    highest = _value(_figures(best), "probe_dice")
    if highest > probe + NOTABLE:
        sentences.append(f"It was highest after {counted(int(best['step']), 'step')}, at {highest:.3f}.")
    return " ".join(sentences)


def _table(events: Sequence[Mapping[str, Any]]) -> Markup:
    """Each figure and what it says; with random weights, at first and at last."""
    shown = [events[0], events[-1]] if len(events) > 1 else [events[-1]]
    last = _figures(events[-1])
    words = _words(last)
    rows: list[Sequence[Child]] = []
    for measure in _MEASURES:
        values = [_value(last, f"untrained_{measure.key}"), *(_value(_figures(e), measure.key) for e in shown)]
        if any(map(math.isfinite, values)):
            name = join(element("strong", measure.name), element("div", words[measure.key], class_="quiet"))
            rows.append((name, *(_written(value, measure.digits) for value in values)))
    return table(("", "random weights", *(f"step {event['step']}" for event in shown)), rows)


def _words(figures: Mapping[str, Any]) -> dict[str, str]:
    """What each figure says, and what is good or bad."""
    n_classes, dimensions = _value(figures, "classes", 0), _value(figures, "dimensions", 0)
    chance = f"{1 / n_classes:.2f}" if n_classes else "the share of one class"
    return {
        "probe_dice": "How well one linear layer segments with them; 1 is perfect. Higher is better: so much of the "
        "task is solved.",
        "kmeans_purity": f"Share of pixels whose cluster is mostly of their class. 1: the {n_classes:.0f} clusters "
        f"are the classes, {chance}: they know nothing of them. Low is no fault by itself: features may part other "
        "things first.",
        "centre_distance_over_spread": "Below 1 the classes lie in each other, above 2 apart. Higher is better.",
        "alignment": "Squared distance of a point's features in two views; 0: the same, 2: unrelated. Lower is "
        "better, as long as the features are spread.",
        "uniformity": "How evenly the features cover all directions; 0: one point, towards −4: everywhere. Lower is "
        "more even; features that are about a few classes alone gather around them.",
        "effective_rank": f"Dimensions that the features fill, of {dimensions:.0f}. A few suffice where the clusters "
        "are the classes; elsewhere a few mean collapse.",
        "feature_spread": f"1: in all directions alike, 0: one point. Below {COLLAPSED_STD[0]:g} they have collapsed.",
    }


def _charts(facts: RunFacts, events: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """The probe and the rank at once, the others on demand."""
    drawn = {measure.key: _chart(facts, events, measure) for measure in _MEASURES}
    main = [drawn[m.key] for m in _MEASURES if m.first and drawn[m.key]]
    further = [drawn[m.key] for m in _MEASURES if not m.first and drawn[m.key]]
    parts = [element("div", [element("figure", chart) for chart in main], class_="charts")]
    if further:
        more = element("div", [element("figure", chart) for chart in further], class_="charts")
        parts.append(element("details", element("summary", "More curves"), more))
    return parts


def _chart(facts: RunFacts, events: Sequence[Mapping[str, Any]], measure: _Measure) -> Markup | None:
    values = [_value(_figures(event), measure.key) for event in events]
    if not any(map(math.isfinite, values)):
        return None
    of_classes = _class_lines(facts, events) if measure.key == "probe_dice" else []
    lines = [
        Line(name="mean" if of_classes else "features", x=steps_of(events), y=values, colour=_BLACK, markers=True),
        *of_classes,
    ]
    random = _value(_figures(events[-1]), f"untrained_{measure.key}")
    if math.isfinite(random):
        ends = [0.0, steps_of(events)[-1]]
        lines.append(Line(name="random weights", x=ends, y=[random, random], colour=_RANDOM, dashed=True))
    highest = max(y for line in lines for y in line.y if math.isfinite(y))
    height = 260 if measure.key == "probe_dice" else 210
    chart = chart_over_steps(
        lines, facts.epochs or events, y_label=measure.axis, title=measure.chart, height=height,
        y_limits=(measure.low, max(measure.high, highest)),
    )  # fmt: skip
    return Markup(chart)


def _class_lines(facts: RunFacts, events: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The probe's Dice of each class, where there is more than one."""
    lines = []
    for k, name in enumerate(facts.classes[:7], start=1):
        values = [number_or_nan(event.get("per_class", {}).get(name)) for event in events]
        if any(map(math.isfinite, values)):
            colour = hexadecimal(class_colour(k))
            lines.append(Line(name=readable(name), x=steps_of(events), y=values, colour=colour))
    return lines if len(lines) > 1 else []


def _how(events: Sequence[Mapping[str, Any]]) -> str:
    seconds = sum(number_or_nan(event.get("seconds")) for event in events)
    return (
        "Measured on the network's own features, before any projection: probe, clusters and centres on images as they "
        f"are, the others on two augmented views of each. {counted(len(events), 'examination')} in "
        f"{duration(seconds)}. Random weights are those of a network of the same kind before any training."
    )


def _figures(event: Mapping[str, Any]) -> Mapping[str, Any]:
    found = event.get("figures")
    return found if isinstance(found, Mapping) else {}


def _value(figures: Mapping[str, Any], key: str, otherwise: float = math.nan) -> float:
    """A number of the log, or `otherwise` where it is null or missing."""
    found = number_or_nan(figures.get(key))
    return otherwise if math.isnan(found) else found


def _written(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else NOTHING
