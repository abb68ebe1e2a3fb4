"""`images/` and `labels/` with equal stems; images without a label are unlabelled cases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from scantling.data.case import Case
from scantling.data.layouts.cell_values import case_id as checked_id
from scantling.data.layouts.dataset_toml import DatasetToml
from scantling.data.layouts.found_labels import read_found_labels
from scantling.data.layouts.image_files import by_case, image_files, is_image, other_files
from scantling.data.layouts.subjects import subjects
from scantling.data.manifest import Manifest, Problem
from scantling.errors import DataError

IMAGE_FOLDERS: Final = ("images", "image", "imgs", "img")
LABEL_FOLDERS: Final = (
    "labels", "label", "masks", "mask", "annotations", "segmentations", "segmentation", "gt", "ground_truth",
)  # fmt: skip
LOOKS_LIKE: Final = "folders images/ and labels/ (or masks/) with files of equal stems"


def recognise(folder: Path) -> bool:
    """Whether there is a folder of images, and beside it one of labels or no other folder of images."""
    images = _subfolder(folder, IMAGE_FOLDERS)
    if images is None or not any(map(is_image, images.iterdir())):
        return False
    return _subfolder(folder, LABEL_FOLDERS) is not None or not _other_image_folders(folder, images)


def read(folder: Path) -> Manifest:
    """The cases of `images/`, with the labels of equal stem.

    Raises:
        DataError: there is no folder of images, or no label has the stem of an image.
        ConfigError: `dataset.toml` is wrong.
    """
    images_folder, labels_folder = _subfolder(folder, IMAGE_FOLDERS), _subfolder(folder, LABEL_FOLDERS)
    if images_folder is None:
        raise DataError(f"{folder}: no folder called {', '.join(IMAGE_FOLDERS)}", code="E-LAY-07")
    settings = DatasetToml.beside(folder)
    label_files = image_files(labels_folder) if labels_folder is not None else {}
    channels = by_case(image_files(images_folder), label_files)
    labels = {stem: path for stem, path in label_files.items() if stem in channels}
    if label_files and not labels:
        raise DataError(
            f"{folder}: no file in {images_folder.name}/ (such as {next(iter(channels), 'none')}) has the stem of one "
            f"in {next(iter(label_files.values())).parent.name}/ (such as {next(iter(label_files))}); rename them, or "
            "list them in a cases.csv",
            code="E-LAY-08",
        )
    unlabelled = () if labels_folder is not None else (f"no folder {', '.join(LABEL_FOLDERS)}: no case has a label",)
    notes = (*unlabelled, *other_files(f for f in (images_folder, labels_folder) if f is not None))
    orphans = tuple(_orphan(path) for stem, path in label_files.items() if stem not in channels)
    return assemble(folder, "pairs", channels, labels, settings, notes=notes, problems=orphans)


def assemble(
    folder: Path,
    layout: str,
    channels: dict[str, dict[str, Path]],
    labels: dict[str, Path],
    settings: DatasetToml,
    *,
    notes: Iterable[str] = (),
    problems: Iterable[Problem] = (),
) -> Manifest:
    """The manifest of images and labels that were matched by their names.

    Args:
        channels: case -> channel -> path.
        labels: case -> path.
    """
    names = sorted({name for paths in channels.values() for name in paths})
    for case in channels:
        checked_id(case, str(folder))
    incomplete = tuple(_incomplete(case, paths, names) for case, paths in channels.items() if len(paths) < len(names))
    whole = {case: paths for case, paths in channels.items() if len(paths) == len(names)}
    found = read_found_labels({case: path for case, path in labels.items() if case in whole}, folder, settings)
    patient, said = subjects(whole, settings.subject_pattern)
    cases = tuple(
        Case(
            case_id=case, images=tuple(paths[name] for name in names), annotations=found.of(case),
            patient_id=patient[case],
        )
        for case, paths in whole.items()
    )  # fmt: skip
    return Manifest(
        root=folder,
        name=settings.name or folder.resolve().name,
        layout=layout,
        classes=found.classes,
        cases=cases,
        channels=settings.channels or tuple(names),
        modality=settings.modality,
        problems=(*problems, *incomplete, *found.problems),
        notes=(*notes, *said, *found.notes),
    )


def _subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    children = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((children[name] for name in names if name in children), None)


def _other_image_folders(folder: Path, images: Path) -> bool:
    others = (path for path in folder.iterdir() if path.is_dir() and path != images and not path.name.startswith("."))
    return any(any(map(is_image, other.iterdir())) for other in others)


def _orphan(path: Path) -> Problem:
    return Problem(
        case_id=path.name, severity="warning", code="E-LAY-09",
        message=f"{path}: this label has no image of the same stem; it is left out",
    )  # fmt: skip


def _incomplete(case: str, paths: dict[str, Path], names: list[str]) -> Problem:
    missing = ", ".join(name for name in names if name not in paths)
    said = f"channel {missing} is missing; every case needs {', '.join(names)}; it is left out"
    return Problem(case_id=case, severity="error", code="E-LAY-10", message=f"case {case}: {said}")
