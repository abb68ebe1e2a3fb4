"""P11 and P12: patches read from a stored volume, and the volume stored, against nnU-Net's compressed files.

A cardiac MR frame (a simulated one where the real one is absent) is enlarged to 128 x 320 x 320 and given noise
of standard deviation 3, as int16. nnU-Net stores it as it stores every case: normalised, float32, in blocks and
chunks by its own rule, written by its own data set class. Its compression was zstd 8 in earlier releases and is
lz4hc 5 in the one installed here; both are compared. Reading is opening the file, cutting a random 96^3 box and
having it as float32; writing is image and label map (checksums and foreground points are left out on both sides).
"""

from measuring import ROOT, Row, peer, record, take_turns  # isort: skip  (sets the number of threads first)

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from scantling.data.compact import CompactArray, write_compact

SHAPE = (128, 320, 320)
PATCH = 96
N_PATCHES = 40


def volume() -> np.ndarray:
    """[1, z, y, x] int16."""
    data = Path(os.environ.get("SCANTLING_DATA", ROOT.parent / "shared" / "data"))
    path = data / "acdc" / "patient001" / "patient001_frame01_image.nii.gz"
    if path.is_file():
        from scantling.data.image_io import read_image

        frame = read_image(path).array[0].astype(np.float64)
    else:
        print(f"{path}: not there, so a simulated frame is used")
        rng = np.random.default_rng(1)
        frame = ndimage.gaussian_filter(rng.gamma(2.0, 60.0, (10, 256, 216)), (0.5, 2, 2))
    enlarged = ndimage.zoom(frame, [n / old for n, old in zip(SHAPE, frame.shape, strict=True)], order=1)
    noisy = enlarged + np.random.default_rng(0).normal(0, 3, SHAPE)
    return np.clip(noisy, 0, None).astype(np.int16)[None]


def store_theirs(peers: Any, folder: Path, image: np.ndarray, labels: np.ndarray, **settings: Any) -> None:
    """One case, as the peer's preprocessor calls its own data set class."""
    shapes = [peers.comp_blosc2_params(array.shape, (PATCH,) * 3, array.itemsize) for array in (image, labels)]
    peers.nnUNetDatasetBlosc2.save_case(
        image, labels, {}, str(_emptied(folder) / "case"), chunks=shapes[0][1], blocks=shapes[0][0],
        chunks_seg=shapes[1][1], blocks_seg=shapes[1][0], **settings,
    )  # fmt: skip


def store_ours(folder: Path, image: np.ndarray, labels: np.ndarray, form: str) -> None:
    """Image and label map as `store_entry` writes them."""
    _emptied(folder)
    for name, array in (("image", image), ("label", labels)):
        if form == "compact":
            write_compact(folder / f"{name}.b2nd", array, by_slice=False)
        else:
            np.save(folder / f"{name}.npy", array)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def mib(path: Path) -> float:
    return path.stat().st_size / 2**20


