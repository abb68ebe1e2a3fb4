"""Do an image and its label map lie on one grid? One tolerance, in voxels, at the corners."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Final, Literal

import numpy as np
from jaxtyping import Float64

from scantling.data.image import ImageGeometry

ACCEPTED_VOXELS: Final = 0.05
SNAPPED_VOXELS: Final = 0.5
_ROUNDING: Final = 1e-6  # headers hold float32
_DRAWS_BOTH: Final = "'scantling inspect DATA -o OUT' draws both"
_REGRIDS: Final = "where the headers are right, '--fix grid' writes a copy on the image's grid"


@dataclass(frozen=True, kw_only=True)
class GridAgreement:
    """What was found when two grids were compared.

    Attributes:
        verdict: "same" (read on), "snap" (use the image's grid for the label map, and warn), "refuse".
        distance_voxels: the largest distance of two corresponding corners in voxels of the image; 0 where the
            files know no place in the patient, NaN where the sizes differ.
        message: one sentence with the fix, to stand behind the name of the case; empty for "same".
    """

    verdict: Literal["same", "snap", "refuse"]
    distance_voxels: float
    message: str = ""


def compare(image: ImageGeometry, label: ImageGeometry) -> GridAgreement:
    """Compare by size, then by the 8 corner voxels (4 in 2D).

    Corners up to 5 % of a voxel apart are the same grid, up to 50 % snap with a warning, more is refused.
    Pictures know no place, so only their sizes are compared.
    """
    if image.shape != label.shape:
        return GridAgreement(
            verdict="refuse",
            distance_voxels=float("nan"),
            message=f"image is {_size(image)} but its label map is {_size(label)}; they must share one grid "
            f"({_fix_of_size(image, label)})",
        )
    if not know_places(image, label):
        return GridAgreement(verdict="same", distance_voxels=0.0)
    distance = corner_distance(image, label)
    if distance <= ACCEPTED_VOXELS + _ROUNDING:
        return GridAgreement(verdict="same", distance_voxels=distance)
    where = f"the corners of image and label map lie up to {distance:.3g} voxels apart"
    if distance <= SNAPPED_VOXELS + _ROUNDING:
        return GridAgreement(
            verdict="snap",
            distance_voxels=distance,
            message=f"{where}; the label map is taken onto the image's grid",
        )
    turned = closest_ras(image.world_from_index) != closest_ras(label.world_from_index)
    why = ", because their axes run in other directions" if turned else ""
    return GridAgreement(
        verdict="refuse",
        distance_voxels=distance,
        message=f"{where}{why}; they must share one grid ({_DRAWS_BOTH}; {_REGRIDS}; where only the label map's "
        "header is wrong, '--fix header' writes its voxels under the image's header)",
    )


def know_places(image: ImageGeometry, label: ImageGeometry) -> bool:
    """Whether both files say where in one world their voxels lie."""
    return image.spacing_known and label.spacing_known and len(image.shape) == len(label.shape)


def corner_distance(image: ImageGeometry, label: ImageGeometry) -> float:
    """The largest distance between corresponding corner voxels, in voxels of the image."""
    corners = np.array([*product(*((0.0, n - 1.0) for n in image.shape))])
    homogeneous = np.concatenate([corners, np.ones((len(corners), 1))], axis=1)
    world = homogeneous @ (label.world_from_index - image.world_from_index).T
    difference = world[:, :-1] @ np.linalg.inv(image.world_from_index[:-1, :-1]).T
    return float(np.linalg.norm(difference, axis=1).max())


def closest_ras(
    world_from_index: Float64[np.ndarray, "side side"],
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which array axes, run which way, come closest to (superior, anterior, right).

    `np.flip(array.transpose(permutation), [i for i, flip in enumerate(flips) if flip])` has that order: array
    order of the RAS orientation. A picture stays as it is.

    Returns:
        permutation: for each new axis the old one.
        flips: for each new axis whether it must be reversed.
    """
    axes = len(world_from_index) - 1
    if axes == 2:
        return (0, 1), (False, False)
    columns = world_from_index[:axes, :axes]
    cosines = columns / np.linalg.norm(columns, axis=0)
    wanted = range(axes)[::-1]  # superior is the last world axis
    best = max(
        permutations(range(axes)),
        key=lambda order: sum(abs(cosines[w, a]) for w, a in zip(wanted, order, strict=True)),
    )
    return best, tuple(bool(cosines[w, a] < 0) for w, a in zip(wanted, best, strict=True))


def _fix_of_size(image: ImageGeometry, label: ImageGeometry) -> str:
    if len(image.shape) != len(label.shape):
        return "export the label map as a file with the image's axes"
    if know_places(image, label):
        return f"{_DRAWS_BOTH}; {_REGRIDS}"
    return f"{_DRAWS_BOTH}; these files do not say where they lie, so export the label map at the image's size"


def _size(geometry: ImageGeometry) -> str:
    return " x ".join(map(str, geometry.shape))
