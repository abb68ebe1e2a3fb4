"""Who is trained on, who chooses the checkpoint, and who is scored: by patient, whatever was labelled.

No patient ever stands on two sides. Budgets are nested: the 4 labelled cases of `labels=4` are among the 8 of
`labels=8`. The held-out cases choose nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from scantling.data.case import Case, LabelKind
from scantling.data.manifest import Manifest
from scantling.data.split_roles import SplitRoles, refuse_parted, split_roles, written
from scantling.data.split_sentence import SplitFacts, split_sentence
from scantling.errors import ConfigError, DataError, IntegrityError
from scantling.files import read_json, write_json
from scantling.seeding import derived_seed

Scheme = Literal["none", "train_only", "leave_one_out", "folds", "author_folds", "author_split", "attributes"]

SCHEMA_VERSION: Final = 1
N_FOLDS: Final = 5
FEWEST_FOR_FOLDS: Final = 5
"""Labelled patients; below this every patient is held out in turn."""
FEWEST_FOR_VALIDATION: Final = 10
"""Labelled training patients; below this none is given up to choose a checkpoint."""
VALIDATION_FRACTION: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Split:
    """One division of a data set's cases.

    Attributes:
        train: labelled cases to learn from.
        validation: labelled cases that choose the checkpoint; may be empty.
        heldout: labelled cases that are scored and choose nothing; may be empty.
        unlabelled: cases to learn from without their labels, if they have any.
        unused: every other case: of held-out patients, of the authors' test set, outside `train_on`.
        patients: case -> patient, for every case of the data set that is no generated image.
        scheme: how the held-out cases were chosen; `sentence` says it for people.
        leak_allowed: whether patients may stand on two sides, because somebody asked for it.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    patients: Mapping[str, str] = field(default_factory=dict)
    scheme: Scheme
    sentence: str
    fold: int | None = None
    folds: tuple[int, ...] = ()
    labels: int | None = None
    seed: int = 0
    label_kinds: tuple[LabelKind, ...] = ("full",)
    leak_allowed: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Cases on each side, as the status of a run has them."""
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "held_out": len(self.heldout),
            "unlabelled": len(self.unlabelled),
        }

    def __post_init__(self) -> None:
        sides = {
            "train": (*self.train, *self.unlabelled),
            "validation": self.validation,
            "heldout": self.heldout,
        }
        everything = [case for cases in (*sides.values(), self.unused) for case in cases]
        unknown = [case for case in everything if case not in self.patients]
        if unknown:
            raise DataError(f"split: the patient of case {unknown[0]!r} is not given", code="E-SPL-01")
        if len(set(everything)) < len(everything):
            double = next(case for case in everything if everything.count(case) > 1)
            raise DataError(f"split: case {double!r} stands in two parts; every case has one", code="E-SPL-01")
        if not self.leak_allowed:
            _refuse_overlap({name: {self.patients[case] for case in cases} for name, cases in sides.items()})

    def save(self, path: Path) -> None:
        """Write the split as JSON, atomically."""
        write_json(path, {"schema_version": SCHEMA_VERSION, **vars(self), "patients": dict(self.patients)})

    @classmethod
    def load(cls, path: Path) -> Split:
        """Read a split that `save` wrote.

        Raises:
            IntegrityError: the file is damaged or was written by a newer release.
            DataError: it puts a patient on two sides.
        """
        content = read_json(path)
        try:
            if content.pop("schema_version") > SCHEMA_VERSION:
                newer = f"{path}: written by a newer release; update scantling to read it"
                raise IntegrityError(newer, code="E-CHK-04")
            return cls(**_typed(content))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path}: not a split ({type(error).__name__}: {error})", code="E-CHK-02") from None


def make_split(
    manifest: Manifest,
    *,
    fold: int | None = 0,
    labels: int | None = None,
    seed: int = 0,
    label_kinds: tuple[LabelKind, ...] = ("full",),
    train_on: Mapping[str, str] | None = None,
    test_on: Mapping[str, str] | None = None,
    max_validation: int = 8,
    allow_leak: bool = False,
) -> Split:
    """Divide the cases of a data set by patient. Generated images have no part in it: they follow their real case.

    Who is held out is decided by the first of these that applies: `test_on`; the authors' column `split`,
    if it names labelled test cases; their column `fold`, if every labelled case has one; leave-one-out for
    2 to 4 labelled patients; 5 folds of equal size drawn with `seed`. A single labelled patient is trained
    on and nothing is scored. The authors' test cases are never trained on; their validation cases choose the
    checkpoint unless there is a budget, which must hold every label that is used.

    Args:
        fold: which fold is held out; None trains on every labelled case. `Split.folds` lists them.
        labels: how many labelled cases of the training side may be used; the others lose their label.
        label_kinds: a case with an annotation of one of these kinds is labelled.
        train_on, test_on: columns and wanted values (`{"site": "shenzhen"}`; several values: `"a;b"`).
        max_validation: most patients given up to choose the checkpoint.
        allow_leak: let the authors' columns, or `train_on` and `test_on`, put a patient on two sides.

    Raises:
        ConfigError: there is no such fold, column or value; the budget is not positive or too large.
        DataError: a patient stands on both sides of the authors' columns, or of `train_on` and `test_on`.
    """
    cases = manifest.real
    roles = split_roles(cases, label_kinds, train_on or {}, test_on or {}, allow_leak=allow_leak)
    scheme, fold_of = _folds(roles, seed, allow_leak=allow_leak)
    folds = tuple(sorted(set(fold_of.values())))
    _require_fold(fold, folds)
    drawn = [case for case in roles.labelled if folds and fold_of[case.case_id] == fold]
    heldout = [*drawn, *(roles.heldout if fold is not None or scheme == "attributes" else ())]
    blocked = set() if allow_leak else _patients([*heldout, *roles.tested])
    authors = [case for case in roles.validation if case.patient_id not in blocked]
    reserved = set() if allow_leak else blocked | _patients(authors)
    drawn_ids = set(_ids(drawn))
    taught = [c for c in roles.labelled if c.case_id not in drawn_ids and c.patient_id not in reserved]
    budget = _budget(taught, labels, seed)
    validation = authors if authors and labels is None else _inner_validation(budget, max_validation)
    chosen = set(_ids([*validation, *heldout]))
    train = [case for case in budget if case.case_id not in chosen]
    apart = reserved if validation is authors else reserved | _patients(validation)
    chosen |= set(_ids(train))
    unlabelled = [c for c in roles.unlabelled if c.case_id not in chosen and c.patient_id not in apart]
    chosen |= set(_ids(unlabelled))
    facts = SplitFacts(
        train=train,
        validation=validation,
        heldout=heldout,
        taught=taught,
        n_images=len(cases),
        labels=labels,
        kinds=label_kinds,
        how=_how(scheme, fold, len(folds), test_on or {}),
    )
    return Split(
        train=_in_order(cases, train),
        validation=_in_order(cases, validation),
        heldout=_in_order(cases, heldout),
        unlabelled=_in_order(cases, unlabelled),
        unused=tuple(case.case_id for case in cases if case.case_id not in chosen),
        patients={case.case_id: case.patient_id for case in cases},
        scheme=scheme if heldout else "train_only" if train else "none",
        sentence=split_sentence(facts),
        fold=fold if folds else None,
        folds=folds,
        labels=labels,
        seed=seed,
        label_kinds=label_kinds,
        leak_allowed=allow_leak,
    )


def _folds(roles: SplitRoles, seed: int, *, allow_leak: bool) -> tuple[Scheme, Mapping[str, int]]:
    """The scheme, and the fold of each labelled case where there are folds."""
    patients = _patients(roles.labelled)
    if roles.scheme or not patients:
        return roles.scheme or "none", {}
    given = {case.case_id: case.fold for case in roles.labelled if case.fold is not None}
    if len(given) == len(roles.labelled) and len(set(given.values())) > 1:
        if not allow_leak:
            refuse_parted(roles.labelled, "fold")
        return "author_folds", given
    if len(patients) == 1:
        return "train_only", {}
    if len(patients) < FEWEST_FOR_FOLDS:
        order = list(dict.fromkeys(case.patient_id for case in roles.labelled))
        return "leave_one_out", {case.case_id: order.index(case.patient_id) for case in roles.labelled}
    return "folds", _balanced_folds(roles.labelled, seed)


def _balanced_folds(cases: Sequence[Case], seed: int) -> dict[str, int]:
    """Patients in a seeded order, those with most cases first, each into the emptiest fold so far."""
    sizes: dict[str, int] = {}
    for case in cases:
        sizes[case.patient_id] = sizes.get(case.patient_id, 0) + 1
    order = sorted(sizes, key=lambda patient: (-sizes[patient], derived_seed(seed, "folds", patient), patient))
    filled = [0] * N_FOLDS
    fold_of_patient = {}
    for patient in order:
        smallest = filled.index(min(filled))
        fold_of_patient[patient] = smallest
        filled[smallest] += sizes[patient]
    return {case.case_id: fold_of_patient[case.patient_id] for case in cases}


def _budget(cases: Sequence[Case], labels: int | None, seed: int) -> list[Case]:
    """The first `labels` cases of one seeded order of patients: a smaller budget lies in a larger one."""
    if labels is not None and not 1 <= labels <= len(cases):
        there = f"{len(cases)} cases of the training side have a label; choose 1 to {len(cases)}"
        none = "no case of the training side has a label; leave the budget away"
        raise ConfigError(f"labels {labels}: {there if cases else none}", code="E-SPL-03")

    def key(case: Case) -> tuple[int, str]:
        return derived_seed(seed, "label budget", case.patient_id), case.patient_id

    return sorted(cases, key=key)[:labels]  # stable: the cases of a patient keep their order


def _inner_validation(budget: Sequence[Case], most: int) -> list[Case]:
    """The cases of the last tenth of a budget's patients; none if there are fewer than ten.

    The last, because then the training cases of a smaller budget are among those of a larger one, too.
    """
    patients = list(dict.fromkeys(case.patient_id for case in budget))
    if len(patients) < FEWEST_FOR_VALIDATION or most < 1:
        return []
    last = set(patients[-min(most, max(1, round(VALIDATION_FRACTION * len(patients)))) :])
    return [case for case in budget if case.patient_id in last]


def _require_fold(fold: int | None, folds: Collection[int]) -> None:
    if fold is None or fold in folds or (not folds and fold == 0):
        return
    named = f"this data set has {', '.join(map(str, sorted(folds)))}" if folds else (
        "it is not divided into folds, so leave the option away"
    )  # fmt: skip
    raise ConfigError(f"fold {fold}: there is no such fold; {named}", code="E-SPL-02")


def _refuse_overlap(patients: Mapping[str, set[str]]) -> None:
    names = list(patients)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            common = sorted(patients[first] & patients[second])
            if common:
                raise DataError(f"split: patient {common[0]} stands in {first} and in {second}", code="E-LEAK-01")


def _how(scheme: Scheme, fold: int | None, n_folds: int, test_on: Mapping[str, str]) -> str:
    """The head of the sentence about the held-out cases; "" for a scheme that holds none out."""
    return {
        "leave_one_out": f"Leave one patient out, over {n_folds}: fold {fold} holds out",
        "folds": f"{n_folds} folds by patient: fold {fold} holds out",
        "author_folds": f"{n_folds} folds given by the column fold: fold {fold} holds out",
        "author_split": "The test set of the column split is held out:",
        "attributes": f"Held out is {written(test_on)}:",
    }.get(scheme, "")


def _patients(cases: Iterable[Case]) -> set[str]:
    return {case.patient_id for case in cases}


def _ids(cases: Iterable[Case]) -> list[str]:
    return [case.case_id for case in cases]


def _in_order(cases: Sequence[Case], chosen: Iterable[Case]) -> tuple[str, ...]:
    wanted = set(_ids(chosen))
    return tuple(case.case_id for case in cases if case.case_id in wanted)


def _typed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples of `Split`, with the kinds of values checked."""
    values = dict(content)
    for name in ("train", "validation", "heldout", "unlabelled", "unused", "folds", "label_kinds"):
        values[name] = tuple(values[name])
    texts = [*values["patients"].values(), *(case for name in ("train", "heldout") for case in values[name])]
    if values["scheme"] not in get_args(Scheme) or not all(isinstance(text, str) for text in texts):
        raise ValueError("a value is of the wrong kind")
    return values
