"""What a folder of counterfactuals says of itself: its tables, and the pictures a report shows of it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Num

from scantling.data.case import Case
from scantling.data.image import ImageGeometry
from scantling.data.image_io import read_image
from scantling.data.layouts import open_dataset
from scantling.errors import DataError, GeometryError, IntegrityError
from scantling.figures.counterfactual_grid import (
    GridRow,
    RowPictures,
    change_limit,
    draw_row,
    grid_row,
)
from scantling.files import read_json
from scantling.reports.privacy import without_paths
from scantling.seeding import numpy_generator

DESCRIPTION: Final = "generate.json"
SOUNDNESS: Final = "soundness.csv"


@dataclass(frozen=True, kw_only=True)
class DrawnRow:
    """A case's pictures, and the line of `soundness.csv` of each counterfactual in it.

    Attributes:
        where: which slice of a volume is shown.
    """

    case_id: str
    where: str
    lines: tuple[Mapping[str, str], ...]
    pictures: RowPictures


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """Everything the report says.

    Attributes:
        said: `generate.json`, without paths.
        lines: `soundness.csv`.
        shown: interventions in the grid.
        grid: cases drawn by the seed; `rejected`: rejected counterfactuals, one a row.
        limit: the change of the strongest colour, in shares of the grey scale.
        not_drawn: one sentence for each case that could not be drawn.
    """

    said: Mapping[str, Any]
    lines: Sequence[Mapping[str, str]]
    shown: tuple[str, ...]
    grid: tuple[DrawnRow, ...]
    rejected: tuple[DrawnRow, ...]
    limit: float
    not_drawn: tuple[str, ...]


class _Chosen(NamedTuple):
    """A case that is to be drawn, and its counterfactuals."""

    case_id: str
    lines: tuple[Mapping[str, str], ...]


def read_generation_facts(
    folder: Path, *, n_cases: int = 6, n_rejected: int = 6, n_shown: int = 8, most_px: int = 320
) -> GenerationFacts:
    """The facts of a finished folder of counterfactuals.

    Args:
        n_cases: rows of the grid; they are drawn by the seed among the cases with most counterfactuals, whatever became
            of those.
        n_shown: interventions in the grid, the most frequent ones.
        most_px: height of the pictures; smaller images stay as they are.

    Raises:
        DataError: the folder holds no finished counterfactuals.
        IntegrityError: a file in it is damaged.
    """
    said = _description(folder)
    lines = _lines(folder)
    cases = {case.case_id: case for case in open_dataset(folder, layout="cases_csv").cases}
    by_count = sorted(said["interventions"], key=lambda one: -int(one["count"]))[:n_shown]
    kept = {str(one["intervention"]) for one in by_count}
    shown = tuple(str(o["intervention"]) for o in said["interventions"] if o["intervention"] in kept)
    seed = int(said.get("settings", {}).get("seed", 0))
    reader = _Reader(cases)
    grid = [(one, row) for one in _for_grid(lines, shown, n_cases, seed) if (row := reader.row(one)) is not None]
    bad = [(one, row) for one in _for_rejected(lines, n_rejected, seed) if (row := reader.row(one)) is not None]
    limit = change_limit([row for _, row in (*grid, *bad)])
    return GenerationFacts(
        said=said,
        lines=lines,
        shown=shown,
        grid=tuple(_drawn(one, row, limit, most_px) for one, row in grid),
        rejected=tuple(_drawn(one, row, limit, most_px) for one, row in bad),
        limit=limit,
        not_drawn=tuple(reader.problems),
    )


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise DataError(f"{folder}: no counterfactuals here; wanted a folder of 'scantling generate'", code="E-RPT-04")
    said = read_json(path)
    if (
        not isinstance(said, dict)
        or said.get("status") != "finished"
        or not isinstance(said.get("interventions"), list)
    ):
        raise DataError(
            f"{folder}: 'scantling generate' has not finished here; the same command goes on", code="E-RPT-04"
        )
    cleaned: dict[str, Any] = without_paths(said)
    return cleaned


def _lines(folder: Path) -> list[dict[str, str]]:
    path = folder / SOUNDNESS
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", code="E-DAT-01") from None
    wanted = {"case", "counterfactual_of", "intervention", "sound", "reason"}
    if any(not wanted <= line.keys() for line in lines):
        raise IntegrityError(f"{path}: lacks columns; wanted {', '.join(sorted(wanted))}", code="E-CHK-02")
    return lines


def _for_grid(lines: Sequence[Mapping[str, str]], shown: Sequence[str], n: int, seed: int) -> list[_Chosen]:
    """Cases drawn by the seed, those with most counterfactuals first; shown in the order of the table."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for line in lines:
        if line["intervention"] in shown:
            found.setdefault(line["counterfactual_of"], []).append(line)
    names = list(found)
    order = [names[index] for index in numpy_generator(seed, "cases of the grid").permutation(len(names))]
    chosen = set(sorted(order, key=lambda name: -len(found[name]))[:n])
    return [_Chosen(name, tuple(of_case)) for name, of_case in found.items() if name in chosen]


def _for_rejected(lines: Sequence[Mapping[str, str]], n: int, seed: int) -> list[_Chosen]:
    """Rejected counterfactuals drawn by the seed, of every intervention in turn."""
    bad = [line for line in lines if line["sound"] == "no"]
    order = numpy_generator(seed, "rejected counterfactuals").permutation(len(bad))
    turns: dict[str, int] = {}
    placed = []
    for index in order:
        line = bad[index]
        turn = turns[line["intervention"]] = turns.get(line["intervention"], 0) + 1
        placed.append((turn, int(index)))
    return [_Chosen(bad[index]["counterfactual_of"], (bad[index],)) for _, index in sorted(placed)[:n]]


class _Reader:
    """Reads images of cases for the grid; what cannot be read is said once."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self.cases = cases
        self.problems: list[str] = []

    def row(self, chosen: _Chosen) -> GridRow | None:
        """The slices of a case and its counterfactuals; None where an image cannot be read."""
        try:
            before, geometry = self._image(chosen.case_id)
            after = [self._image(line["case"])[0] for line in chosen.lines]
            if any(one.shape != before.shape for one in after):
                raise DataError("image and counterfactual differ in size")
        except (DataError, IntegrityError) as error:
            self.problems.append(str(without_paths(f"{chosen.case_id}: {error.message}")))
            return None
        rejected = [line["sound"] == "no" for line in chosen.lines]
        return grid_row(before, after, geometry, rejected=rejected)

    def _image(self, name: str) -> tuple[Num[np.ndarray, "channel *spatial"], ImageGeometry]:
        if name not in self.cases:
            raise DataError("the data set no longer holds it")
        images = [read_image(path) for path in self.cases[name].images]
        if len({image.geometry.shape for image in images}) > 1:
            raise GeometryError("its channels do not share one grid")
        return np.concatenate([image.array for image in images]), images[0].geometry


def _drawn(chosen: _Chosen, row: GridRow, limit: float, most_px: int) -> DrawnRow:
    where = f"slice {row.slice_number} of {row.n_slices}" if row.n_slices > 1 else ""
    pictures = draw_row(row, limit=limit, most_px=most_px)
    return DrawnRow(case_id=chosen.case_id, where=where, lines=chosen.lines, pictures=pictures)
