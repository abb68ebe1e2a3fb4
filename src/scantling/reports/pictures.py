"""Overlays of the worst held-out cases and the reliability of probabilities, drawn into a run folder."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Integer

from scantling.data.case import Case, ClassTable
from scantling.data.image_io import ImageGeometry, label_file_name, read_image, read_label
from scantling.data.layouts import open_dataset
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.errors import DataError, IntegrityError
from scantling.evaluation.results import Evaluation
from scantling.figures.hanging import oriented_slices
from scantling.figures.overlay import draw_overlay, grey_to_rgb, png_bytes, window_around, worst_slice
from scantling.files import read_json, write_atomic, write_json
from scantling.reports.reliability import measured_reliability
from scantling.reports.scores import CaseScore, case_scores

PICTURES: Final = "pictures"
INDEX: Final = "index.json"
RELIABILITY: Final = "reliability.json"


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    png: bytes
    slice_number: int
    n_slices: int
    enlarged: bool


def draw_worst_cases(run: Path, *, n_worst: int = 5, height_px: int = 420) -> list[Path]:
    """Draw the held-out cases with the lowest mean Dice, and the median one, into `RUN/pictures`.

    Each picture shows the slice with most wrong pixels, prediction and reference as contours, and only the part
    around them where they are small; `index.json` says which. Cases that cannot be drawn (the data has moved, no
    prediction) are listed there with the reason. Where probabilities were kept, `reliability.json` is written too.
    Without held-out scores nothing is drawn.

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
        found = measured_reliability(run, manifest, plan, classes, list(evaluation.patients))
        write_json(run / PICTURES / RELIABILITY, found)
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
                "n_slices": drawn.n_slices, "enlarged": drawn.enlarged,
                "dice": score.mean if np.isfinite(score.mean) else None,
                "classes": {name: v if np.isfinite(v) else None for name, v in score.dice.items()},
            }
        )  # fmt: skip
    write_json(run / PICTURES / INDEX, {"schema_version": 1, "pictures": entries, "left_out": left_out})
    return paths


def _chosen(scores: Sequence[CaseScore], n_worst: int) -> list[tuple[CaseScore, str]]:
    """The worst cases with a usable prediction, and the median one where it is not among them."""
    unusable = {"missing_file", "unreadable", "grid_mismatch"}
    defined = [s for s in scores if np.isfinite(s.mean) and not unusable & set(s.status.values())]
    chosen = [(score, "worst") for score in defined[:n_worst]]
    middle = len(defined) // 2
    return [*chosen, (defined[middle], "median")] if middle >= n_worst else chosen


def _open(run: Path) -> Manifest:
    try:
        config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{run / 'config.toml'}: not valid TOML ({error})", code="E-CHK-02") from None
    data = config.get("data", {})
    root = Path(str(data.get("path", "")))
    if not root.is_dir():
        raise DataError("the data set is no longer where the run found it", code="E-RPT-01")
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
    square = (float(spacing[0]), float(spacing[1]))
    part = window_around((prediction > 0) | (reference > 0), square)
    drawn = draw_overlay(
        grey_to_rgb(picture)[part], prediction=prediction[part], reference=reference[part], height_px=height_px,
        spacing=square,
    )  # fmt: skip
    enlarged = prediction[part].shape != prediction.shape
    return _Drawn(png=png_bytes(drawn), slice_number=number, n_slices=n_slices, enlarged=enlarged)


def _label_maps(
    run: Path, case: Case, plan: Plan, classes: ClassTable, geometry: ImageGeometry
) -> tuple[Integer[np.ndarray, "*spatial"], Integer[np.ndarray, "*spatial"]]:
    """Prediction and reference of a case as class indices, both on the image's grid."""
    annotation = case.annotation(plan.label_kinds)
    if annotation is None:
        raise DataError("it has no reference in the data set any more", code="E-RPT-01")
    stored, _ = read_label(annotation.path)
    path = run / "predictions" / label_file_name(case.case_id, geometry)
    if not path.is_file():
        raise DataError("it has no prediction", code="E-RPT-01")
    predicted, _ = read_label(path)
    if not stored.shape == predicted.shape == geometry.shape:
        raise DataError("image, reference and prediction differ in size", code="E-RPT-02")
    return classes.to_index(predicted), classes.to_index(stored, ignore=annotation.ignore)
