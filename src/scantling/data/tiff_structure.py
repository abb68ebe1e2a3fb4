"""Is a TIFF whole? Its directories, tags, strips and tiles must lie inside it and hold what they claim."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, Final

from scantling.data.inflate import damaged, require_zlib
from scantling.errors import DataError

LARGEST_PAGE_COUNT: Final = 20_000
_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
                      16: 8, 17: 8, 18: 8}  # fmt: skip
_UNCOMPRESSED: Final = 1
_DEFLATE: Final = (8, 32946)


def count_directories(path: Path, content: bytes) -> int:
    """The number of image directories, each of whose tags was found to lie inside the file.

    Raises:
        DataError: a directory or a tag's value lies outside the file, directories run in a circle, there are
            none or more than 20,000.
    """
    order = "<" if content[:2] == b"II" else ">"
    try:
        (version,) = struct.unpack_from(order + "H", content, 2)
        is_big = version == 43
        offset_format = order + ("Q" if is_big else "I")
        (position,) = struct.unpack_from(offset_format, content, 8 if is_big else 4)
        seen: set[int] = set()
        while position:
            if position in seen or len(seen) >= LARGEST_PAGE_COUNT:
                raise damaged(path, "its directories run in a circle, or are too many")
            seen.add(position)
            position = _next_directory(path, content, position, order, offset_format, is_big=is_big)
    except struct.error:
        raise damaged(path, "the TIFF is cut short") from None
    if not seen:
        raise damaged(path, "the TIFF holds no image")
    return len(seen)


def require_chunks(path: Path, content: bytes, page: Any) -> None:
    """Refuse a page (of tifffile) whose strips or tiles are missing, outside the file, too short or too long.

    Strips packed by other methods than Deflate are only found to lie inside the file.

    Raises:
        DataError: as above.
    """
    sizes = _chunk_sizes(path, page)
    offsets, counts = tuple(page.dataoffsets), tuple(page.databytecounts)
    if not len(offsets) == len(counts) == len(sizes):
        raise damaged(path, f"it lists {len(offsets)} strips or tiles of {len(sizes)}")
    for offset, count, (least, most) in zip(offsets, counts, sizes, strict=True):
        if offset <= 0 or count <= 0 or offset + count > len(content):
            raise damaged(path, "a strip or tile lies outside the file; it is cut short")
        if page.compression == _UNCOMPRESSED and count < least:
            raise damaged(path, f"a strip or tile has {count} of {least} bytes")
        if page.compression in _DEFLATE:
            require_zlib(path, [content[offset : offset + count]], least=least, most=most, what="its strips")


def _next_directory(path: Path, content: bytes, position: int, order: str, offset_format: str, *, is_big: bool) -> int:
    entry_bytes, inline_bytes = (20, 8) if is_big else (12, 4)
    count_format = order + ("Q" if is_big else "H")
    (n_entries,) = struct.unpack_from(count_format, content, position)
    position += struct.calcsize(count_format)
    if position + n_entries * entry_bytes > len(content):
        raise damaged(path, "the TIFF is cut short inside a directory")
    for entry in range(position, position + n_entries * entry_bytes, entry_bytes):
        (kind,) = struct.unpack_from(order + "H", content, entry + 2)
        (n_values,) = struct.unpack_from(offset_format, content, entry + 4)
        value_bytes = n_values * _TYPE_BYTES.get(kind, 1)
        if value_bytes > inline_bytes:
            (offset,) = struct.unpack_from(offset_format, content, entry + entry_bytes - inline_bytes)
            if offset + value_bytes > len(content):
                raise damaged(path, "a tag's value lies outside the TIFF; it is cut short")
    (following,) = struct.unpack_from(offset_format, content, position + n_entries * entry_bytes)
    return int(following)


def _chunk_sizes(path: Path, page: Any) -> list[tuple[int, int]]:
    """Least and most bytes of each strip or tile once it is unpacked; a last strip may be full or not."""
    if not isinstance(page.bitspersample, int):
        raise DataError(
            f"{path}: its channels have different bit depths; wanted one, so export it as 8 or 16 bit",
            code="E-IMG-06",
        )
    separate, depth, height, width, samples = (int(n) for n in page.shaped)
    if page.is_tiled:
        across, down, deep = (max(1, int(n)) for n in (page.tilewidth, page.tilelength, page.tiledepth))
        tiles = separate * -(-depth // deep) * -(-height // down) * -(-width // across)
        size = deep * down * -(-across * samples * page.bitspersample // 8)
        return [(size, size)] * tiles if tiles <= len(page.dataoffsets) else [(0, 0)] * (len(page.dataoffsets) + 1)
    row = -(-width * samples * page.bitspersample // 8)
    rows = min(max(1, int(page.rowsperstrip)), height)
    if separate * depth * math.ceil(height / rows) > len(page.dataoffsets):
        raise damaged(path, "it lists too few strips")
    plane = [(min(rows, height - top) * row, rows * row) for top in range(0, height, rows)]
    return plane * (separate * depth)
