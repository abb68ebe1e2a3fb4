"""Change the grid of an array, one axis at a time: interpolation along an axis is a product with a matrix.

Pixel-centre convention: both grids cover the same extent, so output sample `i` of `m` stands at input
coordinate `(i + 0.5) * n / m - 0.5`. When an axis shrinks, the kernel is widened by the factor, which is the
anti-aliasing; at the borders the weights are cut off and made to sum to one again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped

from scantling.data.case import IGNORE

Kernel = Literal["linear", "cubic"]
_SUPPORT: Final = {"linear": 1.0, "cubic": 2.0}


@lru_cache(maxsize=64)
def interpolation_matrix(n_in: int, n_out: int, kernel: Kernel) -> Float[np.ndarray, "out in"]:
    """Weights [n_out, n_in] that take samples of one axis to another number of samples; rows sum to 1.

    Source: Keys 1981, "Cubic convolution interpolation for digital image processing", Eq. 15 (a = -1/2), for
    "cubic"; the triangle for "linear".
    """
    factor = n_in / n_out
    width = max(1.0, factor)
    at = (np.arange(n_out) + 0.5) * factor - 0.5
    distance = np.abs(np.arange(n_in)[None, :] - at[:, None]) / width
    weights = _triangle(distance) if kernel == "linear" else _keys_cubic(distance)
    weights[distance >= _SUPPORT[kernel]] = 0.0
    matrix: Float[np.ndarray, "out in"] = weights / weights.sum(axis=1, keepdims=True)
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def resample(array: Num[np.ndarray, "*source"], shape: tuple[int, ...], kernel: Kernel) -> Float[np.ndarray, "*target"]:
    """`array` on a grid of `shape` over the same extent; axes of unchanged length are not touched."""
    return multiply_axes(array, axis_matrices(array.shape, shape, kernel))


def axis_matrices(
    source: tuple[int, ...], target: tuple[int, ...], kernel: Kernel
) -> list[Float[np.ndarray, "_ _"] | None]:
    """What each axis is multiplied by to get from one shape to another; None for one that keeps its length."""
    pairs = zip(source, target, strict=True)
    return [None if n == m else interpolation_matrix(n, m, kernel) for n, m in pairs]


def multiply_axes(
    array: Num[np.ndarray, "*source"], matrices: Sequence[Float[np.ndarray, "_ _"] | None]
) -> Float[np.ndarray, "*target"]:
    """Every axis multiplied by its matrix `[out, in]`; None leaves an axis as it is.

    An array that only this function knows is given up as soon as its first axis is done.
    """
    result = np.ascontiguousarray(array, dtype=np.float32)
    del array
    used = [(len(matrix) / matrix.shape[1], axis, matrix) for axis, matrix in enumerate(matrices) if matrix is not None]
    for _, axis, matrix in sorted(used, key=lambda each: each[0]):  # what shrinks most first: less work for the others
        result = _along_axis(result, axis, matrix)
    return result


def resample_nearest(array: Shaped[np.ndarray, "*source"], shape: tuple[int, ...]) -> Shaped[np.ndarray, "*target"]:
    """The value of the nearest sample, in the array's own type."""
    for axis, (n_in, n_out) in enumerate(zip(array.shape, shape, strict=True)):
        if n_in != n_out:
            nearest = np.floor((np.arange(n_out) + 0.5) * n_in / n_out).astype(np.intp)
            array = np.take(array, np.minimum(nearest, n_in - 1), axis=axis)
    return array


def resample_labels(
    label_map: Integer[np.ndarray, "*source"], shape: tuple[int, ...]
) -> Integer[np.ndarray, "*target"]:
    """Class indices on a grid of `shape`: linear interpolation of each class's mask, then the largest.

    IGNORE takes no part in the vote: a sample is unknown exactly where the nearest sample was. Ties go to the
    class of lower index.
    """
    if label_map.shape == tuple(shape):
        return label_map
    result = resample_nearest(label_map, shape).copy()
    unknown = result == IGNORE
    best: Float[np.ndarray, "*target"] | None = None
    for k in (int(value) for value in np.unique(label_map) if value != IGNORE):
        score = resample((label_map == k).astype(np.float32), shape, "linear")
        if best is None:
            best = score
            result[...] = k
        else:
            wins = score > best
            result[wins] = k
            np.copyto(best, score, where=wins)
    result[unknown] = IGNORE
    return result


def _along_axis(
    array: Float[np.ndarray, "*source"], axis: int, matrix: Float[np.ndarray, "out in"]
) -> Float[np.ndarray, "*target"]:
    shape = array.shape
    after = int(np.prod(shape[axis + 1 :]))
    if after == 1:
        flat = array.reshape(-1, shape[axis]) @ matrix.T
    else:
        flat = np.matmul(matrix, array.reshape(-1, shape[axis], after))
    return np.ascontiguousarray(flat).reshape(*shape[:axis], len(matrix), *shape[axis + 1 :])


def _triangle(distance: Float[np.ndarray, "out in"]) -> Float[np.ndarray, "out in"]:
    weights: Float[np.ndarray, "out in"] = np.maximum(1.0 - distance, 0.0)
    return weights


def _keys_cubic(distance: Float[np.ndarray, "out in"]) -> Float[np.ndarray, "out in"]:
    near: Float[np.ndarray, "out in"] = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.where(distance < 1.0, near, far)
