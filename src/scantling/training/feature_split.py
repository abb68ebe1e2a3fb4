"""Who is learnt from when features are learnt: everybody but those whom fine-tuning will score or choose by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from scantling.data.case import Annotation, Case, LabelKind
from scantling.data.manifest import Manifest
from scantling.data.splits import Split, make_split
from scantling.errors import DataError
from scantling.training.config import DataConfig


def scored_kinds(manifest: Manifest, data: DataConfig) -> tuple[LabelKind, ...]:
    """Annotations by which a network that starts from the features will be scored; none where there are none."""
    for kinds in (data.scored_kinds, data.label_kinds):
        if any(is_labelled(case, kinds) for case in manifest.real):
            return kinds
    return ()


def tuning_split(manifest: Manifest, data: DataConfig, *, seed: int) -> Split:
    """How `train` with the same options divides the patients.

    Where nobody annotated anything there are no folds: only the authors' test and validation cases, and those of
    `test_on`, are kept apart.

    Raises:
        ConfigError, DataError: as `make_split`.
    """
    kinds = scored_kinds(manifest, data)
    if not kinds and data.fold in (0, "none") and data.labels is None:
        cases = tuple(replace(case, annotations=(_example(case),)) for case in manifest.real)
        made = make_split(
            replace(manifest, cases=cases), fold=None, seed=seed, label_kinds=("full",), train_on=data.train_on or None,
            test_on=data.test_on or None, max_validation=0, allow_leak=data.allow_leak,
        )  # fmt: skip
        return replace(made, folds=())
    return make_split(
        manifest,
        fold=None if data.fold == "none" else data.fold,
        labels=data.labels,
        seed=seed,
        label_kinds=kinds or data.scored_kinds,
        train_on=data.train_on or None,
        test_on=data.test_on or None,
        allow_leak=data.allow_leak,
    )


def feature_split(
    manifest: Manifest,
    tuning: Split,
    read: tuple[LabelKind, ...],
    *,
    scored: tuple[LabelKind, ...],
    uses_unlabelled: bool,
    recipe: str,
) -> Split:
    """The division for learning features: cases whose labels are read, and others of the training side.

    Args:
        tuning: as fine-tuning will divide the patients.
        read: annotations that are read, best first; none for a method that reads none.
        scored: the annotations of `tuning`; of these only those in its budget are read.

    Raises:
        DataError: nothing is left to learn from.
    """
    side = [case for case in manifest.real if case.case_id in {*tuning.train, *tuning.unlabelled}]
    labelled = [case for case in side if is_labelled(readable(case, tuning, read, scored), read)]
    chosen = {case.case_id for case in labelled}
    others = [case for case in side if case.case_id not in chosen] if uses_unlabelled else []
    if not labelled and (not uses_unlabelled or not others):
        raise DataError(_nothing(manifest, read, recipe), code="E-RUN-11")
    used = [*labelled, *others]
    apart = {*tuning.validation, *tuning.heldout}
    return replace(
        tuning,
        train=tuple(case.case_id for case in labelled),
        unlabelled=tuple(case.case_id for case in others),
        unused=tuple(
            case.case_id for case in manifest.real if case.case_id not in apart | {used.case_id for used in used}
        ),
        label_kinds=read,
        sentence=_sentence(tuning, used, labelled, read),
    )


def readable(case: Case, tuning: Split, read: Sequence[LabelKind], scored: Sequence[LabelKind]) -> Case:
    """The case with those annotations alone that may be read: nothing outside the budget of `tuning`."""
    kinds = [kind for kind in read if kind not in scored or case.case_id in tuning.train]
    return replace(case, annotations=tuple(one for one in case.annotations if one.kind in kinds))


def is_labelled(case: Case, kinds: Sequence[LabelKind]) -> bool:
    """Whether a case has an annotation of one of these kinds."""
    annotation = case.annotation(kinds)
    return annotation is not None and annotation.kind != "none"


def whom(split: Split, read: Sequence[LabelKind]) -> str:
    """Whom features are learnt from, in a phrase."""
    cases = [*split.train, *split.unlabelled]
    count = f"{_number(len(cases), 'image')} of {_number(len({split.patients[c] for c in cases}), 'patient')}"
    if not read:
        return f"{count}, without any label"
    of = "all" if not split.unlabelled else str(len(split.train))
    return f"{count}, reading the {' and '.join(read)} labels of {of}"


def _sentence(tuning: Split, used: Sequence[Case], labelled: Sequence[Case], read: Sequence[LabelKind]) -> str:
    learnt = replace(
        tuning,
        train=tuple(case.case_id for case in labelled),
        unlabelled=tuple(case.case_id for case in used if case not in labelled),
        validation=(), heldout=(), unused=(),
    )  # fmt: skip
    who = "Nobody is held out"
    if tuning.heldout:
        head = tuning.sentence.partition(";")[0] if tuning.label_kinds and tuning.scheme != "none" else ""
        count = _number(len(tuning.heldout), "case")
        who = f"{head or f'{count} held out'}, whose patients are not learnt from"
    measured = _number(len({tuning.patients[case] for case in tuning.validation}), "patient")
    last = f"; they are measured on {measured} kept apart" if tuning.validation else ""
    return f"{who}; features are learnt from {whom(learnt, read)}{last}."


def _nothing(manifest: Manifest, read: Sequence[LabelKind], recipe: str) -> str:
    if not read:
        return f"{manifest.name}: no image is left to learn from; hold out fewer patients (--fold none)"
    found: Iterable[str] = sorted({a.kind for case in manifest.real for a in case.annotations}) or ["none"]
    return (
        f"{manifest.name}: {recipe} learns from labels, and no training case has one of kind {' or '.join(read)} that "
        f"may be read (label kinds found: {', '.join(found)}); choose --label-kinds, or a method without labels"
    )


def _example(case: Case) -> Annotation:
    return Annotation(path=case.images[0], kind="full")


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
