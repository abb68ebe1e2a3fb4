"""Connected pieces of a segmentation: keeping only the largest of each class, as an explicit, reported step."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Integer
from scipy import ndimage


def largest_component(mask: Bool[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
    """The largest connected piece of a mask; of equally large ones the first in array order.

    Pixels that touch by a side, an edge or a corner are connected (8 neighbours in 2D, 26 in 3D).
    """
    pieces, n_pieces = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
    if n_pieces < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())


def keep_largest_components(
    label_map: Integer[np.ndarray, "*spatial"], n_classes: int
) -> Integer[np.ndarray, "*spatial"]:
    """A label map in which each foreground class keeps its largest piece; the other pieces become background."""
    result = label_map.copy()
    boxes = ndimage.find_objects(np.maximum(label_map, 0), max_label=n_classes - 1)
    for klass, box in enumerate(boxes, start=1):
        if box is not None:
            mask = label_map[box] == klass
            result[box][mask & ~largest_component(mask)] = 0
    return result
