"""The image files of one folder by stem, and which of them are channels of one case."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from scantling.data.image_io import SUFFIXES, image_stem
from scantling.errors import DataError

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def is_image(path: Path) -> bool:
    """Whether a name is that of an image we read; hidden files are not (`._x.nii.gz` of macOS).

    A link to nothing counts: reading it fails by name, where it would else be missing without a word.
    """
    if path.name.startswith(".") or not path.name.lower().endswith(tuple(SUFFIXES)):
        return False
    return path.is_file() or (path.is_symlink() and not path.exists())


def image_files(folder: Path) -> dict[str, Path]:
    """Stem -> path of the image files directly in a folder, in the order of their names.

    Raises:
        DataError: two files have the same stem, so that nobody can say which is meant.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path):
            stem = image_stem(path)
            if stem in found:
                raise DataError(
                    f"{folder}: {found[stem].name} and {path.name} have the same stem; keep one of them",
                    code="E-LAY-06",
                )
            found[stem] = path
    return found


def other_files(folders: Iterable[Path]) -> tuple[str, ...]:
    """A sentence for each folder with files of no image type that is read; hidden files do not count."""
    notes = []
    for folder in dict.fromkeys(folders):
        names = [
            p.name for p in sorted(folder.iterdir()) if p.is_file() and not (is_image(p) or p.name.startswith("."))
        ]
        if names:
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            notes.append(f"{folder.name}/: {listed} left out, because only {', '.join(SUFFIXES)} are read")
    return tuple(notes)


def by_case(files: Mapping[str, Path], labels: Collection[str]) -> dict[str, dict[str, Path]]:
    """Case -> channel -> path. `x_0000`, `x_0001` are channels of `x` if every file is named so.

    Args:
        labels: stems of the label files: `x_0000` is no channel if the label is called `x_0000` too.
    """
    channels: dict[str, dict[str, Path]] = {}
    for stem, path in files.items():
        match = _CHANNEL.match(stem)
        if match is None or stem in labels:
            return {stem: {"image": path} for stem, path in files.items()}
        channels.setdefault(match["case"], {})[match["channel"]] = path
    numbered = all("0000" in paths for paths in channels.values())
    if numbered and (not labels or any(case in labels for case in channels)):
        return channels
    return {stem: {"image": path} for stem, path in files.items()}
