"""Tiny data sets on disk, written by nibabel and Pillow, and a plan for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from scantling.data.case import Annotation, Case, ClassTable
from scantling.data.manifest import Manifest
from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan

CLASSES = ClassTable.of({"core": 1, "shell": 2})


def write_volume(path: Path, zyx: np.ndarray, spacing_mm: tuple[float, float, float]) -> Path:
    """A NIfTI of an array in (z, y, x) order whose axes run along S, A, R."""
    z, y, x = spacing_mm
    nib.Nifti1Image(np.ascontiguousarray(zyx.T), np.diag([x, y, z, 1.0])).to_filename(path)
    return path


def nested_labels(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    """A ball of class 1 in a shell of class 2."""
    axes = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)))
    return np.where(distance <= radius / 2, 1, np.where(distance <= radius, 2, 0)).astype(np.uint8)


def volume_set(
    folder: Path,
    n: int = 4,
    *,
    shape: tuple[int, int, int] = (12, 20, 24),
    spacing_mm: tuple[float, float, float] = (2.0, 1.0, 1.0),
    unlabelled: int = 0,
    radius: float = 5.0,
    seed: int = 0,
) -> Manifest:
    """Volumes of int16 with nested labels; the last `unlabelled` ones have none."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cases = []
    for i in range(n + unlabelled):
        grown = tuple(s + int(rng.integers(0, 3)) for s in shape)
        centre = tuple(s / 2 + rng.uniform(-1, 1) for s in grown)
        labels = nested_labels(grown, centre, radius)
        image = (100 * labels + rng.normal(0, 20, grown) + 300).astype(np.int16)
        path = write_volume(folder / f"v{i}.nii.gz", image, spacing_mm)
        annotations = ()
        if i < n:
            label_path = write_volume(folder / f"v{i}_seg.nii.gz", labels, spacing_mm)
            annotations = (Annotation(path=label_path, kind="full"),)
        cases.append(Case(case_id=f"v{i}", images=(path,), annotations=annotations, patient_id=f"p{i // 2}"))
    return Manifest(root=folder, name="volumes", layout="pairs", classes=CLASSES, cases=tuple(cases), modality="MR")


def picture_set(
    folder: Path, n: int = 4, *, shape: tuple[int, int] = (40, 48), colour: bool = False, seed: int = 0
) -> Manifest:
    """8-bit pictures with nested labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cases = []
    for i in range(n):
        labels = nested_labels(shape, (shape[0] / 2, shape[1] / 2), min(shape) / 4)
        size = (*shape, 3) if colour else shape
        base = 60 * (labels[..., None] if colour else labels)
        image = np.clip(base + rng.normal(60, 15, size), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"p{i}.png")
        Image.fromarray(labels).save(folder / f"p{i}_seg.png")
        annotation = Annotation(path=folder / f"p{i}_seg.png", kind="full")
        cases.append(Case(case_id=f"p{i}", images=(folder / f"p{i}.png",), annotations=(annotation,)))
    return Manifest(root=folder, name="pictures", layout="pairs", classes=CLASSES, cases=tuple(cases))


def plan_of(manifest: Manifest, **changes: Any) -> Plan:
    """A 3D plan at 1 mm for `volume_set`, with changes."""
    values: dict[str, Any] = {
        "dataset": manifest.name,
        "image_axes": 3,
        "dimensions": 3,
        "classes": ClassPlan(names=manifest.classes.names, stored=manifest.classes.stored),
        "axis_order": (0, 1, 2),
        "spacing_mm": (2.0, 1.0, 1.0),
        "patch_size": (8, 16, 16),
        "batch_size": 2,
        "intensities": (IntensityPlan(scheme="zscore"),),
        "network": NetworkPlan(strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2, features=(4, 8)),
    }
    intensities = changes.get("intensities", values["intensities"])
    channels = ("image",) if len(intensities) == 1 else tuple(f"channel_{k}" for k in range(len(intensities)))
    return Plan.model_validate({"channels": channels} | values | changes)


def picture_plan_of(manifest: Manifest, **changes: Any) -> Plan:
    """A 2D plan at the pictures' own resolution, with changes."""
    values: dict[str, Any] = {
        "image_axes": 2,
        "dimensions": 2,
        "axis_order": (0, 1),
        "spacing_mm": (1.0, 1.0),
        "patch_size": (32, 32),
        "intensities": (IntensityPlan(scheme="range", high=255.0),),
        "network": NetworkPlan(),
    }
    return plan_of(manifest, **(values | changes))


def changed_copy(source: Path, path: Path, *, factor: float = 1.0, shift: float = 0.0) -> Path:
    """The image with its values times `factor` plus `shift`, in its own type and geometry."""
    if path.suffix == ".png":
        pixels = np.asarray(Image.open(source))
        Image.fromarray(np.clip(np.rint(pixels * factor + shift), 0, 255).astype(np.uint8)).save(path)
    else:
        image: Any = nib.load(source)
        values = np.rint(np.asarray(image.dataobj) * factor + shift).astype(np.int16)
        nib.Nifti1Image(values, image.affine, dtype=np.int16).to_filename(path)
    return path


def with_counterfactuals(
    manifest: Manifest, changes: Mapping[str, Mapping[str, float]], *, sound: str = "yes"
) -> Manifest:
    """The manifest with a counterfactual row behind each case for each change (tag -> `changed_copy`'s arguments)."""
    cases = []
    for case in manifest.cases:
        cases.append(case)
        for tag, change in changes.items():
            source = case.images[0]
            path = source.with_name(f"{case.case_id}__{tag}{''.join(source.suffixes)}")
            cases.append(
                Case(
                    case_id=f"{case.case_id}__{tag}",
                    images=(changed_copy(source, path, **change),),
                    patient_id=case.patient_id,
                    attributes={"intervention": tag, "sound": sound},
                    counterfactual_of=case.case_id,
                )
            )
    return replace(manifest, cases=tuple(cases))
