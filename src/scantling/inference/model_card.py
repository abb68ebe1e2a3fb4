"""The model card: what a model was trained on, how well it did on cases it had not seen, what it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scantling.data.plan import Plan
from scantling.markdown import bullets, escaped, known


def model_card(plan: Plan, meta: Mapping[str, Any], *, version: str) -> str:
    """A model card in Markdown; what `meta` does not say is written down as not known.

    Args:
        meta: read are `recipe`, `seed`, `steps`, `n_training_cases`, `n_validation_cases`, `validation` (a
            sentence about the split), `selected_on` and `held_out` (scores of held-out cases); all optional.
    """
    channels = len(plan.channels)
    sections = [
        f"# Segmentation of {escaped(', '.join(plan.classes.names[1:]))}",
        f"Written by scantling {escaped(version)}.",
        "## Intended use",
        "For research only. It is not a medical device: nobody has shown that it is fit for diagnosis or "
        "treatment. On images from another scanner, population or protocol than the training images its "
        "score is unknown; evaluate it there first ('scantling evaluate').",
        "## Input and output",
        bullets(
            [
                f"modality: {escaped(plan.modality) or 'not recorded'}",
                f"{channels} channel{'s' if channels > 1 else ''}: {escaped(', '.join(plan.channels))}",
                f"{'volumes' if plan.image_axes == 3 else 'pictures'}, segmented "
                f"{'slice by slice' if plan.dimensions < plan.image_axes else f'in {plan.dimensions}D'}",
                f"resampled to {_grid(plan)}; the result is given on each image's own grid",
            ]
        ),
        _class_rows(plan),
        "## Training data",
        bullets(
            [
                f"data set: {escaped(plan.dataset)}",
                f"labels: {', '.join(plan.label_kinds)}",
                f"training cases: {known(meta, 'n_training_cases')}",
                f"cases for choosing the checkpoint: {known(meta, 'n_validation_cases')}",
            ]
        ),
        "## Score on held-out cases",
        _held_out(meta),
        "## Training",
        bullets([f"{name}: {known(meta, name)}" for name in ("recipe", "seed", "steps")]),
    ]
    return "\n\n".join(sections) + "\n"


def _held_out(meta: Mapping[str, Any]) -> str:
    lines = []
    if held_out := meta.get("held_out"):
        facts = held_out if isinstance(held_out, Mapping) else {"score": held_out}
        lines += [
            "Measured on cases that neither training nor the choice of the checkpoint has seen.",
            "",
            _facts(facts),
        ]
    else:
        lines += ["None: no case was held out, or none was scored. Do not quote a score for this model."]
    if meta.get("validation"):
        lines += ["", f"Split: {escaped(meta['validation'])}"]
    if meta.get("selected_on"):
        lines += [
            "",
            "The checkpoint was chosen by this score, which is therefore not a measure of the model:",
        ]
        lines += ["", _facts(dict(meta["selected_on"]))]
    return "\n".join(lines)


def _class_rows(plan: Plan) -> str:
    rows = ["| class | value in the label map |", "| --- | --- |"]
    names = zip(plan.classes.names, plan.classes.stored, strict=True)
    return "\n".join([*rows, *(f"| {escaped(name)} | {stored[0]} |" for name, stored in names)])


def _grid(plan: Plan) -> str:
    unit = "the image's own spacing"
    return " x ".join(unit if spacing is None else f"{spacing:g} mm" for spacing in plan.spacing_mm)


def _facts(facts: Mapping[str, Any]) -> str:
    return bullets([f"{escaped(name)}: {_value(value)}" for name, value in facts.items()])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{escaped(name)} {_value(part)}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else "not defined" if value is None else escaped(value)
