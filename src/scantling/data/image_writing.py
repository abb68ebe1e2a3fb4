"""Write images, not label maps: every value, the stored type and the grid of the source survive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image

from scantling.data import nifti, raster
from scantling.data.image import ImageGeometry
from scantling.data.image_io import image_suffix
from scantling.errors import DataError
from scantling.files import write_atomic

_Array: TypeAlias = Shaped[np.ndarray, "channel *spatial"]
_NIFTI: Final = (".nii", ".nii.gz")
_TIFF: Final = (".tif", ".tiff")
_NIFTI_TYPES: Final = frozenset(f"{kind}{n}" for kind in "iu" for n in (1, 2, 4, 8)) | {"f4", "f8"}


def image_file_name(stem: str, channels: Sequence[Shaped[np.ndarray, "*spatial"]], geometry: ImageGeometry) -> str:
    """The name of a file that keeps an image: of the source's own type where that loses nothing.

    A JPEG, which changes what is written to it, becomes PNG, and what PNG cannot hold becomes TIFF.
    """
    if geometry.file_type == "nifti":
        return f"{stem}.nii.gz"
    return f"{stem}.png" if geometry.file_type != "tiff" and _fits_png(np.stack(channels)) else f"{stem}.tiff"


def write_image(path: Path, channels: Sequence[Shaped[np.ndarray, "*spatial"]], geometry: ImageGeometry) -> None:
    """Write an image atomically; `read_image` gives the same channels in the same type on the same grid.

    A NIfTI repeats the geometry fields of the source's header bit by bit and nothing else of it. Equal input gives
    equal bytes. The one exception: three channels of a picture that are all equal are read as one.

    Args:
        channels: of one stored type, each with the shape of `geometry`. Three channels of bytes of a picture are
            its colours.

    Raises:
        DataError: another size than the grid's, channels of different types, or a file type that cannot hold them.
        ResourceError: the disk is full.
    """
    if len({channel.dtype for channel in channels}) != 1 or any(c.shape != geometry.shape for c in channels):
        given = ", ".join(f"{c.dtype} {' x '.join(map(str, c.shape))}" for c in channels)
        raise DataError(
            f"{path}: channels are [{given}]; wanted one type, each of {' x '.join(map(str, geometry.shape))} as the "
            "source has",
            code="E-IMG-08",
        )
    array = np.stack(channels)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    suffix = image_suffix(path)
    if suffix in _NIFTI and array.dtype.str[1:] in _NIFTI_TYPES:
        nifti.write(path, array, geometry)
    elif suffix == ".png" and _fits_png(array):
        _write_picture(path, array) if len(array) == 3 else raster.write(path, array, geometry)
    elif suffix in _TIFF and (array.ndim == 3 or len(array) == 1):
        _write_tiff(path, array)
    else:
        raise DataError(
            f"{path}: cannot hold {len(array)} channels of {array.dtype}, {' x '.join(map(str, array.shape[1:]))}; "
            f"choose the name that `image_file_name` gives",
            code="E-IMG-08",
        )


def _fits_png(array: _Array) -> bool:
    """PNG as it is read here: grey of one or two bytes, or colours of one."""
    return array.ndim == 3 and (
        (len(array) == 1 and array.dtype in (np.uint8, np.uint16)) or (len(array) == 3 and array.dtype == np.uint8)
    )


def _write_picture(path: Path, array: Shaped[np.ndarray, "3 y x"]) -> None:
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(array, 0, -1)))
    write_atomic(path, lambda stream: picture.save(stream, format="PNG"))


def _write_tiff(path: Path, array: _Array) -> None:
    """Channels as samples of one picture, not as pages, which are read as slices."""
    colours = len(array) == 3 and array.dtype == np.uint8
    pixels = np.ascontiguousarray(np.moveaxis(array, 0, -1)) if len(array) > 1 else array[0]

    def write_to(stream: BinaryIO) -> None:
        tifffile.imwrite(
            stream, pixels, photometric="rgb" if colours else "minisblack", metadata=None, software=False,
            planarconfig="contig" if len(array) > 1 else None, compression="zlib",
        )  # fmt: skip

    write_atomic(path, write_to)
