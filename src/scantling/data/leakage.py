"""Images that must not stand on both sides of a split: those of one patient, and exact copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from scantling.data.case import Case
from scantling.data.manifest import Manifest, Problem, Severity


def patients_across(cases: Iterable[Case], column: str) -> dict[str, tuple[str, ...]]:
    """Patient -> the values its cases have in a column, if more than one; empty cells do not count."""
    values: dict[str, set[str]] = {}
    for case in cases:
        if value := case.attribute(column):
            values.setdefault(case.patient_id, set()).add(value)
    return {patient: tuple(sorted(found)) for patient, found in values.items() if len(found) > 1}


def leakage_problems(manifest: Manifest) -> tuple[Problem, ...]:
    """An error for each patient that the authors' columns `split` or `fold` put on several sides.

    Generated images stand where their real case stands, whatever these columns say of them.
    """
    problems = []
    for column in ("split", "fold"):
        for patient, values in patients_across(manifest.real, column).items():
            case = next(case for case in manifest.real if case.patient_id == patient)
            said = (
                f"cases stand in {column} {' and '.join(values)}, so a score would be measured on a patient "
                f"that was trained on; correct the column {column}, or pass --set data.allow_leak=true"
            )
            message = f"patient {patient}: {said}"
            problems.append(Problem(case_id=case.case_id, severity="error", code="E-LEAK-01", message=message))
    return tuple(problems)


def duplicate_groups(voxel_hashes: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Cases whose images hold the same voxels, in groups of two or more.

    Args:
        voxel_hashes: case -> checksum of its voxels, "" where they were not read.
    """
    groups: dict[str, list[str]] = {}
    for case, checksum in voxel_hashes.items():
        if checksum:
            groups.setdefault(checksum, []).append(case)
    return tuple(tuple(cases) for cases in groups.values() if len(cases) > 1)


def duplicate_problems(manifest: Manifest, groups: Iterable[tuple[str, ...]]) -> tuple[Problem, ...]:
    """What each group of copies means: one patient after all, or a leak that the authors' columns make."""
    known = {case.case_id: case for case in manifest.cases}
    problems = []
    severity: Severity
    for group in groups:
        cases = [known.get(known[case_id].counterfactual_of or "", known[case_id]) for case_id in group]
        same = f"cases {', '.join(group)}: the images hold the same voxels"
        columns = [name for name in ("split", "fold") if len({c.attribute(name) for c in cases} - {""}) > 1]
        if columns:
            severity, code, said = (
                "error",
                "E-LEAK-02",
                f"but stand in different {columns[0]}s; remove the copies",
            )
        elif len({case.patient_id for case in cases}) > 1:
            said = "under different patients; they count as one patient, so that no split parts them"
            severity, code = "repaired", "E-DUP-01"
        else:
            severity, code, said = "warning", "E-DUP-01", "; remove all but one unless that is meant"
        message = f"{same}{'' if said.startswith(';') else ' '}{said}"
        problems.append(Problem(case_id=group[0], severity=severity, code=code, message=message))
    return tuple(problems)


def as_one_patient(manifest: Manifest, groups: Iterable[tuple[str, ...]]) -> Manifest:
    """The manifest in which the patients of each group of copies are one, under the first one's name."""
    patient = {case.case_id: case.patient_id for case in manifest.cases}
    leader = {name: name for name in patient.values()}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for first, *others in groups:
        for other in others:
            leader[find(patient[other])] = find(patient[first])
    return replace(manifest, cases=tuple(replace(case, patient_id=find(case.patient_id)) for case in manifest.cases))
