"""Predict a file, a folder or a data set: one case at a time, on its own grid and in its own file type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import scantling
from scantling.data.case import Case
from scantling.data.image_io import (
    label_file_name,
    read_geometry,
    read_image,
    scalar_file_name,
    write_label_map,
    write_scalar_map,
)
from scantling.errors import ConfigError, DataError, IntegrityError, ResourceError, ScantlingError
from scantling.files import new_folder, write_json
from scantling.inference.find_images import find_cases
from scantling.inference.memory import require_memory
from scantling.inference.predictor import Prediction, Predictor
from scantling.sealed_folder import MODEL

RECORD: Final = "predictions.json"
PROBABILITIES: Final = "probabilities"
UNCERTAINTY: Final = "uncertainty"


@dataclass(frozen=True, kw_only=True)
class PredictionRun:
    """The label maps that were written, and one sentence for each case that failed."""

    paths: tuple[Path, ...]
    failures: Mapping[str, str]

    def require_complete(self) -> None:
        """Say which cases failed.

        Raises:
            DataError: at least one did.
        """
        if self.failures:
            listed = "; ".join(f"{case}: {sentence}" for case, sentence in self.failures.items())
            total = len(self.failures) + len(self.paths)
            raise DataError(f"{len(self.failures)} of {total} cases failed: {listed}", code="E-PRD-03")


def predict_folder(
    run: Path,
    images: Path,
    out: Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    probabilities: bool = False,
    uncertainty: bool = False,
    tta: bool = False,
    largest_component: bool = False,
    memory_budget: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> PredictionRun:
    """Segment images with the model of a run; a case that fails is recorded and the others go on.

    Args:
        images: an image, a folder of images, or a data set (of which labels are not read).
        out: new folder for the label maps; `probabilities/` and `uncertainty/` are made inside it.
        overwrite: move an old `out` aside.
        memory_budget: bytes of this process; a case that would take more is recorded as failed and not read.
        progress: called with a sentence before each case.

    Raises:
        ConfigError: `out` has content, or is where the images or the model lie.
        DataError: there is no model or no image.
        IntegrityError: the model is damaged.
        ResourceError: the device is not here, or the disk is full.
    """
    _refuse_input_folder(out, images=images, run=run)
    predictor = Predictor.load(run, device=device)
    cases, failures = find_cases(images, predictor.plan)
    new_folder(out, overwrite=overwrite)
    return predict_cases(
        predictor, cases, out, probabilities=probabilities, uncertainty=uncertainty, tta=tta,
        largest_component=largest_component, memory_budget=memory_budget, progress=progress, failures=failures,
    )  # fmt: skip


def predict_cases(
    predictor: Predictor,
    cases: Iterable[Case],
    out: Path,
    *,
    probabilities: bool = False,
    uncertainty: bool = False,
    tta: bool = False,
    largest_component: bool = False,
    memory_budget: int | None = None,
    progress: Callable[[str], None] | None = None,
    failures: Mapping[str, str] | None = None,
) -> PredictionRun:
    """Segment cases into a folder, reading one at a time; `predictions.json` says what was done.

    Args:
        memory_budget: as `predict_folder`.
        failures: cases that failed before, to be recorded with the others.

    Raises:
        ResourceError: the disk is full.
    """
    options = {"tta": tta, "probabilities": probabilities, "uncertainty": uncertainty}
    paths: list[Path] = []
    failed = dict(failures or {})
    done: list[dict[str, Any]] = []
    cases = tuple(cases)
    for number, case in enumerate(cases, start=1):
        if progress is not None:
            progress(f"predicting {case.case_id} ({number} of {len(cases)})")
        try:
            prediction = _predict(predictor, case, memory_budget, largest_component=largest_component, **options)
        except (DataError, IntegrityError, ResourceError) as error:
            failed[case.case_id] = _sentence(case, error)
            continue
        try:
            paths.append(_write(prediction, case, out, taken=paths))
        except DataError as error:
            failed[case.case_id] = _sentence(case, error)
            continue
        done.append(_record(case, prediction, paths[-1]))
        del prediction  # before the next image is read
    settings = {**options, "largest_component": largest_component}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RECORD, _description(predictor, settings, done, failed))
    return PredictionRun(paths=tuple(paths), failures=failed)


def _predict(predictor: Predictor, case: Case, memory_budget: int | None, **options: bool) -> Prediction:
    """The image is forgotten before the prediction is written."""
    plan, geometry = predictor.plan, read_geometry(case.images[0])
    n_maps = len(plan.classes.names) * options["probabilities"] + options["uncertainty"]
    require_memory(geometry, plan, device=predictor.device.type, n_maps=n_maps, budget=memory_budget)
    return predictor.predict([read_image(path) for path in case.images], **options)


def _write(prediction: Prediction, case: Case, out: Path, *, taken: Sequence[Path]) -> Path:
    """Write the maps of one case; the path of its label map, which no other case of this call may have."""
    geometry = prediction.geometry
    name = label_file_name(case.case_id, geometry)
    scalar = scalar_file_name(case.case_id, geometry)
    if Path(name).name != name:
        raise DataError(f"case {case.case_id!r}: its name cannot be a file name; rename it", code="E-PRD-04")
    if out / name in taken:
        raise DataError(f"{out / name}: two cases would write this file; give them different names", code="E-PRD-05")
    if prediction.probs is not None:
        write_scalar_map(out / PROBABILITIES / scalar, prediction.probs, geometry)
    if prediction.entropy is not None:
        write_scalar_map(out / UNCERTAINTY / scalar, prediction.entropy, geometry)
    write_label_map(out / name, prediction.stored, geometry)
    return out / name


def _record(case: Case, prediction: Prediction, path: Path) -> dict[str, Any]:
    return {
        "case": case.case_id,
        "images": [image.name for image in case.images],
        "label_map": path.name,
        "removed": [asdict(removal) for removal in prediction.removals],
        "notes": list(prediction.notes),
    }


def _description(
    predictor: Predictor, settings: Mapping[str, bool], done: list[dict[str, Any]], failed: Mapping[str, str]
) -> dict[str, Any]:
    classes = predictor.classes
    return {
        "schema_version": 1,
        "scantling": scantling.__version__,
        "model_sha256": predictor.model.weights_sha256,
        "device": predictor.device.type,
        "settings": dict(settings),
        "classes": {name: stored[0] for name, stored in zip(classes.names, classes.stored, strict=True)},
        "cases": done,
        "failures": dict(failed),
    }


def _sentence(case: Case, error: ScantlingError) -> str:
    return str(error) if case.case_id in error.message else f"case {case.case_id}: {error}"


def _refuse_input_folder(out: Path, *, images: Path, run: Path) -> None:
    """Predictions never go where the images lie, nor may moving an old folder aside move images or model."""
    target, source, model = out.resolve(), images.resolve(), run.resolve()
    folder = source if source.is_dir() else source.parent
    if target == folder or (source.is_dir() and source in target.parents):
        raise ConfigError(f"{out}: the images lie there; choose another folder for the predictions", code="E-PRD-02")
    if target in source.parents or target in (model, model / MODEL, *model.parents):
        inside = "images" if target in source.parents else "model"
        raise ConfigError(
            f"{out}: the {inside} lie inside it; choose a new folder for the predictions", code="E-PRD-02"
        )
