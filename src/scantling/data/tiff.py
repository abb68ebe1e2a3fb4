"""Read TIFF pictures and stacks through tifffile, after their structure has been found whole."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image

from scantling.data.inflate import blaming, damaged, refuse_false_claim
from scantling.data.raster_structure import BOMB_BYTES, BOMB_RATIO
from scantling.data.tiff_structure import count_directories, require_chunks
from scantling.errors import DataError

MAGICS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LARGEST_CHANNEL_COUNT: Final = 8
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
tifffile.logger().addHandler(logging.NullHandler())  # what it complains of is refused or harmless
_JPEG_METHODS: Final = (6, 7, 33007)
_ALPHA: Final = ((1,), (2,))  # last of the extra samples


def tiff_shape(path: Path, content: bytes) -> tuple[int, ...]:
    """`(y, x)` of a picture or `(z, y, x)` of a stack; nothing is decoded.

    Raises:
        DataError: damage, a false size claim, pages that are no stack.
    """
    with _checked_pages(path, content) as pages:
        return _spatial_shape(pages)


def read_tiff(
    path: Path, content: bytes, *, as_label: bool
) -> tuple[Shaped[np.ndarray, "channel *spatial"], list[str]]:
    """Channel-first pixels and notes; pages of equal size are the slices of one volume.

    Args:
        as_label: a palette picture gives its indices instead of its colours.

    Raises:
        DataError: damage, a false size claim, pages that are no stack, colours that are neither grey, RGB nor
            a palette, a compression no decoder is installed for.
        ResourceError: the pixels do not fit into memory.
    """
    with _checked_pages(path, content) as pages:
        notes: list[str] = []
        for page in pages:
            require_chunks(path, content, page)
        slices = [_decode(path, content, page) for page in pages]
        array = np.concatenate(slices, axis=1) if len(slices) > 1 else slices[0]
        array = _coloured(array, pages[0], as_label=as_label, notes=notes)
        if array.shape[1] == 1:
            return array[:, 0], notes
        notes.append(f"its {array.shape[1]} pages are read as slices of one volume of unknown spacing")
        return array, notes


@contextmanager
def _checked_pages(path: Path, content: bytes) -> Iterator[list[Any]]:
    """The pages at full resolution, found to fit together, into memory and into the formats we read."""
    n_directories = count_directories(path, content)
    with blaming(path, "the TIFF cannot be read"), tifffile.TiffFile(BytesIO(content)) as tif:
        if len(tif.pages) != n_directories:
            raise damaged(path, f"only {len(tif.pages)} of its {n_directories} pages can be read")
        all_pages: list[Any] = list(tif.pages)
        pages = [page for page in all_pages if not (page.is_reduced or page.is_mask)]
        if not pages:
            raise damaged(path, "it holds only thumbnails")
        for page in pages:
            _require_readable(path, page)
        if len({(page.shaped, page.dtype, page.photometric) for page in pages}) > 1:
            raise DataError(
                f"{path}: its {len(pages)} pages differ in size or type; wanted one picture, or the "
                "slices of one volume, so save them apart",
                code="E-IMG-06",
            )
        if len(pages) > 1 and pages[0].samplesperpixel > 1:
            raise DataError(
                f"{path}: a stack of {len(pages)} colour pictures; wanted one picture or a grey stack, "
                "so save them apart",
                code="E-IMG-06",
            )
        claimed = sum(math.prod(map(int, page.shaped)) * int(page.dtype.itemsize) for page in pages)
        refuse_false_claim(
            path,
            claimed=claimed,
            stored=len(content),
            limit=1032 * 8,
            bomb_bytes=BOMB_BYTES,
            bomb_ratio=BOMB_RATIO,
        )
        if (tif.is_imagej or tif.is_shaped) and tif.series[0].size > sum(math.prod(page.shaped) for page in pages):
            raise DataError(
                f"{path}: it keeps {tif.series[0].shape} pixels behind one directory, which only its "
                "own program reads whole; export it as an ordinary multi-page TIFF",
                code="E-IMG-06",
            )
        yield pages


def _require_readable(path: Path, page: Any) -> None:
    if page.dtype is None or page.dtype.kind not in "uifb" or page.dtype.itemsize > 8:
        raise DataError(
            f"{path}: its samples are of a type that is not read ({page.bitspersample} bits, format "
            f"{page.sampleformat}); export it as 8, 16 or 32 bit",
            code="E-IMG-06",
        )
    is_jpeg = page.compression in _JPEG_METHODS and page.photometric == _YCBCR  # becomes RGB as it is unpacked
    if not is_jpeg and page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE):
        raise DataError(
            f"{path}: its colours are stored as {_name(page.photometric)}; wanted grey, RGB or a "
            "palette, so convert it",
            code="E-IMG-06",
        )
    if page.samplesperpixel > LARGEST_CHANNEL_COUNT:
        raise DataError(
            f"{path}: it has {page.samplesperpixel} channels; wanted at most {LARGEST_CHANNEL_COUNT}, so "
            "keep the ones that matter",
            code="E-IMG-06",
        )
    if min(page.shaped) < 1:
        raise damaged(path, f"its header gives the size {page.shape}")


def _spatial_shape(pages: list[Any]) -> tuple[int, ...]:
    _, depth, height, width, _ = (int(n) for n in pages[0].shaped)
    slices = depth * len(pages)
    return (height, width) if slices == 1 else (slices, height, width)


def _decode(path: Path, content: bytes, page: Any) -> Shaped[np.ndarray, "channel slice row column"]:
    """One page; by Pillow (libtiff) where tifffile lacks the decoder."""
    pixels: Shaped[np.ndarray, "..."]
    try:
        pixels = page.asarray(maxworkers=1).reshape(page.shaped)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        pixels = _decode_by_pillow(path, content, page)
    separate, depth, height, width, samples = pixels.shape
    return np.moveaxis(pixels, -1, 1).reshape(separate * samples, depth, height, width)


def _decode_by_pillow(path: Path, content: bytes, page: Any) -> Shaped[np.ndarray, "separate slice row column sample"]:
    try:
        with Image.open(BytesIO(content), formats=["TIFF"]) as picture:
            picture.seek(page.index)
            pixels = np.asarray(picture)
        if pixels.size != math.prod(page.shaped) or pixels.dtype != page.dtype:
            raise ValueError("other pixels than its header promises")
        return pixels.reshape(page.shaped)
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        raise DataError(
            f"{path}: its pixels are packed by {_name(page.compression)} and cannot be unpacked here ({error}); save "
            "it without compression or with Deflate, or 'pip install imagecodecs'",
            code="E-IMG-06",
        ) from None


def _coloured(
    array: Shaped[np.ndarray, "channel slice row column"], page: Any, *, as_label: bool, notes: list[str]
) -> Shaped[np.ndarray, "kept slice row column"]:
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    colours = 3 if page.photometric in (_RGB, _YCBCR) else 1
    if len(array) > colours and (colours == 3 or page.extrasamples[-1:] in _ALPHA):
        kept = colours if colours == 3 else len(array) - 1
        notes.append(f"{len(array) - kept} of its {len(array)} channels are transparency and left out")
        array = array[:kept]
    if page.photometric == _PALETTE and not as_label:
        return np.asarray(page.colormap >> 8).astype(np.uint8)[:, array[0]]
    if page.photometric == _WHITE_IS_ZERO:
        notes.append("its header says that 0 is white; the stored values are kept")
    return array


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
