"""One prepared image on disk: how it is written, verified, and seen again through memory maps or decompressed."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Num

from scantling.data.alternatives import misfit
from scantling.data.case import IGNORE, Annotation, Case, LabelKind
from scantling.data.compact import SUFFIX, CompactArray, write_compact
from scantling.data.image import ImageGeometry, MedicalImage
from scantling.data.image_io import read_image
from scantling.data.normalising import LinearMap
from scantling.data.plan import Plan
from scantling.data.prepare import (
    PreparedGrid,
    annotated_classes,
    intensity_maps,
    normalised_values,
    prepare_image,
    prepare_label,
    read_matching_label,
)
from scantling.errors import GeometryError, IntegrityError
from scantling.files import NOT_A_FILE, require_sha256, sha256_bytes, sha256_file
from scantling.seeding import numpy_generator

POINTS_PER_CLASS: Final = 10_000
"""Voxels of each class kept as possible patch centres."""

Form = Literal["map", "compact"]
"""How images and label maps lie in an entry: raw, to be memory-mapped, or compressed in small blocks."""
StoredArray = np.ndarray | CompactArray


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedAlternative:
    """Another image of a prepared case's anatomy, on its grid and under its intensity map; mapped as its image is.

    Attributes:
        case_id: of the generated image's own row.
        scale, offset: per channel; `image * scale + offset` is the normalised value.
    """

    case_id: str
    folder: Path
    form: Form
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def image(self) -> Num[StoredArray, "channel *spatial"]:
        """Stored intensities of all channels."""
        image: Num[StoredArray, "channel *spatial"] = _open(self.folder, "image", self.form)
        return image

    def normalised(self) -> Float[np.ndarray, "channel *spatial"]:
        """The whole image in memory, as the network sees it."""
        return normalised_values(np.asarray(self.image), self.scale, self.offset)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedCase:
    """One prepared case; arrays are mapped or opened anew at each access, so thousands of cases hold no open file.

    An array that lies there compressed is indexed like any other and decompresses what the index touches.

    Attributes:
        scale, offset: per channel; `image * scale + offset` is the normalised value.
        annotated: per class, whether it was looked for; all False where the case has no label.
        weight: trust in the label, in [0, 1].
        known_slices: positions along the first axis with at least one labelled voxel.
        point_counts: number of stored points per class; background has some only where voxels are unknown.
        alternatives: other images of the anatomy; none unless the store was asked for them.
    """

    case_id: str
    patient_id: str
    folder: Path
    form: Form
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    grid: PreparedGrid
    label_kind: LabelKind | None
    annotated: Bool[np.ndarray, "klass"]
    weight: float
    known_slices: tuple[int, ...]
    point_counts: tuple[int, ...]
    alternatives: tuple[PreparedAlternative, ...] = ()

    @property
    def image(self) -> Num[StoredArray, "channel *spatial"]:
        """Stored intensities of all channels."""
        image: Num[StoredArray, "channel *spatial"] = _open(self.folder, "image", self.form)
        return image

    @property
    def labels(self) -> Integer[StoredArray, "*spatial"] | None:
        """Class indices with IGNORE, or None where the case has no label of the chosen kind."""
        return None if self.label_kind is None else _open(self.folder, "label", self.form)

    def normalised(self) -> Float[np.ndarray, "channel *spatial"]:
        """The whole image in memory, as the network sees it."""
        return normalised_values(np.asarray(self.image), self.scale, self.offset)

    @property
    def foreground(self) -> dict[int, Integer[np.ndarray, "point axis"]]:
        """Class index -> voxel positions of the class, for every class that has any."""
        if self.label_kind is None:
            return {}
        points = _open(self.folder, "points", "map")
        ends = np.cumsum(self.point_counts)
        return {k: points[end - n : end] for k, (n, end) in enumerate(zip(self.point_counts, ends, strict=True)) if n}


PreparedFiles = PreparedCase | PreparedAlternative
"""What has a prepared image in a folder of its own."""


@dataclass(frozen=True, kw_only=True)
class RealImage:
    """What another image of the same anatomy must share with the real one.

    Attributes:
        stored_type: numpy's name of the first file's type.
        maps: the linear map of each channel's intensities.
    """

    case_id: str
    geometry: ImageGeometry
    stored_type: str
    maps: tuple[LinearMap, ...]


def read_real_image(case: Case, plan: Plan) -> RealImage:
    """Read a real case for the alternatives that are prepared like it.

    Raises:
        DataError: a file is unreadable, or misfits the plan.
    """
    images = [read_image(path) for path in case.images]
    return RealImage(
        case_id=case.case_id,
        geometry=images[0].geometry,
        stored_type=images[0].array.dtype.name,
        maps=intensity_maps(images, plan),
    )


def write_entry(
    folder: Path,
    case: Case,
    annotation: Annotation | None,
    plan: Plan,
    *,
    key: str,
    form: Form = "map",
    real: RealImage | None = None,
) -> None:
    """Prepare a case and write its arrays, their checksums last.

    Args:
        real: for an image generated from a real one, that one.

    Raises:
        ConfigError: the compact form is wanted and its package is missing.
        DataError: a file is unreadable, or misfits the plan, its label or its real image.
        OSError: the disk is full.
    """
    by_slice = plan.dimensions == 2
    images = [read_image(path) for path in case.images]
    if real is not None:
        _require_fit(images[0], real)
    prepared = prepare_image(images, plan, maps=None if real is None else real.maps)
    _save(folder, "image", prepared.array, form, by_slice=by_slice)
    meta: dict[str, Any] = {
        "key": key,
        "form": form,
        "scale": prepared.scale,
        "offset": prepared.offset,
        "grid": _grid_to_json(prepared.grid),
        "known_slices": [],
        "point_counts": [],
    }
    if annotation is not None:
        stored = read_matching_label(annotation, images[0].geometry)
        labels = prepare_label(stored, annotation, prepared.grid, plan)
        _save(folder, "label", labels, form, by_slice=by_slice)
        points = _points(labels, len(plan.classes.names), key)
        np.save(folder / "points.npy", np.concatenate(points))
        meta["point_counts"] = [len(of_class) for of_class in points]
        known = (labels != IGNORE).any(axis=tuple(range(1, labels.ndim)))
        meta["known_slices"] = [int(position) for position in np.flatnonzero(known)]
    meta["sha256"] = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    text = json.dumps(meta)
    (folder / "meta.json").write_text(json.dumps({"sha256": sha256_bytes(text.encode()), "meta": text}))


def _require_fit(image: MedicalImage, real: RealImage) -> None:
    said = misfit(
        real.geometry, image.geometry,
        real_type=real.stored_type, other_type=image.array.dtype.name, real_id=real.case_id,
    )  # fmt: skip
    if said:
        raise GeometryError(said, code="E-ALT-02")


def _points(labels: Integer[np.ndarray, "*spatial"], n_classes: int, key: str) -> list[Int[np.ndarray, "_ axis"]]:
    """Up to `POINTS_PER_CLASS` voxels of each class; of background only where there are unknown voxels."""
    unknown = bool((labels == IGNORE).any())
    dtype = np.int16 if max(labels.shape) <= np.iinfo(np.int16).max else np.int32
    result = []
    for k in range(n_classes):
        flat = np.flatnonzero(labels == k) if k or unknown else np.empty(0, dtype=np.intp)
        if len(flat) > POINTS_PER_CLASS:
            rng = numpy_generator(0, "points", key, k)
            flat = np.sort(rng.choice(flat, POINTS_PER_CLASS, replace=False, shuffle=False))
        result.append(np.stack(np.unravel_index(flat, labels.shape), axis=1).astype(dtype))
    return result


def open_entry(folder: Path, case: Case, annotation: Annotation | None, plan: Plan) -> PreparedCase:
    """The case of a whole entry.

    Raises:
        IntegrityError: a file of the entry is missing or not what was written.
    """
    try:
        wrapper = json.loads((folder / "meta.json").read_bytes())
    except (*NOT_A_FILE, ValueError, RecursionError):
        wrapper = None
    if not isinstance(wrapper, dict) or sha256_bytes(str(wrapper.get("meta")).encode()) != wrapper.get("sha256"):
        raise IntegrityError(f"{folder / 'meta.json'}: the file is missing or damaged", code="E-CHK-01")
    meta = json.loads(wrapper["meta"])
    for name, checksum in meta["sha256"].items():
        require_sha256(folder / name, checksum)
    return PreparedCase(
        case_id=case.case_id,
        patient_id=case.patient_id,
        folder=folder,
        form=meta.get("form", "map"),
        scale=tuple(meta["scale"]),
        offset=tuple(meta["offset"]),
        grid=_grid_from_json(meta["grid"]),
        label_kind=annotation.kind if annotation else None,
        annotated=np.array(annotated_classes(annotation, plan), dtype=np.bool_),
        weight=annotation.weight if annotation else 1.0,
        known_slices=tuple(meta["known_slices"]),
        point_counts=tuple(meta["point_counts"]),
    )


def _grid_to_json(grid: PreparedGrid) -> dict[str, Any]:
    source = grid.source
    header = None if source.header is None else base64.b64encode(source.header).decode("ascii")
    return {
        "source": {
            "shape": source.shape,
            "spacing_mm": source.spacing_mm,
            "spacing_known": source.spacing_known,
            "world_from_index": source.world_from_index.tolist(),
            "file_type": source.file_type,
            "header": header,
        },
        "permutation": grid.permutation,
        "flips": grid.flips,
        "shape": grid.shape,
        "spacing_mm": grid.spacing_mm,
    }


def _grid_from_json(values: dict[str, Any]) -> PreparedGrid:
    source = values["source"]
    geometry = ImageGeometry(
        shape=tuple(source["shape"]),
        spacing_mm=tuple(source["spacing_mm"]),
        spacing_known=source["spacing_known"],
        world_from_index=np.array(source["world_from_index"], dtype=np.float64),
        file_type=source["file_type"],
        header=None if source["header"] is None else base64.b64decode(source["header"]),
    )
    return PreparedGrid(
        source=geometry,
        permutation=tuple(values["permutation"]),
        flips=tuple(values["flips"]),
        shape=tuple(values["shape"]),
        spacing_mm=tuple(values["spacing_mm"]),
    )


def _save(folder: Path, name: str, array: Num[np.ndarray, "..."], form: Form, *, by_slice: bool) -> None:
    if form == "compact":
        write_compact(folder / f"{name}{SUFFIX}", array, by_slice=by_slice)
    else:
        np.save(folder / f"{name}.npy", array)


def _open(folder: Path, name: str, form: Form) -> Any:
    return (
        CompactArray(folder / f"{name}{SUFFIX}")
        if form == "compact"
        else np.load(folder / f"{name}.npy", mmap_mode="r")
    )
