"""Pixels of images with their places in a colour disk, kept with a figure so that others can be compared with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Float64, Int64

from scantling.errors import IntegrityError
from scantling.files import write_atomic
from scantling.inference.case_views import EmbeddedView
from scantling.seeding import numpy_generator

ANCHORS: Final = "anchors.csv"
_A_VIEW: Final = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Anchors:
    """Pixels of an image and where a map has them.

    Attributes:
        indices: of the image's own array.
    """

    indices: Int64[np.ndarray, "pixel axis"]
    places: Float64[np.ndarray, "pixel 2"]

    def lie_in(self, shape: tuple[int, ...]) -> bool:
        """Whether an image of this shape has these pixels."""
        return self.indices.shape[1] == len(shape) and bool((self.indices < shape).all())


def draw_anchors(view: EmbeddedView, places: Float[np.ndarray, "*space 2"], seed: int) -> Anchors:
    """Pixels drawn by the seed and the image's name, with their places."""
    shape = view.image.geometry.shape
    rng = numpy_generator(seed, "anchors", view.case.case_id)
    indices = np.stack([rng.integers(0, n, _A_VIEW) for n in shape], axis=1).astype(np.int64)
    return Anchors(indices=indices, places=places_at(places, indices, shape).astype(np.float64))


def write_anchors(path: Path, anchors: Mapping[str, Anchors]) -> None:
    """A table: image, index along each axis, place."""
    axes = max((each.indices.shape[1] for each in anchors.values()), default=2)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["image", *(f"index_{axis}" for axis in range(axes)), "x", "y"])
    for name, each in anchors.items():
        for index, (x, y) in zip(each.indices.tolist(), each.places.tolist(), strict=True):
            lines.writerow([name, *index, f"{x:.6f}", f"{y:.6f}"])
    write_atomic(path, text.getvalue().encode())


def read_anchors(path: Path) -> dict[str, Anchors]:
    """What `write_anchors` wrote.

    Raises:
        IntegrityError: the file is missing or damaged.
    """
    rows: dict[str, list[list[float]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = csv.reader(stream)
            width = len(next(lines))
            for name, *numbers in lines:
                rows.setdefault(name, []).append([float(number) for number in numbers])
                if len(numbers) != width - 1:
                    raise ValueError
        return {
            name: Anchors(
                indices=np.array(lines)[:, :-2].astype(np.int64), places=np.array(lines, dtype=np.float64)[:, -2:]
            )
            for name, lines in rows.items()
        }
    except (OSError, ValueError, StopIteration, UnicodeDecodeError):
        raise IntegrityError(
            f"{path}: the file is missing or damaged; draw the figure again", code="E-FIG-09"
        ) from None


def places_at(
    places: Float[np.ndarray, "*space 2"], indices: Int64[np.ndarray, "pixel axis"], shape: tuple[int, ...]
) -> Float[np.ndarray, "pixel 2"]:
    """Places of image pixels on a grid of another size over the same extent."""
    own = places.shape[:-1]
    at = tuple(
        np.minimum(((indices[:, axis] + 0.5) * own[axis] / n).astype(np.int64), own[axis] - 1)
        for axis, n in enumerate(shape)
    )
    found: Float[np.ndarray, "pixel 2"] = places[at]
    return found
