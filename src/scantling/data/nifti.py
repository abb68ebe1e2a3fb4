"""Read and write NIfTI files (`.nii`, `.nii.gz`), refusing every byte that is not as it was written."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from jaxtyping import Shaped, UInt8

from scantling.data.image import ImageGeometry, MedicalImage, not_finite_note
from scantling.data.inflate import GZIP_MAGIC, PIECE, damaged, gunzip, refuse_false_claim
from scantling.data.nifti_geometry import geometry_of
from scantling.data.nifti_header import HEAD_BYTES, NiftiHeader, parse_header, write_header
from scantling.errors import DataError
from scantling.files import write_atomic

PADDING_BYTES: Final = 4096
"""So many zeros after the voxels are some writer's padding; anything else there is damage."""
BOMB_BYTES: Final = 900_000_000
BOMB_RATIO: Final = 900


def read_geometry(path: Path) -> ImageGeometry:
    """The grid, from the first bytes of the file; voxels are neither read nor verified.

    Raises:
        DataError: no NIfTI file, or a header whose size claim the file cannot keep.
        GeometryError: a geometry that is none.
    """
    with path.open("rb") as stream:
        is_packed = _is_gzip(stream)
        pieces = gunzip(path, stream, piece_bytes=4096) if is_packed else iter([stream.read(HEAD_BYTES)])
        header = parse_header(path, _first(pieces)[:HEAD_BYTES])
    _check_claim(path, header, is_packed=is_packed)
    return geometry_of(path, header)[0]


def read(path: Path, *, as_label: bool = False) -> MedicalImage:
    """All voxels, with every checksum and length verified; scaled files give float32.

    Axes 4 and above, of at most 8 volumes in all, become channels. NaN and infinite voxels are kept and
    noted.

    Args:
        as_label: changes nothing; NIfTI voxels are numbers, not colours.

    Raises:
        DataError: damage, a false size claim, voxels that are no plain numbers.
        GeometryError: a geometry that is none.
        ResourceError: the voxels do not fit into memory.
    """
    with path.open("rb") as stream:
        is_packed = _is_gzip(stream)
        pieces = gunzip(path, stream) if is_packed else _pieces(stream)
        start = _first(pieces)
        header = parse_header(path, start[:HEAD_BYTES])
        geometry, notes = geometry_of(path, header)
        _check_claim(path, header, is_packed=is_packed)
        buffer = _fill(path, header, start, pieces)
    stored: Shaped[np.ndarray, "..."] = buffer[header.offset :].view(header.dtype)
    array = _scaled(stored.reshape(header.channels, *header.shape), header)
    notes = (*_suffix_notes(path, is_packed=is_packed), *header.notes, *notes, *not_finite_note(array))
    return MedicalImage(array=array, geometry=geometry, notes=notes)


def write(path: Path, array: Shaped[np.ndarray, "channel *spatial"], geometry: ImageGeometry) -> None:
    """Write channel-first voxels on a grid, atomically; the same input gives the same bytes.

    Raises:
        ResourceError: the disk is full.
    """
    header = write_header(array.shape[1:], array.shape[0], array.dtype, geometry)
    voxels = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))

    def write_to(stream: BinaryIO) -> None:
        if not path.name.lower().endswith(".gz"):
            stream.write(header)
            stream.write(voxels.data)
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=4) as packed:
            packed.write(header)
            packed.write(voxels.data)

    write_atomic(path, write_to)


def _is_gzip(stream: BinaryIO) -> bool:
    is_packed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    stream.seek(0)
    return is_packed


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        yield piece


def _first(pieces: Iterator[bytes]) -> bytes:
    """At least the header's bytes, if there are so many."""
    start = b""
    for piece in pieces:
        start += piece
        if len(start) >= HEAD_BYTES:
            break
    return start


def _check_claim(path: Path, header: NiftiHeader, *, is_packed: bool) -> None:
    claimed, stored = header.offset + header.voxel_bytes, path.stat().st_size
    if not is_packed and claimed > stored:
        raise DataError(
            f"{path}: the file has {stored} bytes but its header promises {claimed}; it is cut short or its "
            "header is damaged, so copy or export it again",
            code="E-IMG-04",
        )
    refuse_false_claim(
        path, claimed=claimed, stored=stored, bomb_bytes=BOMB_BYTES, bomb_ratio=BOMB_RATIO if is_packed else 2
    )


def _fill(path: Path, header: NiftiHeader, start: bytes, pieces: Iterator[bytes]) -> UInt8[np.ndarray, "bytes"]:
    """Header and voxels as bytes; reading on to the end, so that the last checksum is verified."""
    expected = header.offset + header.voxel_bytes
    buffer = np.empty(expected, dtype=np.uint8)
    filled, extra, piece = 0, 0, start
    while True:
        wanted = min(len(piece), expected - filled)
        buffer[filled : filled + wanted] = np.frombuffer(piece, np.uint8, count=wanted)
        filled += wanted
        extra += len(piece) - wanted
        if extra > PADDING_BYTES or piece[wanted:].strip(b"\0"):
            raise DataError(
                f"{path}: the file holds more than the {expected} bytes its header promises; its header is "
                "damaged, so copy or export it again",
                code="E-IMG-04",
            )
        following = next(pieces, None)
        if following is None:
            break
        piece = following
    if filled < expected:
        raise damaged(path, f"it ends after {filled} of {expected} bytes")
    return buffer


def _scaled(
    stored: Shaped[np.ndarray, "channel *spatial"], header: NiftiHeader
) -> Shaped[np.ndarray, "channel *spatial"]:
    if (header.slope, header.intercept) == (1.0, 0.0):
        return stored if stored.dtype.isnative else stored.astype(stored.dtype.newbyteorder("="))
    # float32 holds every integer of 16 bits, so wider types take the way over float64
    is_small = stored.dtype.itemsize <= 2 or stored.dtype == np.float32
    exact = np.float32 if is_small else np.float64
    with np.errstate(over="ignore", invalid="ignore"):  # noted with the other non-finite voxels
        values = np.multiply(stored, exact(header.slope), dtype=exact)
        np.add(values, exact(header.intercept), out=values)
        return np.asarray(values, dtype=np.float32)


def _suffix_notes(path: Path, *, is_packed: bool) -> tuple[str, ...]:
    if is_packed == path.name.lower().endswith(".gz"):
        return ()
    return (f"it is {'gzip-packed' if is_packed else 'not gzip-packed'} although its name ends in {path.suffix}",)
