"""The pieces every chart is made of; texts are escaped here, once, on their way into the picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final, Literal

from scantling.figures.axes import Scale, tick_label

INK: Final = "#222222"
QUIET: Final = "#6b6b6b"
GRID: Final = "#e4e4e4"
DASHES: Final = "6 4"
_NAME_SPACE: Final = "http://www.w3.org/2000/svg"
_FONT: Final = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"


def svg(parts: Sequence[str], width: int, height: int, title: str) -> str:
    """The whole picture; `title` is what a screen reader says."""
    return (
        f"<svg viewBox='0 0 {width} {height}' width='{width}' height='{height}' role='img' "
        f"aria-label='{escape(title)}' font-size='12' {_FONT}>{''.join(parts)}</svg>"
    )


def standalone(drawing: str) -> str:
    """What `svg` made as a file of its own: with the name space that only HTML may leave out, on white."""
    element, _, rest = drawing.partition(">")
    return f"{element} xmlns='{_NAME_SPACE}'><rect width='100%' height='100%' fill='#ffffff'/>{rest}\n"


def line_at(x1: float, y1: float, x2: float, y2: float, *, colour: str, width: float = 1, dashes: str = "") -> str:
    """A straight line."""
    ends = f"x1='{number(x1)}' y1='{number(y1)}' x2='{number(x2)}' y2='{number(y2)}'"
    return f"<line {ends} stroke='{colour}' stroke-width='{number(width)}'{_dashed(dashes)}/>"


def polyline(moves: Sequence[str], *, colour: str, width: float = 1, dashes: str = "") -> str:
    """A path that is not filled, from its moves (`M1 2`, `L3 4`)."""
    style = f"stroke='{colour}' stroke-width='{number(width)}' stroke-linejoin='round'"
    return f"<path d='{' '.join(moves)}' fill='none' {style}{_dashed(dashes)}/>"


def dot_at(x: float, y: float, radius: float, *, colour: str, opacity: float = 1, hem: bool = False) -> str:
    """A filled circle, with a thin white hem if wanted."""
    edge = " stroke='#ffffff' stroke-width='0.5'" if hem else ""
    at = f"cx='{number(x)}' cy='{number(y)}' r='{number(radius)}'"
    return f"<circle {at} fill='{colour}' fill-opacity='{number(opacity)}'{edge}/>"


def text_at(
    text: str, x: float, y: float, *, anchor: Literal["start", "middle", "end"] = "start", colour: str = INK
) -> str:
    """A line of text."""
    place = f"x='{number(x)}' y='{number(y)}' text-anchor='{anchor}'"
    return f"<text {place} fill='{colour}'>{escape(text)}</text>"


def chart_title(text: str, x: float) -> str:
    """The chart's heading, at its top."""
    return f"<text x='{number(x)}' y='17' font-weight='600' font-size='13' fill='{INK}'>{escape(text)}</text>"


def axes_frame(
    x_scale: Scale,
    y_scale: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    *,
    x_label: str,
    y_label: str,
) -> list[str]:
    """Both axes with ticks and titles, and a horizontal grid line at every tick."""
    left, right, bottom, top = x_scale.start, x_scale.end, y_scale.start, y_scale.end
    parts = []
    for tick in y_ticks:
        parts.append(line_at(left, y_scale(tick), right, y_scale(tick), colour=GRID))
        parts.append(text_at(tick_label(tick), left - 8, y_scale(tick) + 4, anchor="end", colour=QUIET))
    for tick in x_ticks:
        parts.append(line_at(x_scale(tick), bottom, x_scale(tick), bottom + 4, colour=QUIET))
        parts.append(text_at(tick_label(tick), x_scale(tick), bottom + 17, anchor="middle", colour=QUIET))
    parts.append(line_at(left, top, left, bottom, colour=QUIET))
    parts.append(line_at(left, bottom, right, bottom, colour=QUIET))
    parts.append(text_at(x_label, (left + right) / 2, bottom + 36, anchor="middle"))
    middle = number((top + bottom) / 2)
    turned = f"x='14' y='{middle}' transform='rotate(-90 14 {middle})' text-anchor='middle'"
    parts.append(f"<text {turned} fill='{INK}'>{escape(y_label)}</text>")
    return parts


def legend(entries: Sequence[tuple[str, str, bool]], left: float, right: float) -> tuple[list[str], int]:
    """The key to several lines, in as many rows as it needs, and its height; nothing for a single line.

    Args:
        entries: name, colour and whether it is dashed, for each line.
    """
    if len(entries) < 2:
        return [], 0
    parts, x, row = [], left, 0
    for name, colour, dashed in entries:
        shown = shortened(name, 28)
        needed = 32 + 6.4 * len(shown)
        if x > left and x + needed > right:
            x, row = left, row + 1
        y = 38 + 18 * row
        parts.append(line_at(x, y, x + 20, y, colour=colour, width=2.2, dashes=DASHES if dashed else ""))
        parts.append(text_at(shown, x + 26, y + 4))
        x += needed + 12
    return parts, 18 * (row + 1) + 6


def label_width(ticks: Sequence[float]) -> int:
    """Room for an axis title and the labels of vertical ticks, in pixels; the same for labels of usual length, so
    that charts one under the other share their time axis."""
    return 38 + 7 * max(6, *(len(tick_label(tick)) for tick in ticks))


def shortened(text: str, length: int) -> str:
    """The text, cut with an ellipsis where it is longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def number(value: float) -> str:
    """A coordinate with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _dashed(pattern: str) -> str:
    return f" stroke-dasharray='{pattern}'" if pattern else ""
