"""Image and label files of every kind behind one interface; a new kind adds rows to `READERS`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped

from scantling.data import nifti, raster
from scantling.data.image import FileType, ImageGeometry, MedicalImage, picture_geometry
from scantling.errors import DataError

__all__ = [
    "READERS",
    "SUFFIXES",
    "FileType",
    "ImageGeometry",
    "MedicalImage",
    "image_stem",
    "image_suffix",
    "label_file_name",
    "picture_geometry",
    "read_geometry",
    "read_image",
    "read_label",
    "read_scalar_map",
    "scalar_file_name",
    "write_label_map",
    "write_scalar_map",
]

LABEL_TOLERANCE: Final = 0.01


@runtime_checkable
class Reader(Protocol):
    """What a module in `READERS` offers; whatever is wrong with a file is a `DataError`."""

    def read_geometry(self, path: Path) -> ImageGeometry:
        """The grid, without decoding voxels."""

    def read(self, path: Path, *, as_label: bool = False) -> MedicalImage:
        """Everything, verified; as a label map, colours are indices wherever the file has them."""

    def write(self, path: Path, array: Shaped[np.ndarray, "channel *spatial"], geometry: ImageGeometry) -> None:
        """Write atomically, or refuse what the file type cannot hold."""


READERS: Final[dict[str, Reader]] = {
    ".nii.gz": nifti,
    ".nii": nifti,
    ".png": raster,
    ".jpg": raster,
    ".jpeg": raster,
    ".tif": raster,
    ".tiff": raster,
}
SUFFIXES: Final = tuple(READERS)


def image_suffix(path: Path) -> str | None:
    """The known suffix a name ends in, in lower case; None if it has none."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def image_stem(path: Path) -> str:
    """The name without its image suffix (`case_1.nii.gz` -> `case_1`), or without whatever suffix it has."""
    suffix = image_suffix(path)
    return path.stem if suffix is None else path.name[: -len(suffix)]


def read_geometry(path: Path) -> ImageGeometry:
    """The grid of an image from its header alone.

    Raises:
        DataError: missing, unreadable, of no known type, or with a header that cannot be true.
        GeometryError: a NIfTI file whose geometry is none.
    """
    reader = _reader(path)
    with _opening(path):
        return reader.read_geometry(path)


def read_image(path: Path) -> MedicalImage:
    """An image with every checksum and length verified: its channels, its grid, and what is odd about it.

    NaN and infinite values are kept and noted.

    Raises:
        DataError: missing, damaged, a bomb, or of a kind that is not read.
        GeometryError: a NIfTI file whose geometry is none.
        ResourceError: it does not fit into memory.
    """
    reader = _reader(path)
    with _opening(path):
        return reader.read(path)


def read_label(path: Path) -> tuple[Integer[np.ndarray, "*spatial"], ImageGeometry]:
    """A label map as whole numbers, in the stored integer type.

    Floats within 0.01 of whole numbers are rounded. A palette picture gives its indices, a colour picture
    with equal channels its grey value.

    Raises:
        DataError: as `read_image`; also fractions, colours, or more than one channel.
        GeometryError, ResourceError: as `read_image`.
    """
    reader = _reader(path)
    with _opening(path):
        image = reader.read(path, as_label=True)
    channels = image.array.shape[0]
    if channels != 1:
        raise DataError(
            f"{path}: its {channels} channels differ; wanted one whole number per pixel, so save a grey or palette "
            "picture, or one volume, with one number for each class",
            code="E-IMG-07",
        )
    return _whole_numbers(path, image.array[0]), image.geometry


def write_label_map(path: Path, label_map: Integer[np.ndarray, "*spatial"], geometry: ImageGeometry) -> None:
    """Write a label map on the grid it belongs to, in the smallest type that holds its values.

    The suffix of `path` decides the file type (`label_file_name` gives the fitting one). A NIfTI repeats the
    geometry fields of the source's header bit by bit; equal input gives equal bytes.

    Raises:
        DataError: another size than the grid's, or values the file type cannot hold.
    """
    low, high = (int(label_map.min()), int(label_map.max())) if label_map.size else (0, 0)
    _write(path, label_map.astype(_smallest_type(path, low, high), copy=False)[None], geometry)


