"""Largest components against a flood fill written here, and what is said about the others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scantling.inference.postprocess import Removal, keep_largest_components


def flood(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Components of a mask, voxels touching at faces, edges or corners."""
    left = {tuple(map(int, index)) for index in np.argwhere(mask)}
    steps = [s for s in itertools.product((-1, 0, 1), repeat=mask.ndim) if any(s)]
    found = []
    while left:
        component, queue = set(), [left.pop()]
        while queue:
            here = queue.pop()
            component.add(here)
            near = [tuple(a + b for a, b in zip(here, step, strict=True)) for step in steps]
            queue += [n for n in near if n in left]
            left.difference_update(near)
        found.append(component)
    return found


@pytest.mark.parametrize("shape", [(20, 25), (7, 9, 8)])
@pytest.mark.parametrize("seed", range(4))
def test_per_class_the_largest_component_stays_and_the_rest_is_counted(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    label_map = rng.choice(4, size=shape, p=[0.7, 0.1, 0.15, 0.05]).astype(np.int8)
    result, removals = keep_largest_components(label_map, ("background", "a", "b", "c"))
    for k, name in enumerate("abc", start=1):
        components = flood(label_map == k)
        kept = {tuple(map(int, index)) for index in np.argwhere(result == k)}
        assert kept in components
        assert len(kept) == max(map(len, components))
        removed = Removal(class_name=name, components=len(components) - 1, voxels=sum(map(len, components)) - len(kept))
        assert removed in removals
    assert (result[label_map == 0] == 0).all()


def test_of_equally_large_components_the_first_stays() -> None:
    result, removals = keep_largest_components(np.array([[0, 1, 0, 1, 0, 1]], dtype=np.int8), ("background", "dot"))
    assert result.tolist() == [[0, 1, 0, 0, 0, 0]]
    assert removals == (Removal(class_name="dot", components=2, voxels=2),)


def test_a_map_with_one_component_or_none_is_left_as_it_is_and_nothing_is_reported() -> None:
    for label_map in (np.zeros((4, 4), dtype=np.int8), np.eye(4, dtype=np.int8)):
        result, removals = keep_largest_components(label_map, ("background", "diagonal"))
        assert np.array_equal(result, label_map)
        assert result is not label_map
        assert removals == ()
