"""The one interface: suffixes, names, label values, and errors that name the file and the fix."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from scantling.data.image_io import (
    READERS,
    SUFFIXES,
    Reader,
    image_stem,
    image_suffix,
    label_file_name,
    picture_geometry,
    read_geometry,
    read_image,
    read_label,
    read_scalar_map,
    scalar_file_name,
    write_label_map,
    write_scalar_map,
)
from scantling.errors import DataError

RNG = np.random.default_rng(2)


def save_label(path: Path, values: np.ndarray) -> Path:
    """Values of shape (1, y, x), written by another hand."""
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(values.transpose(2, 1, 0), np.eye(4), dtype=values.dtype), path)
    else:
        tifffile.imwrite(path, values[0])
    return path


def test_every_reader_offers_the_whole_interface() -> None:
    assert SUFFIXES == (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
    for module in READERS.values():
        assert isinstance(module, Reader)


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("case_1.nii.gz", "case_1", ".nii.gz"),
        ("case.1.NII.GZ", "case.1", ".nii.gz"),
        ("a.nii", "a", ".nii"),
        ("scan.PNG", "scan", ".png"),
        ("a.b.tiff", "a.b", ".tiff"),
        ("a.gz", "a", None),
        ("notes.txt", "notes", None),
        ("dir.png/none", "none", None),
        ("üñ 1.jpeg", "üñ 1", ".jpeg"),
    ],
)
def test_stems_drop_the_whole_suffix(name: str, stem: str, suffix: str | None) -> None:
    assert image_stem(Path(name)) == stem
    assert image_suffix(Path(name)) == suffix


def test_label_and_scalar_names_fit_the_image(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    volume, picture = read_geometry(tmp_path / "a.nii"), picture_geometry((4, 4), "jpeg")
    stack = picture_geometry((3, 4, 4), "tiff")
    assert [label_file_name("x", g) for g in (volume, picture, stack)] == ["x.nii.gz", "x.png", "x.tiff"]
    assert [scalar_file_name("x", g) for g in (volume, picture, stack)] == ["x.nii.gz", "x.tiff", "x.tiff"]


@pytest.mark.parametrize("read", [read_image, read_geometry, read_label])
def test_missing_files_folders_and_unknown_types_are_errors_that_name_the_path(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(DataError, match=r"none\.nii\.gz: no such file") as error:
        read(tmp_path / "none.nii.gz")
    assert (error.value.code, error.value.exit_code) == ("E-IMG-02", 3)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"folder\.png: cannot be read"):
        read(tmp_path / "folder.png")
    (tmp_path / "a.dcm").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.dcm: not an image type .*\.nii\.gz.*so convert it"):
        read(tmp_path / "a.dcm")
    for name in ("a.nii", "a.nii.gz", "a.png", "a.jpg", "a.tif"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match="convert it"):
            read(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(DataError, match="permissions"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.tif"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_floats_near_whole_numbers_are_labels(tmp_path: Path, name: str, kind: str) -> None:
    label_map = RNG.choice([0, 2, 5, 255], size=(1, 6, 7))
    noise = RNG.uniform(-0.0099, 0.0099, size=label_map.shape)
    noise.flat[0] = -0.0001  # 0.9999 and its kind
    read, geometry = read_label(save_label(tmp_path / name, (label_map + noise).astype(kind)))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read.reshape(6, 7), label_map[0])
    assert geometry.shape in ((1, 6, 7), (6, 7))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.tif"])
@pytest.mark.parametrize("bad", [0.5, 0.98, -0.02, np.nan, np.inf])
def test_fractions_and_values_that_are_no_numbers_are_no_labels(tmp_path: Path, name: str, bad: float) -> None:
    values = np.zeros((1, 6, 7), np.float32)
    values[0, 2, 3] = bad
    with pytest.raises(DataError, match=r"label map holds .* at index \((0, )?2, 3\), and 1 such values") as error:
        read_label(save_label(tmp_path / name, values))
    assert error.value.code == "E-IMG-07"
    assert "nearest-neighbour" in error.value.message


def test_label_values_beyond_what_floats_hold_exactly_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wanted small whole numbers"):
        read_label(save_label(tmp_path / "a.nii", np.full((1, 2, 2), 1e30, np.float32)))


@pytest.mark.parametrize("values", [[0, 2, 5, 255], [0, 300, 65535], [-1, 0, 3], [0], [7], [0, 70000]])
@pytest.mark.parametrize("kind", ["i4", "i8", "f8"])
def test_any_set_of_whole_numbers_makes_the_round_trip_through_nifti(tmp_path: Path, values: list, kind: str) -> None:
    label_map = RNG.choice(values, size=(1, 6, 7))
    read, geometry = read_label(save_label(tmp_path / "a.nii.gz", label_map.astype(kind)))
    np.testing.assert_array_equal(read, label_map)
    write_label_map(tmp_path / "b.nii.gz", read, geometry)
    np.testing.assert_array_equal(read_label(tmp_path / "b.nii.gz")[0], label_map)


@pytest.mark.parametrize(("slope", "intercept"), [(2, 0), (1, -1), (0.5, 3), (1 / 3, 0)])
def test_labels_scaled_by_slope_and_intercept_are_what_they_mean(
    tmp_path: Path, slope: float, intercept: float
) -> None:
    stored = (RNG.integers(0, 5, size=(4, 3, 2)) * 6).astype(np.int16)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    read, geometry = read_label(tmp_path / "a.nii")
    np.testing.assert_array_equal(read, np.rint(stored * slope + intercept).transpose(2, 1, 0))
    write_label_map(tmp_path / "b.nii", read, geometry)
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "b.nii").dataobj).T, read)


def test_several_channels_are_no_label_map(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match="one volume, with one number for each class"):
        read_label(tmp_path / "a.nii")


def test_a_label_map_of_another_size_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="array is 3 x 4 but its grid is 4 x 3"):
        write_label_map(tmp_path / "a.png", np.zeros((3, 4), np.uint8), picture_geometry((4, 3), "png"))
    assert list(tmp_path.iterdir()) == []


def test_geometries_are_equal_by_value(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    first, second = read_geometry(tmp_path / "a.nii"), read_geometry(tmp_path / "a.nii")
    assert first == second
    assert first != picture_geometry((2, 2, 2), "tiff")
    assert first != "grid"
    assert len({first, second}) == 1


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)])
@pytest.mark.parametrize("n_maps", [1, 3])
def test_maps_of_numbers_come_back_as_they_were_written(tmp_path, shape, n_maps):
    values = np.random.default_rng(0).random((n_maps, *shape)).astype(np.float32)
    geometry = picture_geometry(shape, "png" if len(shape) == 2 else "tiff")
    path = tmp_path / scalar_file_name("case", geometry)
    if len(shape) == 3 and n_maps > 1:
        geometry = replace(geometry, file_type="nifti", spacing_known=True, world_from_index=np.eye(4))
        path = tmp_path / scalar_file_name("case", geometry)
    write_scalar_map(path, values, geometry)
    assert np.array_equal(read_scalar_map(path, dimensions=len(shape)), values)
