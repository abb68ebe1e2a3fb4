"""The page: sections in the order a reader needs them, with its own style and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import scantling
from scantling.reports.contrast import contrast_section
from scantling.reports.data_sheet import data_section
from scantling.reports.facts import RunFacts
from scantling.reports.health import health_section
from scantling.reports.html import Child, Markup, element, join
from scantling.reports.learning import curves_section
from scantling.reports.repetition import repeat_section
from scantling.reports.results import (
    added_section,
    failures_section,
    reliability_section,
    verdict_section,
    worst_section,
)
from scantling.reports.verdict import active_warnings
from scantling.reports.wording import NOTHING, counted, moment, readable


def page(facts: RunFacts) -> Markup:
    """The whole HTML document."""
    name = facts.plan.get("dataset") or facts.data_sheet.get("name") or "Run"
    made = "image model" if facts.of_images else "pretraining" if facts.of_features else "segmentation"
    title = f"{name}: {made} report"
    recipe = readable(str(facts.status.get("recipe", NOTHING)))
    n = len(active_warnings(facts))
    dimensions = facts.plan.get("dimensions")
    about = [
        f"recipe {recipe}" + (f", {dimensions}D" if dimensions else ""),
        f"seed {facts.status.get('seed', NOTHING)}",
        moment(facts.status.get("finished") or facts.status.get("started") or ""),
        f"status {facts.status.get('status', NOTHING)}" + (f", with {counted(n, 'warning')}" if n else ""),
    ]
    sections = (
        verdict_section(facts),
        None if facts.of_images or facts.of_features else added_section(facts),
        health_section(facts),
        worst_section(facts),
        failures_section(facts),
        data_section(facts),
        curves_section(facts),
        contrast_section(facts),
        reliability_section(facts),
        repeat_section(facts),
    )
    return document(title, about, sections)


def document(title: str, about: Sequence[str], sections: Sequence[Child]) -> Markup:
    """A whole HTML document in the house's style: title, a line about it, sections; it needs no other file."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Markup(_style())),
    )
    footer = element("footer", f"Written by scantling {scantling.__version__}. Not a medical device.")
    top = element("header", element("h1", title), element("p", "  ·  ".join(part for part in about if part)))
    body = element("body", element("main", top, sections, footer))
    return join(Markup("<!DOCTYPE html>\n"), element("html", head, body, lang="en"), "\n")


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def _style() -> str:
    return Path(__file__).with_name("style.css").read_text(encoding="utf-8")
