"""What may be done to a finished label map, only when asked for, and always reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Int

from scantling.evaluation.components import largest_component


@dataclass(frozen=True, kw_only=True)
class Removal:
    """How many components of a class, and how many voxels in them, became background."""

    class_name: str
    components: int
    voxels: int


def keep_largest_components(
    label_map: Int[np.ndarray, "*spatial"], class_names: Sequence[str]
) -> tuple[Int[np.ndarray, "*spatial"], tuple[Removal, ...]]:
    """Keep the largest component of each foreground class; the others become background.

    Voxels that touch at a face, an edge or a corner are connected. Of equally large components the first in
    array order is kept. A class with one component, or none, is left as it is and has no `Removal`.

    Args:
        class_names: by class index, background first.
    """
    result = label_map.copy()
    removals = []
    structure = np.ones((3,) * label_map.ndim)
    for k, where in enumerate(scipy.ndimage.find_objects(label_map), start=1):
        if where is None:
            continue
        mask = label_map[where] == k
        removed = mask & ~largest_component(mask)
        if removed.any():
            result[where][removed] = 0
            _, components = scipy.ndimage.label(removed, structure)
            voxels = int(np.count_nonzero(removed))
            removals.append(Removal(class_name=class_names[k], components=components, voxels=voxels))
    return result, tuple(removals)
