"""generate: counterfactuals of a data set by a trained image model, or another source, as a data set of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scantling.config import nearest
from scantling.counterfactuals.counterfactual import CounterfactualGenerator
from scantling.counterfactuals.model_files import ImageModel, load_image_model
from scantling.counterfactuals.ready_made import FILE_NAME as READY_MADE
from scantling.counterfactuals.soundness import SoundnessLimits
from scantling.counterfactuals.source_image import SourceImage, read_source
from scantling.counterfactuals.sources import (
    AppearanceSource,
    CallableSource,
    CounterfactualSource,
    FolderSource,
    ImageFunction,
)
from scantling.data.case import LABEL_KINDS, Case, LabelKind
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.data.splits import Split
from scantling.errors import ConfigError
from scantling.files import sha256_file
from scantling.inference.device import resolve_device
from scantling.inference.generate import generate_folder
from scantling.inference.generation_run import GenerationRun
from scantling.inference.interventions import parse_interventions
from scantling.inference.predictor import Predictor
from scantling.inference.soundness_check import SoundnessCheck, segment_with, stored_masks
from scantling.reports.counterfactuals import write_counterfactual_report
from scantling.sealed_folder import find_model_folder
from scantling.workflows.case_progress import case_progress

APPEARANCE = "appearance"


def generate(
    run: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    do: str | Sequence[str],
    together: bool = False,
    source: str | Path | ImageFunction | None = None,
    segmenter: Path | str | None = None,
    masks: str | Sequence[str] = (),
    limits: Sequence[str] | Mapping[str, float | None] | SoundnessLimits = (),
    cases: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    layout: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = True,
) -> GenerationRun:
    """Write what each case would look like under interventions, and a page about it; `scantling generate` is this call.

    `out` becomes a data set of its own: `cases.csv` has the real cases with their annotations, and the
    counterfactuals with what was measured on each. After any stop the same call goes on.

    Args:
        run: run folder of an image model, or its model folder; its causal graph and its judge serve other sources too.
        do: each text is an intervention: "scanner=B", "scanner=other" (of two values the one a case does not have),
            "scanner=B;finding=none" (both at once).
        together: all texts are one intervention.
        source: None is the image model; "appearance" maps grey values between the values of one attribute, without
            any training; a folder has ready-made images; or a function, see `ImageFunction`.
        segmenter: run folder of a segmentation model, which tells whether the anatomy stayed.
        masks: kinds of annotations, "full,silver": where a case has one, the segmenter's label map of the
            counterfactual is compared with that, and not with the segmenter's own of the image.
        limits: of soundness, "identity_dice=0.95"; "none" switches one off. Judged anew when a folder is gone on with.
        cases: ids; None is every case.

    Raises:
        ConfigError: an impossible intervention, limit or setting; or `out` holds something else.
        DataError: there is no image model, no case, or not one counterfactual could be made.
    """
    where = resolve_device(device)
    wanted = parse_limits(limits)
    manifest = open_dataset(Path(data), layout=layout)
    _refuse_input_folder(Path(out), manifest.root, [Path(run), *([] if segmenter is None else [Path(segmenter)])])
    model = load_image_model(find_model_folder(Path(run)), where)
    texts = [do] if isinstance(do, str) else list(do)
    learnt = _learnt_from(Path(run))
    chosen = _source(source, model, manifest, texts, learnt, batch_size=batch_size)
    predictor = None if segmenter is None else Predictor.load(Path(segmenter), device=device)
    kinds = _label_kinds(masks, predictor)
    scores = {name: math.nan if v is None else float(v) for name, v in (model.meta.get("judge") or {}).items()}
    check = SoundnessCheck(
        chosen, model.plan, model.graph, judge=model.judge, judge_scores=scores or None,
        segment=None if predictor is None else segment_with(predictor, model.plan),
        mask=None if predictor is None or not kinds else stored_masks(manifest, predictor.plan, kinds),
    )  # fmt: skip
    names = _names(cases)
    with case_progress(quiet) as progress:
        done = generate_folder(
            CounterfactualGenerator(graph=model.graph, source=chosen, plan=model.plan, seed=seed),
            manifest,
            Path(out),
            texts,
            together=together,
            check=check,
            limits=wanted,
            cases=names,
            batch_size=batch_size,
            provenance={
                "model_sha256": model.weights_sha256,
                "segmenter_sha256": "" if predictor is None else predictor.model.weights_sha256,
                "masks": list(kinds),
                **_provenance(chosen),
            },
            facts={
                "dataset": manifest.name,
                "judge": scores,
                "learnt_from": len(
                    learnt & {case.case_id for case in manifest.cases if not names or case.case_id in names}
                ),
            },
            overwrite=overwrite,
            progress=progress,
        )
        return replace(done, report=write_counterfactual_report(Path(out)))


def parse_limits(limits: Sequence[str] | Mapping[str, float | None] | SoundnessLimits) -> SoundnessLimits:
    """Limits from `name=value` texts or a mapping; what is not named keeps its default.

    Raises:
        ConfigError: an unknown measure, or no number in its range.
    """
    if isinstance(limits, SoundnessLimits):
        return limits
    values: dict[str, Any] = dict(limits) if isinstance(limits, Mapping) else {}
    for text in () if isinstance(limits, Mapping) else limits:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not value:
            raise ConfigError(f"--limit {text!r}: wanted name=value, as in identity_dice=0.95", code="E-GEN-09")
        values[name] = None if value.lower() in ("none", "off") else value
    return SoundnessLimits.parse(values, where="--limit")


def _source(
    source: str | Path | ImageFunction | None,
    model: ImageModel,
    manifest: Manifest,
    texts: Sequence[str],
    learnt: set[str],
    *,
    batch_size: int | None,
) -> CounterfactualSource:
    if source is None:
        return model.source(batch_size=batch_size)
    if callable(source):
        return CallableSource(source, name=getattr(source, "__name__", "function"))
    if str(source) == APPEARANCE:
        asked = parse_interventions(texts, model.graph)
        attributes = {name for intervention in asked for name, _ in intervention.settings}
        if len(attributes) > 1:
            raise ConfigError(
                f"--source appearance: knows one attribute, and {' and '.join(sorted(attributes))} are to be set; "
                "ask for one, or leave --source out",
                code="E-GEN-10",
            )
        return AppearanceSource.fit(_training_images(manifest, model, learnt), attribute=attributes.pop())
    if not (Path(source) / READY_MADE).is_file():
        raise ConfigError(f"--source {source}: wanted 'appearance', or a folder with {READY_MADE}", code="E-GEN-10")
    return FolderSource(Path(source), model.graph)


def _training_images(manifest: Manifest, model: ImageModel, learnt: set[str]) -> Iterable[SourceImage]:
    """Images that the model learnt from; every real one where the data set holds none of those."""
    real = list(manifest.real)
    known: list[Case] = [case for case in real if case.case_id in learnt] or real
    return (read_source(case, len(model.plan.channels)) for case in known)


def _learnt_from(run: Path) -> set[str]:
    """Ids of the cases that the image model has learnt from; a model folder without its run does not say."""
    return set(Split.load(run / "splits.json").train) if (run / "splits.json").is_file() else set()


def _provenance(source: CounterfactualSource) -> dict[str, str]:
    """What tells a source from another of its name."""
    if isinstance(source, FolderSource):
        return {"source_sha256": sha256_file(source.folder / READY_MADE)}
    return {"attribute": source.attribute} if isinstance(source, AppearanceSource) else {}


def _label_kinds(masks: str | Sequence[str], predictor: Predictor | None) -> tuple[LabelKind, ...]:
    wanted = _names(masks)
    for kind in wanted:
        if kind not in LABEL_KINDS or kind == "none":
            raise ConfigError(f"--masks {kind!r}: no kind of annotation{nearest(kind, LABEL_KINDS)}", code="E-GEN-11")
    if wanted and predictor is None:
        raise ConfigError(
            "--masks: are compared with what a segmentation network sees in the counterfactual; give --segmenter RUN",
            code="E-GEN-11",
        )
    return tuple(kind for kind in LABEL_KINDS if kind in wanted)


def _names(cases: str | Sequence[str] | None) -> tuple[str, ...]:
    if cases is None:
        return ()
    return tuple(part.strip() for part in (cases.split(",") if isinstance(cases, str) else cases) if part.strip())


def _refuse_input_folder(out: Path, data: Path, runs: Sequence[Path]) -> None:
    """Nothing is written where the images lie, nor may moving an old folder aside move images or model."""
    target, root = out.resolve(), data.resolve()
    if target == root or root in target.parents:
        raise ConfigError(f"{out}: the data set lies there; choose another folder", code="E-GEN-11")
    for what, path in (("data set", root), *(("run", run.resolve()) for run in runs)):
        if target == path or target in path.parents:
            raise ConfigError(f"{out}: the {what} lies there; choose a new folder", code="E-GEN-11")
