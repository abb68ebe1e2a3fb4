"""nnU-Net v2 raw data: `dataset.json`, `imagesTr/x_0000.nii.gz`, `labelsTr/x.nii.gz`, `imagesTs/`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from scantling.data.case import Annotation, Case, ClassTable, LabelKind
from scantling.data.image_io import image_stem
from scantling.data.label_values import LabelQuestion, LabelScan, kind_notes, scan_labels, unreadable_labels
from scantling.data.layouts import dataset_json
from scantling.data.layouts.cell_values import case_id as checked_id
from scantling.data.layouts.dataset_toml import FILE_NAME as TOML_NAME
from scantling.data.layouts.dataset_toml import DatasetToml
from scantling.data.layouts.image_files import is_image
from scantling.data.layouts.subjects import subjects
from scantling.data.manifest import Manifest, Problem, Severity
from scantling.errors import ConfigError, DataError

LOOKS_LIKE: Final = "a dataset.json with 'channel_names' and 'labels', imagesTr/ and labelsTr/ (nnU-Net v2)"
_PARTS: Final = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))


def recognise(folder: Path) -> bool:
    """Whether `dataset.json` names channels and labels as nnU-Net v2 does."""
    content = dataset_json.peek(folder)
    return isinstance(content.get("channel_names"), dict) and isinstance(content.get("labels"), dict)


def read(folder: Path) -> Manifest:
    """The cases of an nnU-Net data set; `imagesTs` are cases with split "test".

    Overlapping regions become disjoint classes, because a pixel has one class here; `ignore` becomes the
    value that means "unknown", and a label that has it is a scribble where what is known is thin lines. A
    `dataset.toml` beside `dataset.json` overrides what it names.

    Raises:
        DataError: `dataset.json` is damaged, or a region has no value of its own.
        ConfigError: `dataset.toml` is wrong.
    """
    content = dataset_json.load(folder)
    settings = DatasetToml.beside(folder)
    classes, ignore, notes = _classes(content, folder)
    named = settings.class_table(folder / TOML_NAME)
    classes, notes = (classes, notes) if named is None else (named, ())
    ignore = settings.ignore or ignore
    names = dataset_json.mapping(content, "channel_names", folder)
    channels = tuple(str(name) for name in names.values())
    problems: list[Problem] = []
    found = list(_cases(content, folder, len(channels), problems))
    labels = [label for _, _, label, _ in found if label is not None]
    scans = _scans(labels if ignore and not settings.label_kind else [], ignore, classes)
    patient, said = subjects((case for case, *_ in found), settings.subject_pattern)
    cases = tuple(
        Case(
            case_id=case, images=images, split=split, patient_id=patient[case],
            annotations=_annotations(label, ignore, settings.label_kind, scans),
        )
        for case, images, label, split in found
    )  # fmt: skip
    case_of = {label: case for case, _, label, _ in found if label is not None}
    return Manifest(
        root=folder, name=settings.name or str(content.get("name") or folder.resolve().name), layout="nnunet",
        classes=classes, cases=cases, channels=channels,
        modality=settings.modality or dataset_json.modality_of(channels),
        problems=(*problems, *unreadable_labels(scans.values(), case_of)),
        notes=(*said, *notes, *kind_notes(scans.values(), "label_kind in dataset.toml")),
    )  # fmt: skip


def disjoint_classes(regions: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Classes that share no value, from regions that may: values inside the same regions are one class.

    A part keeps its region's name if it is the whole of it; the rest of a region is called
    `tumor_without_core`, a crossing of two `left_and_right`.
    """
    inside: dict[frozenset[str], list[int]] = {}
    for value in sorted({value for values in regions.values() for value in values}):
        inside.setdefault(frozenset(name for name, values in regions.items() if value in values), []).append(value)
    parts: dict[str, tuple[int, ...]] = {}
    for owners, values in inside.items():
        smallest = min(sorted(owners), key=lambda name: len(regions[name]))
        others = set(regions[smallest]) - set(values)
        outside = [name for name, own in regions.items() if name not in owners and set(own) & others]
        if not others:
            name = smallest
        else:
            name = f"{smallest}_without_{outside[0]}" if outside else "_and_".join(sorted(owners))
        parts[name if name not in parts else f"{name}_{values[0]}"] = tuple(values)
    return parts


def _classes(content: Mapping[str, Any], folder: Path) -> tuple[ClassTable, tuple[int, ...], tuple[str, ...]]:
    """The class table, the values that mean "unknown", and a sentence if regions were taken apart."""
    regions: dict[str, tuple[int, ...]] = {}
    for name, values in dataset_json.mapping(content, "labels", folder).items():
        listed = values if isinstance(values, list) else [values]
        regions[name] = tuple(dataset_json.whole_number(v, f"label {name!r}", folder) for v in listed)
    ignore = regions.pop("ignore", ())
    background = regions.pop("background", (0,))
    overlap = len({v for values in regions.values() for v in values}) < sum(map(len, regions.values()))
    parts = disjoint_classes(regions) if overlap else regions
    try:
        table = ClassTable.of({"background": background, **parts})
    except ConfigError as error:
        raise DataError(f"{folder / dataset_json.FILE_NAME}: {error.message}", code="E-LAY-05") from None
    if not overlap:
        return table, ignore, ()
    written = ", ".join(f"{name} = {list(values)}" for name, values in parts.items())
    return (
        table,
        ignore,
        (f"overlapping regions became disjoint classes: {written}; override with a cases.csv",),
    )


