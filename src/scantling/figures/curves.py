"""Curves over training and the reliability of probabilities, as inline SVG.

Each function returns one `<svg>` element with its own colours and no script, style sheet or reference to
anything outside it; every text that is passed in is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scantling.figures.axes import Scale, decade_ticks, divided_decade_ticks, finite_range, nice_ticks, tick_label
from scantling.figures.svg import (
    DASHES,
    QUIET,
    axes_frame,
    chart_title,
    dot_at,
    label_width,
    legend,
    line_at,
    number,
    polyline,
    svg,
)

_BLUE: Final = "#0072b2"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve; points that are not finite are left out and break the line.

    Attributes:
        name: in the legend; empty for a line that goes without saying.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False
    markers: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    title: str,
    width: int = 640,
    height: int = 260,
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
    logarithmic: bool = False,
    logarithmic_x: bool = False,
) -> str:
    """Curves over a common x axis, with ticks, units in the labels, and a legend if there are several.

    A logarithmic axis leaves out values <= 0.
    """
    keep = [
        [_plottable(y, logarithmic) and _plottable(x, logarithmic_x) for x, y in zip(line.x, line.y, strict=True)]
        for line in lines
    ]
    shown_y = [y for line, flags in zip(lines, keep, strict=True) for y, k in zip(line.y, flags, strict=True) if k]
    shown_x = [x for line, flags in zip(lines, keep, strict=True) for x, k in zip(line.x, flags, strict=True) if k]
    low, high = y_limits or finite_range(shown_y)
    if logarithmic and low <= 0:
        low, high = 0.1, 1.0
    y_ticks = decade_ticks(low, high) if logarithmic else nice_ticks(low, high)
    first, last = x_limits or finite_range(shown_x)
    if logarithmic_x and first <= 0:
        first, last = 0.1, 1.0
    x_ticks = divided_decade_ticks(first, last) if logarithmic_x else nice_ticks(first, last, about=7)
    left, right, bottom = label_width(y_ticks), max(14, 4 * len(tick_label(x_ticks[-1]))), 44
    entries = [(line.name, line.colour, line.dashed) for line in lines if line.name]
    key, key_height = legend(entries, left, width - right)
    top = 34 + key_height
    x_scale = Scale(low=x_ticks[0], high=x_ticks[-1], start=left, end=width - right, logarithmic=logarithmic_x)
    y_scale = Scale(low=y_ticks[0], high=y_ticks[-1], start=height - bottom, end=top, logarithmic=logarithmic)

    parts = [chart_title(title, left), *key]
    parts += axes_frame(x_scale, y_scale, x_ticks, y_ticks, x_label=x_label, y_label=y_label)
    for line, flags in zip(lines, keep, strict=True):
        parts += _curve(line, flags, x_scale, y_scale)
    return svg(parts, width, height, title)


def reliability_chart(
    confidence: Sequence[float],
    accuracy: Sequence[float],
    share: Sequence[float],
    *,
    title: str,
    size: int = 340,
) -> str:
    """Observed accuracy against predicted confidence per bin; the diagonal is perfect.

    Args:
        share: of all pixels in each bin, in [0, 1]; drawn as the dot's area.
    """
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    x_scale = Scale(low=0, high=1, start=58, end=size - 14)
    y_scale = Scale(low=0, high=1, start=size - 44, end=34)
    parts = [chart_title(title, 58)]
    parts += axes_frame(x_scale, y_scale, ticks, ticks, x_label="predicted probability", y_label="observed share")
    parts.append(line_at(x_scale(0), y_scale(0), x_scale(1), y_scale(1), colour=QUIET, dashes="4 4"))
    bins = [b for b in zip(confidence, accuracy, share, strict=True) if b[2] > 0 and all(map(math.isfinite, b))]
    if bins:
        moves = [f"{'L' if k else 'M'}{_point(x_scale(c), y_scale(a))}" for k, (c, a, _) in enumerate(bins)]
        parts.append(polyline(moves, colour=_BLUE, width=1.6))
    for c, a, s in bins:
        parts.append(dot_at(x_scale(c), y_scale(a), 3 + 9 * math.sqrt(s), colour=_BLUE, opacity=0.55))
    return svg(parts, size, size, title)


def _curve(line: Line, keep: Sequence[bool], x_scale: Scale, y_scale: Scale) -> list[str]:
    moves, points, pen_down = [], [], False
    for x, y, shown in zip(line.x, line.y, keep, strict=True):
        if shown:
            points.append((x_scale(x), y_scale(y)))
            moves.append(("L" if pen_down else "M") + _point(*points[-1]))
        pen_down = shown
    if not points:
        return []
    parts = [polyline(moves, colour=line.colour, width=1.8, dashes=DASHES if line.dashed else "")]
    if line.markers or len(points) == 1:
        parts += [dot_at(x, y, 2.6, colour=line.colour) for x, y in points]
    return parts


def _plottable(value: float, logarithmic: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not logarithmic)


def _point(x: float, y: float) -> str:
    return f"{number(x)} {number(y)}"
