"""Data sets of thousands of files: little time a file, flat memory, and hardly a file open at once."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import scantling

SOURCE = str(Path(scantling.__file__).parents[1])
CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sys.argv = ["scantling", *sys.argv[1:]]
from scantling.cli.main import main
try:
    main()
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak // 1024 if sys.platform == "darwin" else peak, file=sys.stderr)
"""
HEADERS = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from pathlib import Path
from scantling.data.inspect import inspect_dataset
from scantling.data.layouts import open_dataset
import psutil
before = psutil.Process().memory_info().rss
began = time.perf_counter()
found = inspect_dataset(open_dataset(Path(sys.argv[1])), read_voxels=False)
print(len(found.findings), time.perf_counter() - began)
print((psutil.Process().memory_info().rss - before) // 1024, file=sys.stderr)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits on open files are POSIX")


@dataclass(frozen=True)
class Ended:
    """What a child printed, the memory it took, and how long."""

    out: str
    mib: float
    seconds: float


def child(code: str, *words: str, cwd: Path) -> Ended:
    path = os.pathsep.join(filter(None, (SOURCE, os.environ.get("PYTHONPATH"))))
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=900,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    *said, memory = done.stderr.splitlines()
    assert (done.returncode, said) == (0, []), done.stderr
    return Ended(done.stdout, int(memory) / 1024, time.perf_counter() - began)


def volumes(folder: Path, count: int, shape: tuple[int, int, int], *, labelled: int = 0) -> Path:
    """So many different volumes, the first of them with labels; a constant but for its number and a box."""
    image = np.zeros(shape, dtype=np.int16, order="F")
    image[1:-1, 1:-1, 1:-1] = 100
    written = nib.Nifti1Image(image, np.eye(4)).to_bytes()
    head, voxels = written[:352], image.tobytes(order="F")
    assert written[352:] == voxels
    box = nib.Nifti1Image((image > 0).astype(np.uint8), np.eye(4)).to_bytes()
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        content = head + number.to_bytes(2, "little") + voxels[2:]
        (folder / "images" / f"v{number:05d}.nii.gz").write_bytes(gzip.compress(content, 1))
        if number < labelled:
            (folder / "labels" / f"v{number:05d}.nii.gz").write_bytes(gzip.compress(box, 1))
    return folder


def test_inspection_of_many_volumes_holds_neither_their_voxels_nor_their_files(tmp_path: Path) -> None:
    """500 volumes of half a megabyte: held, they would be 250 MiB; and not more than 64 files may be open."""
    few = volumes(tmp_path / "few", 20, (64, 64, 64), labelled=10)
    many = volumes(tmp_path / "many", 500, (64, 64, 64), labelled=100)
    first = child(CHILD, "inspect", str(few), "-o", "few-lock", "--json", cwd=tmp_path)
    second = child(CHILD, "inspect", str(many), "-o", "many-lock", "--json", cwd=tmp_path)
    found = json.loads(second.out)
    assert (len(found["cases"]), found["problems"]) == (500, [])
    assert sum(len(case["labels"]) for case in found["cases"]) == 100
    assert second.mib - first.mib < 60
    lock = json.loads((tmp_path / "many-lock" / "data.lock.json").read_text())
    assert len(lock["files"]) == 600


def test_training_on_many_pictures_holds_no_file_open(tmp_path: Path) -> None:
    """Every prepared case lies in three files; with 64 allowed, only few can be mapped at a time."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for number in range(120):
        picture = rng.integers(0, 200, (32, 32), dtype=np.uint8)
        label = np.zeros((32, 32), dtype=np.uint8)
        label[8:20, 8:20] = 1
        Image.fromarray(picture + 50 * label).save(tmp_path / "data" / "images" / f"p{number:03d}.png")
        Image.fromarray(label).save(tmp_path / "data" / "labels" / f"p{number:03d}.png")
    child(
        CHILD, "train", "data", "-o", "run", "--steps", "4", "--set", "plan.batch_size=32", "--set",
        "plan.patch_size=[32,32]", "-q", cwd=tmp_path,
    )  # fmt: skip
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    split = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert len(split["train"]) > 80
    assert sum(len(split[part]) for part in ("train", "validation", "heldout")) == 120


@pytest.mark.slow
def test_ten_thousand_headers_take_less_than_a_minute_and_flat_memory(tmp_path: Path) -> None:
    folder = volumes(tmp_path / "many", 10_000, (8, 8, 8), labelled=1_000)
    ended = child(HEADERS, str(folder), cwd=tmp_path)
    count, seconds = ended.out.split()
    assert (int(count), float(seconds) < 60) == (10_000, True), seconds
    assert ended.mib < 120  # 12 KiB of findings a case
    print(f"10,000 headers: {float(seconds):.1f} s, {ended.mib:.0f} MiB")  # noqa: T201


@pytest.mark.slow
def test_ten_thousand_volumes_are_inspected_whole_in_less_than_two_minutes(tmp_path: Path) -> None:
    few = volumes(tmp_path / "few", 200, (32, 32, 32), labelled=20)
    many = volumes(tmp_path / "many", 10_000, (32, 32, 32), labelled=1_000)
    first, second = (child(CHILD, "inspect", str(folder), cwd=folder.parent) for folder in (few, many))
    assert second.out.startswith("Found 10000 cases of 10000 patients")
    assert second.mib - first.mib < 150
    assert second.seconds < 120
    print(f"10,000 volumes: {second.seconds:.1f} s, {second.mib - first.mib:.0f} MiB")  # noqa: T201
