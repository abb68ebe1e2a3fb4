"""The files of one pseudo-label: a label map and a confidence map on the image's own grid, and an entry for both.

The entry is written last and holds the checksums of the maps, so a case whose entry is there was written to the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Int

from scantling.data.case import IGNORE, ClassTable
from scantling.data.image_io import ImageGeometry, label_file_name, read_label, write_label_map
from scantling.data.layouts.cell_values import case_id as usable_case_id
from scantling.errors import DataError, ScantlingError
from scantling.files import require_sha256, sha256_file
from scantling.targets.pseudo_label_records import PseudoLabel, read_labels, write_labels

LABELS: Final = "labels"
CONFIDENCE: Final = "confidence"
ENTRIES: Final = "entries"
LEVELS: Final = 255
"""A confidence is stored in steps of 1/255, so it is off by 0.002 at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredLabel:
    """A pseudo-label as it lies on the disk.

    Attributes:
        label_map: class index, IGNORE where the prediction was not sure enough.
        confidence: in [0, 1]; where one number was stored for the whole case, that number.
    """

    label_map: Int[np.ndarray, "*spatial"]
    confidence: Float32[np.ndarray, "*spatial"]
    geometry: ImageGeometry
    record: PseudoLabel


def unknown_value(classes: ClassTable) -> int:
    """What a label file stores where nothing is known: 255, or the first value above all classes."""
    taken = {value for values in classes.stored for value in values}
    return 255 if 255 not in taken else max(taken) + 1


def write_case(
    folder: Path,
    classes: ClassTable,
    case_id: str,
    label_map: Int[np.ndarray, "*spatial"],
    confidence: Float[np.ndarray, "*spatial"] | float,
    geometry: ImageGeometry,
    scores: Mapping[str, float],
) -> PseudoLabel:
    """Write the maps of a case, then its entry, which is returned.

    Raises:
        DataError: the case's id cannot be a file name, the label map has another size than the image, or holds an
            index that is no class.
        ValueError: a confidence outside [0, 1].
        ResourceError: the disk is full.
    """
    usable_case_id(case_id, str(folder))
    if label_map.shape != geometry.shape:
        raise DataError(
            f"{folder}: the label map of case {case_id} is {_size(label_map.shape)} but its image is "
            f"{_size(geometry.shape)}; restore it to the image's grid before adding it",
            code="E-TGT-13",
        )
    values = np.broadcast_to(np.asarray(confidence), label_map.shape)
    if not ((values >= 0) & (values <= 1)).all():  # NaN is outside, too
        raise ValueError(f"case {case_id}: confidence must lie in [0, 1]")
    known = label_map != IGNORE
    unknown = unknown_value(classes)
    stored = classes.to_stored(np.where(known, label_map, 0))
    stored = stored.astype(np.promote_types(stored.dtype, np.min_scalar_type(unknown)), copy=False)
    stored[~known] = unknown
    name = label_file_name(case_id, geometry)
    write_label_map(folder / LABELS / name, stored, geometry)
    has_map = isinstance(confidence, np.ndarray)
    if has_map:
        write_label_map(folder / CONFIDENCE / name, np.rint(values * LEVELS).astype(np.uint8), geometry)
    record = PseudoLabel(
        case_id=case_id,
        label=f"{LABELS}/{name}",
        label_sha256=sha256_file(folder / LABELS / name),
        confidence=f"{CONFIDENCE}/{name}" if has_map else "",
        confidence_sha256=sha256_file(folder / CONFIDENCE / name) if has_map else "",
        mean_confidence=float(values[known].mean(dtype=np.float64)) if known.any() else math.nan,
        share_kept=float(known.mean()),
        scores={key: float(value) for key, value in scores.items()},
        added=now(),
    )
    write_labels(folder / ENTRIES / f"{case_id}.json", {case_id: record})
    return record


def read_case(folder: Path, classes: ClassTable, record: PseudoLabel) -> StoredLabel:
    """A case, after checking that its files are what was written.

    Raises:
        IntegrityError: a file is missing or damaged.
    """
    require_whole(folder, record)
    stored, geometry = read_label(folder / record.label)
    label_map = classes.to_index(stored, ignore=(unknown_value(classes),))
    if record.confidence:
        confidence = read_label(folder / record.confidence)[0].astype(np.float32) / np.float32(LEVELS)
    else:
        confidence = np.full(label_map.shape, record.mean_confidence, np.float32)
    return StoredLabel(label_map=label_map, confidence=confidence, geometry=geometry, record=record)


def require_whole(folder: Path, record: PseudoLabel) -> None:
    """Refuse a case whose files are not what was written.

    Raises:
        IntegrityError: a file is missing or damaged.
    """
    require_sha256(folder / record.label, record.label_sha256)
    if record.confidence:
        require_sha256(folder / record.confidence, record.confidence_sha256)


def read_entries(folder: Path) -> dict[str, PseudoLabel]:
    """Every entry in the folder of an open round, by case.

    Raises:
        IntegrityError: an entry is damaged.
    """
    found: dict[str, PseudoLabel] = {}
    for path in _entry_paths(folder):
        found |= read_labels(path)
    return found


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written in an open round, and the entries of cases that are damaged."""
    for left in folder.glob("**/.partial-*"):
        left.unlink(missing_ok=True)
    for path in _entry_paths(folder):
        try:
            for record in read_labels(path).values():
                require_whole(folder, record)
        except ScantlingError:
            path.unlink(missing_ok=True)  # so the case is made again


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _entry_paths(folder: Path) -> list[Path]:
    return sorted((folder / ENTRIES).glob("[!.]*.json"))


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
