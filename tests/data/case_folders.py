"""Tiny image and label files, written by other hands (Pillow, nibabel), for the tests of folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from scantling.data.case import Annotation, Case, ClassTable, LabelKind
from scantling.data.manifest import Manifest


def save_png(path: Path, array: np.ndarray) -> Path:
    """A grey or RGB picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def save_nifti(path: Path, array: np.ndarray, *, spacing: tuple[float, ...] = (1, 1, 1), shift: float = 0) -> Path:
    """A volume given in array order (z, y, x), or (channel, z, y, x), with a world position in mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    affine[0, 3] = shift
    spatial = array if array.ndim == 3 else np.moveaxis(array, 0, -1).transpose(2, 1, 0, 3)
    stored = spatial.transpose(2, 1, 0) if array.ndim == 3 else spatial
    nib.save(nib.Nifti1Image(stored, affine, dtype=stored.dtype), path)
    return path


def picture(seed: int, shape: tuple[int, ...] = (12, 10)) -> np.ndarray:
    """A noise image that no other seed gives."""
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def mask(*values: int, shape: tuple[int, int] = (12, 10)) -> np.ndarray:
    """A label map of 0 with a small square of each value."""
    label = np.zeros(shape, np.uint8)
    for position, value in enumerate(values):
        label[1 + 3 * position : 3 + 3 * position, 2:5] = value
    return label


def write_table(folder: Path, text: str, toml: str = "[classes]\nlung = 1\nheart = 2\n") -> Path:
    """A `cases.csv` beside a `dataset.toml`."""
    (folder / "cases.csv").write_bytes(text.encode())
    if toml:
        (folder / "dataset.toml").write_text(toml)
    return folder


def manifest_of(patients: Mapping[str, str], *, root: Path = Path("data"), **columns: Mapping[str, object]) -> Manifest:
    """A manifest without files: case -> patient, every case with a full label.

    `kinds`, `fold`, `split`, `site`, `counterfactual_of` give a value a case; other columns are attributes.
    """
    cases = []
    for case, patient in patients.items():
        given = {name: values[case] for name, values in columns.items() if case in values}
        kind: LabelKind = given.pop("kinds", "full")  # type: ignore[assignment]
        known = {name: given.pop(name) for name in ("fold", "split", "site", "counterfactual_of") if name in given}
        labels = () if kind == "none" else (Annotation(path=root / f"{case}_seg.png", kind=kind),)
        cases.append(
            Case(
                case_id=case, images=(root / f"{case}.png",), annotations=labels, patient_id=patient,
                attributes={name: str(value) for name, value in given.items()}, **known,
            )  # type: ignore[arg-type]
        )  # fmt: skip
    return Manifest(root=root, name="made", layout="cases_csv", classes=ClassTable.of({"lung": 1}), cases=tuple(cases))
