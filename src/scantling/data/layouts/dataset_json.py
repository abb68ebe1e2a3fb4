"""`dataset.json`, which nnU-Net and the Medical Segmentation Decathlon write with different content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scantling.errors import DataError

FILE_NAME = "dataset.json"


def load(folder: Path) -> dict[str, Any]:
    """The object in a folder's `dataset.json`.

    Raises:
        DataError: the file is missing, is not JSON, or is not an object.
    """
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", code="E-LAY-04") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({type(error).__name__}: {error})", code="E-LAY-04") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {_kind(content)}, wanted an object {{...}}", code="E-LAY-04")
    return content


def peek(folder: Path) -> dict[str, Any]:
    """As `load`, with an empty object for a file that is missing or cannot be read: for recognising only."""
    try:
        return load(folder)
    except DataError:
        return {}


def mapping(content: Mapping[str, Any], key: str, folder: Path) -> dict[str, Any]:
    """An object inside the object.

    Raises:
        DataError: the key is missing or holds something else.
    """
    value = content.get(key)
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):  # MSD allows a bare list
        value = {str(position): entry for position, entry in enumerate(value)}
    if not isinstance(value, dict):
        raise DataError(
            f"{folder / FILE_NAME}: {key!r} is {_kind(value)}, wanted an object of names and values",
            code="E-LAY-05",
        )
    return {str(name): entry for name, entry in value.items()}


def whole_number(value: object, what: str, folder: Path) -> int:
    """An integer that may be written as text, as in `"0": "background"`.

    Raises:
        DataError: it is not one.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        return int(value)
    except ValueError:
        raise DataError(f"{folder / FILE_NAME}: {what} is {value!r}, wanted a whole number", code="E-LAY-05") from None


def modality_of(channels: tuple[str, ...]) -> str:
    """`CT` or `MR` if every channel's name says so ("MRI", "FLAIR", "T1w", ...), else nothing."""
    words = {name.strip().upper() for name in channels}
    if words == {"CT"}:
        return "CT"
    known = {"MRI", "MR", "FLAIR", "T1", "T1W", "T1GD", "T1CE", "T2", "T2W", "ADC", "DWI", "PD"}
    return "MR" if words <= known else ""


def _kind(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
