"""Decompress and decode no more than a header promised, and believe no promise a file cannot keep."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import psutil

from scantling.errors import DataError, ResourceError, ScantlingError

PIECE: Final = 1 << 20
GZIP_MAGIC: Final = b"\x1f\x8b"
DEFLATE_LIMIT: Final = 1032
"""Deflate spends at least 1 bit on a length and 1 on a distance for 258 bytes (zlib, "Technical Details")."""


def damaged(path: Path, what: str) -> DataError:
    """The error for a file whose bytes are not those that were written."""
    return DataError(f"{path}: the file is damaged ({what}); copy or export it again", code="E-IMG-03")


@contextmanager
def blaming(path: Path, what: str) -> Iterator[None]:
    """Within the block, whatever a decoder raises is an error of the file.

    Raises:
        DataError: the decoder gave up, in whatever way.
    """
    try:
        yield
    except ScantlingError:
        raise
    except Exception as error:  # decoders raise whatever damaged bytes provoke
        raise damaged(path, f"{what}: {error or type(error).__name__}") from error


def refuse_false_claim(
    path: Path, *, claimed: int, stored: int, limit: int = DEFLATE_LIMIT, bomb_bytes: int, bomb_ratio: int
) -> None:
    """Refuse a decoded size that the stored bytes cannot hold, that only a bomb has, or that fits no memory.

    Args:
        claimed, stored: bytes after and before decoding.
        limit: the largest ratio of the two that the format allows.
        bomb_bytes, bomb_ratio: honest files are smaller than the first or packed less than the second.

    Raises:
        DataError: the claim is false, or it is a decompression bomb.
        ResourceError: the claim may be true, but memory does not suffice.
    """
    sizes = f"its header promises {_bytes(claimed)} of pixels, packed into {_bytes(stored)}"
    if claimed > limit * stored + PIECE // 16:
        raise DataError(f"{path}: {sizes}, which is impossible; the header is damaged or made up", code="E-IMG-05")
    if claimed > bomb_bytes and claimed > bomb_ratio * stored:
        raise DataError(
            f"{path}: {sizes}, which only a constant image or a decompression bomb does; if it is an honest one, "
            "store it in a smaller type (uint8) or crop it",
            code="E-IMG-05",
        )
    available = int(psutil.virtual_memory().available)
    if claimed > available:
        raise ResourceError(
            f"{path}: needs {_bytes(claimed)} of memory and {_bytes(available)} are free; crop or resample it",
            code="E-RES-02",
        )


def gunzip(path: Path, stream: BinaryIO, *, piece_bytes: int = PIECE) -> Iterator[bytes]:
    """Pieces of at most `piece_bytes` of a whole gzip stream; the checksum of each member is verified.

    Zeros after the last member count as padding, as in gzip itself.

    Raises:
        DataError: a wrong checksum or length, a stream cut short, anything else after the last member.
    """
    decoder = zlib.decompressobj(wbits=31)
    waiting = stream.read(piece_bytes)
    while True:
        try:
            piece = decoder.decompress(waiting, piece_bytes)
        except zlib.error as error:
            raise damaged(path, f"gzip stream: {error}") from None
        if piece:
            yield piece
        if decoder.eof:
            waiting = decoder.unused_data
            if len(waiting) < len(GZIP_MAGIC):
                waiting += stream.read(piece_bytes)
            if not waiting.startswith(GZIP_MAGIC):
                return _require_padding(path, waiting, stream)
            decoder = zlib.decompressobj(wbits=31)
            continue
        waiting = decoder.unconsumed_tail
        if not waiting and len(piece) < piece_bytes:
            waiting = stream.read(piece_bytes)
            if not waiting:
                raise damaged(path, "the gzip stream is cut short")


def require_zlib(path: Path, pieces: Iterable[bytes], *, least: int, most: int, what: str) -> None:
    """Inflate a zlib stream piece by piece, keeping nothing, and see that it gives `least` to `most` bytes.

    Raises:
        DataError: a wrong checksum, too few or too many bytes.
    """
    decoder = zlib.decompressobj()
    total = 0
    for piece in pieces:
        waiting = piece
        while True:
            try:
                got = len(decoder.decompress(waiting, PIECE))
            except zlib.error as error:
                raise damaged(path, f"{what}: {error}") from None
            total += got
            if total > most:
                raise damaged(path, f"{what} hold more than the {most} bytes the header promises")
            waiting = decoder.unconsumed_tail
            if decoder.eof or (not waiting and got < PIECE):
                break
    if not decoder.eof or total < least:
        raise damaged(path, f"{what} end after {total} of {least} bytes")


def _require_padding(path: Path, waiting: bytes, stream: BinaryIO) -> None:
    while waiting:
        if waiting.strip(b"\0"):
            raise damaged(path, "other bytes follow the gzip stream")
        waiting = stream.read(PIECE)


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
