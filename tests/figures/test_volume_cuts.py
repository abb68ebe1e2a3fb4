"""Three planes and a strip of slices: named and turned as readers hang them."""

from __future__ import annotations

import numpy as np
import pytest

from scantling.data.image import ImageGeometry, picture_geometry
from scantling.figures.hanging import oriented_slices, reading_axis
from scantling.figures.volume_cuts import STRIP, slice_strip, three_planes


def geometry(shape: tuple[int, int, int], spacing: tuple[float, float, float], axes: str = "RAS") -> ImageGeometry:
    """A volume whose array axes run towards these sides of the patient."""
    world = np.zeros((4, 4))
    world[3, 3] = 1
    for column, side in enumerate(axes):
        row = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[side]
        world[row, column] = spacing[column] * (1 if side in "RAS" else -1)
    return ImageGeometry(shape=shape, spacing_mm=spacing, spacing_known=True, world_from_index=world, file_type="nifti")


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ("RAS", ("axial", "sagittal", "coronal")),
        ("SRA", ("axial", "sagittal", "coronal")),
        ("LPI", ("axial", "sagittal", "coronal")),
        ("AIR", ("axial", "coronal", "sagittal")),
    ],
)
def test_the_planes_go_through_the_middle_and_have_their_readers_names(axes: str, names: tuple[str, ...]) -> None:
    grid = geometry((10, 12, 14), (1.0, 1.0, 1.0), axes)
    planes = three_planes(grid)
    assert tuple(plane.name for plane in planes) == names
    volume = np.arange(10 * 12 * 14).reshape(10, 12, 14)
    for plane in planes:
        found, _ = plane.of(volume, grid)
        middle = volume.take(grid.shape[plane.axis] // 2, axis=plane.axis)
        assert sorted(found.ravel().tolist()) == sorted(middle.ravel().tolist())


def test_rows_run_down_the_patient_and_columns_to_the_left() -> None:
    grid = geometry((8, 9, 10), (1.0, 2.0, 3.0))
    right, front, head = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    axial, coronal, sagittal = (
        next(p for p in three_planes(grid) if p.name == n) for n in ("axial", "coronal", "sagittal")
    )
    rows, spacing = axial.of(front, grid)
    assert spacing == (2.0, 1.0)
    assert (np.diff(rows, axis=0) == -1).all()  # towards the back
    assert (np.diff(axial.of(right, grid)[0], axis=1) == -1).all()  # towards the left
    assert (np.diff(coronal.of(head, grid)[0], axis=0) == -1).all()  # towards the feet
    assert (np.diff(sagittal.of(front, grid)[0], axis=1) == -1).all()
    assert sagittal.of(head, grid)[1] == (3.0, 2.0)


def test_thick_slices_are_read_as_they_lie_and_a_strip_is_spread_evenly() -> None:
    grid = geometry((40, 6, 50), (1.0, 5.0, 1.0))
    assert reading_axis(grid) == 1
    assert three_planes(grid)[0].name == "coronal"
    strip = slice_strip(grid)
    assert [cut.name for cut in strip] == [f"slice {k}" for k in range(1, 7)]
    fine = geometry((80, 80, 80), (1.0, 1.0, 1.0))
    chosen = [int(cut.name.removeprefix("slice ")) - 1 for cut in slice_strip(fine)]
    assert chosen == [5, 15, 25, 35, 45, 55, 65, 75]
    assert len(chosen) == STRIP
    volume = np.broadcast_to(np.arange(80), (80, 80, 80))
    for index, cut in zip(chosen, slice_strip(fine), strict=True):
        assert (cut.of(volume, fine)[0] == index).all()


def test_a_cut_means_the_same_on_a_coarser_grid_of_the_same_extent() -> None:
    grid = geometry((40, 40, 40), (1.0, 1.0, 1.0))
    coarse = np.broadcast_to(np.arange(10), (3, 10, 10, 10))
    for cut in slice_strip(grid):
        index = int(cut.name.removeprefix("slice ")) - 1
        assert (cut.of(coarse, grid)[0] == index // 4).all()
        assert cut.of(coarse, grid)[0].shape == (3, 10, 10)


def test_a_stack_of_pictures_knows_no_patient() -> None:
    grid = picture_geometry((5, 6, 7), "tiff")
    assert {cut.name for cut in three_planes(grid)} == {"across axis 1", "across axis 2", "across axis 3"}


def test_hanging_without_a_wish_is_across_the_reading_axis() -> None:
    grid = geometry((7, 8, 9), (1.0, 1.0, 4.0), "LIP")
    volume = np.random.default_rng(0).normal(size=grid.shape)
    own, spacing = oriented_slices(volume, grid)
    across, same = oriented_slices(volume, grid, across=reading_axis(grid))
    np.testing.assert_array_equal(own, across)
    assert spacing == same
