"""Synthetic data sets as ordinary folders: PNG or NIfTI files, `cases.csv`, `dataset.toml`.

Nothing marks them as synthetic to the reading code, so the whole road is used. A case can be drawn again from
the seed and its row alone: `chest_image(seed, replace(case, scanner="B"))` is its true counterfactual.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import nibabel as nib
import numpy as np
import tomli_w
from jaxtyping import Int16, Shaped, UInt8
from PIL import Image

from scantling.data.case import ClassTable
from scantling.data.catalog.cardiac_anatomy import CARDIAC_CLASSES, cardiac_label_map, draw_cardiac_anatomy
from scantling.data.catalog.cardiac_render import MAGNET_SCANNERS, render_cardiac
from scantling.data.catalog.chest_anatomy import CHEST_CLASSES, chest_label_map, draw_chest_anatomy
from scantling.data.catalog.chest_render import Build, Finding, render_chest
from scantling.data.catalog.chest_scanner import SCANNERS
from scantling.data.catalog.chest_silver import silver_chest_label_map
from scantling.data.simulate import scribbles, stored_with_unknown
from scantling.errors import ConfigError
from scantling.files import new_folder, write_atomic
from scantling.seeding import numpy_generator

Role = Literal["labelled", "unlabelled", "test"]
_SITE_OF_SCANNER: Final = {"A": "north", "B": "south"}
_HOME_RATE: Final = 0.85  # share of a site's images taken on the scanner it mostly uses
_UNKNOWN: Final = 4  # stored where a scribble says nothing, as in the cardiac scribble benchmark


@dataclass(frozen=True, kw_only=True)
class ChestCase:
    """One radiograph's id and the factors behind it; with the seed, all that is needed to draw it again."""

    case_id: str
    role: Role
    site: str
    scanner: str
    sex: Build
    finding: Finding


def draw_chest_case(
    seed: int, index: int, role: Role, *, finding_rate: float = 0.4, female_rate: float = 0.5
) -> ChestCase:
    """The factors of case number `index`; scanners alternate, sites mostly use one of them."""
    case_id = f"chest_{index:04d}"
    rng = numpy_generator(seed, "chest-factors", case_id)
    scanner = tuple(SCANNERS)[index % len(SCANNERS)]
    at_home = rng.random() < _HOME_RATE
    sites = tuple(_SITE_OF_SCANNER.values())
    site = _SITE_OF_SCANNER[scanner] if at_home else sites[1 - sites.index(_SITE_OF_SCANNER[scanner])]
    sex: Build = "F" if rng.random() < female_rate else "M"
    finding: Finding = "effusion" if rng.random() < finding_rate else "none"
    return ChestCase(case_id=case_id, role=role, site=site, scanner=scanner, sex=sex, finding=finding)


def chest_image(seed: int, case: ChestCase, *, size: int = 128) -> UInt8[np.ndarray, "y x"]:
    """The radiograph of a case; replace its scanner, sex or finding for a true counterfactual."""
    return render_chest(
        draw_chest_anatomy(seed, case.case_id),
        scanner=case.scanner,
        finding=case.finding,
        sex=case.sex,
        noise_key=f"{seed}/{case.case_id}",
        size=size,
    )


def write_chest_phantom(
    folder: Path,
    *,
    n_labelled: int,
    n_unlabelled: int,
    n_test: int,
    seed: int,
    size: int = 128,
    silver: bool = False,
    finding_rate: float = 0.4,
) -> Path:
    """A folder of chest radiographs; `cases.csv` is written last, so a cut-off folder is no data set.

    Labelled cases come first and have `split` "train", as the unlabelled; test cases have full labels too.

    Args:
        silver: also write a silver mask for every training case, with column `quality`: an estimate in
            [0, 1] of its Dice, off by about 0.03 as such estimates are.

    Raises:
        ConfigError: a count or size makes no sense, or the folder is not empty.
    """
    roles = _roles(n_labelled, n_unlabelled, n_test)
    if size < 32:
        raise ConfigError(f"size = {size}: the chest phantom needs at least 32 pixels")
    new_folder(folder)
    rows: list[dict[str, str]] = []
    for index, role in enumerate(roles):
        case = draw_chest_case(seed, index, role, finding_rate=finding_rate)
        anatomy = draw_chest_anatomy(seed, case.case_id)
        row = {
            "case": case.case_id,
            "image": _write_png(folder, "images", case.case_id, chest_image(seed, case, size=size)),
            "subject": f"chest_patient_{index:04d}",
            "site": case.site,
            "scanner": case.scanner,
            "sex": case.sex,
            "finding": case.finding,
            "split": "test" if role == "test" else "train",
        }
        labels: list[dict[str, str]] = []
        if role != "unlabelled":
            path = _write_png(folder, "labels", case.case_id, chest_label_map(anatomy, size=size))
            labels.append({"label": path, "label_kind": "full", "annotated": "*"})
        if silver and role != "test":
            key = f"{seed}/{case.case_id}"
            mask, dice = silver_chest_label_map(anatomy, finding=case.finding, key=key, size=size)
            path = _write_png(folder, "silver", case.case_id, mask)
            error = 0.03 * float(numpy_generator(seed, "chest-quality", case.case_id).standard_normal())
            row["quality"] = f"{min(max(dice + error, 0.0), 1.0):.3f}"
            labels.append({"label": path, "label_kind": "silver", "annotated": "*", "rater": "automatic"})
        rows.extend(row | label for label in labels or [{"label": "", "label_kind": "none"}])
    columns = (
        "rater",
        "subject",
        "site",
        "scanner",
        "sex",
        "finding",
        "split",
        *(("quality",) if silver else ()),
    )
    _write_tables(folder, "chest-phantom", "CR", CHEST_CLASSES, columns, rows)
    return folder