def _cases(
    content: Mapping[str, Any], folder: Path, n_channels: int, problems: list[Problem]
) -> Iterator[tuple[str, tuple[Path, ...], Path | None, str]]:
    """Name, channels, label (None where there is none) and split of each case."""
    ending = str(content.get("file_ending") or _ending(folder))
    if isinstance(content.get("dataset"), dict):
        listed = _listed(content["dataset"], folder)
    else:
        listed = _in_folders(folder, ending, n_channels)
        problems += _left_over(folder, ending, n_channels)
    for case, images, label, split in listed:
        checked_id(case, str(folder))
        missing = [path for path in images if not path.is_file()]
        if missing:
            problems.append(_missing(case, missing[0], "the case is left out"))
            continue
        if label is not None and not label.is_file() and split == "train":
            problems.append(_missing(case, label, "the case counts as unlabelled", severity_error=False))
        yield case, images, label if label is not None and label.is_file() else None, split


def _in_folders(folder: Path, ending: str, n_channels: int) -> Iterator[tuple[str, tuple[Path, ...], Path | None, str]]:
    name = _channel_name(ending)
    for images, labels, split in _PARTS:
        files = _files(folder / images)
        for case in dict.fromkeys(match["case"] for file in files if (match := name.match(file.name))):
            channels = tuple(folder / images / f"{case}_{k:04d}{ending}" for k in range(n_channels))
            yield case, channels, folder / labels / f"{case}{ending}", split


def _left_over(folder: Path, ending: str, n_channels: int) -> Iterator[Problem]:
    """Images that are named as no channel of a case, and labels without an image."""
    name = _channel_name(ending)
    for images, labels, _ in _PARTS:
        cases = set()
        for path in _files(folder / images):
            match = name.match(path.name)
            if match is None:
                wanted = f"is not named as a channel of a case (NAME_0000{ending}), so it is left out; rename it"
                yield _unused(path, "error", "E-LAY-11", wanted)
            elif int(match["channel"]) >= n_channels:
                many = "one channel" if n_channels == 1 else f"{n_channels} channels"
                yield _unused(path, "warning", "E-LAY-11", f"dataset.json names {many} only, so it is left out")
            if match is not None:
                cases.add(match["case"])
        for path in _files(folder / labels):
            if image_stem(path) not in cases:
                yield _unused(path, "warning", "E-LAY-09", f"this label has no image in {images}/; it is left out")


def _channel_name(ending: str) -> re.Pattern[str]:
    return re.compile(rf"^(?P<case>.+)_(?P<channel>\d{{4}}){re.escape(ending)}$")


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if is_image(path)] if folder.is_dir() else []


def _unused(path: Path, severity: Severity, code: str, why: str) -> Problem:
    return Problem(case_id=image_stem(path), severity=severity, code=code, message=f"{path}: {why}")


def _listed(entries: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, tuple[Path, ...], Path | None, str]]:
    """Cases that `dataset.json` itself lists under `dataset`, with paths relative to the folder."""
    for case, entry in entries.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise DataError(
                f"{folder / dataset_json.FILE_NAME}: case {case!r} of 'dataset' is {entry!r}, wanted "
                '{"images": ["..."], "label": "..."}',
                code="E-LAY-05",
            )
        label = entry.get("label")
        yield case, tuple(folder / image for image in images), folder / label if label else None, "train"


def _ending(folder: Path) -> str:
    """The file ending that every image of `imagesTr` shares, for a `dataset.json` that does not name it."""
    images = folder / "imagesTr"
    for path in sorted(images.iterdir()) if images.is_dir() else []:
        if match := re.match(r"^[^.].*_\d{4}(\..+)$", path.name):
            return match[1]
    return ".nii.gz"


def _scans(labels: list[Path], ignore: tuple[int, ...], classes: ClassTable) -> dict[Path, LabelScan]:
    questions = [LabelQuestion(path=path, ignore=ignore, classes=classes) for path in labels]
    return {scan.path: scan for scan in scan_labels(questions)}


def _annotations(
    label: Path | None, ignore: tuple[int, ...], given: LabelKind | Literal[""], scans: Mapping[Path, LabelScan]
) -> tuple[Annotation, ...]:
    if label is None or given == "none" or (label in scans and scans[label].problem):
        return ()
    kind = given or (scans[label].kind if label in scans else "full")
    return (Annotation(path=label, kind=kind, ignore=ignore),)


def _missing(case: str, path: Path, lost: str, *, severity_error: bool = True) -> Problem:
    return Problem(
        case_id=case, severity="error" if severity_error else "warning", code="E-LAY-10",
        message=f"case {case}: {path} does not exist; {lost}",
    )  # fmt: skip
