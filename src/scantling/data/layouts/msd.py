"""Medical Segmentation Decathlon: `dataset.json` with a list `training`; channels are the fourth axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from scantling.data.case import Annotation, Case, ClassTable
from scantling.data.image_io import image_stem
from scantling.data.layouts import dataset_json
from scantling.data.layouts.cell_values import case_id as checked_id
from scantling.data.layouts.dataset_toml import FILE_NAME as TOML_NAME
from scantling.data.layouts.dataset_toml import DatasetToml
from scantling.data.layouts.image_files import is_image
from scantling.data.layouts.subjects import subjects
from scantling.data.manifest import Manifest, Problem
from scantling.errors import ConfigError, DataError

LOOKS_LIKE: Final = "a dataset.json with a list 'training' (Medical Segmentation Decathlon)"


def recognise(folder: Path) -> bool:
    """Whether `dataset.json` has a list of training files."""
    return isinstance(dataset_json.peek(folder).get("training"), list)


def read(folder: Path) -> Manifest:
    """The cases of a Decathlon task; the files of `test` are unlabelled cases with split "test".

    A case's `images` is one file, which holds all `channels` of the manifest. A `dataset.toml` beside
    `dataset.json` overrides what it names.

    Raises:
        DataError: `dataset.json` is damaged, or its labels contradict each other.
        ConfigError: `dataset.toml` is wrong.
    """
    content = dataset_json.load(folder)
    settings = DatasetToml.beside(folder)
    classes = settings.class_table(folder / TOML_NAME) or _classes(content, folder)
    modalities = dataset_json.mapping(content, "modality", folder) if "modality" in content else {"0": "image"}
    channels = tuple(str(name) for name in modalities.values()) or ("image",)
    problems: list[Problem] = []
    cases = [
        case
        for key, split in (("training", "train"), ("test", "test"))
        for entry in _entries(content, key, folder)
        if (case := _case(entry, split, folder, len(channels), settings, problems)) is not None
    ]
    double = sorted({case.case_id for case in cases if [c.case_id for c in cases].count(case.case_id) > 1})
    if double:
        raise DataError(f"{folder / dataset_json.FILE_NAME}: case {double[0]!r} is listed twice", code="E-LAY-06")
    patient, said = subjects((case.case_id for case in cases), settings.subject_pattern)
    return Manifest(
        root=folder,
        name=settings.name or str(content.get("name") or folder.resolve().name),
        layout="msd",
        classes=classes,
        cases=tuple(replace(case, patient_id=patient[case.case_id]) for case in cases),
        channels=channels,
        modality=settings.modality or dataset_json.modality_of(channels),
        problems=tuple(problems),
        notes=(*said, *_unlisted(cases)),
    )


def _classes(content: Mapping[str, Any], folder: Path) -> ClassTable:
    values: dict[str, list[int]] = {}
    for stored, name in dataset_json.mapping(content, "labels", folder).items():
        value = dataset_json.whole_number(stored, "a key of 'labels'", folder)
        clean = str(name).strip() or f"class {value}"
        values.setdefault("background" if clean.lower() == "background" else clean, []).append(value)
    try:
        return ClassTable.of(values)
    except ConfigError as error:
        raise DataError(f"{folder / dataset_json.FILE_NAME}: {error.message}", code="E-LAY-05") from None


def _entries(content: Mapping[str, Any], key: str, folder: Path) -> list[tuple[str, str]]:
    """Image and label ("" for none) of each entry, which is an object or, in `test`, only a path."""
    entries = content.get(key) or []
    found = []
    for position, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        image = entry.get("image") if isinstance(entry, dict) else entry
        label = entry.get("label", "") if isinstance(entry, dict) else ""
        if not isinstance(image, str) or not isinstance(label, str) or not image:
            raise DataError(
                f"{folder / dataset_json.FILE_NAME}: entry {position} of {key!r} is {entry!r}, wanted "
                '{"image": "...", "label": "..."}',
                code="E-LAY-05",
            )
        found.append((image, label))
    return found


def _unlisted(cases: Sequence[Case]) -> Iterator[str]:
    """A sentence for each folder of images that holds more than `dataset.json` lists."""
    listed = {path.resolve() for case in cases for path in case.images}
    for folder in sorted({path.parent for path in listed}):
        others = [path.name for path in sorted(folder.iterdir()) if is_image(path) and path not in listed]
        if others:
            files = "1 image" if len(others) == 1 else f"{len(others)} images"
            yield f"{folder.name}/ holds {files} that dataset.json does not list, such as {others[0]}; left out"


def _case(
    entry: tuple[str, str],
    split: str,
    folder: Path,
    channels: int,
    settings: DatasetToml,
    problems: list[Problem],
) -> Case | None:
    image, label = folder / entry[0], folder / entry[1]
    case = checked_id(image_stem(image), str(folder / dataset_json.FILE_NAME))
    numbered = [image.with_name(f"{case}_{k:04d}{image.name.removeprefix(case)}") for k in range(channels)]
    images = [image] if image.is_file() else numbered  # nnU-Net v1 lists x.nii.gz and stores x_0000.nii.gz
    missing = [path for path in images if not path.is_file()]
    if missing:
        problems.append(_missing(case, image, "the case is left out"))
        return None
    if entry[1] and not label.is_file():
        problems.append(_missing(case, label, "the annotation is left out"))
    kind = settings.label_kind or "full"
    is_labelled = entry[1] and label.is_file() and kind != "none"
    found = (Annotation(path=label, kind=kind, ignore=settings.ignore),) if is_labelled else ()
    return Case(case_id=case, images=tuple(images), annotations=found, split=split)


def _missing(case: str, path: Path, lost: str) -> Problem:
    return Problem(
        case_id=case, severity="error", code="E-LAY-10",
        message=f"case {case}: dataset.json lists {path}, which does not exist; {lost}",
    )  # fmt: skip
