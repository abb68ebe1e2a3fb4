"""How far the counterfactuals of each intervention lie from real images that are so by nature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from scantling.counterfactuals.realism import Realism, realism
from scantling.counterfactuals.source_image import read_source
from scantling.counterfactuals.table import row_of
from scantling.data.case import Case
from scantling.errors import DataError
from scantling.inference.generation_records import Record
from scantling.inference.soundness_check import SoundnessCheck
from scantling.seeding import numpy_generator

_MOST: Final = 400
"""Images a group; more change the distance little."""
_AT_ONCE: Final = 16


def realism_by_intervention(
    records: Sequence[Record], cases: Sequence[Case], check: SoundnessCheck, folder: Path, *, seed: int
) -> dict[str, Realism]:
    """The distances of `realism` in the features of the judge; nothing without one.

    Args:
        records: of counterfactuals in `folder`; only those that will be used are worth comparing.
        cases: real ones; those that have the wanted attributes by nature are compared with.
    """
    if check.judge is None:
        return {}
    real = {case.case_id: case for case in cases}
    rows = {name: row_of(case) for name, case in real.items()}
    features = _Features(check, length=check.judge.head.in_features)
    found = {}
    for intervention in dict.fromkeys(record.intervention for record in records):
        rng = numpy_generator(seed, "realism", intervention)
        own = [record for record in records if record.intervention == intervention]
        own = [own[index] for index in sorted(rng.permutation(len(own))[:_MOST])]
        wanted = dict(part.split("=", 1) for part in intervention.split(";"))
        alike = [n for n, row in rows.items() if all(row.get(a, "").strip() == v for a, v in wanted.items())]
        alike = [alike[index] for index in sorted(rng.permutation(len(alike))[: 2 * _MOST])]
        made = [_as_case(record, folder) for record in own]
        sources = [real[record.counterfactual_of] for record in own]
        found[intervention] = realism(
            features.of(made), features.of([real[name] for name in alike]), features.of(sources), rng
        )
    return found


class _Features:
    """What the judge sees in cases, each read once."""

    def __init__(self, check: SoundnessCheck, *, length: int) -> None:
        self._check, self._length = check, length
        self._known: dict[str, Float[np.ndarray, "feature"] | None] = {}

    def of(self, cases: Sequence[Case]) -> Float[np.ndarray, "image feature"]:
        """A row a case, without those that cannot be read."""
        unknown = [case for case in cases if case.case_id not in self._known]
        for start in range(0, len(unknown), _AT_ONCE):
            self._look(unknown[start : start + _AT_ONCE])
        rows = [row for case in cases if (row := self._known[case.case_id]) is not None]
        return np.stack(rows) if rows else np.empty((0, self._length), dtype=np.float32)

    def _look(self, cases: Sequence[Case]) -> None:
        images = []
        for case in cases:
            try:
                images.append(read_source(case, len(self._check.plan.channels)))
            except DataError:
                self._known[case.case_id] = None  # said where it was to be generated from
        if images:
            seen = self._check.features(images)
            self._known.update({image.case_id: row for image, row in zip(images, seen, strict=True)})


def _as_case(record: Record, folder: Path) -> Case:
    return Case(case_id=record.name, images=tuple(folder / name for name in record.images))
