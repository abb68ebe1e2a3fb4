"""Label maps that do not share their image's grid: a picture of each, and corrected copies on request."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer, UInt8

from scantling.config import nearest
from scantling.data.case import Annotation, Case, ClassTable
from scantling.data.examination import LabelFinding
from scantling.data.geometry_check import GridAgreement, compare, know_places
from scantling.data.image import ImageGeometry
from scantling.data.image_io import read_geometry, read_image, read_label, write_label_map
from scantling.data.inspect import Inspection
from scantling.data.manifest import Problem
from scantling.data.regridding import labels_on_grid
from scantling.errors import ConfigError, DataError, ResourceError
from scantling.figures.misfit import draw_misfit
from scantling.figures.overlay import contact_sheet, png_bytes
from scantling.files import write_atomic

PICTURES: Final = "misfits"
COPIES: Final = "fixed_labels"
FIXES: Final = ("header", "grid")


def require_fix(fix: str, folder: Path | None) -> None:
    """Refuse an unknown fix, and a place where copies could cover files that are there.

    Raises:
        ConfigError: as above, or there is no place.
    """
    if fix not in FIXES:
        raise ConfigError(f"--fix {fix}: there is no such fix{nearest(fix, FIXES)}", code="E-CFG-06")
    if folder is None:
        raise ConfigError(f"--fix {fix}: name a folder for the copies (-o)", code="E-CFG-06")
    if (folder / COPIES).exists():
        raise ConfigError(f"{folder / COPIES}: exists already; choose another folder with -o", code="E-CFG-04")


def draw_misfits(inspection: Inspection, folder: Path) -> Inspection:
    """Draw each case with a label map that was snapped or refused into `folder/misfits/CASE.png`."""
    classes = inspection.manifest.classes

    def draw(misfit: tuple[Case, list[LabelFinding]]) -> Path | None:
        case, findings = misfit
        sheets = _sheets(case, findings, classes)
        if not sheets:
            return None
        path = folder / PICTURES / f"{case.case_id}.png"
        write_atomic(path, png_bytes(contact_sheet(sheets, columns=1, gap_px=24)))
        return path

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        drawn = list(pool.map(draw, _misfits(inspection, ("snap", "refuse"))))
    return replace(inspection, pictures=tuple(path for path in drawn if path is not None))


def write_copies(inspection: Inspection, folder: Path, fix: str) -> Inspection:
    """Write a corrected copy of each refused label map under `folder/fixed_labels`, named as in the data set.

    Args:
        fix: "header" keeps the voxels and gives them the image's header, where the sizes agree; "grid" keeps
            the place and takes the nearest voxel for each voxel of the image.
    """
    paths: list[Path] = []
    left_out: list[Problem] = []
    for case, findings in _misfits(inspection, ("refuse",)):
        for finding in findings:
            path = folder / COPIES / _name(finding.annotation.path, case.case_id, inspection.manifest.root)
            try:
                write_label_map(path, *_corrected(case, finding.annotation, inspection.manifest.classes, fix))
                paths.append(path)
            except (DataError, ResourceError) as error:
                name = finding.annotation.path.name
                message = f"case {case.case_id}: {name}: '--fix {fix}' wrote no copy, because {error.message}"
                left_out.append(Problem(case_id=case.case_id, severity="warning", code="E-GEO-04", message=message))
    return replace(inspection, copies=tuple(paths), problems=(*inspection.problems, *left_out))


def _sheets(case: Case, findings: Sequence[LabelFinding], classes: ClassTable) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """A sheet for each of a case's label maps that can be read and has as many axes as the image."""
    sheets = []
    for finding in findings:
        with contextlib.suppress(DataError, ResourceError):  # where only headers were looked at before
            image, (stored, own) = read_image(case.images[0]), read_label(finding.annotation.path)
            if stored.ndim == len(image.geometry.shape):
                label_map = classes.to_index(stored, ignore=finding.annotation.ignore)
                found = _in_short(compare(image.geometry, own), image.geometry, own)
                heading = f"case {case.case_id}, label map {finding.annotation.path.name}: {found}"
                sheets.append(draw_misfit(image, label_map, own, heading=heading))
    return sheets


def _misfits(inspection: Inspection, verdicts: tuple[str, ...]) -> Iterator[tuple[Case, list[LabelFinding]]]:
    for case, finding in zip(inspection.manifest.cases, inspection.findings, strict=True):
        chosen = [label for label in finding.labels if label.verdict in verdicts]
        if chosen:
            yield case, chosen


def _corrected(
    case: Case, annotation: Annotation, classes: ClassTable, fix: str
) -> tuple[Integer[np.ndarray, "..."], ImageGeometry]:
    """The stored values of a label map on its image's grid; unknown, else background, where it does not reach.

    Raises:
        DataError: it cannot be read, or this fix cannot mend it.
        ResourceError: it does not fit into memory.
    """
    grid = read_geometry(case.images[0])
    stored, own = read_label(annotation.path)
    if fix == "header":
        if stored.shape != grid.shape:
            raise DataError(f"it is {_size(own)} voxels and its image {_size(grid)}", code="E-GEO-04")
        return stored, grid
    if not know_places(grid, own):
        raise DataError("the files do not say where they lie", code="E-GEO-04")
    outside = annotation.ignore[0] if annotation.ignore else classes.stored[0][0]
    placed = labels_on_grid(stored, own, grid, outside=outside)
    if (placed == outside).all() and (stored != outside).any():
        raise DataError(
            "nothing of it lies inside the image, so its header must be wrong; see '--fix header'", code="E-GEO-04"
        )
    return placed, grid


def _in_short(agreement: GridAgreement, image: ImageGeometry, label: ImageGeometry) -> str:
    if math.isnan(agreement.distance_voxels):
        return f"{_size(label)} voxels on an image of {_size(image)}"
    taken = "taken onto the image's grid" if agreement.verdict == "snap" else "refused"
    return f"corners up to {agreement.distance_voxels:.3g} voxels off the image's, {taken}"


def _size(grid: ImageGeometry) -> str:
    return " x ".join(map(str, grid.shape))


def _name(path: Path, case_id: str, root: Path) -> Path:
    """The path inside the data set; of a file that lies elsewhere the name, behind that of its case."""
    inside = path.is_relative_to(root) and ".." not in path.relative_to(root).parts
    return path.relative_to(root) if inside else Path(f"{case_id}_{path.name}")
