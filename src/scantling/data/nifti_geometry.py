"""Where in the patient the voxels of a NIfTI file lie.

Rules for the geometry, in this order:

- The affine is the sform if its code is > 0, else the qform if its code is > 0, else the voxel sizes alone.
- Spacing is the length of the affine's columns. Where these are all 1 and the voxel sizes (`pixdim`) say
  otherwise, the affine is taken for directions only and the voxel sizes count. Any other disagreement above
  5 % is noted and the affine counts.
- Lengths in metres and micrometres become mm.
- A spacing that is zero, negative, NaN or beyond reason, or axes that do not span space, are refused; only on
  an axis of one slice they are repaired (1 mm, at a right angle to the others) and noted.
- Sheared axes (gantry tilt) are kept as they are and noted.

Source: NIfTI-1 (R. W. Cox et al. 2004, `nifti1.h`), methods 1 to 3; NIfTI-2 (2011).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64

from scantling.data.image import ImageGeometry
from scantling.data.nifti_header import NiftiHeader
from scantling.errors import GeometryError

AGREEMENT: Final = 0.05  # relative, between affine and voxel sizes; in voxels, between sform and qform
SPACING_RANGE_MM: Final = (1e-6, 1e4)
_UNITS_MM: Final = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}


def geometry_of(path: Path, header: NiftiHeader) -> tuple[ImageGeometry, tuple[str, ...]]:
    """The grid by the rules of this module, and a note for each assumption and repair.

    Raises:
        GeometryError: a spacing that is no length, or axes that do not span space.
    """
    fields, extents = header.fields, header.shape[::-1]
    notes: list[str] = []
    unit = _unit_in_mm(int(fields["xyzt_units"]) & 7, notes)
    with np.errstate(over="ignore", invalid="ignore"):  # wild values are refused below
        pixdim = _voxel_sizes(fields, extents, unit, notes)
        name, affine = _affine(path, fields, pixdim, unit, notes)
        if name == "sform":
            affine = _with_single_slice_repaired(affine, extents, notes)
            affine = _with_unit_columns_scaled(affine, pixdim, notes)
        spacing = _require_spacing(path, affine, pixdim, name)
    directions = affine[:3, :3] / spacing
    if abs(np.linalg.det(directions)) < 1e-3:
        raise GeometryError(
            f"{path}: the axes of its {name} do not span space (singular affine); write a valid "
            "sform into the header, or export the file again",
            code="E-GEO-03",
        )
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        notes.append("its axes are sheared (gantry tilt?); spacing is measured along them, the shear is kept")
    return ImageGeometry(
        shape=header.shape,
        spacing_mm=tuple(float(s) for s in spacing[::-1]),
        spacing_known=True,
        world_from_index=np.ascontiguousarray(affine[:, [2, 1, 0, 3]]),
        file_type="nifti",
        header=header.raw,
    ), tuple(notes)


def _unit_in_mm(code: int, notes: list[str]) -> float:
    if code in _UNITS_MM:
        name, factor = _UNITS_MM[code]
        notes.append(f"its header gives lengths in {name}; they are converted to mm")
        return factor
    if code not in (0, 2):
        notes.append(f"its header names an unknown unit of length ({code}); mm is assumed")
    return 1.0


def _voxel_sizes(fields: np.void, extents: tuple[int, ...], unit: float, notes: list[str]) -> Float64[np.ndarray, "3"]:
    sizes = np.asarray(fields["pixdim"][1:4], dtype=np.float64) * unit
    for axis, extent in enumerate(extents):
        if extent == 1 and not _is_length(sizes[axis]):
            notes.append(f"its header gives its one slice along {'xyz'[axis]} no thickness; 1 mm is taken")
            sizes[axis] = 1.0
    return sizes


def _is_length(size_mm: float) -> bool:
    low, high = SPACING_RANGE_MM
    return bool(low <= size_mm <= high)


def _affine(
    path: Path, fields: np.void, pixdim: Float64[np.ndarray, "3"], unit: float, notes: list[str]
) -> tuple[str, Float64[np.ndarray, "4 4"]]:
    sform, qform = int(fields["sform_code"]) > 0, int(fields["qform_code"]) > 0
    if not sform and not qform:
        notes.append("its header has no sform and no qform; the orientation is assumed to be RAS")
        return "pixdim", _require_finite(path, np.diag([*pixdim, 1.0]), "pixdim")
    if not sform:
        return "qform", _require_finite(path, _qform(fields, pixdim, unit), "qform")
    affine = np.eye(4)
    affine[:3] = [fields["srow_x"], fields["srow_y"], fields["srow_z"]]
    affine[:3] *= unit
    affine = _require_finite(path, affine, "sform")
    if qform:
        _note_other_qform(affine, _qform(fields, pixdim, unit), fields, notes)
    return "sform", affine


def _qform(fields: np.void, pixdim: Float64[np.ndarray, "3"], unit: float) -> Float64[np.ndarray, "4 4"]:
    """Method 2 of the standard; all NaN where the quaternion is none."""
    b, c, d = (float(fields[f"quatern_{axis}"]) for axis in "bcd")
    length = math.sqrt(b * b + c * c + d * d) if all(map(math.isfinite, (b, c, d))) else math.nan
    if not length < 1.01:  # float32 rounding stays far below
        return np.full((4, 4), np.nan)
    if length > 1:
        b, c, d = b / length, c / length, d / length
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * pixdim
    affine[:3, 2] *= -1.0 if float(fields["pixdim"][0]) < 0 else 1.0
    affine[:3, 3] = [float(fields[f"qoffset_{axis}"]) * unit for axis in "xyz"]
    return affine


def _note_other_qform(
    sform: Float64[np.ndarray, "4 4"], qform: Float64[np.ndarray, "4 4"], fields: np.void, notes: list[str]
) -> None:
    far = np.array([*(np.maximum(fields["dim"][1:4].astype(np.float64), 1) - 1), 1.0])
    difference = np.abs((sform - qform)[:3])
    smallest = np.linalg.norm(sform[:3, :3], axis=0).min()
    if not (difference @ far).max() <= AGREEMENT * smallest:
        notes.append("its sform and qform disagree; the sform is taken")


def _require_finite(path: Path, affine: Float64[np.ndarray, "4 4"], name: str) -> Float64[np.ndarray, "4 4"]:
    if not np.isfinite(affine).all():
        raise GeometryError(
            f"{path}: its {name} holds values that are no numbers; write a valid sform into the "
            "header, or export the file again",
            code="E-GEO-03",
        )
    return affine


def _with_single_slice_repaired(
    affine: Float64[np.ndarray, "4 4"], extents: tuple[int, ...], notes: list[str]
) -> Float64[np.ndarray, "4 4"]:
    columns = affine[:3, :3].T.copy()
    flat = [axis for axis in range(3) if extents[axis] == 1 and not columns[axis].any()]
    if len(flat) == 1:
        normal = np.cross(columns[flat[0] - 2], columns[flat[0] - 1])
        length = float(np.linalg.norm(normal))
        if length > 0 and math.isfinite(length):
            columns[flat[0]] = normal / length
            notes.append(f"its sform gives its one slice along {'xyz'[flat[0]]} no thickness; 1 mm is taken")
    repaired = affine.copy()
    repaired[:3, :3] = columns.T
    return repaired


def _with_unit_columns_scaled(
    affine: Float64[np.ndarray, "4 4"], pixdim: Float64[np.ndarray, "3"], notes: list[str]
) -> Float64[np.ndarray, "4 4"]:
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if np.all(np.abs(norms - pixdim) <= AGREEMENT * norms):  # false for NaN as well
        return affine
    said = " x ".join(f"{size:g}" for size in pixdim)
    if np.allclose(norms, 1.0, rtol=0, atol=1e-3) and all(map(_is_length, pixdim)):
        notes.append(
            f"its sform has unit scale but the voxel size is given as {said} mm; directions are taken "
            "from the sform, the spacing from the voxel size"
        )
        scaled = affine.copy()
        scaled[:3, :3] *= pixdim / norms
        return scaled
    own = " x ".join(f"{size:g}" for size in norms)
    notes.append(f"its voxel size is given as {said} mm but its sform says {own} mm; the sform is taken")
    return affine


def _require_spacing(
    path: Path, affine: Float64[np.ndarray, "4 4"], pixdim: Float64[np.ndarray, "3"], name: str
) -> Float64[np.ndarray, "3"]:
    spacing = np.asarray(np.linalg.norm(affine[:3, :3], axis=0))
    signed = spacing if name == "sform" else pixdim  # the length of a column would hide a minus sign
    if not all(map(_is_length, signed)):
        low, high = SPACING_RANGE_MM
        said = " x ".join(f"{size:g}" for size in signed)
        raise GeometryError(
            f"{path}: its {name} gives the voxel size {said} mm; wanted "
            f"lengths between {low:g} and {high:g} mm, so correct the header or export the file again",
            code="E-GEO-03",
        )
    return spacing
