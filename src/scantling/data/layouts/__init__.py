"""Folder layouts accepted as they are; a layout is a module with `recognise(folder)` and `read(folder)`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

from scantling.config import nearest
from scantling.data.image_io import SUFFIXES
from scantling.data.layouts import cases_csv, msd, nnunet, pairs, suffix
from scantling.data.manifest import Manifest
from scantling.errors import ConfigError, DataError

LAYOUTS: Final[Mapping[str, ModuleType]] = {
    "cases_csv": cases_csv,
    "nnunet": nnunet,
    "msd": msd,
    "pairs": pairs,
    "suffix": suffix,
}
"""Every layout by name, in the order in which a folder is tried."""


def open_dataset(folder: Path, *, layout: str | None = None) -> Manifest:
    """The table of cases of a folder (or of a `cases.csv`), whatever its layout.

    Args:
        layout: a name of `LAYOUTS` to read it as; None tries them in order and takes the first that fits.

    Raises:
        ConfigError: there is no layout of that name, or `dataset.toml` is wrong.
        DataError: the folder is missing, fits no layout, or it or its table cannot be read.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r}: there is no such layout{nearest(layout, LAYOUTS)}", code="E-LAY-02")
    try:
        return _open(folder, layout)
    except OSError as error:
        name = folder if error.filename is None else error.filename
        raise DataError(f"{name}: cannot be read ({error.strerror}); check the path and your rights there",
                        code="E-LAY-11") from None  # fmt: skip


def _open(folder: Path, layout: str | None) -> Manifest:
    if folder.is_file() and folder.suffix.lower() == ".csv":
        return cases_csv.read(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; wanted a folder of images, or a cases.csv", code="E-LAY-03")
    if layout is not None:
        manifest: Manifest = LAYOUTS[layout].read(folder)
        return manifest
    for module in LAYOUTS.values():
        if module.recognise(folder):
            recognised: Manifest = module.read(folder)
            return recognised
    raise DataError(_not_recognised(folder), code="E-LAY-01")


def _not_recognised(folder: Path) -> str:
    wanted = "; ".join(f"{name}: {module.LOOKS_LIKE}" for name, module in LAYOUTS.items())
    sentence = (
        f"{folder}: no known layout; found {_contents(folder) or 'an empty folder'}; looked for {wanted} "
        f"(images are {', '.join(SUFFIXES)})"
    )
    for child in sorted(path for path in folder.iterdir() if path.is_dir())[:100]:
        for name, module in LAYOUTS.items():
            if module.recognise(child):
                return f"{sentence}; the folder {child.name!r} inside looks like {name}: did you mean that one?"
    return sentence


def _contents(folder: Path, *, most: int = 8) -> str:
    """The first names in a folder, and the first in the folders among them."""
    paths = sorted(folder.iterdir())
    names = [f"{path.name}/" if path.is_dir() else path.name for path in paths[:most]]
    if most > 2:
        inside = [_contents(path, most=2) if path.is_dir() else "" for path in paths[:most]]
        names = [f"{name} ({inner})" if inner else name for name, inner in zip(names, inside, strict=True)]
    return ", ".join(names) + (f" and {len(paths) - most} more" if len(paths) > most else "")
