"""The card of an image model: what it learnt from, what it may be asked for, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scantling.counterfactuals.attributes import Attribute
from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.image_plan import ImagePlan
from scantling.markdown import bullets, escaped, known


def image_model_card(plan: ImagePlan, graph: FittedGraph, meta: Mapping[str, Any], *, version: str) -> str:
    """The card in Markdown; what `meta` does not say is written down as not known.

    Args:
        meta: read are `recipe`, `seed`, `steps`, `n_training_cases`, `n_validation_cases`, `validation` (a sentence
            about the split), `selected_on` and `judge` (scores of the judge on unseen patients, by attribute).
    """
    size = " x ".join(map(str, plan.size))
    sections = [
        f"# Images of {escaped(plan.dataset)} given {escaped(', '.join(graph.parents))}",
        f"Written by scantling {escaped(version)}.",
        "## Intended use",
        "For research only: to ask how the same patient's image might look under another scanner, sex or finding. What "
        "it makes is a guess that no scanner took, and must never be read for a diagnosis, nor mixed unmarked with "
        "real images. An attribute that goes along with another one in the training images is changed along with it, "
        "unless the causal graph says which causes which. Judge every counterfactual before using it ('scantling "
        "generate' does).",
        "## Input and output",
        bullets(
            [
                f"modality: {escaped(plan.modality) or 'not recorded'}",
                f"channels: {escaped(', '.join(plan.channels))}",
                f"{'volumes' if plan.image_axes == 3 else 'pictures'}, seen stretched to {size}; a change is written "
                "on each image's own grid, so what is finer than that is kept and never changed",
            ]
        ),
        "## Attributes",
        bullets([_described(attribute) for attribute in graph.attributes]),
        "## Training data",
        bullets(
            [
                f"data set: {escaped(plan.dataset)}",
                f"training cases: {known(meta, 'n_training_cases')}",
                f"cases for choosing the checkpoint: {known(meta, 'n_validation_cases')}",
                f"split: {known(meta, 'validation')}",
            ]
        ),
        "## The judge of its counterfactuals",
        _judge(meta),
        "## Training",
        bullets([f"{name}: {known(meta, name)}" for name in ("recipe", "seed", "steps", "selected_on")]),
    ]
    return "\n\n".join(sections) + "\n"


def _described(attribute: Attribute) -> str:
    values = ", ".join(map(escaped, attribute.values)) or f"mean {attribute.mean:.4g}, deviation {attribute.scale:.4g}"
    causes = f", caused by {escaped(', '.join(attribute.parents))}" if attribute.parents else ""
    return f"{escaped(attribute.name)}: {attribute.kind} ({values}){causes}"


def _judge(meta: Mapping[str, Any]) -> str:
    scores = meta.get("judge")
    if not isinstance(scores, Mapping) or not scores:
        return "None: whether a counterfactual shows what was asked for cannot be measured with this model."
    lines = [f"{escaped(name)}: {'not defined' if value is None else f'{value:.3f}'}" for name, value in scores.items()]
    head = (
        "How it reads each attribute from real images of patients it has not seen: the share of values read rightly, "
        "each value counting alike, or of a number the share of its variance that is explained:"
    )
    return f"{head}\n\n{bullets(lines)}"
