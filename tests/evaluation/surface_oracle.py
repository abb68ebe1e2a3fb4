"""The surface metrics by their definitions: each pixel asked for neighbours, each pair for its distance."""

from __future__ import annotations

import itertools
import math

import numpy as np


def surface_points(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> list[tuple[float, ...]]:
    """The mask's pixels (in mm) that miss a face neighbour, or have it outside the image."""
    inside = {tuple(int(i) for i in index) for index in np.argwhere(mask)}
    steps = [tuple(sign * (axis == a) for a in range(mask.ndim)) for axis in range(mask.ndim) for sign in (-1, 1)]
    return [
        tuple(i * mm for i, mm in zip(index, spacing_mm, strict=True))
        for index in sorted(inside)
        if any(tuple(i + s for i, s in zip(index, step, strict=True)) not in inside for step in steps)
    ]


def nearest(points: list[tuple[float, ...]], others: list[tuple[float, ...]]) -> list[float]:
    return [min(math.dist(point, other) for other in others) for point in points]


def percentile(values: list[float], q: float) -> float:
    """Linear between the order statistics (type 7 of Hyndman & Fan 1996)."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def distances(first: np.ndarray, second: np.ndarray, spacing_mm: tuple[float, ...]) -> tuple[list[float], list[float]]:
    a, b = surface_points(first, spacing_mm), surface_points(second, spacing_mm)
    return nearest(a, b), nearest(b, a)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    a, b = ({tuple(index) for index in np.argwhere(mask).tolist()} for mask in (first, second))
    return 2 * len(a & b) / (len(a) + len(b))


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Half of the time scattered pixels, half of the time one box with holes; never empty."""
    if rng.random() < 0.5:
        mask = rng.random(shape) < rng.uniform(0.05, 0.9)
    else:
        corners = [sorted(rng.integers(0, n + 1, size=2)) for n in shape]
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(slice(low, high) for low, high in corners)] = True
        mask &= rng.random(shape) < 0.9
    mask[tuple(int(rng.integers(n)) for n in shape)] = True
    return mask


def cells(mask: np.ndarray) -> dict[tuple[int, ...], frozenset[tuple[int, ...]]]:
    """Of each 2 x ... x 2 cell that is neither full nor empty the corners that are inside the mask."""
    corners = list(itertools.product((0, 1), repeat=mask.ndim))
    inside = {tuple(int(i) for i in index) for index in np.argwhere(mask)}
    found = {}
    for origin in itertools.product(*(range(-1, n) for n in mask.shape)):
        here = frozenset(c for c in corners if tuple(o + d for o, d in zip(origin, c, strict=True)) in inside)
        if 0 < len(here) < len(corners):
            found[origin] = here
    return found
