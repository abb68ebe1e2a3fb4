"""The report's section on training: loss, validation and learning rate over time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from scantling.figures.colours import class_colour, hexadecimal
from scantling.figures.curves import Line, line_chart
from scantling.reports.facts import RunFacts
from scantling.reports.html import Markup, element, section
from scantling.reports.wording import counted, duration, readable

_BLUE: Final = "#0072b2"
_TERM_COLOURS: Final = (_BLUE, "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#444444")


def curves_section(facts: RunFacts) -> Markup | None:
    """Loss, validation and learning rate over training; nothing if nothing was logged."""
    if not facts.epochs:
        return None
    summary = element("p", _summary(facts))
    if len(facts.epochs) < 2:
        return section("Training", summary, element("p", "The run was too short for curves."))
    charts = [_loss_chart(facts.epochs), _validation_chart(facts), _rate_chart(facts.epochs)]
    figures = [element("figure", Markup(chart)) for chart in charts if chart]
    return section("Training", element("div", figures, class_="charts"), summary)


def _loss_chart(epochs: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.get("losses", {})))
    lines = [
        Line(
            name=readable(name),
            x=steps_of(epochs),
            y=[number_or_nan(epoch.get("losses", {}).get(name)) for epoch in epochs],
            colour=_TERM_COLOURS[k % len(_TERM_COLOURS)],
            dashed=k >= len(_TERM_COLOURS),
        )
        for k, name in enumerate(names)
    ]
    title = "Loss by term" if len(lines) > 1 else "Loss"
    return chart_over_steps(lines, epochs, y_label="loss", title=title) if lines else ""


def _validation_chart(facts: RunFacts) -> str:
    scored = [epoch for epoch in facts.epochs if epoch.get("validation")]
    if not scored:
        return ""
    if facts.of_images:
        bounds = [number_or_nan(epoch["validation"].get("bound")) for epoch in scored]
        line = Line(name="bound", x=steps_of(scored), y=bounds, colour="#222222", markers=True)
        title = "Bound on the log-likelihood of validation images (higher is better; chooses the checkpoint)"
        return chart_over_steps([line], facts.epochs, y_label="nats a value", title=title)
    measure = "probe_dice" if facts.of_features else "mean_dice"
    columns = [("mean", [epoch["validation"].get(measure) for epoch in scored], "#222222")]
    for k, name in enumerate(facts.classes[:7], start=1):
        values = [epoch["validation"].get("per_class", {}).get(name) for epoch in scored]
        if any(value is not None for value in values):
            columns.append((readable(name), values, hexadecimal(class_colour(k))))
    lines = [
        Line(
            name=name,
            x=steps_of(scored),
            y=list(map(number_or_nan, values)),
            colour=colour,
            dashed=k > 0,
            markers=k == 0,
        )
        for k, (name, values, colour) in enumerate(columns)
    ]
    of = "Dice of a linear probe" if facts.of_features else "Dice"
    title = f"{of} on validation patients (chooses the checkpoint, is no result)"
    return chart_over_steps(lines, facts.epochs, y_label="Dice", title=title, y_limits=(0.0, 1.0))


def _rate_chart(epochs: Sequence[Mapping[str, Any]]) -> str:
    rates = [number_or_nan(epoch.get("learning_rate")) for epoch in epochs]
    line = Line(name="learning rate", x=steps_of(epochs), y=rates, colour=_BLUE)
    return chart_over_steps([line], epochs, y_label="learning rate", title="Learning rate", height=190)


def chart_over_steps(
    lines: Sequence[Line],
    epochs: Sequence[Mapping[str, Any]],
    *,
    y_label: str,
    title: str,
    height: int = 260,
    y_limits: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> str:
    """A chart over the whole run: all share the x axis, so that they can be read one under the other."""
    return line_chart(
        lines, x_label="training step", y_label=y_label, title=title, width=840, height=height,
        x_limits=(0.0, max(1.0, *steps_of(epochs))), y_limits=y_limits,
        logarithmic=logarithmic,
    )  # fmt: skip


def _summary(facts: RunFacts) -> str:
    last = facts.epochs[-1]
    speeds = [number_or_nan(epoch.get("samples_per_second")) for epoch in facts.epochs]
    known = [speed for speed in speeds if math.isfinite(speed)]
    rate = f" at {statistics.median(known):.1f} samples a second" if known else ""
    steps = counted(int(last.get("step", 0)), "step")
    sentences = [f"{steps} in {duration(number_or_nan(last.get('seconds')))}{rate}."]
    skipped = int(facts.status.get("skipped_steps") or 0)
    if skipped:
        lost = counted(skipped, "step")
        sentences.append(f"{lost} changed nothing, because loss or gradient was not finite.")
    cut = sum(event.get("event") == "out_of_memory" for event in facts.events)
    if cut:
        sentences.append(f"Memory ran out {counted(cut, 'time')}; batches were cut into parts.")
    if not facts.of_features and not any(epoch.get("validation") for epoch in facts.epochs):
        sentences.append("No patient was kept for validation.")
    return " ".join(sentences)


def steps_of(epochs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Steps taken at each epoch's end."""
    return [float(epoch["step"]) for epoch in epochs]


def number_or_nan(value: Any) -> float:
    """What the log holds, where it is a number."""
    return float(value) if isinstance(value, int | float) else math.nan
