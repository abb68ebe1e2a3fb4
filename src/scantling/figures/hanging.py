"""Volumes as slices the way readers hang them, from the geometry their files state."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Shaped

from scantling.data.image import ImageGeometry

_THICK: Final = 1.5  # slices this many times thicker than pixels are wide are looked at one by one


def oriented_slices(
    array: Shaped[np.ndarray, "*stack z y x"], geometry: ImageGeometry, *, across: int | None = None
) -> tuple[Shaped[np.ndarray, "*stack slice row column"], tuple[float, float]]:
    """A volume as slices the way readers hang them, and the spacing of rows and columns in mm.

    Slices are cut across the thickest axis, or axially where voxels are nearly cubes; rows run to the back or
    to the feet, columns to the patient's left, or to the back in sagittal slices.

    Args:
        across: the array's axis to cut across instead.
    """
    directions = geometry.world_from_index[:3, :3] / np.asarray(geometry.spacing_mm)[None, :]
    world_axis = world_axes(geometry)
    spacing = np.asarray(geometry.spacing_mm)
    across = reading_axis(geometry) if across is None else across
    rows, columns = sorted((axis for axis in range(3) if axis != across), key=lambda axis: -world_axis[axis])
    first = array.ndim - 3
    moved = np.moveaxis(array, [first + across, first + rows, first + columns], [first, first + 1, first + 2])
    for position, axis in ((-2, rows), (-1, columns)):
        if directions[world_axis[axis], axis] > 0:  # towards right, front or head: turn it round
            moved = np.flip(moved, axis=position)
    return moved, (float(spacing[rows]), float(spacing[columns]))


def world_axes(geometry: ImageGeometry) -> list[int]:
    """Of each array axis the closest axis of the patient: 0 left to right, 1 back to front, 2 feet to head."""
    directions = geometry.world_from_index[:3, :3] / np.asarray(geometry.spacing_mm)[None, :]
    return [int(axis) for axis in np.abs(directions).argmax(axis=0)]


def reading_axis(geometry: ImageGeometry) -> int:
    """The array axis across which slices are read: the thickest, or the axial one where voxels are nearly cubes."""
    spacing, world_axis = np.asarray(geometry.spacing_mm), world_axes(geometry)
    thickest = int(spacing.argmax())
    axial = world_axis.index(2) if 2 in world_axis else 0
    return thickest if spacing[thickest] > _THICK * np.delete(spacing, thickest).max() else axial
