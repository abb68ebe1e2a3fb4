"""One tolerance, in voxels, at the corners; and which way the axes of an array run."""

from __future__ import annotations

import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from scantling.data.geometry_check import closest_ras, compare, corner_distance
from scantling.data.image import ImageGeometry, picture_geometry

SHAPE = (12, 40, 30)


def grid(affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> ImageGeometry:
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return ImageGeometry(
        shape=shape, spacing_mm=spacing, spacing_known=True, world_from_index=affine, file_type="nifti"
    )


IMAGE = grid(np.array([[0, 0.1, -1.2, 90.0], [0.3, 1.5, 0.1, -20], [8, 0, 0.1, 5], [0, 0, 0, 1]]))


def moved(voxels: tuple[float, float, float]) -> ImageGeometry:
    shift = np.eye(4)
    shift[:3, 3] = voxels
    return replace(IMAGE, world_from_index=IMAGE.world_from_index @ shift)


def test_a_grid_agrees_with_itself() -> None:
    agreement = compare(IMAGE, IMAGE)
    assert (agreement.verdict, agreement.distance_voxels, agreement.message) == ("same", 0.0, "")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("voxels", "verdict"),
    [
        (0.01, "same"),
        (0.05, "same"),
        (-0.05, "same"),
        (0.06, "snap"),
        (-0.5, "snap"),
        (0.51, "refuse"),
        (3, "refuse"),
    ],
)
def test_a_shift_is_accepted_to_5_percent_snapped_to_50_and_refused_above(
    axis: int, voxels: float, verdict: str
) -> None:
    shift = [0.0, 0.0, 0.0]
    shift[axis] = voxels
    agreement = compare(IMAGE, moved((shift[0], shift[1], shift[2])))
    assert agreement.verdict == verdict
    assert agreement.distance_voxels == pytest.approx(abs(voxels), rel=1e-9)
    assert bool(agreement.message) == (verdict != "same")


def test_the_distance_is_that_of_the_farthest_corner() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        other = grid(IMAGE.world_from_index + np.vstack([rng.normal(scale=0.05, size=(3, 4)), np.zeros(4)]))
        farthest = 0.0
        for corner in itertools.product(*((0, n - 1) for n in SHAPE)):
            world = other.world_from_index @ [*corner, 1]
            found = np.linalg.solve(IMAGE.world_from_index, world)
            farthest = max(farthest, float(np.linalg.norm(found[:3] - corner)))
        assert corner_distance(IMAGE, other) == pytest.approx(farthest, rel=1e-9)


def test_a_slightly_wrong_spacing_adds_up_to_the_far_corner() -> None:
    wider = IMAGE.world_from_index.copy()
    wider[:3, 1] *= 1.01
    assert compare(IMAGE, grid(wider)).distance_voxels == pytest.approx(0.39)
    wider[:3, 1] *= 1.01
    assert compare(IMAGE, grid(wider)).verdict == "refuse"


def test_what_is_refused_names_the_fix() -> None:
    near = compare(IMAGE, moved((0, 0, 0.3)))
    assert near.message == (
        "the corners of image and label map lie up to 0.3 voxels apart; the label map is taken onto the image's grid"
    )
    far = compare(IMAGE, moved((0, 2, 0)))
    assert "up to 2 voxels apart" in far.message
    assert far.message.endswith(
        "they must share one grid ('scantling inspect DATA -o OUT' draws both; where the headers are right, "
        "'--fix grid' writes a copy on the image's grid; where only the label map's header is wrong, '--fix header' "
        "writes its voxels under the image's header)"
    )
    mirror = IMAGE.world_from_index @ np.array([[1, 0, 0, 0], [0, -1, 0, 39], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert "their axes run in other directions" in compare(IMAGE, grid(mirror)).message


def test_another_size_is_always_refused_and_never_resampled() -> None:
    agreement = compare(IMAGE, replace(IMAGE, shape=(12, 40, 31)))
    assert agreement.verdict == "refuse"
    assert np.isnan(agreement.distance_voxels)
    assert agreement.message.startswith("image is 12 x 40 x 30 but its label map is 12 x 40 x 31; ")
    assert "'--fix grid' writes a copy" in agreement.message
    assert "--fix header" not in agreement.message  # its voxels are not the image's
    turned = compare(picture_geometry((512, 640), "png"), picture_geometry((640, 512), "png"))
    assert turned.message.startswith("image is 512 x 640 but its label map is 640 x 512; they must share one grid")
    assert turned.message.endswith(
        "these files do not say where they lie, so export the label map at the image's size)"
    )
    flat = compare(IMAGE, picture_geometry(SHAPE[1:], "png"))
    assert flat.message.endswith("(export the label map as a file with the image's axes)")


def test_of_pictures_only_the_size_is_compared() -> None:
    picture = picture_geometry((5, 6), "png")
    assert compare(picture, picture_geometry((5, 6), "tiff")).verdict == "same"
    stack = picture_geometry(SHAPE, "tiff")
    assert compare(IMAGE, stack).verdict == "same"


def test_one_voxel_and_one_slice_are_compared_by_their_centres() -> None:
    single = replace(IMAGE, shape=(1, 1, 1))
    assert compare(single, replace(moved((0.2, 0, 0)), shape=(1, 1, 1))).distance_voxels == pytest.approx(0.2)


def test_the_closest_orientation_is_the_one_nibabel_finds() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        tilt, _ = np.linalg.qr(np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3) + 0.25 * rotation)
        affine = nib.affines.from_matvec(tilt * rng.uniform(0.5, 6, 3), rng.normal(size=3))  # voxels as x, y, z
        array = rng.integers(0, 1000, size=(3, 4, 5))
        expected = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int16), affine)).get_fdata().T
        permutation, flips = closest_ras(affine[:, [2, 1, 0, 3]])
        turned = np.flip(array.T.transpose(permutation), [axis for axis, flip in enumerate(flips) if flip])
        np.testing.assert_array_equal(turned, expected)


def test_a_picture_is_not_turned() -> None:
    assert closest_ras(np.eye(3)) == ((0, 1), (False, False))
