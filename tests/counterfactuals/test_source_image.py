"""Images into the model and changes back: every bit that does not change stays."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from counterfactuals.toy_image_model import BYTES, greys, picture, plan, volume, write_pictures
from scantling.counterfactuals.image_plan import ChannelScaling
from scantling.counterfactuals.source_image import ModelImage, as_stored, onto_source, plus, read_source, to_model
from scantling.data.case import Case
from scantling.data.image_io import read_image
from scantling.data.image_writing import write_image
from scantling.errors import DataError, IntegrityError, PlanMismatch

OWN = ChannelScaling(scheme="own")
TYPES = ["uint8", "uint16", "int16", "int32", "uint64", "float32", "float64", ">i2"]
# Every way an axis order and its directions can be written.
ORIENTATIONS = [
    "".join(pair[side] for pair, side in zip(order, sides, strict=True))
    for order in permutations(("RL", "AP", "SI"))
    for sides in product((0, 1), repeat=3)
]


@pytest.mark.parametrize("dtype", TYPES)
def test_no_change_leaves_every_bit(dtype: str) -> None:
    stored = np.random.default_rng(0).integers(0, 200, (11, 7)).astype(dtype)
    if stored.dtype.kind in "iu":
        stored[0, :2] = np.iinfo(stored.dtype).min, np.iinfo(stored.dtype).max
    else:
        stored[0, :4] = -0.0, np.nan, np.inf, 1e-30
    image = picture(stored)
    wanted = plan((8, 8), scaling=(OWN,))
    model = to_model(image, wanted)
    back = onto_source(image, model, np.zeros_like(model.values), wanted)
    assert back.channels[0].dtype == stored.dtype
    assert back.channels[0].tobytes() == stored.tobytes()
    assert (back.geometry, back.case_id, back.row) == (image.geometry, image.case_id, image.row)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SRA", "ASL"])
def test_no_change_leaves_every_bit_of_turned_volumes(orientation: str) -> None:
    image = volume(greys((5, 6, 7), 3, np.int16), orientation)
    wanted = plan((4, 8, 4), scaling=(OWN,), axis_order=(1, 0, 2))
    model = to_model(image, wanted)
    back = onto_source(image, model, np.zeros_like(model.values), wanted)
    assert back.channels[0].tobytes() == image.channels[0].tobytes()
    assert back.geometry is image.geometry


def test_the_model_sees_every_orientation_of_one_patient_alike_and_its_change_lands_in_one_place() -> None:
    scan = nib.Nifti1Image(np.ascontiguousarray(greys((4, 6, 8), 1, np.int16).T), np.eye(4))
    wanted = plan((4, 6, 8), scaling=(ChannelScaling(scheme="fixed", low=0, high=256),))
    seen, landed = [], []
    for orientation in ORIENTATIONS:
        turned = scan.as_reoriented(
            nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(orientation))
            )
        )
        image = volume(np.ascontiguousarray(np.asarray(turned.dataobj).T), orientation)
        model = to_model(image, wanted)
        change = np.zeros_like(model.values)
        change[0, 1, 2, 3] = 0.25
        moved = onto_source(image, model, change, wanted)
        difference = moved.channels[0].astype(int) - image.channels[0]
        back = nib.Nifti1Image(np.ascontiguousarray(difference.T).astype(np.int16), turned.affine)
        seen.append(model.values)
        landed.append(np.asarray(nib.as_closest_canonical(back).dataobj).T)
    assert all(np.array_equal(values, seen[0]) for values in seen)
    spot = np.zeros((4, 6, 8))
    spot[1, 2, 3] = 32  # a quarter of half the range of 256
    assert all(np.array_equal(difference, spot) for difference in landed)


def test_values_of_an_image_of_the_models_size_are_scaled_by_hand() -> None:
    stored = np.array([[0, 51], [102, 255]], dtype=np.uint8)
    model = to_model(picture(stored), plan((2, 2)))
    assert model.values[0] == pytest.approx(np.array([[-1, -0.6], [-0.2, 1]]), abs=1e-6)
    assert model.ranges == ((0.0, 255.0),)


def test_own_percentiles_are_those_of_numpy_and_clamp_what_lies_outside() -> None:
    stored = np.arange(400, dtype=np.float32).reshape(20, 20) - 50
    stored[0, 0], stored[-1, -1] = -900, 7000
    scaling = ChannelScaling(scheme="own", low_percentile=2, high_percentile=90)
    model = to_model(picture(stored), plan((20, 20), scaling=(scaling,)))
    low, high = np.percentile(stored.astype(np.float64), (2, 90))
    assert model.ranges[0] == pytest.approx((low, high))
    expected = np.clip(2 * (stored - low) / (high - low) - 1, -1, 1)
    assert model.values[0] == pytest.approx(expected, abs=1e-5)


def test_what_the_model_clamps_keeps_its_excess() -> None:
    stored = np.array([[-500, 0], [100, 2000]], dtype=np.int16)
    wanted = plan((2, 2), scaling=(ChannelScaling(scheme="fixed", low=0, high=100),))
    image = picture(stored)
    model = to_model(image, wanted)
    assert model.values.tolist() == [[[-1, -1], [1, 1]]]
    moved = onto_source(image, model, np.full((1, 2, 2), -0.5, np.float32), wanted)
    assert moved.channels[0].tolist() == [[-525, -25], [75, 1975]]


def test_a_constant_change_is_one_at_any_size_and_detail_stays() -> None:
    stored = greys((37, 23), 5)
    image, wanted = picture(stored), plan((8, 8))
    model = to_model(image, wanted)
    moved = onto_source(image, model, np.full_like(model.values, 10 / 127.5), wanted)
    assert np.array_equal(moved.channels[0], stored + 10)


def test_a_change_is_stretched_as_by_linear_interpolation_between_pixel_centres() -> None:
    image, wanted = picture(np.zeros((1, 8), np.float32)), plan((1, 4), scaling=(OWN,))
    change = np.array([[[0.0, 1.0, 3.0, 2.0]]], dtype=np.float32)
    model = ModelImage(values=np.zeros_like(change), ranges=((-1.0, 1.0),))
    moved = onto_source(image, model, change, wanted)
    expected = np.interp((np.arange(8) + 0.5) / 2 - 0.5, np.arange(4), change[0, 0])
    assert moved.channels[0][0] == pytest.approx(expected, abs=1e-6)


def test_halves_are_rounded_to_even_and_results_clipped_to_the_type() -> None:
    stored = np.array([1, 2, 250, 3], dtype=np.uint8)
    change = np.array([0.5, 0.5, 100.0, -100.0])
    assert plus(stored, change).tolist() == [2, 2, 255, 0]
    large = np.array([2**63 - 1, -(2**63)], dtype=np.int64)
    assert plus(large, np.array([1e6, -1e6])).tolist() == [2**63 - 1024, -(2**63)]


def test_values_given_back_in_stored_units_are_taken_over_and_the_same_ones_keep_their_bits() -> None:
    stored = np.array([2**40 + 1, 5, 6], dtype=np.int64)
    given = stored.astype(np.float32)
    assert as_stored(stored, given).tolist() == stored.tolist()
    assert as_stored(stored, given + np.array([0, 0.6, -20], np.float32)).tolist() == [2**40 + 1, 6, -14]


def test_a_constant_image_is_in_the_middle_of_its_range() -> None:
    model = to_model(picture(np.full((6, 6), 7, np.int16)), plan((8, 8), scaling=(OWN,)))
    assert np.abs(model.values).max() < 1e-6
    assert model.ranges == ((6.5, 7.5),)


def test_a_file_is_read_with_its_attributes_and_written_back_to_the_bit(tmp_path: Path) -> None:
    case = write_pictures(tmp_path, [greys((9, 12), 2)])[0]
    source = read_source(case, 1)
    assert source.row == {"site": "n", "scanner": "A", "age": "30"}
    model = to_model(source, plan())
    back = onto_source(source, model, np.zeros_like(model.values), plan())
    write_image(tmp_path / "back.png", back.channels, back.geometry)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "back.png")), np.asarray(Image.open(case.images[0])))
    assert read_image(tmp_path / "back.png").geometry == source.geometry


def test_an_unreadable_case_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"case P7: .*x\.png"):
        read_source(Case(case_id="P7", images=(tmp_path / "x.png",)), 1)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (volume(greys((4, 4, 4), 0)), "3 spatial axes"),
        (picture(greys((8, 8), 0, np.uint16) * 100), "% of its values lie outside 0..255"),
    ],
)
def test_images_of_another_kind_are_refused(image: Any, sentence: str) -> None:
    with pytest.raises(PlanMismatch, match=sentence):
        to_model(image, plan((8, 8), scaling=(BYTES,)))


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(PlanMismatch, match="1 channels, the plan is for 2"):
        to_model(picture(greys((8, 8), 0)), plan(scaling=(BYTES, BYTES)))


def test_a_change_that_is_not_finite_is_never_written() -> None:
    image, wanted = picture(greys((8, 8), 0)), plan()
    model = to_model(image, wanted)
    change = np.zeros_like(model.values)
    change[0, 3, 3] = np.nan
    with pytest.raises(IntegrityError, match=r"case case: .* not finite"):
        onto_source(image, model, change, wanted)
