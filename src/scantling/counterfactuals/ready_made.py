"""Counterfactual images that somebody else made: a folder with a table of what each one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from scantling.config import nearest
from scantling.counterfactuals.attributes import Attribute
from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.source_image import SourceImage, read_source
from scantling.counterfactuals.table import Row
from scantling.data.case import Case
from scantling.data.geometry_check import compare
from scantling.data.layouts.csv_table import CsvRow, CsvTable, read_table
from scantling.errors import ConfigError, DataError

FILE_NAME: Final = "counterfactuals.csv"
_COLUMNS: Final = ("case", "intervention", "image")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One row: what was set, and where the image is."""

    settings: Mapping[str, str]
    images: tuple[Path, ...]


@final
class FolderSource:
    """The images that `counterfactuals.csv` in a folder names, each checked against the real one when it is asked for.

    Its columns are `case`, `intervention` (`scanner=B;finding=none`) and `image`, or `image:NAME` for each channel;
    paths are relative to the folder. An image is the answer where its row sets all that changes but for descendants
    of what it sets.

    Args:
        graph: says which attributes and values there are, and which descend from which.

    Raises:
        DataError: there is no such table, a file is not there, a row stands twice or cannot be read.
        ConfigError: an intervention names an unknown attribute or value.
    """

    name = "folder"

    def __init__(self, folder: Path, graph: FittedGraph) -> None:
        self.folder = folder
        self._attributes = {attribute.name: attribute for attribute in graph.attributes}
        self._ancestors = {name: _ancestors(name, graph.parents) for name in graph.parents}
        self._entries: dict[str, list[_Entry]] = {}
        table = read_table(folder / FILE_NAME, _COLUMNS)
        columns = _image_columns(table)
        for row in table.rows:
            where = f"{table.path} line {row.line}"
            entry = _Entry(settings=self._settings(row, where), images=_images(folder, row, columns, where))
            of_case = self._entries.setdefault(row["case"], [])
            if any(self._holds(entry.settings, other.settings, exactly=True) for other in of_case):
                raise DataError(
                    f"{where}: case {row['case']!r} with intervention {row['intervention']!r} stands twice; remove one",
                    code="E-CF-04",
                )
            of_case.append(entry)

    def __call__(self, images: Sequence[SourceImage], after: Sequence[Row]) -> tuple[SourceImage, ...]:
        """The ready-made image of each; the image itself where nothing changes.

        Raises:
            DataError: there is none, it cannot be read, or has another size, stored type or number of channels.
            GeometryError: its channels do not share one grid.
        """
        return tuple(self._one(image, row) for image, row in zip(images, after, strict=True))

    def _one(self, image: SourceImage, after: Row) -> SourceImage:
        changed = [name for name in self._attributes if not self._same(name, image.row, after)]
        if not changed:
            return replace(image, row=after)
        answers = [entry for entry in self._entries.get(image.case_id, ()) if self._answers(entry, changed, after)]
        if not answers:
            asked = ";".join(f"{name}={after.get(name, '')}" for name in changed)
            raise DataError(
                f"case {image.case_id}: {self.folder / FILE_NAME} has no image with {asked}; add one, or ask for what "
                "is there",
                code="E-CF-05",
            )
        entry = max(answers, key=lambda one: (len(one.settings.keys() & changed), -len(one.settings)))
        made = read_source(Case(case_id=image.case_id, images=entry.images), len(image.channels))
        _require_alike(image, made, entry.images[0])
        return replace(image, channels=made.channels, row=after)

    def _answers(self, entry: _Entry, changed: Sequence[str], after: Row) -> bool:
        """Whether all that an image sets holds, and all else that changes descends from it."""
        moved = entry.settings.keys() & changed
        return self._holds(entry.settings, after) and all(
            name in moved or self._ancestors[name] & moved for name in changed
        )

    def _holds(self, settings: Mapping[str, str], row: Row, *, exactly: bool = False) -> bool:
        return (not exactly or settings.keys() == row.keys()) and all(
            self._same(name, settings, row) for name in settings
        )

    def _same(self, name: str, one: Row, other: Row) -> bool:
        """Whether both say the same of an attribute, 3 and 3.0 included; or both nothing."""
        texts = [row.get(name, "").strip() for row in (one, other)]
        if texts[0] == texts[1] or not all(texts):
            return texts[0] == texts[1]
        values = self._attributes[name].read(texts)
        return bool(values[0] == values[1])

    def _settings(self, row: CsvRow, where: str) -> dict[str, str]:
        settings: dict[str, str] = {}
        for part in row["intervention"].split(";"):
            name, separator, value = (piece.strip() for piece in part.partition("="))
            if not separator or not name or not value or name in settings:
                raise DataError(
                    f"{where}: intervention {row['intervention']!r}; wanted attribute=value, several separated by ';', "
                    "each attribute once",
                    code="E-CF-04",
                )
            settings[name] = self._attribute(name, where).wanted(value)
        return settings

    def _attribute(self, name: str, where: str) -> Attribute:
        if name not in self._attributes:
            hint = nearest(name, self._attributes)
            raise ConfigError(f"{where}: {name!r} is not an attribute of the causal graph{hint}", code="E-CFG-56")
        return self._attributes[name]


def _image_columns(table: CsvTable) -> tuple[str, ...]:
    columns = tuple(name for name in table.columns if name.startswith("image:")) or ("image",)
    for name in ("case", "intervention", *columns):
        if name not in table.columns:
            raise DataError(f"{table.path}: there is no column {name!r}{nearest(name, table.columns)}", code="E-CSV-04")
    return columns


def _images(folder: Path, row: CsvRow, columns: Sequence[str], where: str) -> tuple[Path, ...]:
    paths = tuple(folder / row[name] for name in columns)
    for name, path in zip(columns, paths, strict=True):
        if not row[name] or not path.is_file():
            raise DataError(f"{where}: {name} {row[name]!r} is no file in {folder}; check the path", code="E-CF-04")
    return paths


def _require_alike(real: SourceImage, made: SourceImage, path: Path) -> None:
    agreement = compare(real.geometry, made.geometry)
    problem = ""
    if real.geometry.shape != made.geometry.shape:
        problem = f"is {_by(made.geometry.shape)} but the image is {_by(real.geometry.shape)}"
    elif agreement.verdict == "refuse":
        problem = f"lies on another grid than the image: corners up to {agreement.distance_voxels:.3g} voxels apart"
    else:
        for own, other in zip(real.channels, made.channels, strict=True):
            if own.dtype.newbyteorder("=") != other.dtype.newbyteorder("="):
                problem = f"stores {other.dtype} but the image stores {own.dtype}"
    if problem:
        raise DataError(
            f"case {real.case_id}: {path} {problem}; write it on the image's own grid and in its type", code="E-CF-06"
        )


def _ancestors(name: str, parents: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [*parents[name]]
    while waiting:
        parent = waiting.pop()
        if parent not in found:
            found.add(parent)
            waiting += parents[parent]
    return found


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
