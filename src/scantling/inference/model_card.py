"""The model card: what a model was trained on, how well it did on cases it had not seen, what it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from scantling.data.plan import Plan
from scantling.markdown import bullets, escaped, known


def model_card(plan: Plan, meta: Mapping[str, Any], *, version: str) -> str:
    """A model card in Markdown; what `meta` does not say is written down as not known.

    Args:
        meta: read are `recipe`, `seed`, `steps`, `n_training_cases`, `n_validation_cases`, `validation` (a
            sentence about the split), `selected_on` and `held_out` (scores of held-out cases); all optional.
    """
    sections = [
        f"# Segmentation of {escaped(', '.join(plan.classes.names[1:]))}",
        f"Written by scantling {escaped(version)}.",
        "## Intended use",
        f"{_RESEARCH} On images from another scanner, population or protocol than the training images its "
        "score is unknown; evaluate it there first ('scantling evaluate').",
        "## Input and output",
        bullets(
            [
                *_input(plan, "segmented"),
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
        bullets([f"{name}: {known(meta, name)}" for name in ("recipe", "seed", "steps")] + _start(meta)),
    ]
    return "\n\n".join(sections) + "\n"


def features_card(plan: Plan, meta: Mapping[str, Any], *, version: str) -> str:
    """The card of a network that was pretrained and is to be fine-tuned.

    Args:
        meta: read are `recipe`, `seed`, `steps`, `learnt_from` (a sentence), `tap` (the level that was trained),
            `selected_on` and `health` (figures of the features); all optional.
    """
    health = meta.get("health")
    sections = [
        f"# Features of {escaped(plan.dataset)}",
        f"Written by scantling {escaped(version)}.",
        "## Intended use",
        f"{_RESEARCH} It segments nothing: it is where training on labels starts from ('scantling train DATA "
        "--init RUN').",
        "## Input and output",
        bullets(
            [
                *_input(plan, "read"),
                f"resampled to {_grid(plan)}",
                f"features of the level {known(meta, 'tap')}; the heads, and levels beyond it, were not trained and "
                "are not in the file",
            ]
        ),
        "## Training data",
        bullets([f"data set: {escaped(plan.dataset)}", f"learnt from: {known(meta, 'learnt_from')}"]),
        "## Health of the features",
        _facts(dict(health)) if health else "Not measured.",
        "## Training",
        bullets([f"{name}: {known(meta, name)}" for name in ("recipe", "seed", "steps")] + _start(meta)),
    ]
    if meta.get("selected_on"):
        sections.append(f"The checkpoint was chosen by this score:\n\n{_facts(dict(meta['selected_on']))}")
    return "\n\n".join(sections) + "\n"


_RESEARCH: Final = (
    "For research only. It is not a medical device: nobody has shown that it is fit for diagnosis or treatment."
)


def _input(plan: Plan, done: str) -> list[str]:
    """What images the network takes."""
    channels = len(plan.channels)
    return [
        f"modality: {escaped(plan.modality) or 'not recorded'}",
        f"{channels} channel{'s' if channels > 1 else ''}: {escaped(', '.join(plan.channels))}",
        f"{'volumes' if plan.image_axes == 3 else 'pictures'}, {done} "
        f"{'slice by slice' if plan.dimensions < plan.image_axes else f'in {plan.dimensions}D'}",
    ]


def _start(meta: Mapping[str, Any]) -> list[str]:
    """What the training started from, where that was not chance."""
    return [f"started from: {escaped(meta['started_from'])}"] if meta.get("started_from") else []


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
