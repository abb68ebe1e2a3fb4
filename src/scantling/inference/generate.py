"""Write the counterfactuals of a data set into a folder that is a data set itself, with what was measured on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import scantling
from scantling.config import nearest
from scantling.counterfactuals.counterfactual import CounterfactualGenerator
from scantling.counterfactuals.realism import Realism
from scantling.counterfactuals.soundness import SoundnessLimits, verdict
from scantling.data.case import Case
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError, DataError, Interrupted
from scantling.evaluation.statistics import LEVEL
from scantling.files import new_folder, read_json, write_json
from scantling.inference.generation_pass import GenerationPass, Progress
from scantling.inference.generation_records import Record, RecordLog
from scantling.inference.generation_run import GenerationRun
from scantling.inference.generation_tables import (
    described,
    require_free_columns,
    without_nan,
    write_data_set,
    write_soundness,
)
from scantling.inference.group_realism import realism_by_intervention
from scantling.inference.interventions import parse_interventions
from scantling.inference.soundness_check import SoundnessCheck

DESCRIPTION: Final = "generate.json"
SCHEMA_VERSION: Final = 1


def generate_folder(
    generator: CounterfactualGenerator,
    manifest: Manifest,
    out: Path,
    interventions: Sequence[str],
    *,
    together: bool = False,
    check: SoundnessCheck | None = None,
    limits: SoundnessLimits | None = None,
    cases: Sequence[str] = (),
    batch_size: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> GenerationRun:
    """Write each case's counterfactuals on its own grid and in its own type, and judge them.

    After any stop the same call goes on: images that are there and whole are kept. The folder is a data set once
    `cases.csv` is there; it comes last. A case that fails is recorded, and the others go on.

    Args:
        interventions: as `parse_interventions` reads them.
        check: measures soundness; None leaves out what needs a judge or a segmenter.
        limits: may differ when a folder is gone on with; what was measured is then judged anew.
        cases: ids; () is every real case.
        batch_size: counterfactuals at a time; None is the plan's.
        provenance: what else the images depend on, such as the model's checksum; plain values.
        facts: what else to write down, such as the judge's scores; plain values.
        overwrite: move an old folder aside.
        progress: called with a sentence before each case.

    Raises:
        ConfigError: an impossible intervention or batch size, an unknown case, a column that would be written over,
            or `out` holds something else, or was generated with other settings.
        DataError: not one counterfactual could be made.
        Interrupted: Ctrl-C.
        ResourceError: the disk is full, or memory does not suffice.
    """
    asked = parse_interventions(interventions, generator.graph, together=together)
    limits = limits or SoundnessLimits()
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: wanted a whole number above 0", code="E-GEN-01")
    chosen = _chosen(manifest, cases)
    require_free_columns(manifest)
    settings: dict[str, Any] = {
        "interventions": [intervention.text for intervention in asked],
        "cases": sorted(cases),
        "seed": generator.seed,
        "source": generator.source.name,
        **(provenance or {}),
    }
    work = GenerationPass(
        generator=generator,
        check=check or SoundnessCheck(generator.source, generator.plan, generator.graph),
        out=_open(out, settings, overwrite=overwrite),
        log=RecordLog(out),
        batch_size=batch_size or generator.plan.batch_size,
    )
    try:
        work.run(chosen, asked, {case.case_id for case in manifest.cases}, progress)
        records = work.records
        if not records:
            raise DataError(_nothing(work), code="E-GEN-06")
        if progress is not None:
            progress("comparing with real images")
        usable = [record for record in records if not verdict(record.soundness, limits)]
        distances = realism_by_intervention(usable, manifest.real, work.check, out, seed=generator.seed)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped with {len(work.present)} counterfactuals in {out}; the same command goes on from there",
            code="E-GEN-07",
        ) from None
    _save(work, manifest, limits, {**_description(work, limits, distances, facts or {}), "settings": settings})
    return GenerationRun(
        folder=out, records=records, limits=limits, kept=work.kept, skipped=dict(work.skipped),
        failures=dict(work.failures),
    )  # fmt: skip


def _chosen(manifest: Manifest, names: Sequence[str]) -> tuple[Case, ...]:
    """Real cases, in the order of the table."""
    known = {case.case_id: case for case in manifest.real}
    for name in names:
        if name not in known:
            raise ConfigError(f"case {name!r}: no real case of the data set{nearest(name, known)}", code="E-GEN-04")
    return tuple(case for name, case in known.items() if not names or name in names)


def _open(out: Path, settings: Mapping[str, Any], *, overwrite: bool) -> Path:
    """A new folder, or one in which the same was begun."""
    description = out / DESCRIPTION
    if overwrite or not description.is_file():
        new_folder(out, overwrite=overwrite)
        write_json(description, {"schema_version": SCHEMA_VERSION, "status": "running", "settings": dict(settings)})
        return out
    known = read_json(description)
    before = known.get("settings", {}) if isinstance(known, dict) else {}
    for name in {**before, **settings}:
        if before.get(name) != settings.get(name):
            raise ConfigError(
                f"{out}: was generated with {name} {_shown(before.get(name))}, and now it is "
                f"{_shown(settings.get(name))}; choose another folder, or --overwrite to move this one aside",
                code="E-GEN-08",
            )
    return out


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return repr(text) if text and value is not None else "none"


def _nothing(work: GenerationPass) -> str:
    """Why there is nothing at all."""
    if work.failures:
        first = next(iter(work.failures.values()))
        return f"no counterfactual could be made; {len(work.failures)} failed, the first: {first}"
    left_out = "; ".join(f"{name}: {n} cases, {reason}" for (name, reason), n in work.skipped.items())
    return f"no counterfactual was made: nothing would change in any case ({left_out or 'there is no case'})"


def _description(
    work: GenerationPass, limits: SoundnessLimits, distances: Mapping[str, Realism], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `generate.json` but for the settings."""
    records: tuple[Record, ...] = work.records
    plan = work.generator.plan
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "finished",
        "versions": {"scantling": scantling.__version__, "torch": str(torch.__version__), "numpy": np.__version__},
        "model": {"dataset": plan.dataset, "size": list(plan.size), "attributes": [a.name for a in plan.attributes]},
        "limits": limits.model_dump(mode="json"),
        "counterfactuals": len(records),
        "sound": sum(not verdict(record.soundness, limits) for record in records),
        "level": LEVEL,
        "interventions": described(records, limits, distances, seed=work.generator.seed),
        "skipped": [{"intervention": i, "reason": r, "count": n} for (i, r), n in work.skipped.items()],
        "failures": dict(work.failures),
        "asked_of_judge": None if work.check.asked is None else list(work.check.asked),
        **{name: without_nan(value) for name, value in facts.items()},
    }


def _save(work: GenerationPass, manifest: Manifest, limits: SoundnessLimits, description: Mapping[str, Any]) -> None:
    write_soundness(work.records, limits, work.out)
    write_json(work.out / DESCRIPTION, dict(description))
    write_data_set(manifest, work.records, limits, work.out)