def main() -> int:
    if peer("blosc2") is None:
        print("P11 and P12: need blosc2 (extra `compact`)")
        return 0
    import blosc2

    blosc2.set_nthreads(1)
    image = volume()
    labels = (image[0] > 250).astype(np.int8)
    normalised = ((image - image.mean()) / image.std()).astype(np.float32)
    theirs = peer("nnunetv2.training.dataloading.nnunet_dataset")
    recipes = {
        "nnU-Net's zstd 8": {"codec": blosc2.Codec.ZSTD, "clevel": 8, "filters": [blosc2.Filter.SHUFFLE]},
        "nnU-Net's lz4hc 5": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        writers: dict[str, Callable[[], Any]] = {
            form: lambda form=form: store_ours(root / form, image, labels, form) for form in ("compact", "map")
        }
        if theirs is not None:
            stored_labels = labels[None].astype(np.int16)
            for name, settings in recipes.items():
                writers[name] = lambda name=name, settings=settings: store_theirs(
                    theirs, root / name, normalised, stored_labels, **settings
                )
        with contextlib.redirect_stderr(None):
            write_seconds, _ = take_turns(writers, rounds=5)
        rows = read_rows(root, image, normalised, writers)
        whole = {name: is_whole(root / name, image, normalised, labels) for name in writers}
        return record([*rows, *write_rows(write_seconds, whole)])


def is_whole(folder: Path, image: np.ndarray, normalised: np.ndarray, labels: np.ndarray) -> bool:
    """Whether image and label map come back as they were stored."""
    import blosc2

    if (folder / "image.npy").is_file():
        pair, wanted = [np.load(folder / f"{name}.npy") for name in ("image", "label")], image
    elif (folder / "image.b2nd").is_file():
        pair, wanted = [np.asarray(CompactArray(folder / f"{name}.b2nd")) for name in ("image", "label")], image
    else:
        pair, wanted = [blosc2.open(str(folder / f"case{end}.b2nd"), mode="r")[...] for end in ("", "_seg")], normalised
    return bool(np.array_equal(pair[0], wanted) and np.array_equal(np.squeeze(pair[1]), labels))


def read_rows(root: Path, image: np.ndarray, normalised: np.ndarray, stored: Any) -> list[Row]:
    import blosc2

    def read_theirs(name: str, box: tuple[slice, ...]) -> np.ndarray:
        path = str(root / name / "case.b2nd")
        whole = blosc2.open(urlpath=path, mode="r", dparams={"nthreads": 1}, mmap_mode="r")
        return np.asarray(whole[box], dtype=np.float32)

    readers: dict[str, Callable[[tuple[slice, ...]], np.ndarray]] = {
        "compact": lambda box: CompactArray(root / "compact" / "image.b2nd")[box].astype(np.float32),
        "map": lambda box: np.load(root / "map" / "image.npy", mmap_mode="r")[box].astype(np.float32),
    }
    peers = [name for name in stored if name not in readers]
    readers |= {name: lambda box, name=name: read_theirs(name, box) for name in peers}
    rng = np.random.default_rng(0)
    corners = [tuple(int(rng.integers(0, n - PATCH + 1)) for n in SHAPE) for _ in range(N_PATCHES)]
    boxes = [(slice(None), *(slice(c, c + PATCH) for c in corner)) for corner in corners]
    everyone = {name: lambda read=read: [read(box) for box in boxes] for name, read in readers.items()}
    seconds, results = take_turns(everyone, rounds=7)
    equal = {
        name: all(
            np.array_equal(patch, (normalised if name in peers else image)[box])
            for patch, box in zip(results[name], boxes, strict=True)
        )
        for name in readers
    }
    suffix = {"compact": "image.b2nd", "map": "image.npy"}
    sizes = {name: mib(root / name / suffix.get(name, "case.b2nd")) for name in readers}
    for name in readers:
        print(f"  {name}: {seconds[name] / N_PATCHES * 1000:.2f} ms a patch, {sizes[name]:.1f} MiB")
    rows = []
    for form in ("compact", "map"):
        for name in peers:
            ours, other = (seconds[each] / N_PATCHES * 1000 for each in (form, name))
            check = f"patches equal what was stored; {sizes[form] / sizes[name]:.2f} of the bytes"
            rows.append(
                Row(
                    bar="P11",
                    what=f"random 96^3 patches, {form} form",
                    peer=name,
                    ours=ours,
                    theirs=other,
                    unit="ms a patch",
                    ratio=other / ours,
                    floor="4",
                    target="5.5",
                    check=check,
                    equal=equal[form] and equal[name],
                )
            )
            rows.append(
                Row(
                    bar="P11",
                    what=f"bytes of the volume, {form} form",
                    peer=name,
                    ours=sizes[form],
                    theirs=sizes[name],
                    unit="MiB",
                    ratio=sizes[form] / sizes[name],
                    floor="<= 0.5" if form == "compact" else "",
                    target="<= 0.4" if form == "compact" else "",
                    check="lossless on both sides",
                    equal=equal[form] and equal[name],
                )
            )
    return rows


def write_rows(seconds: dict[str, float], whole: dict[str, bool]) -> list[Row]:
    return [
        Row(
            bar="P12",
            what=f"storing image and label map, {form} form",
            peer=name,
            ours=seconds[form] * 1000,
            theirs=seconds[name] * 1000,
            unit="ms",
            ratio=seconds[name] / seconds[form],
            floor="20",
            target="50",
            check="both read back as they were" if whole[form] and whole[name] else "read back DIFFERENT",
            equal=whole[form] and whole[name],
        )
        for form in ("compact", "map")
        for name in seconds
        if name not in ("compact", "map")
    ]


if __name__ == "__main__":
    sys.exit(main())
