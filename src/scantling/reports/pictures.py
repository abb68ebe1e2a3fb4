"""Overlays of the worst held-out cases and the reliability of probabilities, drawn into a run folder."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Integer, Shaped

from scantling.data.case import Case, ClassTable
from scantling.data.image_io import ImageGeometry, label_file_name, read_image, read_label, scalar_file_name
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.errors import DataError, IntegrityError
from scantling.evaluation.calibration import N_BINS, top_label_reliability
from scantling.evaluation.results import Evaluation
from scantling.figures.overlay import draw_overlay, grey_to_rgb, png_bytes, worst_slice
from scantling.files import read_json, write_atomic, write_json
from scantling.reports.scores import CaseScore, case_scores

PICTURES: Final = "pictures"
INDEX: Final = "index.json"
RELIABILITY: Final = "reliability.json"
_PROBABILITIES: Final = "probabilities"  # where predictions keep them
_THICK: Final = 1.5  # slices this many times thicker than pixels are wide are looked at one by one


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    png: bytes
    slice_number: int
    n_slices: int


def draw_worst_cases(run: Path, *, n_worst: int = 6, height_px: int = 420) -> list[Path]:
    """Draw the held-out cases with the lowest mean Dice, and the median one, into `RUN/pictures`.

    Each picture shows the slice with most wrong pixels, prediction and reference as contours; `index.json`
    says which. Cases that cannot be drawn (the data has moved, no prediction) are listed there with the
    reason. Where probabilities were kept, `reliability.json` is written too. Without held-out scores nothing
    is drawn.

    Raises:
        IntegrityError: a file of the run is damaged.
    """
    if not (run / "evaluation.json").is_file():
        return []
    evaluation = Evaluation.load(run / "metrics.csv", run / "evaluation.json")
    plan = Plan.parse(read_json(run / "plan.json"), where="plan.json")
    classes = ClassTable(names=plan.classes.names, stored=plan.classes.stored)
    chosen = _chosen(case_scores(evaluation), n_worst)
    entries: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    paths = []
    try:
        manifest = _open(run)
        write_json(run / PICTURES / RELIABILITY, _reliability(run, manifest, plan, classes, list(evaluation.patients)))
    except DataError as error:
        chosen, left_out = [], [{"case": s.case_id, "reason": error.message} for s, _ in chosen]
    for position, (score, role) in enumerate(chosen, start=1):
        try:
            drawn = _draw(run, manifest.case(score.case_id), plan, classes, height_px)
        except (DataError, IntegrityError) as error:
            left_out.append({"case": score.case_id, "reason": error.message})
            continue
        except KeyError:
            left_out.append({"case": score.case_id, "reason": "the data set no longer holds it"})
            continue
        path = run / PICTURES / f"{position:02d}_{role}.png"
        write_atomic(path, drawn.png)
        paths.append(path)
        entries.append(
            {
                "case": score.case_id, "role": role, "file": path.name, "slice": drawn.slice_number,
                "n_slices": drawn.n_slices, "dice": score.mean if np.isfinite(score.mean) else None,
                "classes": {name: v if np.isfinite(v) else None for name, v in score.dice.items()},
            }
        )  # fmt: skip
    write_json(run / PICTURES / INDEX, {"schema_version": 1, "pictures": entries, "left_out": left_out})
    return paths


def oriented_slices(
    array: Shaped[np.ndarray, "*stack z y x"], geometry: ImageGeometry
) -> tuple[Shaped[np.ndarray, "*stack slice row column"], tuple[float, float]]:
    """A volume as slices the way readers hang them, and the spacing of rows and columns in mm.

    Slices are cut across the thickest axis, or axially where voxels are nearly cubes; rows run to the back or
    to the feet, columns to the patient's left, or to the back in sagittal slices.
    """
    directions = geometry.world_from_index[:3, :3] / np.asarray(geometry.spacing_mm)[None, :]
    world_axis = [int(axis) for axis in np.abs(directions).argmax(axis=0)]
    spacing = np.asarray(geometry.spacing_mm)
    thickest = int(spacing.argmax())
    axial = world_axis.index(2) if 2 in world_axis else 0
    across = thickest if spacing[thickest] > _THICK * np.delete(spacing, thickest).max() else axial
    rows, columns = sorted((axis for axis in range(3) if axis != across), key=lambda axis: -world_axis[axis])
    first = array.ndim - 3
    moved = np.moveaxis(array, [first + across, first + rows, first + columns], [first, first + 1, first + 2])
    for position, axis in ((-2, rows), (-1, columns)):
        if directions[world_axis[axis], axis] > 0:  # towards right, front or head: turn it round
            moved = np.flip(moved, axis=position)
    return moved, (float(spacing[rows]), float(spacing[columns]))


def _chosen(scores: Sequence[CaseScore], n_worst: int) -> list[tuple[CaseScore, str]]:
    """The worst cases, and the median one where it is not among them."""
    defined = [score for score in scores if np.isfinite(score.mean)]
    chosen = [(score, "worst") for score in defined[:n_worst]]
    middle = len(defined) // 2
    return [*chosen, (defined[middle], "median")] if middle >= n_worst else chosen


def _open(run: Path) -> Manifest:
    try:
        config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{run / 'config.toml'}: not readable as TOML ({error})", code="E-CHK-02") from None
    data = config.get("data", {})
    root = Path(str(data.get("path", "")))
    if not root.is_dir():
        raise DataError("the data set is no longer where the run found it, so no case can be drawn", code="E-RPT-01")
    return open_dataset(root, layout=data.get("layout"))


def _draw(run: Path, case: Case, plan: Plan, classes: ClassTable, height_px: int) -> _Drawn:
    image = read_image(case.images[0])
    prediction, reference = _label_maps(run, case, plan, classes, image.geometry)
    picture, spacing = image.array, image.geometry.spacing_mm[-2:]
    number, n_slices = 1, 1
    if prediction.ndim == 3:
        picture, spacing = oriented_slices(picture, image.geometry)
        prediction, _ = oriented_slices(prediction, image.geometry)
        reference, _ = oriented_slices(reference, image.geometry)
        worst = worst_slice(prediction, reference)
        number, n_slices = worst + 1, len(prediction)
        picture, prediction, reference = picture[:, worst], prediction[worst], reference[worst]
    drawn = draw_overlay(
        grey_to_rgb(picture), prediction=prediction, reference=reference, height_px=height_px,
        spacing=(float(spacing[0]), float(spacing[1])),
    )  # fmt: skip
    return _Drawn(png=png_bytes(drawn), slice_number=number, n_slices=n_slices)


def _label_maps(
    run: Path, case: Case, plan: Plan, classes: ClassTable, geometry: ImageGeometry
) -> tuple[Integer[np.ndarray, "*spatial"], Integer[np.ndarray, "*spatial"]]:
    """Prediction and reference of a case as class indices, both on the image's grid."""
    annotation = case.annotation(plan.label_kinds)
    if annotation is None:
        raise DataError("it has no reference in the data set any more", code="E-RPT-01")
    stored, _ = read_label(annotation.path)
    predicted, _ = read_label(run / "predictions" / label_file_name(case.case_id, geometry))
    if not stored.shape == predicted.shape == geometry.shape:
        raise DataError("image, reference and prediction differ in size", code="E-RPT-02")
    return classes.to_index(predicted), classes.to_index(stored, ignore=annotation.ignore)


