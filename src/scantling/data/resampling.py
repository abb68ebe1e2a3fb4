"""Change the grid of an array, one axis at a time: interpolation along an axis is a product with a matrix.

Pixel-centre convention: both grids cover the same extent, so output sample `i` of `m` stands at input
coordinate `(i + 0.5) * n / m - 0.5`. When an axis shrinks, the kernel is widened by the factor, which is the
anti-aliasing; at the borders the weights are cut off and made to sum to one again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int, Integer, Num, Shaped

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
    result = np.ascontiguousarray(array, dtype=np.float32)
    # axes that shrink most go first: less work for the others
    for axis in sorted(range(len(shape)), key=lambda k: shape[k] / array.shape[k]):
        if shape[axis] != array.shape[axis]:
            result = _along_axis(result, axis, interpolation_matrix(array.shape[axis], shape[axis], kernel))
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


def largest_of(scores: Float[np.ndarray, "klass *source"], shape: tuple[int, ...]) -> Int[np.ndarray, "*target"]:
    """Index of the largest class after linear resampling, one class at a time; ties: the lower index."""
    dtype = np.int8 if len(scores) < 128 else np.int16
    best = _on_grid(scores[0], shape).copy()
    result = np.zeros(shape, dtype=dtype)
    for k in range(1, len(scores)):
        score = _on_grid(scores[k], shape)
        wins = score > best
        result[wins] = k
        np.copyto(best, score, where=wins)
    return result


def _on_grid(score: Float[np.ndarray, "*source"], shape: tuple[int, ...]) -> Float[np.ndarray, "*target"]:
    return score if score.shape == tuple(shape) else resample(score, shape, "linear")


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
