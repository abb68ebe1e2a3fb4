"""Weak labels from full masks, with a seed: scribbles, sparse slices, masks with a machine's mistakes.

Every function takes class indices (0 background, IGNORE unknown) and returns a new label map of the same
shape; randomness comes only from the generator that is passed in.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Int16, Integer, UInt8
from scipy import ndimage, sparse
from scipy.sparse.csgraph import dijkstra

from scantling.data.case import IGNORE

_EIGHT = np.ones((3, 3), dtype=bool)


def scribbles(
    label_map: Integer[np.ndarray, "*spatial"],
    rng: np.random.Generator,
    *,
    fraction: float = 0.01,
    width_px: int = 2,
    margin_px: float = 1.5,
) -> Int16[np.ndarray, "*spatial"]:
    """One hand-like curve per class and slice, background included; every other pixel is IGNORE.

    A curve is the longest way through its region that keeps to the region's middle, somewhat wobbly. The
    background's runs around the structures. A region too thin for the margin is drawn without one.

    Args:
        label_map: a picture, or a volume whose first axis counts slices.
        fraction: share of a slice's pixels to annotate, split evenly between the classes on it. A class that
            is too small gives less; each gives at least one pixel.
        width_px: thickness of the pen.
        margin_px: distance to keep from the border of the region.

    Raises:
        ValueError: `fraction` outside (0, 1], or a pen thinner than one pixel.
    """
    if not 0 < fraction <= 1 or width_px < 1:
        raise ValueError(f"scribbles: fraction must be in (0, 1] and width_px >= 1, got {fraction} and {width_px}")
    if label_map.ndim == 3:
        drawn = [scribbles(s, rng, fraction=fraction, width_px=width_px, margin_px=margin_px) for s in label_map]
        return np.stack(drawn) if drawn else np.full(label_map.shape, IGNORE, dtype=np.int16)

    result = np.full(label_map.shape, IGNORE, dtype=np.int16)
    classes = [int(value) for value in np.unique(label_map) if value >= 0]
    for value in classes:
        region = _around_foreground(label_map) if value == 0 else label_map == value
        budget = max(1, round(fraction * label_map.size / len(classes)))
        curve = _curve(region, rng, max(1, budget // width_px), margin_px)
        result[_pen(curve, width_px) & (label_map == value)] = value
    return result


def sparse_slices(
    label_map: Integer[np.ndarray, "*spatial"], rng: np.random.Generator, *, n_slices: int, axis: int = 0
) -> Int16[np.ndarray, "*spatial"]:
    """Keep `n_slices` annotated slices, evenly spread over those with foreground; the rest is IGNORE.

    The spread starts at a random slice. A volume with fewer such slices keeps all of them; one without any
    foreground keeps slices spread over its whole length.

    Raises:
        ValueError: `n_slices` < 1.
    """
    if n_slices < 1:
        raise ValueError(f"sparse_slices: n_slices must be >= 1, got {n_slices}")
    moved = np.moveaxis(label_map, axis, 0)
    with_foreground = np.flatnonzero((moved > 0).reshape(len(moved), -1).any(axis=1))
    candidates = with_foreground if with_foreground.size else np.arange(len(moved))
    n_kept = min(n_slices, candidates.size)
    step = candidates.size / n_kept
    kept = candidates[np.floor((np.arange(n_kept) + rng.random()) * step).astype(np.intp)]
    result = np.full(moved.shape, IGNORE, dtype=np.int16)
    result[kept] = moved[kept]
    return np.moveaxis(result, 0, axis)


def displaced(
    label_map: Integer[np.ndarray, "*spatial"],
    rng: np.random.Generator,
    *,
    displacement_px: float | tuple[float, ...],
    smoothness_px: float | tuple[float, ...] = 8.0,
) -> Int16[np.ndarray, "*spatial"]:
    """Borders moved by a smooth random field: what an imprecise annotator or model does.

    Args:
        displacement_px: standard deviation of the shift, in pixels; one value, or one for each axis (0 across
            thick slices).
        smoothness_px: how far apart two pixels must be to move independently; likewise.
    """
    positions = np.indices(label_map.shape, dtype=np.float32)
    shifts = np.broadcast_to(displacement_px, label_map.ndim)
    for axis in range(label_map.ndim):
        field = ndimage.gaussian_filter(rng.standard_normal(label_map.shape, dtype=np.float32), smoothness_px)
        positions[axis] += float(shifts[axis]) * field / max(float(field.std()), 1e-9)
    moved = ndimage.map_coordinates(label_map, positions, order=0, mode="nearest")
    return np.asarray(moved, dtype=np.int16)


def smoothed(
    label_map: Integer[np.ndarray, "*spatial"], *, sigma_px: float | tuple[float, ...]
) -> Int16[np.ndarray, "*spatial"]:
    """Corners rounded off: each class blurred, the largest wins; thin parts vanish."""
    classes = np.unique(label_map)
    blurred = [ndimage.gaussian_filter((label_map == value).astype(np.float32), sigma_px) for value in classes]
    return np.asarray(classes[np.argmax(blurred, axis=0)], dtype=np.int16)


def dropped(
    label_map: Integer[np.ndarray, "*spatial"], rng: np.random.Generator, *, value: int, share: float
) -> Int16[np.ndarray, "*spatial"]:
    """Part of one class missing: a random half-plane takes `share` of its pixels away, to background."""
    result = label_map.astype(np.int16)
    points = np.argwhere(label_map == value)
    if points.size:
        direction = rng.standard_normal(label_map.ndim)
        depth = points @ (direction / np.linalg.norm(direction))
        gone = points[depth >= np.quantile(depth, 1 - share)]
        result[tuple(gone.T)] = 0
    return result


def leaked(
    label_map: Integer[np.ndarray, "*spatial"], rng: np.random.Generator, *, value: int, radius_px: float
) -> Int16[np.ndarray, "*spatial"]:
    """One class spilling into background: a ball around a random point of its border is filled."""
    result = label_map.astype(np.int16)
    mask = label_map == value
    border = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    if border.size:
        centre = border[rng.integers(len(border))]
        squared = sum(
            ((axis - c) ** 2 for axis, c in zip(np.indices(label_map.shape), centre, strict=True)),
            start=np.zeros(label_map.shape),
        )
        result[(squared <= radius_px**2) & (label_map == 0)] = value
    return result


def silver_noise(
    label_map: Integer[np.ndarray, "*spatial"],
    rng: np.random.Generator,
    *,
    displacement_px: float | tuple[float, ...] = 1.0,
    smoothing_px: float | tuple[float, ...] = 0.8,
    drop_probability: float = 0.05,
    leak_probability: float = 0.1,
    leak_radius_px: float = 6.0,
) -> Int16[np.ndarray, "*spatial"]:
    """A full mask as an automatic method might have made it.

    Each foreground class may lose a part (up to 60 % of it) or leak; then all borders are displaced and
    rounded. Probabilities are per class. Displacement and smoothing take one value, or one for each axis.
    """
    result = label_map.astype(np.int16)
    for value in (int(v) for v in np.unique(label_map) if v > 0):
        if rng.random() < drop_probability:
            result = dropped(result, rng, value=value, share=float(rng.uniform(0.15, 0.6)))
        if rng.random() < leak_probability:
            result = leaked(result, rng, value=value, radius_px=leak_radius_px * float(rng.uniform(0.6, 1.4)))
    if np.any(np.asarray(displacement_px) > 0):
        result = displaced(result, rng, displacement_px=displacement_px)
    return smoothed(result, sigma_px=smoothing_px) if np.any(np.asarray(smoothing_px) > 0) else result


def stored_with_unknown(label_map: Int[np.ndarray, "*spatial"], *, unknown: int) -> UInt8[np.ndarray, "*spatial"]:
    """Class indices as a file stores them: IGNORE becomes `unknown`, a value above the classes.

    Raises:
        ValueError: `unknown` is a class that is present, or does not fit a byte.
    """
    if not 0 < unknown < 256 or bool((label_map >= unknown).any()):
        raise ValueError(f"stored_with_unknown: {unknown} must be above every class and below 256")
    return np.where(label_map == IGNORE, unknown, label_map).astype(np.uint8)


def _around_foreground(label_map: Integer[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """Background in a belt around the structures; all of it where there are none."""
    background = label_map == 0
    if not (label_map > 0).any():
        return np.asarray(background)
    distance = ndimage.distance_transform_edt(label_map <= 0)
    belt = background & (distance <= 0.12 * max(label_map.shape) + 3)
    return np.asarray(belt if belt.any() else background)


def _curve(
    region: Bool[np.ndarray, "y x"], rng: np.random.Generator, n_pixels: int, margin_px: float
) -> Bool[np.ndarray, "y x"]:
    """At most `n_pixels` of the longest way through the middle of the region's largest part."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    inner = depth > margin_px
    parts, n_parts = ndimage.label(inner if inner.any() else region, structure=_EIGHT)
    inner = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])) if n_parts else region
    points = np.argwhere(inner)
    wobble = ndimage.gaussian_filter(rng.standard_normal(region.shape), 3.0)
    depth = depth * np.exp(0.6 * wobble / max(float(wobble.std()), 1e-9))
    length, effort = _graphs(inner, depth)

    end = int(rng.integers(len(points)))
    for _ in range(2):  # the farthest point from the farthest point: the two ends of the region
        away = dijkstra(length, directed=False, indices=end)
        start, end = end, int(np.argmax(away))
    before = dijkstra(effort, directed=False, indices=start, return_predecessors=True)[1]
    way = [end]
    while way[-1] != start:
        way.append(int(before[way[-1]]))

    first = int(rng.integers(max(1, len(way) - n_pixels + 1)))
    chosen = points[way[first : first + n_pixels]]
    curve = np.zeros_like(region)
    curve[tuple(chosen.T)] = True
    return curve


