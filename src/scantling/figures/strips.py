"""Scores case by case as an inline SVG: for each class a strip of dots, a box, a mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scantling.figures.axes import Scale, finite_range, nice_ticks, tick_label
from scantling.figures.svg import (
    GRID,
    INK,
    QUIET,
    chart_title,
    dot_at,
    line_at,
    number,
    shortened,
    svg,
    text_at,
)


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One class's scores, one dot a case, with the mean and its interval where they are known."""

    name: str
    values: Sequence[float]
    colour: str
    mean: float | None = None
    interval: tuple[float, float] | None = None


def strip_chart(
    strips: Sequence[Strip],
    *,
    x_label: str,
    title: str,
    width: int = 640,
    limits: tuple[float, float] | None = (0.0, 1.0),
) -> str:
    """One row a class: a dot a case, quartiles and median as a box, mean and interval below it.

    Values that are not finite are left out; how many were there is the table's business.
    """
    row, left, right, top, bottom = 58, 150, 18, 40, 46
    height = top + row * max(len(strips), 1) + bottom
    low, high = limits or finite_range([v for strip in strips for v in strip.values])
    ticks = nice_ticks(low, high)
    scale = Scale(low=ticks[0], high=ticks[-1], start=left, end=width - right)
    end = height - bottom
    parts = [chart_title(title, 12)]
    for tick in ticks:
        parts.append(line_at(scale(tick), top, scale(tick), end, colour=GRID))
        parts.append(text_at(tick_label(tick), scale(tick), end + 17, anchor="middle", colour=QUIET))
    parts.append(text_at(x_label, (left + width - right) / 2, height - 8, anchor="middle"))
    for position, strip in enumerate(strips):
        centre = top + row * (position + 0.5)
        parts.append(text_at(shortened(strip.name, 20), left - 12, centre + 4, anchor="end"))
        parts += _strip(strip, scale, centre)
    return svg(parts, width, height, title)


def _strip(strip: Strip, scale: Scale, centre: float) -> list[str]:
    def place(value: float) -> float:
        return scale(min(max(value, scale.low), scale.high))

    at = sorted(place(value) for value in strip.values if math.isfinite(value))
    parts = []
    if len(at) >= 4:
        first, median, third = (_quantile(at, q) for q in (0.25, 0.5, 0.75))
        box = f"x='{number(first)}' y='{number(centre - 13)}' width='{number(third - first)}' height='26'"
        style = f"fill='{strip.colour}' fill-opacity='0.14' stroke='{strip.colour}' stroke-opacity='0.7'"
        parts.append(f"<rect {box} {style}/>")
        parts.append(line_at(median, centre - 13, median, centre + 13, colour=INK, width=1.6))
    parts += [dot_at(x, centre + offset, 2.8, colour=strip.colour, opacity=0.75, hem=True) for x, offset in _swarm(at)]
    if strip.mean is not None and math.isfinite(strip.mean):
        x, y = place(strip.mean), centre + 21
        if strip.interval is not None and all(math.isfinite(end) for end in strip.interval):
            low, high = strip.interval
            parts.append(line_at(place(low), y, place(high), y, colour=INK, width=1.6))
        corners = ((x - 4.5, y), (x, y - 4.5), (x + 4.5, y), (x, y + 4.5))
        points = " ".join(f"{number(a)},{number(b)}" for a, b in corners)
        parts.append(f"<polygon points='{points}' fill='{INK}'/>")
    return parts


def _swarm(positions: Sequence[float]) -> list[tuple[float, float]]:
    """Dots pushed up and down where they would cover each other; the same every time."""
    placed: list[tuple[float, float]] = []
    offsets = [0.0, 5.0, -5.0, 10.0, -10.0]
    for x in positions:
        free = (o for o in offsets if all(abs(x - px) > 5 or abs(o - po) > 4 for px, po in placed))
        placed.append((x, next(free, offsets[len(placed) % len(offsets)])))
    return placed


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
