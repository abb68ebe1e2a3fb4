"""A label map on another grid: each voxel of the new grid asks for the nearest one of the old."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from scantling.data.image import ImageGeometry
from scantling.data.regridding import labels_on_grid


def grid(affine: np.ndarray, shape: tuple[int, ...]) -> ImageGeometry:
    """A grid from a matrix that takes array indices to mm."""
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:-1, :-1], axis=0))
    return ImageGeometry(
        shape=shape, spacing_mm=spacing, spacing_known=True, world_from_index=affine, file_type="nifti"
    )


def random_affine(rng: np.random.Generator, axes: int) -> np.ndarray:
    affine = np.eye(axes + 1)
    affine[:axes, :axes] = np.linalg.qr(rng.normal(size=(axes, axes)))[0] * rng.uniform(0.5, 3, axes)
    affine[:axes, axes] = rng.normal(scale=3, size=axes)
    return affine


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i8"])
@pytest.mark.parametrize("shapes", [((5, 6, 7), (8, 4, 9)), ((9, 7), (6, 11))])
def test_every_voxel_holds_the_value_of_the_nearest_one_or_the_outside(dtype: str, shapes: tuple) -> None:
    rng = np.random.default_rng(0)
    seen_outside = 0
    for _ in range(6):
        own, wanted = (grid(random_affine(rng, len(shape)), shape) for shape in shapes)
        stored = rng.integers(0, 100, own.shape).astype(dtype)
        placed = labels_on_grid(stored, own, wanted, outside=101)
        assert placed.dtype == stored.dtype
        for index in np.ndindex(*wanted.shape):
            at = np.linalg.solve(own.world_from_index, wanted.world_from_index @ [*index, 1])[:-1]
            nearest = tuple(int(k) for k in np.floor(at + 0.5))
            inside = all(0 <= k < n for k, n in zip(nearest, own.shape, strict=True))
            assert placed[index] == (stored[nearest] if inside else 101)
            seen_outside += not inside
    assert seen_outside > 50


def test_all_48_orientations_come_back_exactly() -> None:
    rng = np.random.default_rng(1)
    affine = nib.affines.from_matvec(np.diag([1.5, 2.0, 0.7]), [10, -20, 5])
    original = nib.Nifti1Image(rng.integers(0, 9, (4, 5, 6)).astype(np.uint8), affine)
    wanted = grid(affine[:, [2, 1, 0, 3]], (6, 5, 4))
    turns = itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    for order, signs in turns:
        turned = original.as_reoriented(np.array(list(zip(order, signs, strict=True))))
        own = grid(turned.affine[:, [2, 1, 0, 3]], turned.shape[::-1])
        placed = labels_on_grid(np.asarray(turned.dataobj).T, own, wanted, outside=77)
        np.testing.assert_array_equal(placed, np.asarray(original.dataobj).T)


def test_a_grid_that_lies_elsewhere_gives_only_the_outside() -> None:
    here, there = grid(np.eye(4), (3, 3, 3)), grid(nib.affines.from_matvec(np.eye(3), [0, 0, 400]), (3, 3, 3))
    assert (labels_on_grid(np.ones((3, 3, 3), np.uint8), there, here, outside=4) == 4).all()
