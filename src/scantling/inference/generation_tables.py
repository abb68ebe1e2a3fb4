"""Generated images as a data set, `cases.csv`, and what was measured on them, `soundness.csv` and `generate.json`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from scantling.counterfactuals.realism import Realism
from scantling.counterfactuals.soundness import (
    InterventionSummary,
    Soundness,
    SoundnessLimits,
    summarise,
    verdict,
)
from scantling.data.case import Case
from scantling.data.layouts import cases_csv
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError
from scantling.evaluation.statistics import bootstrap_intervals
from scantling.files import write_atomic
from scantling.inference.generation_records import Record
from scantling.seeding import numpy_generator

SOUNDNESS: Final = "soundness.csv"
MEASURES: Final = tuple(field.name for field in fields(Soundness))
COLUMNS: Final = ("intervention", "sound", *MEASURES, "reason")
"""What a counterfactual's row says beside the columns of its real case."""
_HEADER: Final = ("case", "counterfactual_of", "subject", "intervention", "sound", *MEASURES, "reason", "images")


@dataclass(frozen=True, kw_only=True)
class MeasureSummary:
    """Mean of a measure over the counterfactuals on which it is known, with its interval; NaN is not known."""

    mean: float
    low: float
    high: float
    n: int


def write_data_set(manifest: Manifest, records: Sequence[Record], limits: SoundnessLimits, folder: Path) -> Path:
    """`cases.csv` and `dataset.toml`: every real case with its annotations, and the counterfactuals.

    The path of the table. A counterfactual has the patient, the split and the fold of its real case.
    """
    real = {case.case_id: case for case in manifest.real}
    made = [_case(record, real[record.counterfactual_of], limits, folder) for record in records]
    whole = replace(manifest, root=folder, cases=(*real.values(), *made))
    return cases_csv.write(whole, folder, overwrite=True)


def write_soundness(records: Sequence[Record], limits: SoundnessLimits, folder: Path) -> Path:
    """`soundness.csv`, one row a counterfactual; an empty cell is not known."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _HEADER, lineterminator="\n")
    writer.writeheader()
    for record in records:
        own = {
            "case": record.name, "counterfactual_of": record.counterfactual_of, "subject": record.patient_id,
            "images": ";".join(record.images),
        }  # fmt: skip
        writer.writerow({**own, **_said(record, limits)})
    write_atomic(folder / SOUNDNESS, stream.getvalue().encode())
    return folder / SOUNDNESS


def require_free_columns(manifest: Manifest) -> None:
    """Refuse a data set one of whose columns would be written over.

    Raises:
        ConfigError: a real case has an attribute with the name of a column that is written here.
    """
    for case in manifest.cases:
        taken = sorted(set(COLUMNS) & set(case.attributes)) if case.counterfactual_of is None else []
        if taken:
            raise ConfigError(
                f"data set: has a column {taken[0]!r}, and the verb writes one of that name beside it; rename yours",
                code="E-GEN-03",
            )


def summaries(records: Sequence[Record], limits: SoundnessLimits) -> tuple[InterventionSummary, ...]:
    """How many of each intervention were rejected and why."""
    return summarise([(record.intervention, record.soundness) for record in records], limits)


def measured(records: Sequence[Record], *, seed: int) -> dict[str, MeasureSummary]:
    """Each measure's mean and interval over the counterfactuals of one intervention; whole patients are drawn."""
    table = np.array([[getattr(r.soundness, name) for name in MEASURES] for r in records], dtype=np.float64)
    rng = numpy_generator(seed, "soundness intervals", records[0].intervention)
    low, high = bootstrap_intervals(table, [record.patient_id for record in records], rng)
    found = {}
    for index, name in enumerate(MEASURES):
        known = table[np.isfinite(table[:, index]), index]
        mean = float(known.mean()) if known.size else math.nan
        found[name] = MeasureSummary(mean=mean, low=float(low[index]), high=float(high[index]), n=int(known.size))
    return found


def described(
    records: Sequence[Record],
    limits: SoundnessLimits,
    realism: Mapping[str, Realism],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Every intervention as plain values for JSON; what is not known is None."""
    of = {summary.intervention: summary for summary in summaries(records, limits)}
    plain = []
    for name, summary in of.items():
        own = [record for record in records if record.intervention == name]
        values = {
            "intervention": name,
            "count": summary.count,
            "rejected": summary.rejected,
            "reasons": dict(summary.reasons),
            "unknown": dict(summary.unknown),
            "measures": {n: vars(m) for n, m in measured(own, seed=seed).items()},
            "realism": vars(realism[name]) if name in realism else None,
        }
        plain.append(values)
    result: list[dict[str, Any]] = without_nan(plain)
    return result


def without_nan(value: Any) -> Any:
    """Nested plain values with None for what is not finite, as JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    return [without_nan(each) for each in value] if isinstance(value, list | tuple) else value


def _case(record: Record, real: Case, limits: SoundnessLimits, folder: Path) -> Case:
    after = dict(record.after)
    site, scanner = after.pop("site", ""), after.pop("scanner", "")
    return Case(
        case_id=record.name,
        images=tuple(folder / name for name in record.images),
        patient_id=real.patient_id,
        site=site,
        scanner=scanner,
        split=real.split,
        fold=real.fold,
        attributes={**after, **_said(record, limits)},
        counterfactual_of=real.case_id,
    )


def _said(record: Record, limits: SoundnessLimits) -> dict[str, str]:
    reasons = verdict(record.soundness, limits)
    values = {name: getattr(record.soundness, name) for name in MEASURES}
    return {
        "intervention": record.intervention,
        "sound": "no" if reasons else "yes",
        **{name: "" if math.isnan(value) else f"{value:.6g}" for name, value in values.items()},
        "reason": "; ".join(reasons),
    }
