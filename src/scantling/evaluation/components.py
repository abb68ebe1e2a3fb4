"""Connected pieces of a mask."""

from __future__ import annotations

import numpy as np
import scipy
from jaxtyping import Bool


def largest_component(mask: Bool[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
    """The largest connected piece of a mask; of equally large ones the first in array order.

    Pixels that touch by a side, an edge or a corner are connected (8 neighbours in 2D, 26 in 3D).
    """
    pieces, n_pieces = scipy.ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
    if n_pieces < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())
