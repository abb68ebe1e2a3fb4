"""Is a PNG or JPEG whole, and how much memory will it take? Asked before any decoder sees the file."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scantling.data.inflate import damaged, refuse_false_claim, require_zlib
from scantling.errors import DataError

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC: Final = b"\xff\xd8\xff"
PIXEL_LIMIT: Final = 89_000_000  # Pillow warns of bombs above 89,478,485
BOMB_BYTES: Final = 128_000_000
BOMB_RATIO: Final = 400

_PNG_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7: Final = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_NEXT_MARKER: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


@dataclass(frozen=True, kw_only=True)
class PictureSize:
    """What the header of a picture says.

    Attributes:
        depth: bits of one sample.
        samples: per pixel, as stored; a palette index is one.
    """

    height: int
    width: int
    depth: int
    samples: int


def require_size(path: Path, size: PictureSize, *, stored: int) -> None:
    """Refuse a picture without pixels, with more than 89 million, or with a claim the file cannot keep.

    Raises:
        DataError: as above.
        ResourceError: it does not fit into memory.
    """
    pixels = size.height * size.width
    if pixels == 0:
        raise damaged(path, f"its header gives {size.height} x {size.width} pixels")
    claimed = pixels * size.samples * max(1, size.depth // 8)
    # packed samples of 1 bit take 8 in memory, so the limit of deflate is 8 times higher for them
    refuse_false_claim(
        path, claimed=claimed, stored=stored, limit=1032 * 8, bomb_bytes=BOMB_BYTES, bomb_ratio=BOMB_RATIO
    )
    if pixels > PIXEL_LIMIT:
        raise DataError(
            f"{path}: {size.height} x {size.width} are more than {PIXEL_LIMIT // 10**6} million pixels; crop it, "
            "or store it at a lower resolution",
            code="E-IMG-05",
        )


def png_size(path: Path, content: bytes) -> PictureSize:
    """The picture's size from the verified first chunk of a PNG.

    Raises:
        DataError: the chunk is damaged, or its claim is false.
    """
    kind, body = next(_png_chunks(path, content))
    if kind != b"IHDR" or len(body) != 13:
        raise damaged(path, "no IHDR chunk at its start")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    if depth not in _PNG_DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise damaged(path, "its IHDR chunk describes no PNG")
    return PictureSize(height=height, width=width, depth=depth, samples=_PNG_SAMPLES[colour])


def check_png(path: Path, content: bytes) -> PictureSize:
    """The size of a PNG whose every checksum is right and whose pixels are all there.

    Raises:
        DataError: a wrong checksum, too few or too many pixels, no end, or several frames.
    """
    size = png_size(path, content)
    require_size(path, size, stored=len(content))
    interlaced = content[28] == 1
    idat: list[bytes] = []
    for kind, body in _png_chunks(path, content):
        if kind == b"IDAT":
            idat.append(body)
        elif kind == b"acTL":
            raise DataError(f"{path}: an animated PNG; wanted one picture, so save one file a frame", code="E-IMG-06")
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for x, y, dx, dy in passes:
        columns, rows = -(-(size.width - x) // dx), -(-(size.height - y) // dy)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * size.samples * size.depth // 8))
    require_zlib(path, idat, least=expected, most=expected, what="its pixels")
    return size


def check_jpeg(path: Path, content: bytes) -> PictureSize:
    """The size of a JPEG whose segments lead to its end marker; damage inside its pixels leaves no trace.

    Raises:
        DataError: no frame, a segment that leaves the file, the end marker is missing, a false size claim.
    """
    size: PictureSize | None = None
    for marker, body in _jpeg_segments(path, content):
        if marker in _JPEG_FRAMES and size is None:
            if len(body) < 6:
                raise damaged(path, "its frame header is cut short")
            depth, height, width, samples = struct.unpack_from(">BHHB", body)
            size = PictureSize(height=height, width=width, depth=depth, samples=samples)
            require_size(path, size, stored=len(content))
    if size is None:
        raise damaged(path, "it has no frame header")
    return size


def _png_chunks(path: Path, content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and body of each chunk up to IEND, CRC verified; what follows it is no part of the picture."""
    position, kind = len(PNG_MAGIC), b""
    while kind != b"IEND":
        if position + 12 > len(content):
            raise damaged(path, "the PNG is cut short")
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            raise damaged(path, "the PNG is cut short")
        body = content[position + 8 : end - 4]
        if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(content[end - 4 : end], "big"):
            raise damaged(path, f"the checksum of its chunk {kind.decode('ascii', 'replace')} is wrong")
        yield kind, body
        position = end


def _jpeg_segments(path: Path, content: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment up to the end marker; compressed pixels are stepped over."""
    position = 2
    while True:
        found = _JPEG_NEXT_MARKER.search(content, position)
        if found is None:
            raise damaged(path, "the JPEG is cut short")
        marker, position = content[found.end() - 1], found.end()
        if marker == 0xD9:
            return
        if position + 2 > len(content):
            raise damaged(path, "the JPEG is cut short")
        end = position + int.from_bytes(content[position : position + 2], "big")
        if end > len(content):
            raise damaged(path, "the JPEG is cut short")
        yield marker, content[position + 2 : end]
        position = max(end, position + 2)
