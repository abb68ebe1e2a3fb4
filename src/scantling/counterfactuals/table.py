"""The table of attributes: rows of text from a manifest, and what kind of attribute a column is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from scantling.config import nearest
from scantling.data.case import Case
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError

Kind = Literal["binary", "categorical", "continuous"]
Row: TypeAlias = Mapping[str, str]
"""The attributes of one case by column name; "" is a missing value."""

_MOST_LEVELS: Final = 10  # a column of numbers with more different values is a measurement, not a grade
_ROWS_A_LEVEL: Final = 5  # so is one whose values are each seen more rarely than this, on average
_FEWEST_RUNNING: Final = 10  # as many whole numbers without a gap, none twice, are running numbers
_MOSTLY: Final = 0.8


def row_of(case: Case) -> dict[str, str]:
    """The attributes of a case: site, scanner, and every further column of its manifest."""
    return {"site": case.site, "scanner": case.scanner, **case.attributes}


def table_of(manifest: Manifest) -> tuple[dict[str, str], ...]:
    """A row for every real case, counterfactuals left out; all rows have the columns that any of them has."""
    rows = [row_of(case) for case in manifest.real]
    columns = dict.fromkeys(name for row in rows for name, text in row.items() if text.strip())
    return tuple({name: row.get(name, "").strip() for name in columns} for row in rows)


def columns_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Every column of a table, in the order of first appearance."""
    return tuple(dict.fromkeys(name for row in rows for name in row))


def column(rows: Sequence[Row], name: str) -> tuple[str, ...]:
    """One column of a table, "" where a row lacks it.

    Raises:
        ConfigError: no row has it (the message suggests the nearest), or it is empty everywhere.
    """
    if not any(name in row for row in rows):
        known = columns_of(rows)
        raise ConfigError(
            f"attribute {name!r}: no such column in the table{nearest(name, known) if known else ', which is empty'}",
            code="E-CFG-53",
        )
    texts = tuple(row.get(name, "").strip() for row in rows)
    if not any(texts):
        raise ConfigError(f"attribute {name!r}: no case has a value; leave it out of the graph", code="E-CFG-54")
    return texts


def kind_of(name: str, texts: Sequence[str], declared: Literal["auto"] | Kind = "auto") -> Kind:
    """The kind of a column by its values, or the declared one where the values allow it.

    Two values are binary, whatever they are. Numbers are continuous, unless there are few levels, each seen often.
    All else is categorical.

    Raises:
        ConfigError: the column has one value only, names the cases, or its values are not of the declared kind.
    """
    present = [text for text in texts if text]
    counts = Counter(present)
    if len(counts) == 1:
        raise ConfigError(
            f"attribute {name!r}: every case has the value {present[0]!r}, so nothing can be learnt about changing "
            "it; leave it out of the graph",
            code="E-CFG-54",
        )
    if declared == "continuous":
        _require_numbers(name, present)
        return declared
    if declared == "binary" and len(counts) > 2:
        raise ConfigError(
            f"attribute {name!r}: is declared binary but has {len(counts)} different values "
            f"({_some(counts)}); make it categorical or continuous",
            code="E-CFG-55",
        )
    if len(counts) == 2:
        return declared if declared != "auto" else "binary"
    numeric = all(number(text) is not None for text in counts)
    levels = len(counts) <= _MOST_LEVELS and len(present) >= _ROWS_A_LEVEL * len(counts)
    if declared == "auto" and numeric and not levels and not _running(counts):
        return "continuous"
    if 2 * len(counts) > len(present) or _running(counts):
        raise _names_the_cases(name, counts)
    return "categorical"


def number(text: str) -> float | None:
    """The finite number a text is; None where it is none."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def in_order(values: Sequence[str]) -> tuple[str, ...]:
    """Values sorted as numbers where they all are numbers, else as text."""
    numbers = {text: number(text) for text in values}
    if None in numbers.values():
        return tuple(sorted(values))
    return tuple(sorted(values, key=lambda text: (numbers[text] or 0.0, text)))


def _running(counts: Counter[str]) -> bool:
    if len(counts) < _FEWEST_RUNNING or max(counts.values()) > 1:
        return False
    numbers = [value for text in counts if (value := number(text)) is not None and value.is_integer()]
    return len(numbers) == len(counts) and max(numbers) - min(numbers) == len(numbers) - 1


def _require_numbers(name: str, present: Sequence[str]) -> None:
    wrong = [text for text in present if number(text) is None]
    if wrong:
        raise ConfigError(
            f"attribute {name!r}: is declared continuous, but {len(wrong)} of {len(present)} values are not finite "
            f"numbers ({_some(wrong)}); empty the cells that are unknown, or make it categorical",
            code="E-CFG-55",
        )


def _names_the_cases(name: str, counts: Counter[str]) -> ConfigError:
    n_rows = sum(counts.values())
    words = [text for text in counts if number(text) is None]
    found = f"attribute {name!r}: has {len(counts)} different values in {n_rows} cases"
    if words and sum(counts[text] for text in words) < (1 - _MOSTLY) * n_rows:
        advice = f"numbers but for {_some(words)}; empty those cells, and it is continuous"
    else:
        advice = "so it names the cases rather than describes them; leave it out of the graph"
    return ConfigError(f"{found}, {advice}", code="E-CFG-55")


def _some(values: Sequence[str] | Counter[str]) -> str:
    first = [repr(text) for text in list(dict.fromkeys(values))[:3]]
    return ", ".join(first) + (", ..." if len(set(values)) > 3 else "")
