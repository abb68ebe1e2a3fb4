"""How often each pair of classes meets, and where each class lies, in one pass over two label maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Int64, Integer

from scantling.data.case import IGNORE
from scantling.errors import DataError

Box = tuple[slice, ...]


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often reference class r (row) was predicted as class p (column), and where each class lies.

    Attributes:
        counts: pixels by reference class (row) and predicted class (column); ignored pixels are in none.
        n_ignored: pixels the reference labels IGNORE.
        boxes: for each class the smallest box around its prediction (ignored pixels included) and its
            reference together; None for a class that is in neither.
    """

    counts: Int64[np.ndarray, "klass klass"]
    n_ignored: int
    boxes: tuple[Box | None, ...]

    @property
    def true_positive(self) -> Int64[np.ndarray, "klass"]:
        """Pixels of each class in both."""
        return np.asarray(np.diagonal(self.counts))

    @property
    def false_positive(self) -> Int64[np.ndarray, "klass"]:
        """Pixels of each class in the prediction only."""
        return np.asarray(self.counts.sum(axis=0) - self.true_positive)

    @property
    def false_negative(self) -> Int64[np.ndarray, "klass"]:
        """Pixels of each class in the reference only."""
        return np.asarray(self.counts.sum(axis=1) - self.true_positive)


def confusion(
    prediction: Integer[np.ndarray, "*spatial"], reference: Integer[np.ndarray, "*spatial"], n_classes: int
) -> Confusion:
    """The confusion counts of two label maps of class indices, and the box of every class.

    Pixels that are IGNORE in the reference count nowhere. A negative prediction is no class, so it counts as
    background.

    Raises:
        DataError: a label map holds an index that is not one of `n_classes`.
    """
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    box = foreground_box(prediction, reference)
    if box is None:
        counts[0, 0] = reference.size
        return Confusion(counts=counts, n_ignored=0, boxes=(None,) * n_classes)
    inner_prediction, inner_reference = prediction[box], reference[box]
    _require_classes(inner_prediction, n_classes, "prediction")
    _require_classes(inner_reference, n_classes, "reference")
    pairs = _pair_codes(inner_prediction, inner_reference, n_classes)
    by_code = np.zeros((n_classes + 1) * n_classes, dtype=np.int64)
    for slab in _slabs(pairs):
        by_code += np.bincount(slab.ravel(), minlength=by_code.size)
    by_pair = by_code.reshape(n_classes + 1, n_classes)
    counts += by_pair[1:]
    counts[0, 0] += reference.size - inner_reference.size
    found = scipy.ndimage.find_objects(pairs, max_label=by_code.size - 1)
    boxes = [_class_box(found, k, n_classes, offset=box) for k in range(n_classes)]
    return Confusion(counts=counts, n_ignored=int(by_pair[0].sum()), boxes=tuple(boxes))


def foreground_box(first: Integer[np.ndarray, "*spatial"], second: Integer[np.ndarray, "*spatial"]) -> Box | None:
    """The smallest box that holds every pixel at which either label map is not 0; None if there is none."""
    if first.ndim < 3:
        rows = [
            np.flatnonzero((first | second).any(axis=tuple(a for a in range(first.ndim) if a != axis)))
            for axis in range(first.ndim)
        ]
        return tuple(slice(int(r[0]), int(r[-1]) + 1) for r in rows) if all(r.size for r in rows) else None
    occupied = np.zeros(first.shape[0], dtype=bool)
    projection = np.zeros(first.shape[1:], dtype=np.result_type(first, second))
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        either = one | other
        occupied[index] = np.bitwise_or.reduce(either, axis=0).any()
        projection |= either
    indices = np.flatnonzero(occupied)
    inner = foreground_box(projection, projection)
    return (slice(int(indices[0]), int(indices[-1]) + 1), *inner) if inner is not None else None


def _pair_codes(
    prediction: Integer[np.ndarray, "*spatial"], reference: Integer[np.ndarray, "*spatial"], n_classes: int
) -> Integer[np.ndarray, "*spatial"]:
    """(reference + 1) * n_classes + prediction: the first `n_classes` codes are the ignored pixels."""
    n_codes = (n_classes + 1) * n_classes
    dtype = np.uint8 if n_codes <= 256 else np.uint16 if n_codes <= 65536 else np.int64
    codes = np.empty(reference.shape, dtype=dtype)
    for slab, predicted, expected in zip(_slabs(codes), _slabs(prediction), _slabs(reference), strict=True):
        slab[...] = expected
        slab += 1  # IGNORE = -1 wraps to 0 in the unsigned types
        slab *= dtype(n_classes)
        slab += np.maximum(predicted, 0).astype(dtype)
    return codes


def _slabs(array: Integer[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "..."]:
    """What to loop over so that a step's work stays in the processor's cache: slices, or a picture."""
    return array if array.ndim > 2 else array[None]


def _require_classes(label_map: Integer[np.ndarray, "*spatial"], n_classes: int, what: str) -> None:
    lowest, highest = int(label_map.min()), int(label_map.max())
    if lowest < IGNORE or highest >= n_classes:
        raise DataError(
            f"{what}: holds class {lowest if lowest < IGNORE else highest}; wanted 0 to {n_classes - 1}, or "
            f"{IGNORE} for unknown, so map stored values to class indices first (ClassTable.to_index)",
            code="E-EVL-01",
        )


def _class_box(found: list[Box | None], klass: int, n_classes: int, *, offset: Box) -> Box | None:
    """The box around all pair codes that hold `klass` on either side, in the coordinates of the whole map.

    `found` has no entry for code 0, (ignored, background).
    """
    predicted = {row * n_classes + klass for row in range(n_classes + 1)}
    expected = {(klass + 1) * n_classes + column for column in range(n_classes)}
    boxes = [part for code in predicted | expected if code and (part := found[code - 1]) is not None]
    if not boxes:
        return None
    return tuple(
        slice(start.start + min(b[axis].start for b in boxes), start.start + max(b[axis].stop for b in boxes))
        for axis, start in enumerate(offset)
    )
