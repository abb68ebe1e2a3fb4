"""Images generated from a real case: never cases of their own, but other images of the same anatomy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from scantling.data.case import Case
from scantling.data.examination import CaseFinding
from scantling.data.geometry_check import compare
from scantling.data.image import ImageGeometry
from scantling.data.manifest import Manifest, Problem, Severity

ALTERNATIVE_CODES: Final = frozenset({"E-ALT-01", "E-ALT-02", "E-ALT-03", "E-ALT-04"})
"""Problems that cost an image generated from a real case."""
_SOUND: Final = frozenset({"", "yes", "true", "1"})
_UNSOUND: Final = frozenset({"no", "false", "0"})


def is_sound(case: Case) -> bool:
    """Whether a generated image may be used: its column `sound` says yes, or nothing."""
    return _word(case) in _SOUND


def alternatives_by_case(cases: Iterable[Case]) -> dict[str, tuple[Case, ...]]:
    """Real case -> the sound images generated from it, in the order of the table, without their annotations.

    The label map of the real case holds for them as well. A case of which there are none is left out.
    """
    found: dict[str, list[Case]] = {}
    for case in cases:
        if case.counterfactual_of is not None and is_sound(case):
            found.setdefault(case.counterfactual_of, []).append(replace(case, annotations=()))
    return {case_id: tuple(others) for case_id, others in found.items()}


def with_source_patient(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases, a generated image having the patient of the image it was made from."""
    patient = {case.case_id: case.patient_id for case in cases}
    return tuple(
        case
        if case.counterfactual_of is None
        else replace(case, patient_id=patient.get(case.counterfactual_of, case.patient_id))
        for case in cases
    )


def misfit(
    real: ImageGeometry, other: ImageGeometry, *, real_type: str = "", other_type: str = "", real_id: str
) -> str:
    """Why an image cannot stand for a real one of the same anatomy, as the end of a sentence; "" where it can.

    Args:
        real_type, other_type: numpy's names of the stored types; "" where they are not known. Only pictures must
            have the same whole numbers: an 8-bit copy of a 16-bit picture would be 256 times too dark.
    """
    if real.shape != other.shape:
        sizes = " x ".join(map(str, other.shape)), " x ".join(map(str, real.shape))
        return f"is {sizes[0]} but its real case {real_id} is {sizes[1]}; they must share one grid"
    agreement = compare(real, other)
    if agreement.verdict == "refuse":
        return (
            f"lies up to {agreement.distance_voxels:.3g} voxels beside its real case {real_id}; "
            "they must share one grid, so write it with the header of the real one"
        )
    pictures = "nifti" not in (real.file_type, other.file_type)
    if pictures and real_type != other_type and _whole(real_type) and _whole(other_type):
        return f"is stored as {other_type} but its real case {real_id} as {real_type}; write it in the same type"
    return ""


def alternative_problems(
    manifest: Manifest, findings: Sequence[CaseFinding], lost: Collection[str] = ()
) -> Iterator[Problem]:
    """What is wrong with each generated image beside its real case; each such image is left out.

    Args:
        findings: one a case, in the order of the manifest.
        lost: real cases that are left out for another reason.
    """
    of_real = {
        case.case_id: finding
        for case, finding in zip(manifest.cases, findings, strict=True)
        if case.counterfactual_of is None
    }
    generated = {case.case_id for case in manifest.cases} - of_real.keys()
    unread = {problem.case_id for problem in manifest.problems if problem.severity == "error"} - generated
    for case, finding in zip(manifest.cases, findings, strict=True):
        source = case.counterfactual_of
        if source is None:
            continue
        real = of_real.get(source)
        if _word(case) not in _SOUND | _UNSOUND:
            said = f"sound is {case.attribute('sound')!r}; wanted yes or no, so the image is left out"
            yield _problem(case, "error", "E-ALT-03", said)
        elif (real is None and source in unread) or (real is not None and (not real.usable or source in lost)):
            said = f"its real case {source} cannot be used, so the image is left out"
            yield _problem(case, "warning", "E-ALT-04", said)
        elif real is None:
            what = "is itself a counterfactual" if source in generated else "is no case of the table"
            said = f"counterfactual_of names {source}, which {what}; name the real case; the image is left out"
            yield _problem(case, "error", "E-ALT-01", said)
        elif finding.usable and real.geometry is not None and finding.geometry is not None:
            said = misfit(
                real.geometry, finding.geometry,
                real_type=real.stored_type, other_type=finding.stored_type, real_id=source,
            )  # fmt: skip
            if not said and finding.channels != real.channels:
                said = f"has {finding.channels} channels but its real case {source} has {real.channels}"
            if said:
                yield _problem(case, "error", "E-ALT-02", f"{said}; the image is left out")


def copies_of_several_anatomies(
    cases: Sequence[Case], groups: Iterable[tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    """Groups of copies without those that are no surprise: an image that was generated and not changed.

    Of each anatomy one image stays, the real one if it is there; groups with one anatomy, or no real image, go.
    """
    source = {case.case_id: case.counterfactual_of for case in cases}
    kept = []
    for group in groups:
        of_anatomy: dict[str, str] = {}
        for case_id in sorted(group, key=lambda one: source[one] is not None):
            of_anatomy.setdefault(source[case_id] or case_id, case_id)
        left = set(of_anatomy.values())
        if len(left) > 1 and any(source[case_id] is None for case_id in left):
            kept.append(tuple(case_id for case_id in group if case_id in left))
    return tuple(kept)


def alternatives_counted(cases: Sequence[Case]) -> Mapping[str, int]:
    """How many images were generated, of how many real cases, and how many of them are unsound."""
    generated = [case for case in cases if case.counterfactual_of is not None]
    return {
        "images": len(generated),
        "cases": len({case.counterfactual_of for case in generated}),
        "unsound": sum(not is_sound(case) for case in generated),
    }


def _word(case: Case) -> str:
    return case.attribute("sound").strip().casefold()


def _whole(dtype: str) -> bool:
    return dtype.startswith(("bool", "int", "uint"))


def _problem(case: Case, severity: Severity, code: str, message: str) -> Problem:
    return Problem(case_id=case.case_id, severity=severity, code=code, message=f"case {case.case_id}: {message}")
