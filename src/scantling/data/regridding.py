"""A label map taken onto another grid by the places that both headers state."""

from __future__ import annotations

from typing import cast

import numpy as np
import scipy
from jaxtyping import Integer

from scantling.data.image import ImageGeometry


def labels_on_grid(
    stored: Integer[np.ndarray, "..."], own: ImageGeometry, wanted: ImageGeometry, *, outside: int
) -> Integer[np.ndarray, "..."]:
    """The value of the nearest voxel of a label map at the centre of every voxel of another grid.

    Args:
        stored: on the grid `own`; both grids have as many axes.
        outside: the value where the label map does not reach.
    """
    own_from_wanted = np.linalg.inv(own.world_from_index) @ wanted.world_from_index
    # "grid-constant" reaches to the border of the outermost voxels, "constant" only to their centres
    placed = scipy.ndimage.affine_transform(
        stored, own_from_wanted[:-1, :-1], own_from_wanted[:-1, -1], output_shape=wanted.shape, order=0,
        mode="grid-constant", cval=outside,
    )  # fmt: skip
    return cast("np.ndarray", placed)
