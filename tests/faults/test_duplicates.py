from __future__ import annotations

import csv
import gzip
import io
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from data.case_folders import manifest_of, save_nifti, save_png, write_table
from faults.tiny_run import one_thread, tiny_data
from scantling.data.inspect import Inspection, inspect_dataset
from scantling.data.layouts import open_dataset
from scantling.data.splits import make_split
from scantling.errors import DataError
from scantling.training.config import DataConfig, RunConfig
from scantling.training.loop import LoopConfig
from scantling.training.train import start

Voxels = np.ndarray
Write = Callable[[Path, Voxels, random.Random], Path]


def nifti(path: Path, voxels: Voxels, *, order: str = "<", name: str = "", shift: float = 0.0) -> Path:
    """A volume by another hand, its header filled in at will."""
    affine = np.diag([1.5, 0.7, 2.0, 1.0])
    affine[:3, 3] = shift
    header = nib.Nifti1Header(endianness=order)
    header["descrip"] = name.encode()
    image = nib.Nifti1Image(voxels.T, affine, header, dtype=voxels.dtype)
    image.to_filename(path)
    return path


def recompressed(path: Path, voxels: Voxels, rng: random.Random) -> Path:
    plain = nifti(path.with_suffix(".nii"), voxels)
    packed = path.with_suffix(".nii.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes(), rng.choice((0, 1, 9)), mtime=rng.randrange(10**6)))
    plain.unlink()
    return packed


VOLUMES: dict[str, Write] = {
    "same bytes": lambda path, voxels, _: nifti(path.with_suffix(".nii.gz"), voxels),
    "compression": recompressed,
    "uncompressed": lambda path, voxels, _: nifti(path.with_suffix(".nii"), voxels),
    "position": lambda path, voxels, rng: nifti(path.with_suffix(".nii"), voxels, shift=rng.uniform(-99, 99)),
    "description": lambda path, voxels, rng: nifti(path.with_suffix(".nii"), voxels, name=f"scan {rng.random()}"),
    "byte order": lambda path, voxels, _: nifti(path.with_suffix(".nii"), voxels, order=">"),
    "wider type": lambda path, voxels, _: nifti(path.with_suffix(".nii"), voxels.astype(np.int32)),
    "floats": lambda path, voxels, _: nifti(path.with_suffix(".nii.gz"), voxels.astype(np.float32)),
    "doubles": lambda path, voxels, _: nifti(path.with_suffix(".nii"), voxels.astype(np.float64)),
}


def png(path: Path, voxels: Voxels, rng: random.Random) -> Path:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", str(rng.random()))
    path = path.with_suffix(".png")
    Image.fromarray(voxels).save(path, compress_level=rng.choice((0, 1, 9)), pnginfo=text)
    return path


def tiff(path: Path, voxels: Voxels, rng: random.Random) -> Path:
    path = path.with_suffix(".tiff")
    tifffile.imwrite(path, voxels, compression=rng.choice((None, "zlib")), byteorder=rng.choice("<>"))
    return path


PICTURES: dict[str, Write] = {
    "same bytes": lambda path, voxels, _: save_png(path.with_suffix(".png"), voxels),
    "comment and compression": png,
    "another file type": tiff,
    "wider type": lambda path, voxels, rng: tiff(path, voxels.astype(np.uint16), rng),
}


def inspected(folder: Path, files: list[Path], **columns: list[str]) -> Inspection:
    names = ["case", "image", *columns]
    rows = [
        [file.name.split(".")[0], file.name, *values] for file, *values in zip(files, *columns.values(), strict=True)
    ]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([names, *rows])
    return inspect_dataset(open_dataset(write_table(folder, table.getvalue())))


@pytest.mark.parametrize("kind", ["volumes", "pictures"])
def test_every_exact_copy_is_found_and_no_image_that_differs_in_one_voxel(tmp_path: Path, kind: str) -> None:
    writers = VOLUMES if kind == "volumes" else PICTURES
    shape = (4, 6, 5) if kind == "volumes" else (9, 7)
    dtype = np.int16 if kind == "volumes" else np.uint8
    rng, files, groups, lonely = random.Random(0), [], {}, []
    for number in range(12):
        voxels = np.random.default_rng(number).integers(0, 200, shape).astype(dtype)
        chosen = rng.sample(sorted(writers), rng.randint(2, min(4, len(writers))))
        group = [
            writers[how](tmp_path / f"g{number}x{copy}", voxels, random.Random(f"{number}{how}"))
            for copy, how in enumerate(chosen)
        ]
        near = voxels.copy()
        near[tuple(rng.randrange(n) for n in shape)] ^= 1
        lonely.append(writers["same bytes"](tmp_path / f"g{number}near", near, rng))
        files += [*group, lonely[-1]]
        groups[number] = {path.name.split(".")[0] for path in group}
    rng.shuffle(files)
    found = inspected(tmp_path, files)
    assert {frozenset(group) for group in found.duplicates} == {frozenset(group) for group in groups.values()}
    patients = {case.case_id: case.patient_id for case in found.usable.cases}
    assert all(len({patients[name] for name in group}) == 1 for group in groups.values())
    assert len(set(patients.values())) == 2 * len(groups)


def test_copies_count_channel_by_channel(tmp_path: Path) -> None:
    first, second = (np.random.default_rng(k).integers(0, 99, (3, 4, 5)).astype(np.int16) for k in range(2))
    for name, channels in {
        "a": (first, second),
        "b": (first, second),
        "c": (second, first),
        "d": (first, first),
    }.items():
        for k, voxels in enumerate(channels):
            save_nifti(tmp_path / f"{name}{k}.nii.gz", voxels)
    rows = "case,image:t1,image:t2\n" + "".join(f"{n},{n}0.nii.gz,{n}1.nii.gz\n" for n in "abcd")
    assert inspect_dataset(open_dataset(write_table(tmp_path, rows))).duplicates == (("a", "b"),)


def with_a_copy_on_the_test_side(folder: Path) -> Path:
    """Radiographs of which a held-out one is a training one under another name and compression."""
    data = tiny_data(folder / "chest")
    rows = list(csv.DictReader((data / "cases.csv").read_text().splitlines()))
    trained = next(row for row in rows if row["split"] == "train")
    held_out = next(row for row in rows if row["split"] == "test")
    Image.open(data / trained["image"]).save(data / held_out["image"], compress_level=1)
    shutil.copy(data / trained["label"], data / held_out["label"])
    assert zlib.crc32((data / trained["image"]).read_bytes()) != zlib.crc32((data / held_out["image"]).read_bytes())
    return data


def test_training_refuses_a_copy_on_the_test_side_unless_that_is_allowed(tmp_path: Path) -> None:
    data = with_a_copy_on_the_test_side(tmp_path)
    loop = LoopConfig(steps=1, precision="float32")
    strict, lax = (RunConfig(training=loop, data=DataConfig(path=str(data), allow_leak=leak)) for leak in (False, True))
    with (
        one_thread(),
        pytest.raises(DataError, match=r"stand in split test and train.*data\.allow_leak=true") as caught,
    ):
        start(strict, tmp_path / "strict", plan=data.with_suffix(".plan.json"))
    assert (caught.value.code, caught.value.exit_code) == ("E-LEAK-01", 3)
    codes = {(problem.severity, problem.code) for problem in inspect_dataset(open_dataset(data)).problems}
    assert ("error", "E-LEAK-02") in codes
    with one_thread():
        run = start(lax, tmp_path / "lax", plan=data.with_suffix(".plan.json"), dry_run=True)
    assert run.status()["status"] == "dry run"


@pytest.mark.parametrize("n_patients", [2, 3, 4, 5, 6, 11])
def test_copies_under_several_patients_are_never_parted_by_a_drawn_split(tmp_path: Path, n_patients: int) -> None:
    drawn = [np.full((8, 8), 10 * number) + np.eye(8) for number in range(n_patients)]
    files = [save_png(tmp_path / f"p{number}.png", picture) for number, picture in enumerate(drawn)]
    files.append(png(tmp_path / "zcopy", np.asarray(Image.open(files[0])), random.Random(0)))
    found = inspected(tmp_path, files)
    manifest = manifest_of({case.case_id: case.patient_id for case in found.usable.cases})
    folds = make_split(manifest).folds
    assert len(folds) == min(n_patients, 5)
    for fold in folds:
        split = make_split(manifest, fold=fold)
        sides = [side for side in (split.train, split.validation, split.heldout) if {"p0", "zcopy"} & set(side)]
        assert len(sides) == 1


NAMES = {
    "bids": ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-02_ses-2"),
    "frames": ("patient001_frame01", "patient001_frame12", "patient002_frame01", "patient002_frame09"),
    "visits": ("P7-visit-1", "P7-visit-2", "P8-visit-1", "P8-visit-2"),
    "phases": ("0042_ED", "0042_ES", "0043_ED", "0043_ES"),
}


@pytest.mark.parametrize("style", sorted(NAMES))
def test_a_patient_known_by_name_is_never_parted(tmp_path: Path, style: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number, name in enumerate(NAMES[style]):
        save_png(tmp_path / "images" / f"{name}.png", np.full((8, 8), 20 * number) + np.eye(8))
        save_png(tmp_path / "labels" / f"{name}.png", np.eye(8))
    manifest = open_dataset(tmp_path)
    first = {case.case_id: case.patient_id for case in manifest.cases}
    assert len(set(first.values())) == 2
    for fold in make_split(manifest).folds:
        split = make_split(manifest, fold=fold)
        assert not {first[case] for case in split.train} & {first[case] for case in split.heldout}


@pytest.mark.parametrize("column", ["split", "fold"])
def test_a_patient_of_the_column_subject_on_two_sides_is_an_error_unless_allowed(tmp_path: Path, column: str) -> None:
    files = [save_png(tmp_path / f"c{k}.png", np.full((8, 8), 20 * k) + np.eye(8)) for k in range(4)]
    for k in range(4):
        save_png(tmp_path / f"c{k}_label.png", np.eye(8))
    sides = ["train", "test", "train", "test"] if column == "split" else ["0", "1", "0", "1"]
    found = inspected(
        tmp_path, files, subject=["anna", "anna", "bert", "carl"], label=[f"c{k}_label.png" for k in range(4)],
        **{column: sides},
    )  # fmt: skip
    (problem,) = [problem for problem in found.problems if problem.code == "E-LEAK-01"]
    assert problem.severity == "error"
    assert "patient anna" in problem.message
    with pytest.raises(DataError, match="patient anna"):
        make_split(found.usable)
    assert make_split(found.usable, allow_leak=True).leak_allowed
