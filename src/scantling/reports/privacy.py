"""What a report must not tell about a machine and its folders unless it is asked to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

HIDDEN: Final = "(path hidden)"
_FOLDERS: Final = re.compile(r"(?:[A-Za-z]:)?(?:[\w.~$%+@-]*[\\/])+[^\s'\",;:()\[\]]*")
_FILES: Final = re.compile(
    r"[^\s'\",;:()\[\]\\/]+\.(?:nii\.gz|nii|png|jpe?g|tiff?|dcm|nrrd|mha|mhd|csv|h5|npz?)\b", re.IGNORECASE
)
_NO_PATH: Final = re.compile(r"[\d.]+/[\d.]+|\w{1,3}/\w{1,3}")  # 1/128, n/a, ml/s
_AGAIN: Final = re.compile(rf"{re.escape(HIDDEN)}(?:[\\/]*{re.escape(HIDDEN)})*")
_OURS: Final = frozenset({"cases.csv", "dataset.toml", "dataset.json", "metrics.csv", "data.lock.json"})


def hide_paths(text: str) -> str:
    """The text with everything that looks like a path or an image file's name replaced."""

    def folder(match: re.Match[str]) -> str:
        return match.group() if _NO_PATH.fullmatch(match.group()) else HIDDEN

    def file(match: re.Match[str]) -> str:
        return match.group() if match.group() in _OURS else HIDDEN

    return _FILES.sub(file, _FOLDERS.sub(folder, text))


def without_paths(value: Any, *, roots: Sequence[str] = (), files: Sequence[str] = ()) -> Any:
    """A copy of nested plain values whose texts name no path; keys stay.

    Args:
        roots: folders known by name, for those with spaces that no pattern would find whole.
        files: file names known to belong to the data, relative to one of the roots.
    """
    if isinstance(value, str):
        return _AGAIN.sub(HIDDEN, hide_paths(_without_known(value, roots, files)))
    if isinstance(value, Mapping):
        return {key: without_paths(each, roots=roots, files=files) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(each, roots=roots, files=files) for each in value]
    return value


def _without_known(text: str, roots: Sequence[str], files: Sequence[str]) -> str:
    names = [name for file in files if file for name in (file, PurePath(file).name) if name in text]
    names += [root for root in roots if len(root) > 1 and root in text]
    for name in sorted(set(names), key=len, reverse=True):
        text = text.replace(name, HIDDEN)
    return text
