"""What each case may become before a fold is chosen: taught, scored, or kept apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from scantling.config import nearest
from scantling.data.case import Case, LabelKind
from scantling.data.leakage import patients_across
from scantling.errors import ConfigError, DataError

Side = Literal["", "train", "validation", "test"]

_SIDES: Final[Mapping[str, Side]] = {
    "": "", "train": "train", "training": "train", "tr": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test", "ts": "test", "heldout": "test", "held-out": "test", "holdout": "test",
}  # fmt: skip
_COLUMNS: Final = frozenset({"case", "subject", "site", "scanner", "split", "fold"})


@dataclass(frozen=True, kw_only=True)
class SplitRoles:
    """The real cases by what they may become; a generated image becomes nothing by itself.

    Attributes:
        labelled: may be trained on and, by folds, held out.
        validation: labelled, and the authors' choice for validation.
        heldout: labelled, and held out whatever the fold.
        tested: on a test side, labelled or not: their patients must not be trained on.
        unlabelled: may be learnt from without labels (those of `labelled` that lose theirs included).
        scheme: who said so; "" where folds decide.
    """

    labelled: tuple[Case, ...]
    validation: tuple[Case, ...]
    heldout: tuple[Case, ...]
    tested: tuple[Case, ...]
    unlabelled: tuple[Case, ...]
    scheme: Literal["attributes", "author_split", ""]


def split_roles(
    cases: Sequence[Case],
    kinds: tuple[LabelKind, ...],
    train_on: Mapping[str, str],
    test_on: Mapping[str, str],
    *,
    allow_leak: bool,
) -> SplitRoles:
    """Sort cases by the authors' column `split` and by the columns of `train_on` and `test_on`.

    Raises:
        ConfigError: a column or a value that no case has; no case of `test_on` is labelled.
        DataError: a patient stands on two sides; an unknown word in the column `split`.
    """
    sides = {case.case_id: author_side(case) for case in cases}
    if not allow_leak:
        refuse_parted([replace(case, split=sides[case.case_id]) for case in cases], "split")
    wanted = _matching(cases, train_on)
    asked = _matching(cases, test_on) if test_on else ()
    if train_on and asked and not allow_leak:
        _refuse_common_patients(wanted, asked)
    asked_ids = {case.case_id for case in asked}
    pool = [case for case in wanted if case.case_id not in asked_ids]
    authors_test = [case for case in pool if sides[case.case_id] == "test"]
    scored = tuple(case for case in (asked if test_on else authors_test) if _is_labelled(case, kinds))
    if test_on and not scored:
        raise ConfigError(
            f"test_on {written(test_on)}: none of these cases has a label of kind {' or '.join(kinds)}",
            code="E-SPL-05",
        )
    taught = [case for case in pool if sides[case.case_id] in ("", "train")]
    return SplitRoles(
        labelled=tuple(case for case in taught if _is_labelled(case, kinds)),
        validation=tuple(case for case in pool if sides[case.case_id] == "validation" and _is_labelled(case, kinds)),
        heldout=scored,
        tested=(*asked, *authors_test),
        unlabelled=tuple(taught),
        scheme="attributes" if test_on else "author_split" if scored else "",
    )


def author_side(case: Case) -> Side:
    """What the authors' column `split` says of a case, in one spelling; "" where it says nothing.

    Raises:
        DataError: it is a word we do not know.
    """
    side = _SIDES.get(case.split.strip().lower())
    if side is None:
        raise DataError(
            f"case {case.case_id}: split {case.split!r} is unknown{nearest(case.split.lower(), set(_SIDES) - {''})}",
            code="E-SPL-04",
        )
    return side


def refuse_parted(cases: Iterable[Case], column: Literal["split", "fold"]) -> None:
    """Refuse an authors' column that puts one patient on several sides.

    Raises:
        DataError: it does.
    """
    parted = patients_across(cases, column)
    if parted:
        patient, values = next(iter(parted.items()))
        more = f" (and {len(parted) - 1} more)" if len(parted) > 1 else ""
        raise DataError(
            f"patient {patient}{more}: cases stand in {column} {' and '.join(values)}, so the score would be "
            f"measured on a patient that was trained on; correct the column {column}, or pass --set "
            "data.allow_leak=true",
            code="E-LEAK-01",
        )


def written(wanted: Mapping[str, str]) -> str:
    """Columns and values as a person would write them."""
    return ", ".join(f"{column} = {value}" for column, value in wanted.items())


def _matching(cases: Sequence[Case], wanted: Mapping[str, str]) -> tuple[Case, ...]:
    """The cases whose columns have the wanted values; all of them where nothing is wanted."""
    for column, text in wanted.items():
        columns = _COLUMNS.union(*(case.attributes for case in cases))
        if column not in columns:
            raise ConfigError(f"column {column!r}: no case has it{nearest(column, columns)}", code="E-SPL-05")
        present = {case.attribute(column) for case in cases} - {""}
        for value in _values(text):
            if value not in present:
                hint = nearest(value, present) if present else "; the column is empty"
                raise ConfigError(f"{column} {value!r}: no case has it{hint}", code="E-SPL-05")
    accepted = {column: _values(text) for column, text in wanted.items()}
    return tuple(case for case in cases if all(case.attribute(column) in texts for column, texts in accepted.items()))


def _values(text: str) -> list[str]:
    return [value.strip() for value in text.split(";")]


def _is_labelled(case: Case, kinds: tuple[LabelKind, ...]) -> bool:
    return case.annotation(kinds) is not None


def _refuse_common_patients(train: Sequence[Case], test: Sequence[Case]) -> None:
    common = sorted({case.patient_id for case in train} & {case.patient_id for case in test})
    if common:
        raise DataError(
            f"patient {common[0]}: has cases in train_on and in test_on, as {len(common)} patients have, so the "
            "score would be measured on a patient that was trained on; leave train_on away to train on all "
            "other patients, or pass --set data.allow_leak=true",
            code="E-LEAK-01",
        )
