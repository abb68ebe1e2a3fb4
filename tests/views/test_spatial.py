from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scantling.errors import ConfigError
from scantling.seeding import numpy_generator
from scantling.views import geometry
from scantling.views.spatial import (
    SpatialConfig,
    SpatialDraw,
    draw_spatial,
    has_thick_slices,
    no_draw,
    sample_from_view,
)

EVERYTHING = SpatialConfig(
    rotation_probability=1,
    rotation_3d_probability=1,
    scale_probability=1,
    aspect=1.5,
    translate_probability=1,
    translate=0.2,
    flip_axes=(0, 1, 2),
)


def draws(config: SpatialConfig, patch: tuple[int, ...], spacing: tuple[float, ...], count: int = 200):
    return [
        draw_spatial(numpy_generator(0, "test", i), config, patch_size=patch, spacing_mm=spacing) for i in range(count)
    ]


def test_draws_stay_in_their_ranges_and_fill_them():
    drawn = draws(EVERYTHING, (40, 30), (1.0, 1.0))
    angles = np.array([d.rotation_deg[0] for d in drawn])
    magnification = np.array([np.sqrt(np.prod(d.scale)) for d in drawn])
    stretch = np.array([d.scale[0] / d.scale[1] for d in drawn])
    assert -20 <= angles.min() < -15 < 15 < angles.max() <= 20
    assert 0.8 <= magnification.min() < 0.85 < 1.2 < magnification.max() <= 1.25 + 1e-12
    assert 1 / 1.5 - 1e-12 <= stretch.min() < 0.75 < 1.35 < stretch.max() <= 1.5 + 1e-12
    shifts = np.array([d.shift_voxels for d in drawn])
    assert np.abs(shifts[:, 0]).max() == 8
    assert np.abs(shifts[:, 1]).max() == 6
    assert {d.flips for d in drawn} == {(a, b) for a in (False, True) for b in (False, True)}


def test_a_volume_with_thick_slices_is_turned_and_scaled_within_its_slices_only():
    for drawn in draws(EVERYTHING, (8, 40, 30), (10.0, 1.5, 1.5)):
        assert drawn.rotation_deg[1:] == (0.0, 0.0)
        assert drawn.scale[0] == 1.0
    thin = draws(EVERYTHING, (8, 40, 30), (1.0, 1.0, 1.0))
    assert all(d.rotation_deg[1] and d.rotation_deg[2] and d.scale[0] != 1 for d in thin)


def test_slices_are_thick_above_the_ratio_and_only_in_volumes():
    assert has_thick_slices((2.1, 1.0, 1.0), 2.0)
    assert not has_thick_slices((2.0, 1.0, 1.0), 2.0)
    assert not has_thick_slices((10.0, 1.0), 2.0)


def test_nothing_is_drawn_at_probability_zero():
    off = SpatialConfig(rotation_probability=0, rotation_3d_probability=0, scale_probability=0, translate_probability=0)
    for patch, spacing in (((9, 8), (1.0, 1.0)), ((9, 8, 7), (1.0, 1.0, 1.0))):
        assert set(draws(off, patch, spacing, 20)) == {no_draw(len(patch))}


def test_changing_one_range_leaves_every_other_drawn_value():
    wider = EVERYTHING.model_copy(update={"rotation_deg": 40.0, "flip_axes": ()})
    pairs = zip(draws(EVERYTHING, (9, 8), (1.0, 1.0)), draws(wider, (9, 8), (1.0, 1.0)), strict=True)
    for before, after in pairs:
        assert before.scale == after.scale
        assert before.shift_voxels == after.shift_voxels
        assert after.rotation_deg[0] == pytest.approx(2 * before.rotation_deg[0])


def where(draw: SpatialDraw, point: tuple[float, float]) -> list[float]:
    """Where a pixel of a 5 x 5 view lies in its 9 x 9 sample, in pixels; the centre is (2, 2) and (4, 4)."""
    spacing = (2.0, 0.5)
    matrix = sample_from_view([draw], sample_shape=(9, 9), patch_size=(5, 5), spacing_mm=spacing)
    position = geometry.mm_from_indices(torch.tensor([[point]]), spacing)
    return geometry.indices_from_mm(geometry.transform_points(matrix, position), spacing)[0, 0].tolist()


def drawn(**changes: object) -> SpatialDraw:
    plain = {"rotation_deg": (0.0,), "scale": (1.0, 1.0), "shift_voxels": (0, 0), "flips": (False, False)}
    return SpatialDraw(**{**plain, **changes})


def test_each_part_of_a_draw_does_what_its_name_says():
    assert where(drawn(), (0.0, 1.0)) == [2, 3]
    assert where(drawn(shift_voxels=(1, -2)), (0.0, 1.0)) == [3, 1]
    assert where(drawn(flips=(True, False)), (0.0, 1.0)) == [6, 3]
    # magnified twice: a pixel two from the centre shows what is one from it
    assert where(drawn(scale=(2.0, 4.0)), (0.0, 4.0)) == [3, 4.5]
    # a quarter turn in mm: 2 pixels of 2 mm along y become 8 pixels of 0.5 mm along x
    assert where(drawn(rotation_deg=(90.0,)), (4.0, 2.0)) == pytest.approx([4, 12])


