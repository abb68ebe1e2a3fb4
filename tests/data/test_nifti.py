"""NIfTI: voxels and geometry against nibabel, and every odd header has a written behaviour."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scantling.data.geometry_check import closest_ras
from scantling.data.image_io import (
    ImageGeometry,
    MedicalImage,
    picture_geometry,
    read_geometry,
    read_image,
    read_label,
    write_label_map,
    write_scalar_map,
)
from scantling.errors import DataError, GeometryError

RNG = np.random.default_rng(0)
AFFINE = np.array([[-0.9, 0.1, 0.2, 30.0], [0.05, 1.2, -0.3, -40.0], [0.1, 0.2, 4.8, 7.0], [0, 0, 0, 1]])
ORIENTATIONS = [
    np.array([order, flips]).T
    for order in itertools.permutations(range(3))
    for flips in itertools.product([1, -1], repeat=3)
]


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None, **fields: object) -> Path:
    """Write with nibabel; `fields` overwrite header fields afterwards, as a careless program would."""
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    header_size = int(image.header["sizeof_hdr"])
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, image.header.template_dtype, count=1).copy()
    for name, value in fields.items():
        header[name] = value
    content[:header_size] = header.tobytes()
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


def corners(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    index = np.array(
        [
            *itertools.product(*((0, n - 1) for n in shape)),
        ]
    )
    return index @ affine[:3, :3].T + affine[:3, 3]


def bare(path: Path, voxels: np.ndarray, **fields: object) -> Path:
    """No sform, no qform: only voxel sizes."""
    return save(path, voxels, sform_code=0, qform_code=0, **fields)


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_number_type_in_both_byte_orders_reads_as_nibabel_reads_it(
    tmp_path: Path, kind: str, order: str, suffix: str
) -> None:
    voxels = RNG.integers(0, 120, size=(5, 4, 3)).astype(kind)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(kind)
    path = tmp_path / f"image{suffix}"
    nib.save(nib.Nifti1Image(voxels, AFFINE, header), path)
    image = read_image(path)
    assert image.array.dtype == np.dtype(kind)
    assert image.array.dtype.isnative
    np.testing.assert_array_equal(image.array[0], np.asanyarray(nib.load(path).dataobj).T)
    np.testing.assert_allclose(image.geometry.world_from_index, AFFINE[:, [2, 1, 0, 3]], atol=1e-5)
    assert image.geometry.spacing_mm == pytest.approx(nib.load(path).header.get_zooms()[::-1], rel=1e-6)
    assert read_geometry(path) == image.geometry
    assert hash(read_geometry(path)) == hash(image.geometry)


def test_nifti2_is_read_and_written_in_its_own_version(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 5, size=(5, 4, 3)).astype(np.uint8)
    path, copy = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    nib.save(nib.Nifti2Image(voxels, AFFINE), path)
    label_map, geometry = read_label(path)
    write_label_map(copy, label_map, geometry)
    written = nib.load(copy)
    assert isinstance(written, nib.Nifti2Image)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), voxels)
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: "".join(nib.orientations.ornt2axcodes(o)))
def test_labels_in_all_48_orientations_come_back_exactly_where_they_were(
    tmp_path: Path, orientation: np.ndarray
) -> None:
    voxels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    source = nib.Nifti1Image(voxels, AFFINE).as_reoriented(orientation)
    path, copy = tmp_path / "source.nii.gz", tmp_path / "copy.nii.gz"
    nib.save(source, path)
    label_map, geometry = read_label(path)
    write_label_map(copy, label_map, geometry)
    written = nib.load(copy)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), np.asanyarray(source.dataobj))
    shift = corners(written.affine, written.shape) - corners(source.affine, source.shape)
    assert np.abs(shift).max() < 1e-3
    assert written.header["sform_code"] == nib.load(path).header["sform_code"]

    permutation, flips = closest_ras(geometry.world_from_index)
    turned = np.flip(label_map.transpose(permutation), [axis for axis, flip in enumerate(flips) if flip])
    np.testing.assert_array_equal(turned.T, np.asanyarray(nib.as_closest_canonical(source).dataobj))


def test_the_qform_counts_where_there_is_no_sform(tmp_path: Path) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        affine = nib.affines.from_matvec(rotation * rng.uniform(0.5, 5, size=3), rng.normal(size=3) * 50)
        image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), None)
        image.set_qform(affine, code=1)
        path = tmp_path / f"{seed}.nii"
        nib.save(image, path)
        found = read_geometry(path).world_from_index[:, [2, 1, 0, 3]]
        np.testing.assert_allclose(found, nib.load(path).affine, atol=1e-5)
        np.testing.assert_allclose(found, affine, atol=1e-4)


def test_without_sform_and_qform_the_voxel_sizes_count_and_the_orientation_is_assumed(tmp_path: Path) -> None:
    path = bare(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), pixdim=[1, 0.5, 0.6, 3, 1, 1, 1, 1])
    image = read_image(path)
    assert image.geometry.spacing_mm == pytest.approx((3, 0.6, 0.5))
    assert image.geometry.spacing_known
    assert np.diag(image.geometry.world_from_index[:, [2, 1, 0, 3]]) == pytest.approx([0.5, 0.6, 3, 1])
    assert any("assumed to be RAS" in note for note in image.notes)


def test_a_unit_scale_sform_gives_directions_and_the_voxel_sizes_give_the_spacing(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.nii.gz",
        np.zeros((3, 4, 5), np.uint8),
        np.diag([-1.0, -1, 1, 1]),
        qform_code=0,
        pixdim=[1, 1.5625, 1.5625, 10, 1, 1, 1, 1],
    )
    image = read_image(path)
    assert image.geometry.spacing_mm == (10.0, 1.5625, 1.5625)
    np.testing.assert_array_equal(
        image.geometry.world_from_index[:3, :3], [[0, 0, -1.5625], [0, -1.5625, 0], [10, 0, 0]]
    )
    assert [note for note in image.notes if "unit scale" in note]


def test_the_cardiac_set_with_its_unit_scale_headers_reads_with_its_true_spacing(shared_data: Path) -> None:
    path = shared_data / "acdc" / "patient001" / "patient001_frame01_image.nii.gz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert read_geometry(path).spacing_mm == nib.load(path).header.get_zooms()[::-1]


def test_any_other_disagreement_of_voxel_sizes_and_sform_is_noted_and_the_sform_counts(
    tmp_path: Path,
) -> None:
    voxels, affine = np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 2, 2, 1])
    path = save(tmp_path / "a.nii", voxels, affine, pixdim=[1, 2, 2, 2.2, 1, 1, 1, 1])
    assert read_geometry(path).spacing_mm == (2, 2, 2)
    assert any("the sform is taken" in note for note in read_image(path).notes)
    path = save(tmp_path / "b.nii", voxels, affine, pixdim=[1, 2, 2, 2.05, 1, 1, 1, 1])
    assert read_image(path).notes == ()


def test_an_sform_and_a_qform_that_disagree_are_noted_and_the_sform_counts(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 2, 2, 1]))
    other = np.diag([2.0, 2, 2, 1])
    other[0, 3] = 0.3  # 0.15 voxels
    image.set_qform(other, code=1)
    path = tmp_path / "a.nii"
    nib.save(image, path)
    assert any("sform and qform disagree" in note for note in read_image(path).notes)
    np.testing.assert_array_equal(read_geometry(path).world_from_index[:3, 3], 0)


@pytest.mark.parametrize(("code", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
@pytest.mark.parametrize("forms", ["sform", "qform", "none"])
def test_metres_and_micrometres_become_millimetres(tmp_path: Path, code: int, factor: float, forms: str) -> None:
    path = save(
        tmp_path / "a.nii",
        np.zeros((3, 4, 5), np.uint8),
        np.diag([0.5, 0.75, 2, 1]),
        xyzt_units=code | 8,
        sform_code=int(forms == "sform"),
        qform_code=int(forms == "qform"),
        pixdim=[1, 0.5, 0.75, 2, 1, 1, 1, 1],
        qoffset_x=4,
        srow_x=[0.5, 0, 0, 4],
    )
    image = read_image(path)
    assert image.geometry.spacing_mm == pytest.approx((2 * factor, 0.75 * factor, 0.5 * factor))
    assert image.geometry.world_from_index[0, 3] == pytest.approx(0 if forms == "none" else 4 * factor)
    assert any("converted to mm" in note for note in image.notes) == (factor != 1)


def test_an_unknown_unit_is_taken_for_mm_and_noted(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), xyzt_units=5))
    assert image.geometry.spacing_mm == (1, 1, 1)
    assert any("unknown unit" in note for note in image.notes)


def test_a_sheared_affine_is_kept_and_noted(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1, 5, 1])
    affine[1, 2] = 1.5  # a gantry tilted by 17 degrees
    image = read_image(
        save(
            tmp_path / "a.nii",
            np.zeros((3, 4, 5), np.uint8),
            affine,
            qform_code=0,
            pixdim=[1, 1, 1, np.hypot(5, 1.5), 1, 1, 1, 1],
        )
    )
    assert image.geometry.spacing_mm == pytest.approx((np.hypot(5, 1.5), 1, 1))
    np.testing.assert_allclose(image.geometry.world_from_index[:, [2, 1, 0, 3]], affine)
    assert [note for note in image.notes if "sheared" in note]


def test_tiny_rounding_of_the_directions_is_no_shear(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1, 5, 1])
    affine[0, 1] = 1e-5
    assert read_image(save(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), affine)).notes == ()


@pytest.mark.parametrize("size", [0.0, -1.5, np.nan, np.inf, 1e30, 1e-20])
@pytest.mark.parametrize("forms", ["qform", "none"])
def test_a_voxel_size_that_is_no_length_is_refused_by_name(tmp_path: Path, size: float, forms: str) -> None:
    path = save(
        tmp_path / "a.nii",
        np.zeros((3, 4, 5), np.uint8),
        sform_code=0,
        qform_code=int(forms == "qform"),
        pixdim=[1, 1, size, 1, 1, 1, 1, 1],
    )
    for read in (read_geometry, read_image):
        with pytest.raises(GeometryError, match=r"a\.nii: its (qform|pixdim) .*export the file again") as error:
            read(path)
        assert error.value.code == "E-GEO-03"


def test_a_bad_voxel_size_beside_a_good_sform_is_noted(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.nii",
        np.zeros((3, 4, 5), np.uint8),
        np.diag([2.0, 2, 2, 1]),
        qform_code=0,
        pixdim=[1, 2, np.nan, -2, 1, 1, 1, 1],
    )
    image = read_image(path)
    assert image.geometry.spacing_mm == (2, 2, 2)
    assert any("the sform is taken" in note for note in image.notes)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]], "voxel size"),
        ([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], "do not span space"),
        ([[1, 0, 0, 0], [0, np.nan, 0, 0], [0, 0, 1, 0]], "no numbers"),
        ([[1, 0, 0, np.inf], [0, 1, 0, 0], [0, 0, 1, 0]], "no numbers"),
        ([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], "voxel size"),
    ],
)
def test_a_singular_or_undefined_sform_is_refused_by_name(tmp_path: Path, rows: list, complaint: str) -> None:
    path = save(
        tmp_path / "a.nii",
        np.zeros((3, 4, 5), np.uint8),
        qform_code=0,
        srow_x=rows[0],
        srow_y=rows[1],
        srow_z=rows[2],
    )
    with pytest.raises(GeometryError, match=complaint):
        read_image(path)


def test_a_quaternion_longer_than_one_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), sform_code=0, qform_code=1, quatern_b=5)
    with pytest.raises(GeometryError, match="qform"):
        read_image(path)


@pytest.mark.parametrize("forms", ["sform", "qform", "none"])
def test_one_slice_without_thickness_gets_one_millimetre_and_a_note(tmp_path: Path, forms: str) -> None:
    path = save(
        tmp_path / "a.nii",
        np.zeros((3, 4, 1), np.uint8),
        np.diag([2.0, 3, 1, 1]),
        srow_z=[0, 0, 0, 0],
        sform_code=int(forms == "sform"),
        qform_code=int(forms == "qform"),
        pixdim=[1, 2, 3, 0, 1, 1, 1, 1],
    )
    image = read_image(path)
    assert image.array.shape == (1, 1, 4, 3)
    assert image.geometry.spacing_mm == (1, 3, 2)
    assert np.linalg.matrix_rank(image.geometry.world_from_index) == 4
    assert any("no thickness" in note for note in image.notes)


def test_a_nifti_of_two_axes_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 9, size=(6, 7)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 3, 1, 1])), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    assert image.geometry.shape == (1, 7, 6)
    np.testing.assert_array_equal(image.array[0, 0], voxels.T)


@pytest.mark.parametrize("tail", [(3,), (1, 3), (3, 1), (1, 3, 1, 1), (8,), (1,), (1, 1)])
def test_a_fourth_axis_becomes_channels_and_single_axes_vanish(tmp_path: Path, tail: tuple[int, ...]) -> None:
    voxels = RNG.integers(0, 99, size=(5, 4, 2, *tail)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz")
    wanted = np.moveaxis(voxels.reshape(5, 4, 2, -1), -1, 0).transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(image.array, wanted)
    assert image.geometry.shape == (2, 4, 5)


@pytest.mark.parametrize("tail", [(9,), (2, 2), (3, 3)])
def test_a_time_series_is_refused_with_the_fix(tmp_path: Path, tail: tuple[int, ...]) -> None:
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 2, *tail), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="split time points into one file each"):
        read_image(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(("slope", "intercept"), [(2.5, -3), (0.001, 0), (1, 10), (-1, 0)])
@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "f4", "f8"])
def test_slope_and_intercept_are_applied_as_nibabel_applies_them(
    tmp_path: Path, slope: float, intercept: float, kind: str
) -> None:
    voxels = RNG.integers(0, 100, size=(4, 3, 2)).astype(kind)
    path = save(tmp_path / "a.nii", voxels, scl_slope=slope, scl_inter=intercept)
    image = read_image(path)
    assert image.array.dtype == np.float32
    np.testing.assert_allclose(image.array[0], nib.load(path).get_fdata().T, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("slope", "intercept"), [(0, 7), (np.nan, 7), (1, 0), (np.inf, 0), (1, np.nan)])
def test_a_slope_that_says_nothing_changes_nothing(tmp_path: Path, slope: float, intercept: float) -> None:
    voxels = RNG.integers(0, 100, size=(4, 3, 2)).astype(np.int16)
    image = read_image(save(tmp_path / "a.nii", voxels, scl_slope=slope, scl_inter=intercept))
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array[0], voxels.T)


def test_voxels_that_are_no_numbers_are_kept_and_counted_in_a_note(tmp_path: Path) -> None:
    voxels = np.ones((4, 3, 2), np.float32)
    voxels[0, 0, 0], voxels[1, 0, 0], voxels[2, 0, 0] = np.nan, np.inf, -np.inf
    image = read_image(save(tmp_path / "a.nii.gz", voxels))
    assert "3 of its 24 voxels are NaN or infinite" in image.notes
    np.testing.assert_array_equal(image.array[0], voxels.T)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (128, "RGB colours"),
        (2304, "RGBA colours"),
        (32, "complex"),
        (1792, "complex"),
        (1536, "128-bit"),
        (77, "77"),
    ],
)
def test_voxels_that_are_no_plain_numbers_are_refused_by_name(tmp_path: Path, code: int, complaint: str) -> None:
    path = save(tmp_path / "a.nii", np.zeros((4, 3, 2), np.uint8), datatype=code)
    with pytest.raises(DataError, match=complaint):
        read_image(path)


def test_a_plain_nifti_named_gz_and_a_packed_one_named_nii_are_read_with_a_note(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 100, size=(4, 3, 2)).astype(np.int16)
    plain = save(tmp_path / "plain.nii", voxels)
    named_gz = plain.rename(tmp_path / "plain.nii.gz")
    packed = save(tmp_path / "packed.nii.gz", voxels).rename(tmp_path / "packed.nii")
    for path, words in ((named_gz, "it is not gzip-packed"), (packed, "it is gzip-packed")):
        image = read_image(path)
        assert any(note.startswith(words) for note in image.notes)
        np.testing.assert_array_equal(image.array[0], voxels.T)
        assert read_geometry(path) == image.geometry


def test_header_extensions_are_stepped_over(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 100, size=(4, 3, 2)).astype(np.int16)
    image = nib.Nifti1Image(voxels, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a comment" * 100))
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").array[0], voxels.T)


def test_a_written_label_map_keeps_the_geometry_fields_bit_by_bit_and_nothing_else(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 5, size=(4, 3, 2)).astype(np.float64)
    source = save(
        tmp_path / "a.nii.gz",
        voxels,
        AFFINE,
        qform_code=3,
        quatern_b=0.25,
        qoffset_y=9,
        xyzt_units=10,
        descrip=b"Jane Doe 1970",
        scl_slope=1,
        scl_inter=0,
        cal_max=7,
    )
    label_map, geometry = read_label(source)
    write_label_map(tmp_path / "b.nii.gz", label_map, geometry)
    before, after = nib.load(source).header, nib.load(tmp_path / "b.nii.gz").header
    for field in ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
                  "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):  # fmt: skip
        assert np.asarray(before[field]).tobytes() == np.asarray(after[field]).tobytes(), field
    assert b"Jane" not in gzip.decompress((tmp_path / "b.nii.gz").read_bytes())
    assert after.get_data_dtype() == np.uint8
    assert after["cal_max"] == 0
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "b.nii.gz").dataobj), voxels)


def test_a_big_endian_source_is_answered_with_the_same_grid(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), AFFINE, header), tmp_path / "a.nii")
    label_map, geometry = read_label(tmp_path / "a.nii")
    write_label_map(tmp_path / "b.nii", label_map, geometry)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii").affine, nib.load(tmp_path / "a.nii").affine)


def test_the_same_label_map_gives_the_same_bytes_whatever_the_file_is_called(tmp_path: Path) -> None:
    label_map = RNG.integers(0, 5, size=(4, 3, 2)).astype(np.int64)
    geometry = read_geometry(save(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8)))
    for name in ("b.nii.gz", "c.nii.gz"):
        write_label_map(tmp_path / name, label_map, geometry)
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii", "b.nii.gz", "c.nii.gz"]


@pytest.mark.parametrize(("high", "low", "kind"), [(255, 0, "u1"), (256, 0, "u2"), (70000, 0, "u4"), (3, -1, "i1")])
def test_labels_are_written_in_the_smallest_type(tmp_path: Path, high: int, low: int, kind: str) -> None:
    label_map = np.array([[[low, high]]])
    geometry = read_geometry(save(tmp_path / "a.nii", np.zeros((2, 1, 1), np.uint8)))
    write_label_map(tmp_path / "b.nii", label_map, geometry)
    written, _ = read_label(tmp_path / "b.nii")
    assert written.dtype == np.dtype(kind)
    np.testing.assert_array_equal(written, label_map)


def test_scalar_maps_are_float32_with_the_classes_last_as_nifti_wants_them(tmp_path: Path) -> None:
    geometry = read_geometry(save(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8), AFFINE))
    probs = RNG.random(size=(3, 4, 3, 2))
    write_scalar_map(tmp_path / "p.nii.gz", probs, geometry)
    write_scalar_map(tmp_path / "e.nii.gz", probs[0], geometry)
    written = nib.load(tmp_path / "p.nii.gz")
    assert written.shape == (2, 3, 4, 3)
    assert written.get_data_dtype() == np.float32
    np.testing.assert_allclose(np.asanyarray(written.dataobj), probs.transpose(3, 2, 1, 0), rtol=1e-6)
    np.testing.assert_allclose(read_image(tmp_path / "p.nii.gz").array, probs, rtol=1e-6)
    assert nib.load(tmp_path / "e.nii.gz").shape == (2, 3, 4)


def test_a_made_grid_and_a_picture_can_be_written_as_nifti(tmp_path: Path) -> None:
    made = ImageGeometry(
        shape=(2, 3, 4),
        spacing_mm=(5.0, 1.0, 2.0),
        spacing_known=True,
        file_type="nifti",
        world_from_index=np.array([[0, 0, 2.0, -9], [0, 1, 0, 4], [5, 0, 0, 1], [0, 0, 0, 1]]),
    )
    write_label_map(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.uint8), made)
    back = read_geometry(tmp_path / "a.nii.gz")
    assert (back.shape, back.spacing_mm) == (made.shape, made.spacing_mm)
    np.testing.assert_array_equal(back.world_from_index, made.world_from_index)
    label_map = RNG.integers(0, 3, size=(5, 6)).astype(np.uint8)
    write_label_map(tmp_path / "b.nii.gz", label_map, picture_geometry((5, 6), "png"))
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "b.nii.gz").dataobj)[..., 0], label_map.T)


def test_a_pair_and_an_analyze_file_and_something_else_are_refused_by_name(tmp_path: Path) -> None:
    voxels = np.zeros((4, 3, 2), np.uint8)
    for magic, complaint in ((b"ni1", r"\.hdr/\.img pair"), (b"", "Analyze")):
        with pytest.raises(DataError, match=complaint):
            read_image(save(tmp_path / "a.nii", voxels, magic=magic))
    (tmp_path / "b.nii.gz").write_bytes(b"hello" * 1000)
    with pytest.raises(DataError, match="not a NIfTI file"):
        read_image(tmp_path / "b.nii.gz")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"dim": [0, 4, 3, 2, 1, 1, 1, 1]}, "counts 0 axes"),
        ({"dim": [3, 4, -3, 2, 1, 1, 1, 1]}, "at least one voxel"),
        ({"dim": [3, 4, 0, 2, 1, 1, 1, 1]}, "at least one voxel"),
        ({"vox_offset": 12}, "voxels at byte 12"),
        ({"vox_offset": np.nan}, "voxels at byte nan"),
        ({"vox_offset": 352.5}, "voxels at byte 352.5"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused_by_name(tmp_path: Path, fields: dict, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        read_geometry(save(tmp_path / "a.nii", np.zeros((4, 3, 2), np.uint8), **fields))


def test_a_missing_voxel_offset_is_repaired_with_a_note(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 100, size=(4, 3, 2)).astype(np.int16)
    image = read_image(save(tmp_path / "a.nii", voxels, vox_offset=0))
    np.testing.assert_array_equal(image.array[0], voxels.T)
    assert any("no voxel offset" in note for note in image.notes)


def test_voxels_of_a_read_image_can_be_changed(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.nii.gz", np.zeros((4, 3, 2), np.uint8)))
    assert isinstance(image, MedicalImage)
    image.array[...] = 1
    assert image.array.sum() == 24
