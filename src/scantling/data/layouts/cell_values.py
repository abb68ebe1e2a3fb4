"""What one cell of `cases.csv` means; every function gives the value or an error that names the row."""

from __future__ import annotations

import math
import re
from typing import Final, Literal, cast

from scantling.config import nearest
from scantling.data.case import LABEL_KINDS, ClassTable, LabelKind
from scantling.errors import ConfigError, DataError

_LONGEST_ID: Final = 150
"""Predictions are files named after the case; most file systems end at 255 bytes."""


def case_id(text: str, where: str) -> str:
    """A case's name: text that can be part of a file name.

    Raises:
        DataError: empty, too long, or with a character no file name may have.
    """
    if not text:
        raise DataError(f"{where}: the column case is empty; give every row the name of its case", code="E-CSV-05")
    bad = sorted({character for character in text if character in '/\\:*?"<>|' or not character.isprintable()})
    if bad or text.startswith(".") or len(text.encode()) > _LONGEST_ID:
        why = f"holds {bad[0]!r}" if bad else "starts with a dot" if text.startswith(".") else "is too long"
        raise DataError(f"{where}: case {text[:60]!r} {why}, but results are files of that name; rename it",
                        code="E-CSV-05")  # fmt: skip
    return text


def label_kind(text: str, where: str) -> LabelKind | Literal[""]:
    """A label kind, or "" for an empty cell.

    Raises:
        DataError: it is none of ours.
    """
    if text and text.lower() not in LABEL_KINDS:
        raise DataError(f"{where}: label_kind {text!r} is unknown{nearest(text.lower(), LABEL_KINDS)}", code="E-CSV-10")
    return cast("LabelKind", text.lower()) if text else ""


def class_names(text: str, classes: ClassTable, where: str) -> tuple[str, ...] | None:
    """Classes separated by `;`, or None for `*` or an empty cell: all of them.

    Raises:
        DataError: a name is no class of the data set.
    """
    if text in ("", "*"):
        return None
    names = tuple(part.strip() for part in re.split(r"[;|]", text) if part.strip())
    try:
        for name in names:
            classes.index(name)
    except ConfigError as error:
        raise DataError(f"{where}: {error.message}", code="E-CSV-11") from None
    return names


def whole_numbers(text: str, where: str) -> tuple[int, ...]:
    """Whole numbers separated by `;`; an empty cell gives none.

    Raises:
        DataError: a part is not a whole number.
    """
    parts = [part.strip() for part in re.split(r"[;|]", text) if part.strip()]
    return tuple(value for part in parts if (value := whole_number(part, where)) is not None)


def whole_number(text: str, where: str) -> int | None:
    """A whole number (`3`, or `3.0` as a spreadsheet writes it); an empty cell gives None.

    Raises:
        DataError: it is not one.
    """
    if not text:
        return None
    if not re.fullmatch(r"[+-]?\d{1,18}(\.0*)?", text):
        raise DataError(f"{where}: {text!r} is not a whole number", code="E-CSV-12")
    return int(text.partition(".")[0])


def share(text: str, where: str, *, decimal_comma: bool) -> float | None:
    """A number in [0, 1]; an empty cell gives None.

    Args:
        decimal_comma: whether `0,5` may be meant: only where the comma does not separate columns.

    Raises:
        DataError: it is not a number, or out of range.
    """
    if not text:
        return None
    try:
        value = float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise DataError(f"{where}: {text!r} is not a number from 0 to 1", code="E-CSV-12")
    return value