def test_a_matrix_has_the_same_bits_alone_and_in_a_batch():
    patch, spacing = (6, 20, 18), (1.0, 0.9, 1.1)
    some = [*draws(EVERYTHING, patch, spacing, 9), no_draw(3)]
    place = {"sample_shape": (9, 31, 30), "patch_size": patch, "spacing_mm": spacing}
    together = sample_from_view(some, **place)
    for i, draw in enumerate(some):
        assert torch.equal(sample_from_view([draw], **place)[0], together[i])


CROPPED = EVERYTHING.model_copy(update={"crop_probability": 1.0, "crop_area": (0.1, 0.5), "crop_aspect": 1.5})


def boxes(patch: tuple[int, ...], spacing: tuple[float, ...], sample: tuple[int, ...], **changes: object) -> np.ndarray:
    """First edges and sides `[draw, axis, 2]`."""
    config = CROPPED.model_copy(update=changes)
    place = {"patch_size": patch, "spacing_mm": spacing, "sample_shape": sample}
    return np.array([draw_spatial(numpy_generator(0, "test", i), config, **place).crop for i in range(300)])


def test_a_crop_covers_its_share_of_the_sample_with_its_aspect_and_lies_anywhere_inside():
    sample, patch = np.array([60, 80]), np.array([20, 24])
    box = boxes((20, 24), (1.0, 1.0), (60, 80))
    first, side = box[..., 0], box[..., 1]
    assert (first >= 0).all()
    assert (first + side <= sample + 1e-9).all()
    share = side.prod(axis=1) / sample.prod()
    assert 0.1 <= share.min() < 0.12 < 0.48 < share.max() <= 0.5 + 1e-9
    stretch = (side / patch)[:, 0] / (side / patch)[:, 1]
    assert 1 / 1.5 - 1e-9 <= stretch.min() < 0.7 < 1.45 < stretch.max() <= 1.5 + 1e-9
    free = first / (sample - side)
    assert free.min() < 0.02
    assert free.max() > 0.98


def test_a_crop_of_a_volume_covers_its_share_of_the_volume_or_of_the_slice_if_slices_are_thick():
    sample, patch = np.array([30, 40, 36]), (16, 20, 18)
    side = boxes(patch, (1.0, 1.0, 1.0), (30, 40, 36))[..., 1]
    share = side.prod(axis=1) / sample.prod()
    assert 0.1 <= share.min() < 0.12 < 0.48 < share.max() <= 0.5 + 1e-9
    thick = boxes(patch, (9.0, 1.0, 1.0), (30, 40, 36))
    assert (thick[:, 0] == [7, 16]).all()
    share = thick[:, 1:, 1].prod(axis=1) / sample[1:].prod()
    assert 0.1 <= share.min() < 0.12 < 0.48 < share.max() <= 0.5 + 1e-9


def test_where_no_box_of_the_drawn_area_fits_the_largest_of_the_views_shape_is_taken_from_the_middle():
    box = boxes((40, 10), (1.0, 1.0), (40, 40), crop_area=(0.9, 1.0))
    assert (box == [[0.0, 40.0], [15.0, 10.0]]).all()


@pytest.mark.parametrize("shape", [((9, 14), (5, 8)), ((9, 14, 11), (5, 8, 4))])
def test_the_edges_of_a_view_are_those_of_its_box(shape):
    sample, patch = shape
    dimensions = len(patch)
    box = tuple((0.3 + axis, 4.1 + axis) for axis in range(dimensions))
    draw = replace(no_draw(dimensions), crop=box)
    spacing = (0.5, 2.0, 1.5)[:dimensions]
    matrix = sample_from_view([draw], sample_shape=sample, patch_size=patch, spacing_mm=spacing)
    edges = torch.tensor([[-0.5] * dimensions, [n - 0.5 for n in patch]], dtype=torch.float64)
    found = geometry.transform_points(matrix, geometry.mm_from_indices(edges, spacing)[None])
    found = geometry.indices_from_mm(found, spacing)[0] + 0.5  # as edges of the sample's voxels
    expected = torch.tensor([[first for first, _ in box], [first + side for first, side in box]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_control_points_are_as_many_as_the_view_needs_within_their_range_and_in_plane_if_slices_are_thick():
    config = EVERYTHING.model_copy(update={"elastic_probability": 1.0, "elastic_mm": 2.0, "elastic_spacing_mm": 10.0})
    thin, thick = ((12, 41, 31), (1.0, 1.0, 1.0)), ((12, 41, 31), (5.0, 1.0, 1.0))
    for (patch, spacing), shape in ((thin, (4, 7, 6)), (thick, (1, 7, 6))):
        for drawn_once in draws(config, patch, spacing, 5):
            points = np.reshape(drawn_once.elastic_mm, (3, *shape))
            assert np.abs(points[1:]).max() <= 2
            assert np.abs(points[1:]).max() > 1.8
            assert points[0].any() == (shape[0] > 1)


def test_an_impossible_range_is_refused_by_name():
    with pytest.raises(ConfigError, match="shares of the sample"):
        SpatialConfig.parse({"crop_area": (0.0, 0.5)}, where="test")
    with pytest.raises(ConfigError, match="shares of the sample"):
        SpatialConfig.parse({"crop_area": (0.5, 1.5)}, where="test")
    with pytest.raises(ConfigError, match=r"scale = .*wanted low <= high"):
        SpatialConfig.parse({"scale": (1.2, 0.8)}, where="test")
    with pytest.raises(ConfigError, match="array axes"):
        SpatialConfig.parse({"flip_axes": (3,)}, where="test")
    with pytest.raises(ConfigError, match="did you mean 'rotation_deg'"):
        SpatialConfig.parse({"rotation_degrees": 3}, where="test")