def write_scalar_map(
    path: Path,
    values: Float[np.ndarray, "*spatial"] | Float[np.ndarray, "channel *spatial"],
    geometry: ImageGeometry,
) -> None:
    """Write a map of numbers (or k of them, stacked first) as float32: NIfTI, or TIFF for pictures.

    Raises:
        DataError: another size than the grid's, or a file type that cannot hold the array.
    """
    stacked = values[None] if values.ndim == len(geometry.shape) else values
    _write(path, stacked.astype(np.float32, copy=False), geometry)


def read_scalar_map(path: Path, *, dimensions: int) -> Num[np.ndarray, "map *spatial"]:
    """What `write_scalar_map` wrote: one map, or one a class.

    Args:
        dimensions: spatial axes of the maps; a TIFF of several pictures is told from a volume only by it.

    Raises:
        DataError: as `read_image`.
    """
    array = read_image(path).array
    stack: np.ndarray = array[0] if array.ndim == dimensions + 2 else array
    return stack


def label_file_name(case_id: str, geometry: ImageGeometry) -> str:
    """The name of an image's label map: `.nii.gz`, `.png` for a picture, or `.tiff` for a stack of them."""
    if geometry.file_type == "nifti":
        return f"{case_id}.nii.gz"
    return f"{case_id}.png" if len(geometry.shape) == 2 else f"{case_id}.tiff"


def scalar_file_name(case_id: str, geometry: ImageGeometry) -> str:
    """The name of a map of numbers that goes with an image: `.nii.gz`, or `.tiff` for pictures."""
    return f"{case_id}.nii.gz" if geometry.file_type == "nifti" else f"{case_id}.tiff"


def _reader(path: Path) -> Reader:
    suffix = image_suffix(path)
    if suffix is None:
        raise DataError(
            f"{path}: not an image type that is read; wanted {', '.join(SUFFIXES)}, so convert it",
            code="E-IMG-01",
        )
    return READERS[suffix]


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path, or the table that names it", code="E-IMG-02") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions and the disk",
            code="E-IMG-02",
        ) from None


def _whole_numbers(path: Path, array: Shaped[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "*spatial"]:
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    with np.errstate(invalid="ignore"):
        whole = np.rint(array)
        wrong = ~(np.abs(array - whole) <= LABEL_TOLERANCE)  # NaN is wrong too
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{path}: label map holds {float(array[where]):.4g} at index {where}, and {int(wrong.sum())} such values "
            "in all; labels must be whole numbers within 0.01, so threshold probabilities, and resample labels "
            "with nearest-neighbour interpolation",
            code="E-IMG-07",
        )
    low, high = float(whole.min()), float(whole.max())
    if max(-low, high) >= 2**53:
        raise DataError(
            f"{path}: label map holds {low:g} to {high:g}; wanted small whole numbers, so check what is stored in it",
            code="E-IMG-07",
        )
    return np.asarray(whole, dtype=_smallest_type(path, int(low), int(high)))


def _smallest_type(path: Path, low: int, high: int) -> np.dtype[np.generic]:
    for name in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"):
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return np.dtype(name)
    raise DataError(
        f"{path}: label map holds {low} and {high}, which no integer type does; number its classes from 0",
        code="E-IMG-07",
    )


def _write(path: Path, array: Shaped[np.ndarray, "channel *spatial"], geometry: ImageGeometry) -> None:
    reader = _reader(path)
    if array.shape[1:] != geometry.shape:
        raise DataError(
            f"{path}: array is {' x '.join(map(str, array.shape[1:]))} but its grid is "
            f"{' x '.join(map(str, geometry.shape))}; restore it to the source's grid before writing",
            code="E-IMG-08",
        )
    reader.write(path, array, geometry)
