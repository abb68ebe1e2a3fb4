"""What a case is: one patient's image channels, the annotations somebody or something made, and attributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Int, Integer, Shaped

from scantling.config import nearest
from scantling.errors import ConfigError, DataError

IGNORE: Final = -1
"""Label of a pixel nobody looked at: neither a class nor background (equals `scantling.shapes.IGNORE`)."""

_BLOCK: Final = 2**20

LabelKind = Literal["full", "slices", "scribble", "silver", "pseudo", "none"]
LABEL_KINDS: Final[tuple[LabelKind, ...]] = get_args(LabelKind)


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """The classes of a data set: index 0 is background, index k the k-th name; and what files store for each.

    A class may be the union of several stored values. A stored value that no class names is unknown.
    """

    names: tuple[str, ...]
    stored: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.names or self.names[0] != "background" or len(self.names) != len(self.stored):
            raise ConfigError(f"class table {self.names}: the first class must be 'background', one entry a class")
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"class table {self.names}: a class name stands twice")
        if any(not values for values in self.stored):
            raise ConfigError(f"class table {self.names}: every class needs at least one stored value")
        flat = [value for values in self.stored for value in values]
        if len(set(flat)) != len(flat):
            double = sorted({value for value in flat if flat.count(value) > 1})
            raise ConfigError(f"class table {self.names}: stored value {double} belongs to two classes")

    @classmethod
    def of(cls, classes: Mapping[str, int | Sequence[int]]) -> ClassTable:
        """A table from `{name: value or values}`; background is value 0 unless it is named."""
        as_tuple = {name: (v,) if isinstance(v, int) else tuple(v) for name, v in classes.items()}
        taken = {value for name, values in as_tuple.items() if name != "background" for value in values}
        background = as_tuple.pop("background", () if 0 in taken else (0,))
        if not background:
            raise ConfigError("class table: value 0 is a class, so name the values of 'background' too")
        return cls(names=("background", *as_tuple), stored=(background, *as_tuple.values()))

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names of the classes without background."""
        return self.names[1:]

    def index(self, name: str) -> int:
        """Index of a class by name.

        Raises:
            ConfigError: there is no such class (the message suggests the nearest).
        """
        if name not in self.names:
            raise ConfigError(f"class {name!r}: not a class of this data set{nearest(name, self.names)}")
        return self.names.index(name)

    def subset(self, names: Iterable[str]) -> ClassTable:
        """Only the named classes; what the others stored counts as background."""
        kept = [self.index(name) for name in names if name != "background"]
        dropped = [k for k in range(1, len(self.names)) if k not in kept]
        background = self.stored[0] + tuple(v for k in dropped for v in self.stored[k])
        return ClassTable(
            names=("background", *(self.names[k] for k in kept)),
            stored=(background, *(self.stored[k] for k in kept)),
        )

    def to_index(
        self, stored: Integer[np.ndarray, "*spatial"], *, ignore: Iterable[int] = ()
    ) -> Int[np.ndarray, "*spatial"]:
        """Stored values -> class indices (int8 or int16); values of no class and `ignore` -> IGNORE."""
        dtype = np.int8 if len(self.names) < 128 else np.int16
        result = np.full(stored.shape, IGNORE, dtype=dtype)
        hidden = set(ignore)
        for k, values in enumerate(self.stored):
            for value in values:
                if value not in hidden:
                    result[stored == value] = k
        return result

    def to_stored(self, label_map: Shaped[np.ndarray, "*spatial"]) -> Shaped[np.ndarray, "*spatial"]:
        """Class indices -> the first stored value of each class, in the smallest unsigned type that holds them.

        Raises:
            DataError: the label map holds an index that is no class (IGNORE included).
        """
        if label_map.size and (label_map.min() < 0 or label_map.max() >= len(self.names)):
            raise DataError(
                f"label map: holds {int(label_map.min())}..{int(label_map.max())}, classes are 0..{len(self.names) - 1}"
            )
        values = np.array([stored[0] for stored in self.stored])
        smallest = np.min_scalar_type(int(values.max())) if values.min() >= 0 else np.dtype(np.int16)
        exported = np.empty(label_map.size, dtype=smallest)
        indices = label_map.reshape(-1)
        for start in range(0, indices.size, _BLOCK):  # indexing takes 8 bytes a voxel
            part = slice(start, start + _BLOCK)
            exported[part] = values[indices[part]]
        return exported.reshape(label_map.shape)


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One label file of a case, and how far it may be believed.

    Attributes:
        annotated: classes that were looked for, so that their absence is real; None means all of them.
        ignore: stored values that mean "unknown".
        weight: trust in [0, 1], multiplied into the loss of every pixel.
        round, confidence: only for pseudo-labels: the self-training round, and the mean confidence in [0, 1].
    """

    path: Path
    kind: LabelKind
    annotated: tuple[str, ...] | None = None
    ignore: tuple[int, ...] = ()
    rater: str = ""
    weight: float = 1.0
    round: int | None = None
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image (all channels on one grid) with every annotation it has.

    Attributes:
        images: path of each channel, in the order of `Manifest.channels`.
        patient_id: what a split must not cut; the case's own id where nothing else is known.
        fold: the fold the data set's authors gave, if they gave one.
        split: "train", "test", ... if the data set's authors gave one, else "".
        attributes: every further column, as text: sex, finding, phase, ...
        counterfactual_of: id of the real case this image was generated from, else None.
    """

    case_id: str
    images: tuple[Path, ...]
    annotations: tuple[Annotation, ...] = ()
    patient_id: str = ""
    site: str = ""
    scanner: str = ""
    split: str = ""
    fold: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    counterfactual_of: str | None = None

    def __post_init__(self) -> None:
        if not self.patient_id:
            object.__setattr__(self, "patient_id", self.case_id)

    def annotation(self, kinds: Sequence[LabelKind], *, rater: str = "") -> Annotation | None:
        """The first annotation by order of `kinds` (and by `rater`, if one is named); None if there is none."""
        for kind in kinds:
            for annotation in self.annotations:
                if annotation.kind == kind and (not rater or annotation.rater == rater):
                    return annotation
        return None

    def attribute(self, name: str) -> str:
        """A column by its name in `cases.csv`; "" where it is absent."""
        known = {
            "case": self.case_id,
            "subject": self.patient_id,
            "site": self.site,
            "scanner": self.scanner,
            "split": self.split,
            "fold": "" if self.fold is None else str(self.fold),
            "counterfactual_of": self.counterfactual_of or "",
        }
        return known[name] if name in known else self.attributes.get(name, "")
