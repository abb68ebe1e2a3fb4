"""A CSV file as rows of text, whatever program wrote it: BOM, CRLF, semicolons and tabs are fine."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scantling.errors import DataError

_SEPARATORS: Final = (",", ";", "\t")
_SPREADSHEET_NUMBER: Final = re.compile(r"^\d([.,]\d+)?E\+?\d+$")


@dataclass(frozen=True, kw_only=True)
class CsvRow:
    """One row: where it stands, and its values by column, without surrounding blanks."""

    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values.get(column, "")


@dataclass(frozen=True, kw_only=True)
class CsvTable:
    """A whole file: columns in their order, rows, the separator and what was odd about it."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[CsvRow, ...]
    separator: str
    notes: tuple[str, ...] = ()


def read_table(path: Path, known: Sequence[str], *, expected: Sequence[str] = ()) -> CsvTable:
    """The rows of a CSV file; every value stays text. Known columns are found in any case (`Case`, `IMAGE`).

    Args:
        known: columns that mean something to us, for hints about misspelt ones.
        expected: attributes that are no misspelling of a known column.

    Raises:
        DataError: missing, empty or not text; a column twice; a row with more values than columns.
    """
    text, notes = _decoded(path)
    lines = text.splitlines()
    if not lines or not lines[0].strip():
        raise DataError(f"{path}: the first line is empty, wanted the names of the columns", code="E-CSV-01")
    separator = max(_SEPARATORS, key=lines[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    try:
        columns = tuple(_column(name, known) for name in next(reader))
        _check_columns(path, columns)
        filled = ((reader.line_num, values) for values in reader if any(value.strip() for value in values))
        rows = tuple(_row(path, line, columns, values, separator) for line, values in filled)
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: not valid CSV ({error})", code="E-CSV-01") from None
    return CsvTable(
        path=path,
        columns=columns,
        rows=rows,
        separator=separator,
        notes=(*notes, *_hints(path, [name for name in columns if name not in expected], known)),
    )


def spreadsheet_note(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """A sentence if a name looks like a number that a spreadsheet rewrote (`12E4` saved as `1.2E+05`)."""
    odd = [name for name in names if _SPREADSHEET_NUMBER.match(name)]
    if not odd:
        return ()
    return (f"{path.name}: {odd[0]!r} looks like a name that a spreadsheet turned into a number; check the original",)


def _decoded(path: Path) -> tuple[str, tuple[str, ...]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", code="E-CSV-01") from None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16"), (f"{path.name}: read as UTF-16; save it as UTF-8 to be safe",)
    if b"\x00" in content:
        raise DataError(f"{path}: holds binary data, wanted a text file of comma-separated values", code="E-CSV-01")
    try:
        return content.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        note = f"{path.name}: is not UTF-8, read as Latin-1; save it as UTF-8 if names with accents look wrong"
        return content.decode("latin-1"), (note,)


def _column(name: str, known: Sequence[str]) -> str:
    name = name.strip()
    head, colon, channel = name.partition(":")
    if colon and head.strip().lower() in known:
        return f"{head.strip().lower()}:{channel.strip()}"
    return name.lower() if name.lower() in known else name


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    double = sorted({name for name in columns if name and columns.count(name) > 1})
    if double:
        raise DataError(f"{path}: column {double[0]!r} stands twice; rename or remove one", code="E-CSV-02")


def _row(path: Path, line: int, columns: Sequence[str], values: Sequence[str], separator: str) -> CsvRow:
    extra = [value for value in values[len(columns) :] if value.strip()]
    if extra:
        raise DataError(
            f"{path} line {line}: {len(values)} values for {len(columns)} columns; put a value that holds "
            f"{separator!r} in double quotes",
            code="E-CSV-03",
        )
    pairs = zip(columns, values, strict=False)  # a short row leaves its last columns empty
    return CsvRow(line=line, values={name: value.strip() for name, value in pairs if name})


def _hints(path: Path, columns: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    hints = []
    for name in columns:
        absent = [candidate for candidate in known if candidate not in columns]
        close = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.75)
        if name and name not in known and ":" not in name and close:
            hints.append(f"{path.name}: column {name!r} is kept as an attribute; did you mean {close[0]!r}?")
    return tuple(hints)
