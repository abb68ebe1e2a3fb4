"""Which patient a case belongs to, where only its name can say so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from scantling.errors import ConfigError

_BIDS: Final = re.compile(r"^(sub-[A-Za-z0-9]+)(?:_|$)")
# patient001_frame12, P7-visit-2, 0042_ED: an identifier with a digit in it, then a word for "another time"
_REPEATED: Final = re.compile(
    r"^(?P<subject>.*\d.*?)[_-](?:frame|session|ses|visit|timepoint|time|tp|phase|scan|slice|view)[_-]?\d+(?:[_-].*)?$"
    r"|^(?P<beating>.*\d.*?)[_-](?:ED|ES)$",
    re.IGNORECASE,
)


def subjects(case_ids: Iterable[str], pattern: str = "") -> tuple[dict[str, str], tuple[str, ...]]:
    """Case -> patient, and a sentence if names were read (a case whose name says nothing is its own patient).

    Args:
        pattern: regular expression with one group, searched in the case's name; "" looks for `sub-01_...`
            and for a word of time after an identifier (`patient001_frame12`).

    Raises:
        ConfigError: the pattern is no regular expression, has no group, or fits none of the names.
    """
    ids = list(case_ids)
    read = {case: _given(pattern, case) if pattern else _guessed(case) for case in ids}
    if pattern and ids and not any(read.values()):
        raise ConfigError(f"subject_pattern {pattern!r}: finds no patient in names such as {ids[0]!r}", code="E-SUB-01")
    found = {case: read[case] or case for case in ids}
    changed = [case for case in ids if found[case] != case]
    if not changed:
        return found, ()
    how = f"the pattern {pattern!r}" if pattern else "their names"
    note = (
        f"{len(ids)} cases are {len(set(found.values()))} patients by {how}, as in {changed[0]!r} -> "
        f"{found[changed[0]]!r}; override with subject_pattern in dataset.toml or a column 'subject' in cases.csv"
    )
    return found, (note,)


def _given(pattern: str, case: str) -> str:
    try:
        match = re.search(pattern, case)
        return (match[1] or "") if match else ""
    except (re.error, IndexError) as error:
        raise ConfigError(
            f"subject_pattern {pattern!r}: wanted a regular expression with one group ({error})",
            code="E-SUB-01",
        ) from None


def _guessed(case: str) -> str:
    if match := _BIDS.match(case):
        return match[1]
    if match := _REPEATED.match(case):
        return match["subject"] or match["beating"]
    return ""
