"""Read and write pictures: PNG, JPEG and TIFF, grey, palette or RGB; no spacing is known of them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image

from scantling.data.image import FileType, ImageGeometry, MedicalImage, not_finite_note, picture_geometry
from scantling.data.inflate import blaming, damaged
from scantling.data.raster_structure import (
    JPEG_MAGIC,
    PNG_MAGIC,
    PictureSize,
    check_jpeg,
    check_png,
    png_size,
    require_size,
)
from scantling.data.tiff import MAGICS as TIFF_MAGICS
from scantling.data.tiff import read_tiff, tiff_shape
from scantling.errors import DataError
from scantling.files import write_atomic

_SUFFIX_TYPES: Final[dict[str, FileType]] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff",
                                             ".tiff": "tiff"}  # fmt: skip


def read_geometry(path: Path) -> ImageGeometry:
    """The size of the picture, from its checked structure; pixels are not decoded.

    Raises:
        DataError: no picture, damage in its structure, or a false size claim.
    """
    content = path.read_bytes()
    kind = _kind(path, content)
    if kind == "tiff":
        return picture_geometry(tiff_shape(path, content), kind)
    if kind == "png":
        size = png_size(path, content)
        require_size(path, size, stored=len(content))
    else:
        size = check_jpeg(path, content)
    return picture_geometry((size.height, size.width), kind)


def read(path: Path, *, as_label: bool = False) -> MedicalImage:
    """All pixels: one channel for grey, three for colour; a colour picture with equal channels is grey.

    Transparency is left out. Packed samples of 1, 2 or 4 bits keep their stored values.

    Args:
        as_label: a palette picture gives its indices instead of its colours.

    Raises:
        DataError: damage, a false size claim, a kind of picture that is not read; a label map as JPEG.
        ResourceError: the pixels do not fit into memory.
    """
    content = path.read_bytes()
    kind = _kind(path, content)
    if kind == "tiff":
        array, notes = read_tiff(path, content, as_label=as_label)
    elif kind == "png":
        array, notes = _read_png(path, content, check_png(path, content), as_label=as_label)
    else:
        if as_label:
            raise DataError(
                f"{path}: a JPEG, whose compression changes label values; wanted a label map without "
                "loss, so export it as PNG",
                code="E-IMG-06",
            )
        array, notes = _read_jpeg(path, content, check_jpeg(path, content))
    if len(array) == 3 and (array[0] == array[1]).all() and (array[0] == array[2]).all():
        array = array[:1]
        notes.append("its three colour channels are equal; it is read as one grey channel")
    if kind != _SUFFIX_TYPES.get(path.suffix.lower()):
        notes.append(f"it is a {kind.upper()} although its name ends in {path.suffix}")
    notes += not_finite_note(array)
    array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")  # Pillow lends read-only memory
    return MedicalImage(array=array, geometry=picture_geometry(array.shape[1:], kind), notes=tuple(notes))


def write(path: Path, array: Shaped[np.ndarray, "channel *spatial"], geometry: ImageGeometry) -> None:
    """Write one channel of uint8 or uint16 as PNG, or anything as (multi-page) TIFF, atomically.

    Pictures hold no geometry, so that of `geometry` is lost except for the size.

    Raises:
        DataError: values, axes or a file type that cannot hold the array without loss.
    """
    kind = _SUFFIX_TYPES[path.suffix.lower()]
    if kind == "jpeg":
        raise DataError(
            f"{path}: JPEG changes the values written to it; choose a name ending in .png or .tiff",
            code="E-IMG-08",
        )
    if kind == "png" and (array.shape[0] != 1 or array.ndim != 3 or array.dtype not in (np.uint8, np.uint16)):
        raise DataError(
            f"{path}: PNG holds one picture of whole numbers from 0 to 65535, got {array.dtype} of size "
            f"{' x '.join(map(str, array.shape))}; choose a name ending in .tiff or .nii.gz",
            code="E-IMG-08",
        )
    if kind == "tiff" and array.shape[0] != 1 and array.ndim != 3:
        raise DataError(
            f"{path}: TIFF holds one volume, got {array.shape[0]}; choose a name ending in .nii.gz",
            code="E-IMG-08",
        )

    def write_to(stream: BinaryIO) -> None:
        if kind == "png":
            Image.fromarray(np.ascontiguousarray(array[0])).save(stream, format="PNG")
            return
        pages = array[0] if len(array) == 1 else array
        tifffile.imwrite(stream, pages, photometric="minisblack", metadata=None, software=False, compression="zlib")

    write_atomic(path, write_to)


def _kind(path: Path, content: bytes) -> FileType:
    if content.startswith(PNG_MAGIC):
        return "png"
    if content.startswith(JPEG_MAGIC):
        return "jpeg"
    if content[:4] in TIFF_MAGICS:
        return "tiff"
    raise DataError(
        f"{path}: not a PNG, JPEG or TIFF (it starts with {content[:8]!r}); convert it, or give it the right suffix",
        code="E-IMG-01",
    )


def _read_png(
    path: Path, content: bytes, size: PictureSize, *, as_label: bool
) -> tuple[Shaped[np.ndarray, "channel row column"], list[str]]:
    notes = []
    if size.depth == 16 and size.samples > 1:
        if as_label:
            raise DataError(
                f"{path}: a colour label map of 16 bits; wanted one number per pixel, so save it as "
                "grey or palette PNG",
                code="E-IMG-07",
            )
        notes.append("its colours have 16 bits; the upper 8 are read")
    mode, pixels = _decode(path, content, "PNG", palette_as_index=as_label)
    if mode == "1":
        pixels = pixels.astype(np.uint8)
    elif mode == "L" and size.samples == 1 and size.depth in (2, 4):
        pixels = pixels // (255 // (2**size.depth - 1))  # Pillow spreads packed grey over 0..255
    return _channel_first(path, mode, pixels, size, notes), notes


def _read_jpeg(
    path: Path, content: bytes, size: PictureSize
) -> tuple[Shaped[np.ndarray, "channel row column"], list[str]]:
    notes: list[str] = []
    mode, pixels = _decode(path, content, "JPEG", palette_as_index=False)
    return _channel_first(path, mode, pixels, size, notes), notes


def _decode(
    path: Path, content: bytes, name: str, *, palette_as_index: bool
) -> tuple[str, Shaped[np.ndarray, "row column ..."]]:
    with (
        blaming(path, f"the {name} cannot be decoded"),
        Image.open(BytesIO(content), formats=[name]) as picture,
    ):
        if picture.mode == "P" and not palette_as_index:
            converted = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
            return converted.mode, np.asarray(converted)
        return picture.mode, np.asarray(picture)


def _channel_first(
    path: Path, mode: str, pixels: Shaped[np.ndarray, "row column ..."], size: PictureSize, notes: list[str]
) -> Shaped[np.ndarray, "channel row column"]:
    if mode not in ("1", "L", "LA", "P", "I;16", "I", "RGB", "RGBA"):
        raise DataError(
            f"{path}: its colours are stored as {mode}; wanted grey, RGB or a palette, so convert it",
            code="E-IMG-06",
        )
    if pixels.shape[:2] != (size.height, size.width):
        raise damaged(path, f"decoded to {pixels.shape[:2]} of {(size.height, size.width)} pixels")
    if mode == "I":  # older Pillow reads 16-bit grey into 32 bits
        pixels = pixels.astype(np.uint16)
    if pixels.ndim == 2:
        return pixels[None]
    if mode in ("LA", "RGBA"):
        notes.append("its transparency channel is left out")
        pixels = pixels[..., :-1]
    return np.moveaxis(pixels, -1, 0)
