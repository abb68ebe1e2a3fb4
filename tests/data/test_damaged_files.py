"""Damaged, lying and hostile files: none is read as if it were whole, none takes more memory than it may."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from scantling.data.image_io import read_geometry, read_image, read_label
from scantling.errors import DataError, ScantlingError

MEGABYTE = 1 << 20
RNG = np.random.default_rng(4)
NOISE = RNG.integers(-1000, 1000, size=(20, 18, 16)).astype(np.int16)
SMOOTH = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)


def nifti_bytes(voxels: np.ndarray = NOISE) -> bytes:
    return nib.Nifti1Image(voxels, np.diag([2.0, 2, 3, 1])).to_bytes()


def by_pillow(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def by_tifffile(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def stack_by_pillow() -> bytes:
    stream = io.BytesIO()
    pages = [Image.fromarray(SMOOTH + k) for k in range(4)]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    return stream.getvalue()


WHOLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "nii.gz": (".nii.gz", lambda: gzip.compress(nifti_bytes())),
    "nii.gz of two members": (
        ".nii.gz",
        lambda: gzip.compress(nifti_bytes()[:5000]) + gzip.compress(nifti_bytes()[5000:]),
    ),
    "nii": (".nii", nifti_bytes),
    "png": (".png", lambda: by_pillow(SMOOTH, "PNG")),
    "16-bit png": (".png", lambda: by_pillow(SMOOTH.astype(np.uint16) * 99, "PNG")),
    "jpeg": (".jpg", lambda: by_pillow(SMOOTH, "JPEG")),
    "progressive jpeg": (".jpg", lambda: by_pillow(np.stack([SMOOTH] * 3, -1), "JPEG", progressive=True)),
    "tiff": (".tif", lambda: by_tifffile(SMOOTH)),
    "deflate tiff": (".tif", lambda: by_tifffile(SMOOTH, compression="zlib", rowsperstrip=8)),
    "tiled tiff": (".tif", lambda: by_tifffile(SMOOTH, tile=(16, 16), compression="zlib")),
    "tiff stack": (".tif", lambda: by_tifffile(np.stack([SMOOTH] * 3), photometric="minisblack")),
    "libtiff": (".tif", lambda: by_pillow(SMOOTH, "TIFF")),
    "libtiff lzw": (".tif", lambda: by_pillow(SMOOTH, "TIFF", compression="tiff_lzw")),
    "libtiff stack": (".tif", stack_by_pillow),
}


@contextmanager
def memory_within(limit_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit_bytes, f"{peak / MEGABYTE:.0f} MiB"


def place(folder: Path, kind: str, content: bytes) -> Path:
    path = folder / f"case{WHOLE[kind][0]}"
    path.write_bytes(content)
    return path


def require_every_truncation_refused(folder: Path, kind: str, count: int) -> None:
    """Some TIFF writers end with a few bytes that nothing refers to; without them a file is as good."""
    content = WHOLE[kind][1]()
    whole = read_image(place(folder, kind, content))
    lengths = np.random.default_rng(5).choice(len(content), size=min(count, len(content)), replace=False)
    for length in {*lengths.tolist(), len(content) // 2, len(content) - 20}:
        path = place(folder, kind, content[:length])
        for read in (read_image, *((read_label,) if "jpeg" not in kind else ())):
            if "tiff" in kind and length >= len(content) - 16:
                with contextlib.suppress(DataError):
                    np.testing.assert_array_equal(read_image(path).array, whole.array)
                continue
            with pytest.raises(DataError, match=f"{path.name}: "):
                read(path)


def require_every_bit_flip_refused(folder: Path, count: int) -> None:
    """A flip that leaves every unpacked byte as it was (in the time stamp, say) is harmless and may pass."""
    unpacked = nifti_bytes()
    content = gzip.compress(unpacked)
    whole = read_image(place(folder, "nii.gz", content))
    passed = 0
    for bit in np.random.default_rng(6).choice(8 * len(content), size=count, replace=False).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path = place(folder, "nii.gz", bytes(flipped))
        try:
            image = read_image(path)
        except DataError:
            continue
        passed += 1
        assert gzip.decompress(bytes(flipped)) == unpacked
        np.testing.assert_array_equal(image.array, whole.array)
    assert passed <= count // 50


@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    require_every_truncation_refused(tmp_path, kind, 100 if kind == "nii.gz" else 25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE)
def test_many_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    require_every_truncation_refused(tmp_path, kind, 500 if kind == "nii.gz" else 200)


def test_flipped_bits_in_a_packed_nifti_are_refused(tmp_path: Path) -> None:
    require_every_bit_flip_refused(tmp_path, 100)


@pytest.mark.slow
def test_many_flipped_bits_in_a_packed_nifti_are_refused(tmp_path: Path) -> None:
    require_every_bit_flip_refused(tmp_path, 500)


@pytest.mark.slow
def test_every_single_flipped_bit_of_the_pixels_of_a_png_is_refused(tmp_path: Path) -> None:
    content = by_pillow(SMOOTH[:8, :8], "PNG")
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataError):
            read_image(place(tmp_path, "png", bytes(flipped)))


@pytest.mark.parametrize("kind", ["png", "jpeg", "libtiff lzw"])
def test_a_program_that_tells_pillow_to_read_truncated_files_does_not_make_us_read_them(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    require_every_truncation_refused(tmp_path, kind, 25)


def test_bytes_after_the_end_of_a_gzip_stream_are_refused_unless_they_are_padding(tmp_path: Path) -> None:
    content = WHOLE["nii.gz"][1]()
    for junk in (b"x", b"\0" * 10 + b"x", b"\x1f", b"\x1f\x8b", b"\x1f\x8b\x08" + bytes(20), content[:100]):
        with pytest.raises(DataError, match="damaged"):
            read_image(place(tmp_path, "nii.gz", content + junk))
    np.testing.assert_array_equal(read_image(place(tmp_path, "nii.gz", content + bytes(512))).array[0], NOISE.T)


def test_bytes_after_the_voxels_are_refused_unless_they_are_padding(tmp_path: Path) -> None:
    content = nifti_bytes()
    for kind, pack in (("nii", bytes), ("nii.gz", gzip.compress)):
        np.testing.assert_array_equal(read_image(place(tmp_path, kind, pack(content + bytes(512)))).array[0], NOISE.T)
        for junk in (b"x", bytes(5000), bytes(300) + b"x"):
            with pytest.raises(DataError, match="more than the 11872 bytes its header promises"):
                read_image(place(tmp_path, kind, pack(content + junk)))


def test_a_short_stream_behind_a_sound_checksum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it ends after 11870 of 11872 bytes"):
        read_image(place(tmp_path, "nii.gz", gzip.compress(nifti_bytes()[:-2])))
    with pytest.raises(DataError, match="ends inside its header"):
        read_image(place(tmp_path, "nii.gz", gzip.compress(nib.Nifti2Image(NOISE, np.eye(4)).to_bytes()[:400])))


HEADER_BYTES = {
    "nii": 352,
    "nii.gz": 352,
    "png": 60,
    "jpeg": 200,
    "tiff": 400,
    "deflate tiff": 400,
    "libtiff": 500,
}


def require_fuzzed_headers_survived(folder: Path, kind: str, count: int) -> None:
    """Every mutation is read, or refused by name, in little memory."""
    packed = WHOLE[kind][1]()
    content = gzip.decompress(packed) if kind == "nii.gz" else packed
    rng = np.random.default_rng(7)
    end = min(HEADER_BYTES[kind], len(content))
    # libtiff keeps its directory at the end
    positions = np.r_[0:end] if kind != "libtiff" else np.r_[0:8, len(content) - end : len(content)]
    outcomes, unnamed = {"read": 0, "refused": 0}, 0
    with memory_within(32 * MEGABYTE):
        for _ in range(count):
            mutated = bytearray(content)
            for position in rng.choice(positions, size=rng.integers(1, 5)):
                mutated[position] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
            if kind == "png" and rng.random() < 0.7:  # half of them with a checksum that hides the mutation
                mutated[29:33] = struct.pack(">I", zlib.crc32(mutated[12:29]))
            path = place(folder, kind, gzip.compress(bytes(mutated), 1) if kind == "nii.gz" else bytes(mutated))
            for read in (read_geometry, read_image):
                try:
                    read(path)
                    outcomes["read"] += 1
                except ScantlingError as error:
                    outcomes["refused"] += 1
                    unnamed += path.name not in error.message
    assert outcomes["refused"] > count // 20
    assert unnamed == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", HEADER_BYTES)
def test_fuzzed_headers_are_read_or_refused_and_never_crash(tmp_path: Path, kind: str) -> None:
    require_fuzzed_headers_survived(tmp_path, kind, 120)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", HEADER_BYTES)
def test_many_fuzzed_headers_are_read_or_refused_and_never_crash(tmp_path: Path, kind: str) -> None:
    require_fuzzed_headers_survived(tmp_path, kind, 2000)


def giant_nifti(shape: tuple[int, int, int], kind: int = 4, bits: int = 16) -> bytes:
    header = bytearray(nifti_bytes()[:352])
    header[40:56] = struct.pack("<8h", 3, *shape, 1, 1, 1, 1)
    header[70:74] = struct.pack("<hh", kind, bits)
    return bytes(header)


def zeros_packed(megabytes: int) -> bytes:
    return gzip.compress(bytes(10 * MEGABYTE)) * (megabytes // 10)


def png_file(width: int, height: int, depth: int, colour: int, packed: bytes) -> bytes:
    parts = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), (b"IDAT", packed),
        (b"IEND", b""),
    ):  # fmt: skip
        parts += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return parts


def tiff_with(tags: dict[str, int], **options: object) -> bytes:
    content = bytearray(by_tifffile(np.zeros((512, 512), np.uint8), **options))
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        for name, value in tags.items():
            tag = tif.pages[0].tags[name]
            content[tag.offset + 2 : tag.offset + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(content)


def circular_tiff() -> bytes:
    content = bytearray(by_tifffile(SMOOTH))
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    content[first + 2 + 12 * count :][:4] = b""
    content[first + 2 + 12 * count : first + 6 + 12 * count] = struct.pack("<I", first)
    return bytes(content)


def jpeg_with_size(height: int, width: int) -> bytes:
    content = bytearray(by_pillow(SMOOTH, "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "giant header": (
        "nii",
        lambda: giant_nifti((30000, 30000, 30000)) + bytes(1000),
        "header promises 54000000000352",
    ),
    "giant packed header": (
        "nii.gz",
        lambda: gzip.compress(giant_nifti((30000,) * 3) + bytes(1000)),
        "impossible",
    ),
    "1 GB behind a small header": (
        "nii.gz",
        lambda: gzip.compress(giant_nifti((9, 9, 9))) + zeros_packed(1000),
        "more than the",
    ),
    "1 GB behind no header": ("nii.gz", lambda: zeros_packed(1000), "not a NIfTI"),
    "1 GB that its header admits": (
        "nii.gz",
        lambda: gzip.compress(giant_nifti((1000, 1000, 500))) + zeros_packed(1000),
        "decompression bomb",
    ),
    "png that lies": ("png", lambda: png_file(60000, 60000, 8, 0, zlib.compress(bytes(99))), "impossible"),
    "png that is honest": (
        "png",
        lambda: png_file(16000, 16000, 8, 0, zlib.compress(bytes(16000 * 16001), 9)),
        "decompression bomb",
    ),
    "png of bits": (
        "png",
        lambda: png_file(30000, 30000, 1, 0, zlib.compress(bytes(30000 * 3751), 9)),
        "decompression bomb",
    ),
    "png with more than it says": (
        "png",
        lambda: png_file(64, 64, 8, 0, zlib.compress(bytes(200 * MEGABYTE))),
        "hold",
    ),
    "jpeg": ("jpeg", lambda: jpeg_with_size(65500, 65500), "bomb|impossible"),
    "tiff that lies": (
        "tiff",
        lambda: tiff_with({"ImageWidth": 100000, "ImageLength": 100000}),
        "impossible|promises",
    ),
    "tiff with a false strip": (
        "tiff",
        lambda: tiff_with({"ImageLength": 600, "RowsPerStrip": 600}),
        "has 262144 of 307200 bytes",
    ),
    "packed tiff with more than it says": (
        "tiff",
        lambda: tiff_with({"ImageLength": 16, "RowsPerStrip": 16}, compression="zlib"),
        "hold more than",
    ),
    "tiff whose directories run in a circle": ("tiff", circular_tiff, "run in a circle"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    kind, build, complaint = BOMBS[name]
    path = place(tmp_path, kind, build())
    assert path.stat().st_size < 2.5 * MEGABYTE
    with memory_within(24 * MEGABYTE), pytest.raises(DataError, match=complaint):
        read_image(path)


def test_a_large_volume_that_is_nearly_empty_is_no_bomb(tmp_path: Path) -> None:
    content = giant_nifti((400, 400, 200), kind=2, bits=8) + bytes(400 * 400 * 200)
    label_map, geometry = read_label(place(tmp_path, "nii.gz", gzip.compress(content, 6)))
    assert geometry.shape == (200, 400, 400)
    assert not label_map.any()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_a_fresh_process_refuses_every_bomb_within_200_mb_of_memory(tmp_path: Path) -> None:
    paths = []
    for name, (kind, build, _) in BOMBS.items():
        folder = tmp_path / name
        folder.mkdir()
        paths.append(str(place(folder, kind, build())))
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from scantling.data.image_io import read_image\n"
        "from scantling.errors import DataError\n"
        "refused = 0\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        read_image(Path(path))\n"
        "    except DataError:\n"
        "        refused += 1\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(refused, *[line.split()[1] for line in status.splitlines() if line.startswith('VmHWM')])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *paths],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={
            "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
    )
    refused, resident_kb = map(int, result.stdout.split())
    assert refused == len(BOMBS)
    assert resident_kb < 200_000
    assert result.stderr == ""
