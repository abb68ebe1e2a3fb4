"""Pictures: pixels against Pillow and tifffile, and every kind is read or refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from scantling.data.image import picture_geometry
from scantling.data.image_io import (
    read_geometry,
    read_image,
    read_label,
    write_label_map,
    write_scalar_map,
)
from scantling.errors import DataError

RNG = np.random.default_rng(1)
GREY = RNG.integers(0, 256, size=(7, 9)).astype(np.uint8)
DEEP = RNG.integers(0, 65536, size=(7, 9)).astype(np.uint16)
COLOUR = RNG.integers(0, 256, size=(7, 9, 3)).astype(np.uint8)
ALPHA = RNG.integers(0, 256, size=(7, 9, 1)).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *extra: bytes, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("pixels", [GREY, DEEP], ids=["8 bit", "16 bit"])
def test_grey_pictures_keep_their_values_and_type(tmp_path: Path, suffix: str, pixels: np.ndarray) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path)
    image = read_image(path)
    assert image.array.dtype == pixels.dtype
    np.testing.assert_array_equal(image.array, pixels[None])
    assert image.notes == ()
    geometry = image.geometry
    assert (geometry.shape, geometry.spacing_mm, geometry.spacing_known) == ((7, 9), (1.0, 1.0), False)
    np.testing.assert_array_equal(geometry.world_from_index, np.eye(3))
    assert read_geometry(path) == geometry
    np.testing.assert_array_equal(read_label(path)[0], pixels)
    image.array[...] = 0  # the memory is ours


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colour_pictures_have_three_channels_and_lose_their_transparency_with_a_note(
    tmp_path: Path, suffix: str
) -> None:
    for name, pixels in (("rgb", COLOUR), ("rgba", np.concatenate([COLOUR, ALPHA], axis=-1))):
        path = tmp_path / f"{name}{suffix}"
        Image.fromarray(pixels).save(path)
        image = read_image(path)
        np.testing.assert_array_equal(image.array, np.moveaxis(COLOUR, -1, 0))
        assert any("transparency" in note for note in image.notes) == (name == "rgba")


def test_a_jpeg_reads_as_pillow_decodes_it(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8)
    for name, pixels in (("grey", smooth), ("rgb", np.stack([smooth, smooth[::-1], 255 - smooth], axis=-1))):
        path = tmp_path / f"{name}.jpg"
        Image.fromarray(pixels).save(path, progressive=name == "rgb")
        image = read_image(path)
        decoded = np.asarray(Image.open(path))
        np.testing.assert_array_equal(image.array, np.moveaxis(np.atleast_3d(decoded), -1, 0))
        assert read_geometry(path) == image.geometry
        assert image.geometry.file_type == "jpeg"


def test_a_colour_picture_with_equal_channels_is_grey_with_a_note(tmp_path: Path) -> None:
    Image.fromarray(np.stack([GREY] * 3, axis=-1)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array, GREY[None])
    assert image.notes == ("its three colour channels are equal; it is read as one grey channel",)


def test_a_grey_picture_with_transparency_has_one_channel(tmp_path: Path) -> None:
    Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA[..., 0])]).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "LA"
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array, GREY[None])
    assert image.notes == ("its transparency channel is left out",)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_packed_grey_keeps_its_stored_values(tmp_path: Path, depth: int) -> None:
    values = RNG.integers(0, 2**depth, size=(5, 8)).astype(np.uint8)
    bits = (values[..., None] >> np.arange(depth)[::-1]) & 1
    raw = b"".join(b"\0" + np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits)
    (tmp_path / "a.png").write_bytes(png(8, 5, depth, 0, raw))
    np.testing.assert_array_equal(read_label(tmp_path / "a.png")[0], values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array[0], values)


def test_an_interlaced_png_is_read(tmp_path: Path) -> None:
    # PNG specification, section 8.2: first column, first row, column step, row step of the seven passes
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    for height, width in ((5, 3), (9, 17), (1, 1)):
        values = RNG.integers(0, 256, size=(height, width)).astype(np.uint8)
        raw = b""
        for x, y, dx, dy in passes:
            part = values[y::dy, x::dx]
            raw += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
        (tmp_path / "a.png").write_bytes(png(width, height, 8, 0, raw, interlace=1))
        np.testing.assert_array_equal(read_image(tmp_path / "a.png").array[0], values)
        (tmp_path / "a.png").write_bytes(png(width, height, 8, 0, raw[:-1], interlace=1))
        with pytest.raises(DataError, match="its pixels end"):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_palette_picture_is_colours_as_an_image_and_indices_as_a_label_map(tmp_path: Path, suffix: str) -> None:
    indices = RNG.integers(0, 4, size=(7, 9)).astype(np.uint8)
    palette = [0, 0, 0, 255, 0, 0, 0, 255, 0, 10, 20, 30]
    picture = Image.fromarray(indices)
    picture.putpalette(palette)
    assert picture.mode == "P"
    picture.save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_label(tmp_path / f"a{suffix}")[0], indices)
    colours = np.array(palette).reshape(-1, 3)[indices]
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").array, np.moveaxis(colours, -1, 0))


def test_colour_label_maps_are_mapped_if_grey_and_refused_otherwise(tmp_path: Path) -> None:
    label_map = RNG.choice([0, 128, 255], size=(7, 9)).astype(np.uint8)
    for channels in (3, 4):
        pixels = np.stack([label_map] * channels, axis=-1)
        pixels[..., 3:] = 255
        Image.fromarray(pixels).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_label(tmp_path / "a.png")[0], label_map)
    pixels = np.stack([label_map, label_map, 255 - label_map], axis=-1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: its 3 channels differ; .*one number for each class") as error:
        read_label(tmp_path / "a.png")
    assert error.value.code == "E-IMG-07"


def test_a_jpeg_is_no_label_map(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="export it as PNG"):
        read_label(tmp_path / "a.jpg")


def test_colours_of_16_bits_are_read_by_their_upper_8_with_a_note_and_no_label_map(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, size=(5, 4, 3)).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in values)
    (tmp_path / "a.png").write_bytes(png(4, 5, 16, 2, raw))
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array, np.moveaxis(values >> 8, -1, 0))
    assert image.notes == ("its colours have 16 bits; the upper 8 are read",)
    with pytest.raises(DataError, match="colour label map of 16 bits"):
        read_label(tmp_path / "a.png")


def test_a_picture_with_another_types_suffix_is_read_with_a_note(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    path = (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    image = read_image(path)
    assert image.geometry.file_type == "png"
    assert image.notes == ("it is a PNG although its name ends in .jpg",)


def test_cmyk_and_animated_pictures_and_other_files_are_refused_by_name(tmp_path: Path) -> None:
    Image.new("CMYK", (9, 7)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="stored as CMYK"):
        read_image(tmp_path / "a.jpg")
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "b.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="animated"):
        read_image(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"GIF89a" + bytes(100))
    with pytest.raises(DataError, match="not a PNG, JPEG or TIFF"):
        read_image(tmp_path / "c.png")


def test_more_than_89_million_pixels_are_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 10000, 10000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(2_000_000)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="89 million pixels"):
        read_geometry(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "f2"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_every_number_type_read_as_tifffile_wrote_them(
    tmp_path: Path, kind: str, compression: str | None, order: str
) -> None:
    pixels = RNG.integers(0, 100, size=(40, 30)).astype(kind)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, compression=compression, byteorder=order, rowsperstrip=16, predictor=False)
    image = read_image(path)
    np.testing.assert_array_equal(image.array[0], pixels)
    assert image.array.dtype == (np.float32 if kind == "f2" else np.dtype(kind))
    assert read_geometry(path) == image.geometry


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (16, 16)},
        {"tile": (16, 16), "compression": "zlib"},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "compression": "zlib"},
        {"bigtiff": True},
        {"rowsperstrip": 7},
        {"compression": "zlib", "predictor": True},
    ],
    ids=str,
)
def test_tiled_planar_and_big_tiffs_are_read(tmp_path: Path, options: dict) -> None:
    pixels = RNG.integers(0, 256, size=(40, 30, 3)).astype(np.uint8)
    data = np.moveaxis(pixels, -1, 0) if "planarconfig" in options else pixels
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "raw"])
def test_tiffs_written_by_libtiff_are_read_whatever_packs_them(tmp_path: Path, compression: str) -> None:
    pixels = np.stack([np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8) + k for k in (0, 9, 99)], -1)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
    expected = np.asarray(Image.open(tmp_path / "a.tif"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, np.moveaxis(expected, -1, 0))


def test_a_bilevel_tiff_is_zeros_and_ones(tmp_path: Path) -> None:
    pixels = RNG.random(size=(5, 13)) > 0.5
    for compression in ("raw", "group4"):
        Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
        label_map, _ = read_label(tmp_path / "a.tif")
        np.testing.assert_array_equal(label_map, pixels)
        assert label_map.dtype == np.uint8


def test_a_tiff_packed_by_a_method_without_decoder_is_refused_with_the_fix(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        entry = tif.pages[0].tags["Compression"].offset
    content[entry + 8 : entry + 10] = struct.pack("<H", 34887)  # LERC
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"LERC .*save it without compression or with Deflate"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("writer", ["pages", "volumetric", "imagej", "pillow"])
def test_a_tiff_of_several_pages_is_a_volume_of_unknown_spacing(tmp_path: Path, writer: str) -> None:
    volume = RNG.integers(0, 256, size=(5, 32, 48)).astype(np.uint8)
    path = tmp_path / "a.tif"
    if writer == "pillow":
        Image.fromarray(volume[0]).save(path, save_all=True, append_images=[Image.fromarray(v) for v in volume[1:]])
    else:
        options = {"volumetric": {"volumetric": True, "tile": (16, 16, 16)}, "imagej": {"imagej": True}}
        tifffile.imwrite(path, volume, photometric="minisblack", **options.get(writer, {}))
    image = read_image(path)
    np.testing.assert_array_equal(image.array[0], volume)
    assert any("5 pages" in note for note in image.notes)
    assert (image.geometry.spacing_known, image.geometry.world_from_index.shape) == (False, (4, 4))
    assert read_geometry(path) == image.geometry


def test_a_reduced_copy_in_a_tiff_is_no_slice(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY)
        writer.write(GREY[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], GREY)


def test_stacks_that_are_no_volume_are_refused_by_name(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY)
        writer.write(GREY[:3])
    with pytest.raises(DataError, match="2 pages differ in size"):
        read_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.stack([COLOUR, COLOUR]), photometric="rgb")
    with pytest.raises(DataError, match="stack of 2 colour pictures"):
        read_geometry(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((4, 8, 8), np.uint8), truncate=True, photometric="minisblack")
    with pytest.raises(DataError, match="behind one directory"):
        read_image(tmp_path / "c.tif")
    tifffile.imwrite(tmp_path / "d.tif", np.zeros((8, 8), np.complex64))
    with pytest.raises(DataError, match="type that is not read"):
        read_image(tmp_path / "d.tif")
    tifffile.imwrite(tmp_path / "e.tif", np.zeros((8, 8, 4), np.uint8), photometric="separated")
    with pytest.raises(DataError, match="SEPARATED"):
        read_image(tmp_path / "e.tif")
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((8, 8, 9), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match="9 channels"):
        read_image(tmp_path / "f.tif")


def test_a_tiff_of_several_samples_gives_as_many_channels(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, size=(8, 9, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, np.moveaxis(pixels, -1, 0))


def test_white_is_zero_is_noted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite")
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[0], GREY)
    assert image.notes == ("its header says that 0 is white; the stored values are kept",)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("high", [3, 255, 256, 65535])
def test_label_maps_are_written_as_pictures_and_come_back_exactly(tmp_path: Path, suffix: str, high: int) -> None:
    label_map = RNG.choice([0, 1, high], size=(7, 9)).astype(np.int64)
    label_map[0, 0] = high
    path = tmp_path / f"a{suffix}"
    write_label_map(path, label_map, picture_geometry((7, 9), "png"))
    expected_type = np.uint8 if high < 256 else np.uint16
    by_other_hand = np.asarray(Image.open(path))
    np.testing.assert_array_equal(by_other_hand, label_map)
    back, geometry = read_label(path)
    assert back.dtype == expected_type
    np.testing.assert_array_equal(back, label_map)
    assert geometry.shape == (7, 9)
    again = tmp_path / f"b{suffix}"
    write_label_map(again, label_map, picture_geometry((7, 9), "png"))
    assert again.read_bytes() == path.read_bytes()


def test_values_a_picture_cannot_hold_are_refused(tmp_path: Path) -> None:
    grid = picture_geometry((1, 2), "png")
    for values in ([[-1, 0]], [[0, 65536]]):
        with pytest.raises(DataError, match="whole numbers from 0 to 65535"):
            write_label_map(tmp_path / "a.png", np.array(values), grid)
    with pytest.raises(DataError, match="JPEG changes the values"):
        write_label_map(tmp_path / "a.jpg", np.array([[0, 1]]), grid)
    with pytest.raises(DataError, match="one picture of whole numbers"):
        write_scalar_map(tmp_path / "a.png", np.zeros((1, 2)), grid)
    with pytest.raises(DataError, match="TIFF holds one volume"):
        write_scalar_map(tmp_path / "a.tif", np.zeros((2, 3, 4, 5)), picture_geometry((3, 4, 5), "tiff"))
    assert list(tmp_path.iterdir()) == []


def test_scalar_maps_of_pictures_are_float_tiffs_with_a_page_for_each_class(tmp_path: Path) -> None:
    grid = picture_geometry((7, 9), "png")
    probs = RNG.random(size=(3, 7, 9))
    write_scalar_map(tmp_path / "p.tiff", probs, grid)
    write_scalar_map(tmp_path / "e.tiff", probs[0], grid)
    assert tifffile.imread(tmp_path / "p.tiff").dtype == np.float32
    np.testing.assert_allclose(tifffile.imread(tmp_path / "p.tiff"), probs, rtol=1e-6)
    np.testing.assert_allclose(tifffile.imread(tmp_path / "e.tiff"), probs[0], rtol=1e-6)
    np.testing.assert_allclose(read_image(tmp_path / "e.tiff").array[0], probs[0], rtol=1e-6)


def test_label_maps_of_a_stack_of_pictures_are_a_stack_of_pictures(tmp_path: Path) -> None:
    label_map = RNG.integers(0, 3, size=(4, 7, 9)).astype(np.int16)
    write_label_map(tmp_path / "a.tiff", label_map, picture_geometry((4, 7, 9), "tiff"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tiff"), label_map)
    np.testing.assert_array_equal(read_label(tmp_path / "a.tiff")[0], label_map)


def test_a_float_tiff_with_values_that_are_no_numbers_is_noted(tmp_path: Path) -> None:
    pixels = np.ones((4, 5), np.float32)
    pixels[0, :2] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    assert read_image(tmp_path / "a.tif").notes == ("2 of its 20 voxels are NaN or infinite",)
