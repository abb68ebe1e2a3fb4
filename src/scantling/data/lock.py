"""`data.lock.json`: size and SHA-256 of every file a data set consists of, to notice that one has changed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from scantling.data.layouts.dataset_json import FILE_NAME as DATASET_JSON
from scantling.data.layouts.dataset_toml import FILE_NAME as DATASET_TOML
from scantling.data.manifest import Manifest
from scantling.errors import DataError, IntegrityError
from scantling.files import read_json, sha256_file, write_json

SCHEMA_VERSION: Final = 1
_TABLES: Final = ("cases.csv", DATASET_TOML, DATASET_JSON)


def write_lock(manifest: Manifest, path: Path, *, workers: int | None = None) -> Path:
    """Write size and SHA-256 of every image, label and table of a data set; returns `path`.

    Names are relative to the root of the data set, so the lock still fits after the folder has moved.

    Raises:
        DataError: a file cannot be read.
    """
    files = sorted(_files(manifest), key=lambda file: _name(file, manifest.root))
    try:
        with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
            checksums = list(pool.map(sha256_file, files))
        sizes = [file.stat().st_size for file in files]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})", code="E-LCK-01") from None
    entries = {
        _name(file, manifest.root): {"size": size, "sha256": checksum}
        for file, size, checksum in zip(files, sizes, checksums, strict=True)
    }
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION, "name": manifest.name, "layout": manifest.layout,
            "cases": len(manifest.cases), "files": entries,
        },
    )  # fmt: skip
    return path


def check_lock(path: Path, manifest: Manifest) -> tuple[str, ...]:
    """One sentence for each file that is new, missing or changed since the lock was written.

    Raises:
        IntegrityError: the lock itself is damaged, or was written by a newer release.
    """
    locked = _entries(path)
    present = {_name(file, manifest.root): file for file in _files(manifest)}
    sentences = [f"{name}: is in the lock but no longer in the data set" for name in locked if name not in present]
    for name, file in sorted(present.items()):
        if name not in locked:
            sentences.append(f"{name}: is new since the lock was written")
        elif not file.is_file():
            sentences.append(f"{name}: the file is missing")
        elif (file.stat().st_size, sha256_file(file)) != locked[name]:
            sentences.append(f"{name}: has changed since the lock was written")
    return tuple(sentences)


def _entries(path: Path) -> dict[str, tuple[int, str]]:
    content = read_json(path)
    try:
        if content["schema_version"] > SCHEMA_VERSION:
            raise IntegrityError(f"{path}: written by a newer release; update scantling to read it", code="E-CHK-04")
        return {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in content["files"].items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        raise IntegrityError(
            f"{path}: not a data lock; wanted the file that 'inspect' wrote", code="E-CHK-02"
        ) from None


def _files(manifest: Manifest) -> list[Path]:
    images = [path for case in manifest.cases for path in case.images]
    labels = [annotation.path for case in manifest.cases for annotation in case.annotations]
    tables = [manifest.root / name for name in _TABLES if (manifest.root / name).is_file()]
    return list(dict.fromkeys([*images, *labels, *tables]))


def _name(path: Path, root: Path) -> str:
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()