def write_cardiac_phantom(
    folder: Path,
    *,
    n_labelled: int,
    n_unlabelled: int,
    n_test: int,
    seed: int,
    shape: tuple[int, int, int] = (10, 112, 112),
    spacing_mm: tuple[float, float, float] = (8.0, 1.4, 1.4),
    with_scribbles: bool = True,
) -> Path:
    """A folder of short-axis cardiac volumes (NIfTI, thick slices), with scribbles beside the dense masks.

    Args:
        shape, spacing_mm: in array order, slices first; each case's pixels are up to 12 % larger or smaller.
        with_scribbles: labelled cases get a second annotation of kind "scribble"; unannotated is stored as 4.

    Raises:
        ConfigError: a count, shape or spacing makes no sense, or the folder is not empty.
    """
    roles = _roles(n_labelled, n_unlabelled, n_test)
    if min(shape) < 1 or min(shape[1:]) < 16 or min(spacing_mm) <= 0:
        raise ConfigError(f"cardiac phantom: shape {shape} needs slices of 16 pixels or more, spacing {spacing_mm} > 0")
    new_folder(folder)
    rows: list[dict[str, str]] = []
    for index, role in enumerate(roles):
        case_id = f"cardiac_{index:04d}"
        rng = numpy_generator(seed, "cardiac-factors", case_id)
        pixel_mm = round(float(spacing_mm[1] * rng.uniform(0.88, 1.12)), 4)
        spacing = (spacing_mm[0], pixel_mm, round(pixel_mm * spacing_mm[2] / spacing_mm[1], 4))
        scanner = tuple(MAGNET_SCANNERS)[index % len(MAGNET_SCANNERS)]
        anatomy = draw_cardiac_anatomy(seed, case_id)
        volume = render_cardiac(
            anatomy, scanner=scanner, noise_key=f"{seed}/{case_id}", shape=shape, spacing_mm=spacing
        )
        row = {
            "case": case_id,
            "image": _write_nifti(folder, "images", case_id, volume, spacing),
            "subject": f"cardiac_patient_{index:04d}",
            "site": _SITE_OF_SCANNER[scanner],
            "scanner": scanner,
            "group": anatomy.group,
            "split": "test" if role == "test" else "train",
        }
        labels: list[dict[str, str]] = []
        if role != "unlabelled":
            truth = cardiac_label_map(anatomy, shape=shape, spacing_mm=spacing)
            path = _write_nifti(folder, "labels", case_id, truth, spacing)
            labels.append({"label": path, "label_kind": "full", "annotated": "*"})
        if with_scribbles and role == "labelled":
            drawn = scribbles(truth, numpy_generator(seed, "cardiac-scribble", case_id))
            stored = stored_with_unknown(drawn, unknown=_UNKNOWN)
            path = _write_nifti(folder, "scribbles", case_id, stored, spacing)
            labels.append({"label": path, "label_kind": "scribble", "annotated": "*", "ignore": str(_UNKNOWN)})
        rows.extend(row | label for label in labels or [{"label": "", "label_kind": "none"}])
    columns = ("ignore", "subject", "site", "scanner", "group", "split")
    _write_tables(folder, "cardiac-phantom", "MR", CARDIAC_CLASSES, columns, rows)
    return folder


def _roles(n_labelled: int, n_unlabelled: int, n_test: int) -> list[Role]:
    counts: dict[Role, int] = {"labelled": n_labelled, "unlabelled": n_unlabelled, "test": n_test}
    if min(counts.values()) < 0 or sum(counts.values()) == 0:
        raise ConfigError(f"phantom: wanted counts of 0 or more and at least one case, got {counts}")
    return [role for role, count in counts.items() for _ in range(count)]


def _write_png(folder: Path, kind: str, case_id: str, pixels: UInt8[np.ndarray, "y x"]) -> str:
    path = folder / kind / f"{case_id}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=3)
    return f"{kind}/{path.name}"


def _write_nifti(
    folder: Path,
    kind: str,
    case_id: str,
    volume: Int16[np.ndarray, "z y x"] | UInt8[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float, float],
) -> str:
    """x runs to the patient's left, y to the back, z to the head; the middle of the volume is the origin."""
    path = folder / kind / f"{case_id}.nii.gz"
    path.parent.mkdir(exist_ok=True)
    stored: Shaped[np.ndarray, "x y z"] = np.ascontiguousarray(volume.T)
    step = np.array([-spacing_mm[2], -spacing_mm[1], spacing_mm[0]])
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = -step * (np.array(stored.shape) - 1) / 2
    image: Any = nib.Nifti1Image(stored, affine)  # type: ignore[no-untyped-call]
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return f"{kind}/{path.name}"


def _write_tables(
    folder: Path,
    name: str,
    modality: str,
    classes: ClassTable,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, str]],
) -> None:
    named = {n: stored[0] for n, stored in zip(classes.foreground, classes.stored[1:], strict=True)}
    write_atomic(
        folder / "dataset.toml",
        tomli_w.dumps({"name": name, "modality": modality, "classes": named}).encode(),
    )
    text = io.StringIO()
    header = ["case", "image", "label", "label_kind", "annotated", *columns]
    writer = csv.DictWriter(text, fieldnames=header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / "cases.csv", text.getvalue().encode())
