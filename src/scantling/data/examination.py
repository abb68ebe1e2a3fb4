"""One case looked at closely: can it be read, do image and labels fit, and what do the labels hold?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Integer, Num, Shaped

from scantling.data.case import Annotation, Case, ClassTable
from scantling.data.geometry_check import compare
from scantling.data.image import not_finite_note
from scantling.data.image_io import ImageGeometry, MedicalImage, read_geometry, read_image, read_label
from scantling.data.label_values import count_values
from scantling.data.manifest import Problem, Severity
from scantling.errors import DataError, ResourceError

ABSURD_VALUE: Final = 1e12
"""No scanner writes such a number; a file that does was damaged or misread."""

Verdict = Literal["same", "snap", "refuse", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class LabelFinding:
    """What one annotation holds.

    Attributes:
        verdict: how its grid compares with the image's; "unreadable" where it cannot be told.
        counts: stored value -> voxels; empty where voxels were not read.
        class_voxels: class -> voxels; empty where voxels were not read.
        coverage: share of voxels that hold a class (background included); NaN where they were not read.
    """

    annotation: Annotation
    verdict: Verdict
    counts: Mapping[int, int]
    class_voxels: Mapping[str, int]
    coverage: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class CaseFinding:
    """What was found on one case.

    Attributes:
        geometry: of the first channel; None where no image could be read.
        channels: how many the files hold in all; 0 where voxels were not read.
        stored_type: numpy's name of the first file's type; "" where voxels were not read.
        usable: whether the images can be trained on.
        labels: one an annotation, in their order; none where no image could be read.
        voxel_hash: checksum of size and values, the same whatever type, header or compression stores them.
    """

    case_id: str
    usable: bool
    geometry: ImageGeometry | None = None
    channels: int = 0
    stored_type: str = ""
    voxel_hash: str = ""
    labels: tuple[LabelFinding, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def examine(case: Case, classes: ClassTable, *, read_voxels: bool = True) -> CaseFinding:
    """Read a case and say what is wrong with it; never raises for a bad file.

    Args:
        read_voxels: False reads headers only: fast, but damage, values and copies go unseen.
    """
    try:
        images = [read_image(path) for path in case.images] if read_voxels else []
        geometries = [image.geometry for image in images] or [read_geometry(path) for path in case.images]
    except (DataError, ResourceError) as error:
        problem = _problem(case, "error", error.code, f"{error.message}; the case is left out")
        return CaseFinding(case_id=case.case_id, usable=False, problems=(problem,))
    grid_problems = tuple(_channel_problems(case, geometries))
    looked = [_examine_label(case, annotation, geometries[0], classes, read_voxels) for annotation in case.annotations]
    return CaseFinding(
        case_id=case.case_id,
        usable=all(problem.severity != "error" for problem in grid_problems),
        geometry=geometries[0],
        channels=sum(len(image.array) for image in images),
        stored_type=images[0].array.dtype.name if images else "",
        voxel_hash=voxel_hash([image.array for image in images]) if images else "",
        labels=tuple(finding for finding, _ in looked),
        problems=(*grid_problems, *_value_problems(case, images), *(p for _, found in looked for p in found)),
        notes=tuple(note for image in images for note in image.notes if note not in not_finite_note(image.array)),
    )


def voxel_hash(channels: list[Shaped[np.ndarray, ...]]) -> str:
    """SHA-256 of size and values of all channels, each as float32 (so int16 5 equals float 5.0)."""
    digest = hashlib.sha256()
    for array in channels:
        digest.update(repr(array.shape).encode())
        with np.errstate(over="ignore", invalid="ignore"):
            digest.update(np.ascontiguousarray(array.astype(np.float32) + np.float32(0)).data)  # -0.0 becomes 0.0
    return digest.hexdigest()


def _channel_problems(case: Case, geometries: list[ImageGeometry]) -> Iterator[Problem]:
    for path, geometry in zip(case.images[1:], geometries[1:], strict=True):
        agreement = compare(geometries[0], geometry)
        if agreement.verdict == "refuse":
            yield _problem(
                case, "error", "E-GEO-02",
                f"channel {path.name} does not lie on the grid of {case.images[0].name}; all channels of a case must "
                "share one grid, so resample it; the case is left out",
            )  # fmt: skip
        elif agreement.verdict == "snap":
            yield _problem(
                case, "repaired", "E-GEO-02",
                f"channel {path.name} lies {agreement.distance_voxels:.2g} voxels beside {case.images[0].name}; it is "
                "taken onto its grid",
            )  # fmt: skip


def _value_problems(case: Case, images: list[MedicalImage]) -> Iterator[Problem]:
    for path, image in zip(case.images, images, strict=False):
        for channel in image.array:
            bad, low, high = _range(channel)
            n = channel.size
            if n and bad == n:
                said = "every voxel is NaN or infinite, so it teaches nothing; check the export"
                yield _problem(case, "warning", "E-VAL-02", f"{path.name}: {said}")
                continue
            if bad:
                said = f"{bad} of {n} voxels are NaN or infinite and count as its lowest value; check the export"
                yield _problem(case, "warning", "E-VAL-01", f"{path.name}: {said}")
            if low == high:
                said = f"every voxel is {low:g}, so it teaches nothing; check the export"
                yield _problem(case, "warning", "E-VAL-02", f"{path.name}: {said}")
            elif max(-low, high) > ABSURD_VALUE:
                said = f"values reach {max(low, high, key=abs):g}, which no scanner writes; check the export"
                yield _problem(case, "warning", "E-VAL-03", f"{path.name}: {said}")


def _range(channel: Num[np.ndarray, "*spatial"]) -> tuple[int, float, float]:
    """Voxels that are not finite, and the lowest and highest of the others (0 and 0 where there is none)."""
    if channel.dtype.kind == "f":
        good = np.isfinite(channel)
        bad = channel.size - int(good.sum())
        channel = channel[good] if bad else channel
    else:
        bad = 0
    return (bad, float(channel.min()), float(channel.max())) if channel.size else (bad, 0.0, 0.0)


def _examine_label(
    case: Case, annotation: Annotation, geometry: ImageGeometry, classes: ClassTable, read_voxels: bool
) -> tuple[LabelFinding, tuple[Problem, ...]]:
    name = annotation.path.name
    try:
        stored, own = read_label(annotation.path) if read_voxels else (None, read_geometry(annotation.path))
    except (DataError, ResourceError) as error:
        problem = _problem(case, "error", error.code, f"{error.message}; the annotation is left out")
        return _finding(annotation, "unreadable"), (problem,)
    agreement = compare(geometry, own)
    problems: tuple[Problem, ...] = ()
    if agreement.verdict == "refuse":
        problems = (_problem(case, "error", "E-GEO-01", f"{name}: {agreement.message}; the annotation is left out"),)
    elif agreement.verdict == "snap":
        problems = (_problem(case, "repaired", "E-GEO-01", f"{name}: {agreement.message}"),)
    if stored is None:
        return _finding(annotation, agreement.verdict), problems
    finding = _finding(annotation, agreement.verdict, stored, classes)
    return finding, (*problems, *_label_problems(case, finding, classes))


def _finding(
    annotation: Annotation,
    verdict: Verdict,
    stored: Integer[np.ndarray, "*spatial"] | None = None,
    classes: ClassTable | None = None,
) -> LabelFinding:
    if stored is None or classes is None:
        return LabelFinding(annotation=annotation, verdict=verdict, counts={}, class_voxels={})
    counts = count_values(stored)
    known = {value: n for value, n in counts.items() if value not in annotation.ignore}
    voxels = {
        name: sum(known.get(value, 0) for value in values)
        for name, values in zip(classes.names, classes.stored, strict=True)
    }
    return LabelFinding(
        annotation=annotation, verdict=verdict, counts=counts, class_voxels=voxels,
        coverage=sum(voxels.values()) / max(stored.size, 1),
    )  # fmt: skip


def _label_problems(case: Case, finding: LabelFinding, classes: ClassTable) -> Iterator[Problem]:
    name, annotation = finding.annotation.path.name, finding.annotation
    named = {value for values in classes.stored for value in values} | set(annotation.ignore)
    strange = {value: n for value, n in finding.counts.items() if value not in named}
    if strange:
        listed = ", ".join(f"{value} ({n} voxels)" for value, n in list(strange.items())[:5])
        yield _problem(
            case, "warning", "E-LBL-01",
            f"{name}: stored values {listed} belong to no class and count as unknown; name them in [classes] of "
            "dataset.toml (as background = [0, ...] if they are background), or as ignore",
        )  # fmt: skip
    looked_for = annotation.annotated
    for class_name, n in finding.class_voxels.items():
        if n and looked_for is not None and class_name not in (*looked_for, "background"):
            yield _problem(
                case, "warning", "E-LBL-06",
                f"{name}: {n} voxels hold {class_name}, which is not among the classes that were looked for, and "
                "count as background; name it in the column annotated if it was",
            )  # fmt: skip
    foreground = sum(n for name_, n in finding.class_voxels.items() if name_ != "background")
    if not any(finding.class_voxels.values()):
        yield _problem(case, "warning", "E-LBL-02", f"{name}: no voxel holds a class, so it teaches nothing")
    elif not foreground and annotation.kind != "scribble":
        yield _problem(
            case, "warning", "E-LBL-02",
            f"{name}: the mask is empty; that is right only if no class is visible in this case",
        )  # fmt: skip
    if annotation.kind in ("scribble", "slices") and finding.coverage == 1:
        yield _problem(
            case, "warning", "E-LBL-04",
            f"{name}: is called {annotation.kind}, but every voxel holds a class; name the value that means "
            "'not annotated' as ignore, or call it full",
        )  # fmt: skip


def _problem(case: Case, severity: Severity, code: str, message: str) -> Problem:
    return Problem(case_id=case.case_id, severity=severity, code=code, message=f"case {case.case_id}: {message}")
