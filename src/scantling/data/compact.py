"""Integer arrays compressed in small blocks, of which a box is decompressed when it is asked for.

lz4 after a shuffle of bits (the optional package blosc2, extra `compact`): of an image about 0.4 of its int16
bytes remain, and a patch is read in a few milliseconds. The package is imported when the first such array is
written or read, and not before.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, Final, final

import numpy as np
from jaxtyping import Shaped

from scantling.errors import ConfigError, IntegrityError

SUFFIX: Final = ".b2nd"
BOX: Final = (16, 32, 32)
"""A block of a volume that is read in boxes: 32 KiB of int16, and flat, for volumes of few slices."""
SQUARE: Final = 128
"""Edge of a block of pictures, and of volumes that are read in slices."""
_CHUNK: Final = 128
"""About the edge of a chunk, the unit that is written at a time; a chunk holds whole blocks."""
_LEVEL: Final = 5

Index = Any  # whatever an ndarray takes
Basic = int | np.integer | slice | EllipsisType


def is_available() -> bool:
    """Whether compact arrays can be written and read here."""
    return importlib.util.find_spec("blosc2") is not None


def write_compact(path: Path, array: Shaped[np.ndarray, "..."], *, by_slice: bool) -> None:
    """Write an array of at least two axes, the last ones spatial.

    Args:
        by_slice: what is read is flat: pictures, or slices of the last two axes of a volume.

    Raises:
        ConfigError: the package is missing.
        OSError: the disk is full.
    """
    blosc2 = _blosc2(path)
    blocks = block_shape(array.shape, by_slice=by_slice)
    settings = {"codec": blosc2.Codec.LZ4, "clevel": _LEVEL, "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": 1}
    stored = blosc2.asarray(
        np.ascontiguousarray(array), chunks=chunk_shape(array.shape, blocks), blocks=blocks, cparams=settings
    )
    path.write_bytes(stored.to_cframe())  # by Python, so that a full disk is an OSError that says so


def block_shape(shape: Sequence[int], *, by_slice: bool) -> tuple[int, ...]:
    """What is decompressed at a time: a box of the last three axes, or a square of the last two."""
    edges = (SQUARE,) * 2 if by_slice or len(shape) < 3 else BOX
    return tuple(min(n, edge) for n, edge in zip(shape, (1,) * (len(shape) - len(edges)) + edges, strict=True))


def chunk_shape(shape: Sequence[int], blocks: Sequence[int]) -> tuple[int, ...]:
    """Chunks of whole blocks that divide each axis evenly, so that little of them lies outside the array."""
    pieces = [max(1, round(n / _CHUNK)) for n in shape]
    return tuple(math.ceil(n / piece / block) * block for n, piece, block in zip(shape, pieces, blocks, strict=True))


@final
class CompactArray:
    """A compressed array on disk that is indexed like an ndarray.

    Ints, slices and `...` decompress the blocks they touch and give an ndarray; any other index, and
    `numpy.asarray`, decompress everything. The file is open for as long as the object lives.

    Raises:
        ConfigError: the package is missing.
        IntegrityError: on opening or reading, what is there cannot be decompressed.
    """

    def __init__(self, path: Path) -> None:
        blosc2 = _blosc2(path)
        self.path = path
        try:
            self._stored: Any = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
        except RuntimeError as error:
            raise _damaged(path) from error
        self.shape: tuple[int, ...] = tuple(self._stored.shape)
        self.dtype: np.dtype[Any] = np.dtype(self._stored.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the decompressed array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{self.path.name}: a compressed array can only be seen as a copy")
        whole: np.ndarray = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getitem__(self, index: Index) -> Any:
        box = _as_box(index, self.shape)
        if box is None:
            return self[...][index]
        slices = tuple(slice(part, part + 1) if isinstance(part, int) else part for part in box)
        lengths = [part.stop - part.start for part in slices]
        if 0 in lengths:
            read = np.empty(lengths, dtype=self.dtype)
        else:
            try:
                read = np.asarray(self._stored[slices])
            except RuntimeError as error:
                raise _damaged(self.path) from error
        return read[tuple(0 if isinstance(part, int) else slice(None) for part in box)]

    def __repr__(self) -> str:
        return f"CompactArray({self.path.name}, shape={self.shape}, dtype={self.dtype})"


def _as_box(index: Index, shape: tuple[int, ...]) -> list[slice | int] | None:
    """An index as one slice with step 1 or one int >= 0 an axis; None where it is anything else.

    Raises:
        IndexError: an int is out of range, or there are more indices than axes.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, bool) or not isinstance(part, Basic) for part in parts):
        return None
    if Ellipsis not in parts:
        parts = (*parts, Ellipsis)
    at = parts.index(Ellipsis)
    full = (slice(None),) * (len(shape) - len(parts) + 1)
    parts = (*parts[:at], *full, *parts[at + 1 :])
    if len(parts) != len(shape):
        raise IndexError(f"{len(parts)} indices for an array of {len(shape)} axes")
    box: list[slice | int] = []
    for axis, (part, n) in enumerate(zip(parts, shape, strict=True)):
        if isinstance(part, slice):
            start, stop, step = part.indices(n)
            if step != 1:
                return None
            box.append(slice(start, max(start, stop)))
        elif not -n <= (position := int(part)) < n:
            raise IndexError(f"index {position} is out of range for axis {axis} of length {n}")
        else:
            box.append(position % n)
    return box


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path}: the file cannot be decompressed; it is damaged, so delete its folder and start again",
        code="E-CHK-01",
    )


def _blosc2(path: Path) -> Any:
    try:
        return importlib.import_module("blosc2")
    except ImportError:
        raise ConfigError(
            f"{path}: compressed arrays need the package blosc2; pip install 'scantling[compact]', or choose another "
            "cache folder (SCANTLING_CACHE)",
            code="E-CFG-33",
        ) from None
