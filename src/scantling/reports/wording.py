"""Numbers and names as a report writes them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from scantling.evaluation.conventions import METRICS
from scantling.evaluation.summary import Summary
from scantling.reports.html import Markup, element, join

NOTHING = "–"
_BYTES = 1024.0


def figure(value: float | None, metric: str = "dice") -> str:
    """A value with the digits its metric deserves; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    digits = 3 if not METRICS[metric].unit else 2 if abs(value) < 100 else 1
    return f"{value:.{digits}f}".replace("-", "−")


def with_interval(summary: Summary | None, metric: str) -> Markup:
    """Mean and interval for a table cell."""
    if summary is None or not math.isfinite(summary.mean):
        return join(NOTHING)
    if not (math.isfinite(summary.low) and math.isfinite(summary.high)):
        return join(figure(summary.mean, metric))
    ends = f" [{figure(summary.low, metric)}, {figure(summary.high, metric)}]"
    return join(figure(summary.mean, metric), element("span", ends, class_="interval"))


def metric_title(metric: str, *, in_pixels: bool = False) -> str:
    """Name and unit; `in_pixels` where the files state no spacing, so that mm are none."""
    known = METRICS[metric]
    unit = known.unit.replace("mm", "px") if in_pixels else known.unit
    return f"{known.title} ({unit})" if unit else known.title


def counted(n: int, noun: str, plural: str = "") -> str:
    """`1 case`, `3 cases`."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def duration(seconds: float | None) -> str:
    """`48 s`, `12 min 5 s`, `3 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: float) -> str:
    """`1.4 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if n_bytes < _BYTES:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= _BYTES
    return f"{n_bytes:.1f} GiB"


def moment(text: object) -> str:
    """`2026-01-05 09:01 UTC` from an ISO time; anything else as it is."""
    try:
        when = datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return str(text)
    return f"{when:%Y-%m-%d %H:%M} UTC"


def readable(name: str) -> str:
    """A class's name without underscores."""
    return name.replace("_", " ")