def _reliability(
    run: Path, manifest: Manifest, plan: Plan, classes: ClassTable, case_ids: Sequence[str]
) -> dict[str, list[float]]:
    """Predicted against observed frequency of the winning class over all cases with stored probabilities."""
    sums = np.zeros((3, N_BINS))
    folder = run / "predictions" / _PROBABILITIES
    for case_id in case_ids if folder.is_dir() else ():
        case = manifest.case(case_id)
        annotation = case.annotation(plan.label_kinds)
        image = read_image(case.images[0])
        path = folder / scalar_file_name(case_id, image.geometry)
        if annotation is None or annotation.annotated is not None or not path.is_file():
            continue
        reference = classes.to_index(read_label(annotation.path)[0], ignore=annotation.ignore)
        probs = read_image(path).array
        if probs.shape == (len(classes.names), *reference.shape):
            found = top_label_reliability(probs.astype(np.float32), reference)
            sums += np.nan_to_num(np.stack([found.confidence, found.frequency, np.ones(N_BINS)])) * found.count
    filled = sums[2] > 0
    if not filled.any():
        return {}
    confidence, frequency, count = sums[:, filled]
    return {
        "confidence": [float(v) for v in confidence / count],
        "frequency": [float(v) for v in frequency / count],
        "count": [float(v) for v in count],
    }