def _graphs(
    inner: Bool[np.ndarray, "y x"], depth: Float[np.ndarray, "y x"]
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Neighbouring pixels as edges, by their distance, and by an effort that grows towards the border."""
    index = np.full(inner.shape, -1, dtype=np.intp)
    index[inner] = np.arange(np.count_nonzero(inner))
    height, width = inner.shape
    rows, columns, lengths, efforts = [], [], [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = np.s_[: height - down, max(0, -right) : width - max(0, right)]
        there = np.s_[down:, max(0, right) : width + min(0, right)]
        both = inner[here] & inner[there]
        rows.append(index[here][both])
        columns.append(index[there][both])
        lengths.append(np.full(rows[-1].size, np.hypot(down, right)))
        efforts.append(lengths[-1] / (depth[here][both] + depth[there][both]) ** 1.5)
    ends = np.concatenate(rows), np.concatenate(columns)
    shape = (int(np.count_nonzero(inner)),) * 2
    length, effort = (sparse.csr_matrix((np.concatenate(c), ends), shape=shape) for c in (lengths, efforts))
    return length, effort


def _pen(curve: Bool[np.ndarray, "y x"], width_px: int) -> Bool[np.ndarray, "y x"]:
    return np.asarray(ndimage.binary_dilation(curve, structure=np.ones((width_px, width_px), dtype=bool)))
