"""The NIfTI header: which bytes are voxels, of what type and size; and a header for voxels to be written.

Source: NIfTI-1 (R. W. Cox et al. 2004, `nifti1.h`); NIfTI-2 (2011).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64
from nibabel.nifti1 import header_dtype as nifti1_dtype
from nibabel.nifti2 import header_dtype as nifti2_dtype

from scantling.data.image import ImageGeometry
from scantling.errors import DataError

HEAD_BYTES: Final = 540
LARGEST_CHANNEL_COUNT: Final = 8

_DTYPES: Final = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_GEOMETRY_FIELDS: Final = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_REFUSED: Final = {
    0: "of unknown type", 1: "bits", 32: "complex numbers", 128: "RGB colours", 1536: "128-bit floats",
    1792: "complex numbers", 2048: "complex numbers", 2304: "RGBA colours",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NiftiHeader:
    """What is needed to take the voxels out of the file.

    Attributes:
        shape: spatial axes `(z, y, x)`.
        dtype: of the stored voxels, with their byte order.
        offset: of the first voxel in the (unpacked) file.
        slope, intercept: voxel value = stored * slope + intercept.
    """

    raw: bytes
    fields: np.void
    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype[np.generic]
    offset: int
    slope: float
    intercept: float
    notes: tuple[str, ...]

    @property
    def voxel_bytes(self) -> int:
        """Size of all stored voxels; a Python integer, so it cannot overflow."""
        return math.prod(self.shape) * self.channels * int(self.dtype.itemsize)


def parse_header(path: Path, head: bytes) -> NiftiHeader:
    """The header at the start of `head`, checked field by field; nothing is allocated on its word.

    Args:
        head: the first 540 bytes of the unpacked file, or all of it if it is shorter.

    Raises:
        DataError: not a single-file NIfTI, a field that makes no sense, voxels that are no plain numbers.
    """
    fields, raw = _fields(path, head)
    shape, channels = _extents(path, fields)
    code = int(fields["datatype"])
    if code not in _DTYPES:
        raise DataError(
            f"{path}: its voxels are {_REFUSED.get(code, f'of unknown type {code}')}; wanted plain numbers, "
            "so convert it to one integer or float channel per volume",
            code="E-IMG-06",
        )
    dtype = np.dtype(_DTYPES[code]).newbyteorder("<" if _is_little(raw) else ">")
    notes = []
    smallest = len(raw) + 4
    offset = float(fields["vox_offset"])
    if offset == 0:
        notes.append(f"its header gives no voxel offset; {smallest} is taken")
        offset = float(smallest)
    if not (math.isfinite(offset) and offset.is_integer() and offset >= smallest):
        raise DataError(
            f"{path}: the header puts the voxels at byte {offset:g}, inside itself; wanted >= "
            f"{smallest}, so export the file again",
            code="E-IMG-03",
        )
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    if not math.isfinite(intercept):
        notes.append("its header scales by an intercept that is no number; 0 is taken")
        intercept = 0.0
    return NiftiHeader(
        raw=raw, fields=fields, shape=shape, channels=channels, dtype=dtype, offset=int(offset),
        slope=slope, intercept=intercept, notes=tuple(notes),
    )  # fmt: skip


def write_header(shape: tuple[int, ...], channels: int, dtype: np.dtype[np.generic], grid: ImageGeometry) -> bytes:
    """A little-endian header, with its empty extension flag, for voxels on `grid`.

    Where the grid came from a NIfTI file its geometry fields are repeated bit by bit; nothing else of that
    header is, so no name, date or comment travels along. Otherwise the grid becomes an sform in mm.
    """
    source = np.frombuffer(grid.header, _header_dtype(grid.header), count=1)[0] if grid.header else None
    is_second = max(shape) > 32767 or (source is not None and int(source["sizeof_hdr"]) == 540)
    target = np.zeros((), dtype=(nifti2_dtype if is_second else nifti1_dtype).newbyteorder("<"))
    size = int(target.dtype.itemsize)
    target["sizeof_hdr"] = size
    target["magic"] = b"n+2" if is_second else b"n+1"
    if is_second:
        target["eol_check"] = (13, 10, 26, 10)
    else:
        target["regular"] = b"r"
    volume = (1,) * (3 - len(shape)) + shape
    target["dim"] = [4 if channels > 1 else 3, *volume[::-1], channels, 1, 1, 1]
    target["datatype"] = next(code for code, name in _DTYPES.items() if np.dtype(name) == dtype)
    target["bitpix"] = 8 * int(dtype.itemsize)
    target["vox_offset"] = size + 4
    target["scl_slope"] = 1
    if source is not None:
        for field in _GEOMETRY_FIELDS:
            target[field] = source[field]
    else:
        affine = _affine_in_3d(grid.world_from_index)
        target["pixdim"] = [1, *np.linalg.norm(affine[:3, :3], axis=0), *(1,) * 4]
        target["xyzt_units"] = 2
        target["sform_code"] = 2
        target["srow_x"], target["srow_y"], target["srow_z"] = affine[:3]
    return target.tobytes() + bytes(4)


def _affine_in_3d(world_from_index: Float64[np.ndarray, "side side"]) -> Float64[np.ndarray, "4 4"]:
    """Voxel order (x, y, z) -> mm; a picture lies in the plane of x and y."""
    if len(world_from_index) == 4:
        return world_from_index[:, [2, 1, 0, 3]]
    affine = np.eye(4)
    affine[:2, :2] = world_from_index[1::-1, 1::-1]
    affine[:2, 3] = world_from_index[1::-1, 2]
    return affine


def _is_little(head: bytes) -> bool:
    return int.from_bytes(head[:4], "little") in (348, 540)


def _header_dtype(head: bytes) -> np.dtype[np.void]:
    is_little = _is_little(head)
    size = int.from_bytes(head[:4], "little" if is_little else "big")
    dtype: np.dtype[np.void] = (nifti2_dtype if size == 540 else nifti1_dtype).newbyteorder("<" if is_little else ">")
    return dtype


def _fields(path: Path, head: bytes) -> tuple[np.void, bytes]:
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    if len(head) < 348 or not sizes & {348, 540}:
        raise DataError(
            f"{path}: not a NIfTI file (no NIfTI header at its start); wanted .nii or .nii.gz, so "
            "convert it, or give it the right suffix",
            code="E-IMG-01",
        )
    dtype = _header_dtype(head)
    if len(head) < dtype.itemsize:
        raise DataError(
            f"{path}: the file is damaged (it ends inside its header); copy or export it again",
            code="E-IMG-03",
        )
    raw = head[: dtype.itemsize]
    fields = np.frombuffer(raw, dtype, count=1)[0]
    magic = bytes(fields["magic"])
    if magic in (b"ni1", b"ni2"):
        raise DataError(
            f"{path}: the header of a .hdr/.img pair; wanted one file, so convert it to .nii.gz",
            code="E-IMG-06",
        )
    if magic != (b"n+2" if dtype.itemsize == 540 else b"n+1"):
        raise DataError(
            f"{path}: not a NIfTI file (its magic is {magic!r}, perhaps Analyze 7.5); convert it to .nii.gz",
            code="E-IMG-01",
        )
    return fields, raw


def _extents(path: Path, fields: np.void) -> tuple[tuple[int, ...], int]:
    count, *all_extents = (int(n) for n in fields["dim"])
    if not 2 <= count <= 7:
        raise DataError(f"{path}: its header counts {count} axes; wanted 2 to 7, so export it again", code="E-IMG-06")
    extents = all_extents[:count]
    if min(extents) < 1:
        raise DataError(
            f"{path}: its header gives the size {' x '.join(map(str, extents))}; every axis needs at "
            "least one voxel, so export it again",
            code="E-IMG-03",
        )
    further = [n for n in extents[3:] if n > 1]
    if len(further) > 1 or math.prod(further) > LARGEST_CHANNEL_COUNT:
        raise DataError(
            f"{path}: its size is {' x '.join(map(str, extents))}; wanted a volume, or up to "
            f"{LARGEST_CHANNEL_COUNT} volumes as channels, so split time points into one file each",
            code="E-IMG-06",
        )
    return tuple([*extents[:3], 1][2::-1]), math.prod(further)
