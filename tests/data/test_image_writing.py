"""Images written and read again: every value, the stored type and the grid."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from scantling.data.image import ImageGeometry, picture_geometry
from scantling.data.image_io import read_image
from scantling.data.image_writing import image_file_name, write_image
from scantling.errors import DataError

RNG = np.random.default_rng(5)


def drawn(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.normal(size=shape).astype(kind)
    ends = np.iinfo(kind)
    return RNG.integers(ends.min, ends.max, shape, dtype=kind, endpoint=True)


PICTURES = [
    ("png", "uint8", 1, ".png"),
    ("png", "uint16", 1, ".png"),
    ("png", "uint8", 3, ".png"),
    ("jpeg", "uint8", 1, ".png"),
    ("jpeg", "uint8", 3, ".png"),
    ("tiff", "uint8", 1, ".tiff"),
    ("tiff", "uint16", 1, ".tiff"),
    ("tiff", "int16", 1, ".tiff"),
    ("tiff", "float32", 1, ".tiff"),
    ("tiff", "uint8", 3, ".tiff"),
    ("tiff", "uint16", 3, ".tiff"),
    ("tiff", "uint8", 2, ".tiff"),
    ("tiff", "float32", 4, ".tiff"),
    ("png", "float32", 1, ".tiff"),
]


@pytest.mark.parametrize(("file_type", "dtype", "n_channels", "suffix"), PICTURES)
def test_a_picture_comes_back_to_the_bit_in_its_own_type(
    file_type: str, dtype: str, n_channels: int, suffix: str, tmp_path: Path
) -> None:
    geometry = picture_geometry((17, 23), file_type)  # type: ignore[arg-type]
    channels = [drawn(dtype, geometry.shape) for _ in range(n_channels)]
    name = image_file_name("case__scanner-B", channels, geometry)
    assert name == f"case__scanner-B{suffix}"
    write_image(tmp_path / name, channels, geometry)
    image = read_image(tmp_path / name)
    assert image.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.array, np.stack(channels))
    assert image.geometry.shape == (17, 23)
    assert not any("transparency" in note for note in image.notes)


def test_other_programs_read_the_colours_of_a_written_picture(tmp_path: Path) -> None:
    geometry = picture_geometry((9, 11), "png")
    channels = [drawn("uint8", (9, 11)) for _ in range(3)]
    write_image(tmp_path / "x.png", channels, geometry)
    write_image(tmp_path / "x.tiff", channels, geometry)
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), np.stack(channels, axis=-1))
    with tifffile.TiffFile(tmp_path / "x.tiff") as tif:
        assert len(tif.pages) == 1
        np.testing.assert_array_equal(tif.pages[0].asarray(), np.stack(channels, axis=-1))


def test_a_stack_of_pictures_stays_a_stack(tmp_path: Path) -> None:
    geometry = picture_geometry((3, 8, 9), "tiff")
    volume = drawn("uint16", (3, 8, 9))
    name = image_file_name("x", [volume], geometry)
    write_image(tmp_path / name, [volume], geometry)
    np.testing.assert_array_equal(read_image(tmp_path / name).array, volume[None])


@pytest.mark.parametrize(("dtype", "n_channels"), [("int16", 1), ("uint8", 2), ("float32", 1), ("float64", 1)])
def test_a_volume_keeps_its_type_and_its_oblique_geometry_bit_by_bit(
    dtype: str, n_channels: int, tmp_path: Path
) -> None:
    affine = np.array([[-1.2, 0.1, 0.2, 31.5], [0.1, 1.4, -0.3, -12.25], [0.1, 0.3, 2.5, 40.0], [0, 0, 0, 1]])
    shape = (7, 6, 5) if n_channels == 1 else (7, 6, 5, n_channels)
    source = nibabel.Nifti1Image(drawn(dtype, shape), affine)
    source.set_qform(affine, code=1)
    source.set_sform(affine, code=2)
    nibabel.save(source, tmp_path / "source.nii.gz")
    image = read_image(tmp_path / "source.nii.gz")
    changed = [channel[::-1].copy() for channel in image.array]
    name = image_file_name("x", changed, image.geometry)
    assert name == "x.nii.gz"
    write_image(tmp_path / name, changed, image.geometry)
    again = nibabel.load(tmp_path / name)
    assert again.get_data_dtype() == np.dtype(dtype)
    for field in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(again.header[field], source.header[field])
    reread = read_image(tmp_path / name)
    np.testing.assert_array_equal(reread.array, np.stack(changed))
    np.testing.assert_array_equal(reread.geometry.world_from_index, image.geometry.world_from_index)


def test_equal_images_give_equal_bytes(tmp_path: Path) -> None:
    geometry = picture_geometry((8, 8), "tiff")
    channels = [drawn("uint16", (8, 8))]
    for suffix in (".png", ".tiff", ".nii.gz"):
        contents = []
        for folder in ("a", "b"):
            write_image(tmp_path / folder / f"x{suffix}", channels, geometry)
            contents.append((tmp_path / folder / f"x{suffix}").read_bytes())
        assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("name", "channels", "said"),
    [
        ("x.png", [np.zeros((4, 5), np.float32)], "cannot hold 1 channels of float32"),
        ("x.png", [np.zeros((4, 5), np.uint16)] * 3, "cannot hold 3 channels of uint16"),
        ("x.jpg", [np.zeros((4, 5), np.uint8)], "cannot hold"),
        ("x.png", [np.zeros((5, 4), np.uint8)], "each of 4 x 5"),
        ("x.png", [np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint16)], "one type"),
        ("x.nii.gz", [np.zeros((4, 5), np.bool_)], "cannot hold"),
        ("x.txt", [np.zeros((4, 5), np.uint8)], "cannot hold"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_and_nothing_is_left(
    name: str, channels: list[np.ndarray], said: str, tmp_path: Path
) -> None:
    geometry = ImageGeometry(
        shape=(4, 5), spacing_mm=(1.0, 1.0), spacing_known=False, world_from_index=np.eye(3), file_type="png"
    )
    with pytest.raises(DataError, match=said):
        write_image(tmp_path / name, channels, geometry)
    assert not list(tmp_path.iterdir())
